"""Files going out become redirects: one request whose proxy offers to send files.

`file_response.py` asks `Redirecting.redirect` for the redirect in place of a file. It goes through the app's other
middlewares as any response does, and comes to `Redirecting.send`, which holds it until the app is done. Where a file
goes is in `target.py`, and how long a redirect waits in `wait.py`.
"""

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Awaitable
from typing import NamedTuple

import anyio
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from asgi_accel import log
from asgi_accel.log import logger
from asgi_accel.offer import FOR_GET, REDIRECT, SENDFILE, Headers, Offer, Trust
from asgi_accel.serving import find, in_lower_case, nothing, send_file, with_validators
from asgi_accel.target import FROM_THE_FILE, LeftToApp, add_vary, target
from asgi_accel.wait import OpenFile, Timer

START = "http.response.start"
BODY = "http.response.body"

# The stages of a response. WATCHING: it has not started. PASSING: it goes out as the app sends it. REDIRECTED: it is a
# redirect, which has no body. WEIGHING: a middleware has lost the redirect, and the body tells what it answers with.
# SENT: the app has sent the file here, and nothing else may follow.
WATCHING, PASSING, REDIRECTED, WEIGHING, SENT = range(5)

# Errors of opening a file that is perhaps only there for nginx.
NOT_HERE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES)


class Sender(NamedTuple):
    """What a redirect stands for: a response that sends a file, and what it was called with."""

    response: FileResponse
    path: str
    file: OpenFile | None  # None if the redirect does not wait
    scope: Scope
    headers: Headers  # of the redirect, as it was made


