"""Files going out become redirects: one request's response, from the file sender's question to the end.

How a file sender is known is in `pathsend.py`, where its file goes in `target.py`, and how long a redirect waits in
`wait.py`. `Redirecting` follows the messages of a response, and `Handover` answers with a file.
"""

import contextlib
import logging
import stat
from collections.abc import Awaitable, Sequence

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_accel.again import ask_again, client_is_there, may_ask_again
from asgi_accel.log import LOST, OWNER_ONLY, logger
from asgi_accel.offer import FOR_GET, REDIRECT, Headers, Names, Offer, Offered
from asgi_accel.pathsend import PATHSEND, Extensions
from asgi_accel.serving import in_lower_case, is_part, send_all, send_bytes, send_file, stat_file, with_list
from asgi_accel.target import FROM_THE_FILE, LeftToApp, add_vary, target
from asgi_accel.wait import OpenFile, Timer

START = "http.response.start"
# The stages of a response. WATCHING: it has not started. HOLDING: a file sender has started it, and the next message
# tells what it sends. PASSING: it goes out as the app sends it. TAKEN: it is answered here, and later messages are
# dropped.
WATCHING, HOLDING, PASSING, TAKEN = range(4)


class Handover:
    """One request whose proxy offers to send files, and the ways to answer it with a file."""

    # Set if the app sends a file. Most responses are not files, so `__init__`, which each request pays for, has none.
    _start: Message  # of the file's response, as the app made it
    _held: Sequence[Message] = ()  # what waits until the app is done: a redirect, or an error page, which is a list
    _file: OpenFile  # of a redirect that waits
    _timer: Timer | None = None  # of a redirect that waits
    _longer = False  # a middleware wants to add to the file's bytes, which it does not get: the app is asked again
    _refused = False  # `FileResponse` has refused the range, with other headers than the app's refusal: the same

    def __init__(self, offer: Offer, found: Offered, names: Names, scope: Scope, receive: Receive, send: Send) -> None:
        self._offer = offer
        self._offered = found
        self._headers = names  # of the request, those that matter
        self._scope = scope
        self._receive = receive
        self._send = send
        self._first = {**scope, "headers": list(scope["headers"])}  # before the app has noted anything in it
        self.view: Extensions = Extensions(scope, b"range" in names)

    async def _hand_over(self, path: str, headers: Headers, names: Names) -> None:
        """Redirect a file, or leave it to the app; `headers` are those of its response, `names` the same as a dict."""
        kind, hold = self._offer.sendfile_type, self._offer.hold
        try:
            if self._scope["method"] != "GET" and not FOR_GET.isdisjoint(self._headers):
                raise LeftToApp("nginx would treat the request as a GET, and apply its Range or condition")
            goal = target(kind, self._offered.mapping, path, self._start["status"], headers, names)
        except LeftToApp as reason:
            logger.debug("the app sends %.200r itself: %s", path, reason)
            return await self._leave(path, names)
        logger.debug("%.200r is redirected to %.200r", path, goal)
        redirect = self._redirect(headers, goal)
        file = None
        with contextlib.suppress(OSError):  # perhaps only nginx has it
            file = OpenFile(path) if hold else None
        if file is None:
            await send_all(self._send, *redirect)
        elif stat.S_ISREG(file.stat_result.st_mode) and self._is_longer(names, file.stat_result.st_size):
            self._longer = True
            file.close()
        else:
            self._file, self._held = file, redirect
            self._timer = Timer(hold, self._release)

    def _redirect(self, headers: Headers, goal: bytes) -> tuple[Message, Message]:
        """A redirect that keeps the headers of a file's response."""
        kind, dropped = self._offer.sendfile_type, FROM_THE_FILE[self._offer.sendfile_type]
        headers = [header for header in headers if header[0] not in dropped] + [(b"content-length", b"0"), (kind, goal)]
        start = {**self._start, "headers": add_vary(headers) if self._offered.varies else headers}
        return start, {"type": "http.response.body", "body": b""}

    async def _release(self) -> None:
        """Send the redirect that has waited; if its file is gone by now, the file."""
        file, status = self._file, self._file.stat_result
        try:
            if not file.is_there():
                logger.debug("the app sends %.200r itself: the file is gone, now that the app is done", file.path)
                scope = {**self._scope, "extensions": {}}
                return await send_file(file, status, self._start, scope, self._receive, self._send)
        finally:
            file.close()
        if not status.st_mode & 0o044:
            self._offer.warn(OWNER_ONLY, file.path, status.st_uid, status.st_mode & 0o7777)
        await send_all(self._send, *self._held)

    async def _leave(self, path: str, names: Names) -> None:
        """Send what the app would have sent without the middleware, ranges included.

        A refused range is not sent: only the app knows the headers of its own refusal.
        """
        status = await stat_file(path)  # if there is none, `FileResponse` says what is wrong
        if status is not None and self._is_longer(names, status.st_size):
            self._longer = True
            return
        may_refuse = b"range" in self._headers and self._start["status"] == 200 and may_ask_again(self._first)
        send = self._send_unless_refused if may_refuse else self._send
        scope = {**self._scope, "extensions": self.view.server}
        await send_file(path, status, self._start, scope, self._receive, send)

    def _send_unless_refused(self, message: Message) -> Awaitable[None]:
        self._refused = self._refused or message.get("status") in (400, 416)
        return send_all(self._send) if self._refused else self._send(message)

    def _is_longer(self, names: Names, size: int) -> bool:
        """Whether the headers speak of more bytes than there are, and the app may be asked again for them."""
        length = names.get(b"content-length", b"")
        return length.isdigit() and int(length) > size and may_ask_again(self._first)


