"""What becomes of one file that the app sends by its path: a redirect, at once or held, or the app's own bytes.

Where the file goes is said in `target.py`. What else an app sends is in `redirecting.py`.
"""

import contextlib
import stat
from collections.abc import Awaitable

from starlette.types import Message, Receive, Scope, Send

from asgi_accel.again import may_ask_again
from asgi_accel.log import OWNER_ONLY, logger
from asgi_accel.offer import FOR_GET, Names, Offer, Offered
from asgi_accel.pathsend import Extensions, Headers
from asgi_accel.serving import send_all, send_file, stat_file
from asgi_accel.target import FROM_THE_FILE, LeftToApp, add_vary, target
from asgi_accel.wait import OpenFile, Timer


class Handover:
    """One request whose proxy offers to send files, and the ways to answer it with a file."""

    _start: Message  # of the file's response, as the app made it
    _held: tuple[Message, ...] = ()  # the whole answer, if it waits until the app is done
    _file: OpenFile  # of a redirect that waits
    _timer: Timer | None = None  # of a redirect that waits
    _longer = False  # a middleware has meant to add to the file's bytes, which it did not get
    _refused = False  # `FileResponse` has refused the range, with other headers than the app's refusal has

    def __init__(self, offer: Offer, found: Offered, names: Names, scope: Scope, receive: Receive, send: Send) -> None:
        self._offer = offer
        self._offered = found
        self._headers = names  # of the request, those that matter
        self._scope = scope
        self._receive = receive
        self._send = send
        self._first = {**scope, "headers": list(scope["headers"])}  # before the app has noted anything in it
        self.view: Extensions = Extensions(scope, b"range" in names)

    async def _send_file(self, path: str, headers: Headers) -> None:
        """Redirect a file, or leave it to the app; `headers` are those of its response, names in lower case."""
        kind, hold = self._offer.sendfile_type, self._offer.hold
        try:
            if self._scope["method"] != "GET" and not FOR_GET.isdisjoint(self._headers):
                raise LeftToApp("nginx, which redirects every method as GET, would heed its range or condition")
            goal = target(kind, self._offered.mapping, path, self._start["status"], headers)
        except LeftToApp as reason:
            logger.debug("%.200r is left to the app: %s", path, reason)
            return await self._leave(path, headers)
        logger.debug("%.200r is redirected to %.200r", path, goal)
        redirect = self._redirect(headers, goal)
        file = None
        with contextlib.suppress(OSError):  # nginx alone may have it
            file = OpenFile(path) if hold else None
        if file is None:
            await send_all(self._send, *redirect)
        elif stat.S_ISREG(file.stat_result.st_mode) and self._is_longer(headers, file.stat_result.st_size):
            file.close()
        else:
            self._file, self._held = file, redirect
            self._timer = Timer(hold, self._release)

    def _redirect(self, headers: Headers, goal: bytes) -> tuple[Message, Message]:
        """A redirect that keeps the headers of a file's response."""
        name = self._offer.sendfile_type
        dropped = FROM_THE_FILE[name]
        headers = [header for header in headers if header[0] not in dropped]
        headers += ((b"content-length", b"0"), (name, goal))
        start = {**self._start, "headers": add_vary(headers) if self._offered.varies else headers}
        return start, {"type": "http.response.body", "body": b""}

    async def _release(self) -> None:
        """Send the redirect that has waited; if its file is gone by now, the file."""
        file, found = self._file, self._file.stat_result
        try:
            if not file.is_there():
                logger.debug("%.200r is gone, now that the app is done: it is sent by the app", file.path)
                scope = {**self._scope, "extensions": {}}
                return await send_file(file, found, self._start, scope, self._receive, self._send)
        finally:
            file.close()
        if not found.st_mode & 0o044:
            self._offer.warn(OWNER_ONLY, file.path, found.st_uid, found.st_mode & 0o7777)
        await send_all(self._send, *self._held)

    async def _leave(self, path: str, headers: Headers) -> None:
        """Send what the app would have sent without the middleware, ranges included.

        A refused range is not sent: only the app knows the headers of its own refusal.
        """
        found = await stat_file(path)  # if there is none, `FileResponse` says what is wrong
        if found is None or not self._is_longer(headers, found.st_size):
            may_refuse = b"range" in self._headers and self._start["status"] == 200 and may_ask_again(self._first)
            send = self._send_unless_refused if may_refuse else self._send
            scope = {**self._scope, "extensions": self.view.server}
            await send_file(path, found, self._start, scope, self._receive, send)

    def _send_unless_refused(self, message: Message) -> Awaitable[None]:
        self._refused = self._refused or message.get("status") in (400, 416)
        return send_all(self._send) if self._refused else self._send(message)

    def _is_longer(self, headers: Headers, size: int) -> bool:
        """Whether the headers speak of more bytes than there are, so that the app has to be asked again."""
        length = dict(headers).get(b"content-length", b"")
        self._longer = length.isdigit() and int(length) > size and may_ask_again(self._first)
        return self._longer