class Redirecting:
    """One request. The scope has it, so that a file's response finds it."""

    is_done: bool = False  # the app
    stage: int = WATCHING
    target: bytes | None = None  # of the last redirect that was made for this request
    sender: Sender | None = None  # whose redirect that is, until it has gone out

    _start: Message  # while WEIGHING
    _held: list[Message]  # while REDIRECTED
    _timer: Timer | None = None

    def __init__(self, trust: Trust, offer: Offer, hold: float, receive: Receive, send: Send) -> None:
        self.trust = trust
        self.offer = offer
        self._hold = hold  # seconds that a redirect waits for the app, at most
        self._receive = receive
        self._send = send

    def __deepcopy__(self, memo: object) -> "Redirecting":
        """A copy of the scope speaks of the same request."""
        return self

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Pickled, it is None: a request is of this process."""
        return type(None), ()

    def redirect(self, response: FileResponse, scope: Scope) -> tuple[Message, Message] | None:
        """The messages that take the place of a file's response, or None if the app has to send the file."""
        if self.stage != WATCHING:  # the response of this request has started: this is another one
            return None

        path = os.fspath(response.path)
        kind = self.trust.sendfile_type
        headers = in_lower_case(response.raw_headers)
        names = dict(headers)
        file = status = None

        goal = names.get(kind)  # the app's own counts, as it is
        if goal is None:
            try:
                goal = self._target(path, response.status_code, headers, names, scope)
                file, status = self._look_at(path, response.stat_result)
            except LeftToApp as reason:
                self._tell_left(path, reason)
                return None
            logger.debug("%.200r is redirected to %.200r", path, goal)

        if kind == SENDFILE and status is not None:
            headers = with_validators(headers, path, status)
        dropped = FROM_THE_FILE[kind]
        headers = [header for header in headers if header[0] not in dropped]
        headers += [(b"content-length", b"0"), (kind, goal)]
        if self.offer.varies:
            headers = add_vary(headers)

        self._forget()
        self.target = goal
        self.sender = Sender(response, path, file, scope, list(headers))
        return {"type": START, "status": response.status_code, "headers": headers}, _end()

    def send(self, message: Message) -> Awaitable[None]:
        """The `send` of the app."""
        if self.stage == PASSING:
            return self._send(message)

        if self.stage == WATCHING:
            if message["type"] == START:
                return self._begin(message)
            return self._send(message)  # of another extension, such as an early hint

        if self.stage == REDIRECTED:
            return self._follow(message)
        if self.stage == WEIGHING:
            return self._weigh(message)
        return nothing()

    async def finish(self, error: BaseException | None = None) -> None:
        """The app is done, or has raised an error: send what has been held.

        Raises:
            Exception: What was held could not be sent, which was before the app's own error.
        """
        timer, self._timer = self._timer, None  # the two hold each other, which would keep both from being freed
        earlier = None if timer is None else timer.error
        if error is None:
            await self._finish(timer)
            return

        # A cancelled app must not lose its response. What goes wrong with that must not hide the app's own error.
        with anyio.CancelScope(shield=True), contextlib.suppress(Exception):
            await self._finish(timer)
        if earlier is not None and isinstance(error, Exception):
            raise earlier

    async def _finish(self, timer: Timer | None) -> None:
        if timer is not None:
            await timer.finish()
            return

        self._forget()
        if self.stage == WEIGHING:  # the answer has no end: that is for the server to say
            await self._send(self._start)

    def _target(self, path: str, status: int, headers: Headers, names: dict[bytes, bytes], scope: Scope) -> bytes:
        method = scope["method"]
        if method not in ("GET", "HEAD") and not FOR_GET.isdisjoint(dict(scope["headers"])):
            raise LeftToApp("nginx would treat the request as a GET, and apply its Range or condition")
        return target(self.trust.sendfile_type, self.offer.mapping, path, status, headers, names)

    def _look_at(self, path: str, status: os.stat_result | None) -> tuple[OpenFile | None, os.stat_result | None]:
        """Open the file if the redirect is to wait, else look at it. Both are None if there is no such file here."""
        file = None
        try:
            if self._hold:
                file = OpenFile(path)
                status = status or file.stat_result
            elif status is None:
                status = os.stat(path)
        except OSError as exc:
            if exc.errno in NOT_HERE:
                return None, None
            raise LeftToApp("it cannot be opened: {}", exc) from exc

        if status is not None and not stat.S_ISREG(status.st_mode):
            if file is not None:
                file.close()
            raise LeftToApp("it is not a regular file")
        return file, status

    def _tell_left(self, path: str, reason: LeftToApp) -> None:
        logger.debug("the app sends %.200r itself: %s", path, reason)
        if ".." in path.split("/"):
            self.trust.warn(log.DOT_DOT, path)

    def _begin(self, start: Message) -> Awaitable[None]:
        """Go on with the start of a response."""
        start, goal = find(self.trust.sendfile_type, start)

        if self.sender is not None:
            if goal == self.target:
                self.stage = REDIRECTED
                return self._begin_redirect(self.sender, start)

            if goal is None and start["status"] == 200:
                self.stage = WEIGHING
                self._start = start
                return nothing()

        # Not a file, or another answer.
        self.stage = PASSING
        if goal is not None and self._is_of_a_file(goal) and self.offer.varies:
            start = {**start, "headers": add_vary(start["headers"])}
        return self._send(start)

    def _is_of_a_file(self, goal: bytes) -> bool:
        """Whether a redirect of the app's own would be a file without this offer."""
        return self.trust.sendfile_type == REDIRECT and self.trust.is_file(goal)

    async def _begin_redirect(self, sender: Sender, start: Message) -> None:
        if start["headers"] != sender.headers:
            # A middleware may have made a body or another encoding. The proxy sends the file as it is.
            of_the_body = (b"content-length", b"content-encoding")
            headers = [header for header in start["headers"] if header[0].lower() not in of_the_body]
            start = {**start, "headers": [*headers, (b"content-length", b"0")]}

        self._held = [start, _end()]
        if sender.file is None:
            await self._release()
        else:
            self._timer = Timer(self._hold, self._release)

    def _follow(self, message: Message) -> Awaitable[None]:
        """Go on with a message after the start of a redirect, which has its end already."""
        if message["type"] == BODY:
            if message.get("body") and self.target is not None:
                shown = self.target.partition(b"?")[0]  # a query may be a signature
                self.trust.warn(log.CHANGED, shown, level=logging.ERROR)
            return nothing()

        if self._held:  # trailers, say
            self._held.append(message)
            return nothing()
        return self._send(message)

    async def _release(self) -> None:
        """Send the redirect that has waited; if its file is gone by now, the file."""
        sender = self.sender
        file = None if sender is None else sender.file
        try:
            if sender is not None and file is not None:
                if not file.is_there():
                    logger.debug("the app sends %.200r itself: the file is gone, now that the app is done", file.path)
                    self.stage = SENT
                    await self._send_file(sender, self._held[0])
                    return
                self._tell_owner_only(file)

            while self._held:
                await self._send(self._held[0])
                del self._held[0]
        finally:
            self._forget()

    def _tell_owner_only(self, file: OpenFile) -> None:
        status = file.stat_result
        if not status.st_mode & 0o044:
            self.trust.warn(log.OWNER_ONLY, file.path, status.st_uid, status.st_mode & 0o7777)

    async def _weigh(self, message: Message) -> None:
        """Go on with a message after a start without the redirect that was made: does the answer have a body?"""
        is_empty = message["type"] == BODY and not message.get("body")
        if is_empty and message.get("more_body", False):
            return

        if is_empty and self.sender is not None:
            self.stage = SENT
            await self._send_file(self.sender, self._start)
            return

        self.stage = PASSING
        await self._send(self._start)
        await self._send(message)

    async def _send_file(self, sender: Sender, start: Message) -> None:
        """The app sends the file of a redirect, with the headers of an answer that has no body."""
        more = sender.response.raw_headers
        if start["headers"] == sender.headers:
            headers = more
        else:
            headers = [header for header in start["headers"] if header[0].lower() != b"content-encoding"]
        start = {**start, "headers": headers}

        if sender.file is None:
            await send_file(sender.path, None, start, sender.scope, self._receive, self._send, more)
            return

        scope = {**sender.scope, "extensions": {}}  # no server can send an open file by its path
        status = sender.file.stat_result
        await send_file(sender.file, status, start, scope, self._receive, self._send, more)

    def _forget(self) -> None:
        """Close the file, and free what holds this request in turn."""
        if self.sender is not None and self.sender.file is not None:
            self.sender.file.close()
        self.sender = None


def _end() -> Message:
    """The end of a redirect, which has no body. A new one each time: middlewares write into messages."""
    return {"type": BODY, "body": b""}