class Redirecting(Handover):
    """The `send` of one request whose proxy offers to send files, and what to do when the app is done."""

    stage: int = WATCHING

    def send(self, message: Message) -> Awaitable[None]:
        stage, kind = self.stage, message["type"]
        if stage == PASSING and kind != PATHSEND:
            return self._send(message)
        if stage == WATCHING and kind == START and not self.view.asked:
            self.stage, self.view.open = PASSING, False
            return self._send(self._with_vary(message))
        if stage == WATCHING and kind != START:  # a message of another extension, such as an early hint
            return self._send(message)
        return self._decide(message) if stage == HOLDING else self._step(message)

    async def _step(self, message: Message) -> None:
        if self.stage == WATCHING:
            self.stage, self.view.open = HOLDING, False
            self.view.show_range()
            self._start = with_list(message)
        elif self.stage == PASSING:  # a path without the question: the app has a copy of the extensions
            knows_path = PATHSEND in self.view.server and not is_part(message)
            await (self._send(message) if knows_path else send_bytes(message, self._send))
        elif isinstance(self._held, list):
            self._held.append(message)

    async def _decide(self, message: Message) -> None:
        """Go on with the response that a file sender has started, now that the next message tells what it sends."""
        self.stage = TAKEN
        start, kind = self._start, self._offer.sendfile_type
        headers = in_lower_case(start)
        names = dict(headers)
        is_file = message["type"] == PATHSEND and not is_part(message)
        is_body = message["type"] == "http.response.body"
        is_whole = is_body and not message.get("more_body", False)
        is_head = is_whole and self._scope["method"] == "HEAD"
        if kind in names and (is_file or is_head):
            await send_all(self._send, *self._redirect(headers, names[kind]))
        elif is_file:
            await self._hand_over(message["path"], headers, names)
        elif is_body and start["status"] == 500:
            self._held = [start, message]  # an error page, perhaps because a response was lost
        elif is_head:  # It has no path. The ETag of its GET will be nginx's.
            logger.debug("the app answers the HEAD of %.200r itself", self._scope["path"])
            if kind == REDIRECT and headers:
                start = {**start, "headers": [header for header in headers if header[0] != b"etag"]}
            await send_all(self._send, start, message)
        elif is_whole and start["status"] != 304 and self._is_longer(names, len(message.get("body", b""))):
            # A middleware has dropped the file's path, and ended a response that has no body then.
            logger.debug("another middleware lost the body of %.200r", self._scope["path"])
            self._longer = True
        else:  # a part of a file, or not a file: an error page, for example
            self.stage = PASSING
            await self._send(self._with_vary(start))
            await self.send(message)

    def _with_vary(self, start: Message) -> Message:
        """The app's own start, with `Vary` if it is a redirect that would be a file without this offer."""
        start = with_list(start)
        for name, value in start.get("headers", ()):  # each header of each response: its length tells it faster
            if len(name) == 16 and name.lower() == REDIRECT == self._offer.sendfile_type:
                is_file = value.startswith(self._offer.targets) or self._offer.is_file(value)
                return {**start, "headers": add_vary(start["headers"])} if is_file and self._offered.varies else start
        return start

    async def finish(self, app: ASGIApp, error: BaseException | None = None) -> bool:
        """The app is done, or has raised an error: send what was held back, or ask the app again for what was lost.

        Returns:
            Whether the error is settled: it says only that a response was lost, and the app has been asked again.

        Raises:
            Exception: The redirect that waited could not be sent, which was before the app's own error.
        """
        if self._is_lost(error) and await client_is_there(self._receive):
            may = may_ask_again(self._first)
            if not self._refused:
                self._offer.warn(LOST, self._scope["path"], "is" if may else "cannot be", level=logging.ERROR)
            if may:
                self.view.take_back()
                self.stage = WATCHING
                await ask_again(app, self._scope, self._first, self._receive, self.send)
                return True
        timer, self._timer = self._timer, None  # the two hold each other, which would keep both from being freed
        earlier = None if timer is None else timer.error
        sending = send_all(self._send, *self._held) if timer is None else timer.finish()
        if error is None:
            await sending
            return True
        # A cancelled app must not lose its response. What goes wrong with that must not hide the app's own error.
        with anyio.CancelScope(shield=True), contextlib.suppress(Exception):
            await sending
        if earlier is not None and isinstance(error, Exception):
            raise earlier
        return False

    def _is_lost(self, error: BaseException | None) -> bool:
        """Whether the app knows of pathsend, and nothing that could go out has come."""
        is_missing = self.stage == HOLDING or (self.stage == WATCHING and self.view.known)
        if error is None:
            return is_missing or self._longer or self._refused
        # Starlette's `BaseHTTPMiddleware` waits for a response, and raises this if none comes.
        return repr(error) == "RuntimeError('No response returned.')" and (is_missing or isinstance(self._held, list))
