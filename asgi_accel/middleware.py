"""`AccelMiddleware`: files going out become redirects where a proxy offers to send them, and redirects become files
where none does."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any, SupportsIndex
from urllib.parse import unquote

import anyio.to_thread
from starlette.responses import FileResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_accel.mapping import Pairs, PathMap
from asgi_accel.offer import FOR_GET, RANGES, Offer, logger

Headers = list[tuple[bytes, bytes]]

PATHSEND = "http.response.pathsend"
REDIRECT = b"x-accel-redirect"
SENDFILE = b"x-sendfile"
LONGEST_URI = 2048  # bytes
# nginx answers 502 where the response's headers don't fit in `proxy_buffer_size`, 4 KiB by default. What the server
# and nginx's parser need besides the app's own headers is less than the difference.
LONGEST_HEADERS = 3800
LONGEST_HOLD = 0.1  # seconds that a redirect waits for the app to finish
# Linux has a cheaper way to keep a file than to open it. The other must not wait for a pipe of that name.
KEEP_FLAGS = getattr(os, "O_PATH", os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
# What the proxy has of its own, by the header that it takes. nginx sends its own `ETag` and `Last-Modified`, from the
# file, Apache and lighttpd heed the app's; of `Accept-Ranges` the client would get both.
FROM_THE_FILE = {
    REDIRECT: frozenset((b"content-length", b"accept-ranges", b"etag", b"last-modified", REDIRECT)),
    SENDFILE: frozenset((b"content-length", b"accept-ranges", SENDFILE, REDIRECT)),
}
# Apache takes X-Sendfile as it comes, but for blanks at the end; lighttpd percent-decodes it, and takes UTF-8 alone.
PLAIN = re.compile(r"[^\x00-\x1f\x7f%]*[^\x00-\x20\x7f%]")


class AccelMiddleware:
    """Hand files to the proxy where it offers to send them, and serve them where there is none.

    With `mapping` alone, files under the pairs that both the app's map and the request's `X-Accel-Mapping` header list
    are redirected: the app says what it allows, the proxy what it offers.

    Args:
        app: The ASGI app. Files that it sends by the ``http.response.pathsend`` extension (`FileResponse`,
            `StaticFiles`) become redirects.
        mapping: Directories of the app and URI prefixes of the proxy's internal locations: a `PathMap`, what makes one,
            or a text in the header's syntax.
        always: Redirect every file under `mapping`, whatever the request says: for an app that only the proxy reaches.
        trust_header: Believe the request's `X-Accel-Mapping` whoever sent it: only where the proxy sets the header on
            every route to the app, since otherwise a client picks the internal location (CVE-2025-61780).
        secret: Believe the header only if `X-Accel-Secret` equals this. With `mapping`, both are asked for.
        sendfile_type: The header that the proxy takes: ``X-Accel-Redirect`` (nginx, Caddy), or ``X-Sendfile`` (Apache
            with mod_xsendfile, lighttpd), where the right side of `mapping` is the directory as the proxy sees it.

    Raises:
        ValueError: The arguments say nothing, contradict each other, or hold a bad value.
    """

    def __init__(
        self,
        app: ASGIApp,
        mapping: Pairs | str | None = None,
        *,
        always: bool = False,
        trust_header: bool = False,
        secret: str | None = None,
        sendfile_type: str = "X-Accel-Redirect",
    ) -> None:
        if isinstance(mapping, str):
            mapping = PathMap.parse(mapping)
        elif mapping is not None and not isinstance(mapping, PathMap):
            mapping = PathMap(mapping)
        self.app = app
        self._offer = Offer(mapping, always, trust_header, secret, sendfile_type)
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                self._offer.hide_secret(scope)
            return await self.app(scope, receive, send)
        offered = self._offer.of(scope)

        onward = send
        # Where no proxy offers to send a redirect, or knows its header (Apache, lighttpd), the app sends the file.
        if offered is None or self._offer.sendfile_type == SENDFILE:
            # A closure, since most requests come by here: it costs less than an object (benchmarks/overhead.py).
            def respond(message: Message) -> Awaitable[None]:
                nonlocal send
                if message["type"] == "http.response.start":
                    for name, value in message.get("headers", ()):
                        if len(name) == 16 and name.lower() == REDIRECT:
                            path = self._path_of_redirect(value)
                            if path is not None:
                                answer = _send_redirected(path, message["headers"], scope, receive, send)
                                send = _drop
                                return answer
                return send(message)

            onward = respond
        if offered is None:
            return await self.app(scope, receive, onward)
        mapping, headers = offered
        responder = _Offered(self._offer.sendfile_type, mapping, headers, scope, receive, onward)
        try:
            await self.app(scope, receive, responder.send)
        finally:
            scope["extensions"] = responder.extensions
            if responder.held:
                await responder.finish()

    def _path_of_redirect(self, target: bytes) -> str | None:
        uri = os.fsdecode(target)
        path = self._offer.mapping.path(uri)
        logger.debug("nothing is offered to send the redirect to %.200r: it stands for the file %.200r", uri, path)
        if path is None and not self._warned:
            self._warned = True
            logger.warning(
                "a redirect to %.200r goes out as it is: no proxy offers to send it, and mapping= has no pair for it",
                uri,
            )
        return path


async def _drop(message: Message) -> None:
    """Send nothing: the response has been answered already."""


async def _send_redirected(path: str, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
    """Send the file that a redirect stands for, with the redirect's own headers."""
    try:
        stat_result = await anyio.to_thread.run_sync(os.stat, path)
    except OSError:
        stat_result = None
    if stat_result is None or not stat.S_ISREG(stat_result.st_mode):
        logger.debug("there is no file %.200r: 404", path)
        return await PlainTextResponse("Not Found", 404)(scope, receive, send)
    response = FileResponse(path, stat_result=stat_result)
    own = [(name.lower(), value) for name, value in headers]
    own = [header for header in own if not _is_replaced(*header)]
    names = dict(own)
    response.raw_headers[:] = own + [header for header in response.raw_headers if header[0] not in names]
    await response(scope, receive, send)


def _is_replaced(name: bytes, value: bytes) -> bool:
    """Whether a header of a redirect speaks to the proxy, or of a body that the redirect had itself."""
    return (
        name.startswith(b"x-accel-")
        or name in (b"content-length", b"content-range")
        or (name == b"content-type" and value.startswith(b"multipart/byteranges"))
    )


class _Extensions(dict[str, Any]):
    """The app's view of the extensions: tells the responder when a file sender asks for pathsend.

    Pathsend is not among the items, so that a plain copy, which tells nothing, doesn't have it either.
    """

    __slots__ = ("responder",)

    responder: _Offered

    def __bool__(self) -> bool:
        return True  # for senders that write `scope.get("extensions") or {}`

    def __contains__(self, name: object) -> bool:
        return (name == PATHSEND and self.responder.expect_file()) or super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        return {} if name == PATHSEND and self.responder.expect_file() else super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default


class _RangeHeader(tuple[bytes, bytes]):
    """A `Range` or `If-Range` header of the request that can be withheld, wherever the scope's list was copied to."""

    withheld = False

    def __iter__(self) -> Iterator[bytes]:
        return iter((b"", b"")) if self.withheld else super().__iter__()

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        return tuple(self)[index]


class _Offered:
    """The `send` of one request whose proxy offers to send files.

    A file sender asks for pathsend before it looks at the request's ranges and before it starts its response. From then
    on ranges are withheld from it, and its start is held back until what follows tells what it sends.

    The redirect to a file waits for the app to finish, with the file open: what an app does after its response (a
    background task, the end of a dependency that made a temporary folder) can delete the file before nginx opens it.
    What is gone by then is sent by the app, from the open file.
    """

    held = False  # whether a redirect waits

    _started = False
    _expected = False
    _start: Message
    _ranges: Sequence[_RangeHeader] = ()
    _path: str
    _file: int
    _redirect: Message
    _timer: asyncio.Handle
    _releasing: asyncio.Task[None] | None = None

    def __init__(
        self,
        redirect_header: bytes,
        offered: PathMap,
        headers: dict[bytes, bytes],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self._redirect_header = redirect_header
        self._offered = offered
        self._headers = headers
        self._scope = scope
        self._receive = receive
        self._send = send
        if b"range" in headers:
            self._prepare_ranges()
        # The scope is changed in place, since what the app notes in it (the route, say) is for those outside, too. They
        # get their extensions back when the app is done, lest they ask for a file that nobody hands over.
        self.extensions = scope.get("extensions") or {}
        scope["extensions"] = view = _Extensions(self.extensions)
        view.responder = self

    def _prepare_ranges(self) -> None:
        """Make the request's ranges such that they can be withheld."""
        headers = self._scope["headers"]
        headers = [_RangeHeader(header) if header[0] in RANGES else header for header in headers]
        self._scope["headers"] = headers
        self._ranges = [header for header in headers if isinstance(header, _RangeHeader)]

    def expect_file(self) -> bool:
        """Get ready for a file, which a file sender asks for; say whether it is not too late for that."""
        if self._started:
            return False
        self._expected = True
        self._withhold_ranges(True)
        return True

    def _withhold_ranges(self, withheld: bool) -> None:
        for header in self._ranges:
            header.withheld = withheld

    def send(self, message: Message) -> Awaitable[None]:
        if self._expected:
            return self._send_expected(message)
        if message["type"] == "http.response.start":
            self._started = True
        return self._send(message)

    async def _send_expected(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._withhold_ranges(False)
            self._started = True
            self._start = message
        elif not self._started:
            await self._send(message)
        else:
            self._expected = False
            await self._send_file(self._start, message)

    async def _send_file(self, start: Message, message: Message) -> None:
        path = message["path"] if message["type"] == PATHSEND else None
        if path is None and (self._scope["method"] != "HEAD" or message.get("more_body", False)):
            await self._send(start)  # no file after all: an error page, say
            return await self._send(message)
        headers: Headers = [(name.lower(), value) for name, value in start.get("headers", ())]
        names = dict(headers)
        target = self._target(start["status"], headers, names, path)
        if isinstance(target, str):
            logger.debug("%.200r is left to the app: %s", path or self._scope["path"], target)
            await self._leave_to_app(names, path, message)
        elif target is None:
            # The HEAD of a file does not tell its path. The ETag of its GET will be nginx's.
            hidden = b"etag" if self._redirect_header == REDIRECT else b""
            logger.debug("the HEAD of %.200r is answered by the app", self._scope["path"])
            await self._send({**start, "headers": [header for header in headers if header[0] != hidden]})
            await self._send(message)
        else:
            logger.debug("%.200r is redirected to %.200r", path or self._scope["path"], target)
            dropped = FROM_THE_FILE[self._redirect_header]
            headers = [header for header in headers if header[0] not in dropped]
            headers += ((b"content-length", b"0"), (self._redirect_header, target))
            self._redirect = {**start, "headers": headers}
            if path is None or self._redirect_header in names or not self._hold(path):
                await self._send_redirect()

    async def _send_redirect(self) -> None:
        await self._send(self._redirect)
        await self._send({"type": "http.response.body", "body": b""})

    def _hold(self, path: str) -> bool:
        """Hold the redirect to a file back until the app is done; say whether there is a way to do that."""
        try:
            loop = asyncio.get_running_loop()
            self._file = os.open(path, KEEP_FLAGS)  # a thread would take ten times as long
        except (OSError, RuntimeError):  # nginx alone may have it; trio has no such loop
            return False
        self._path = path
        self._timer = loop.call_soon(self._wait)  # Most apps finish before that, and a timer costs more.
        self.held = True
        return True

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LONGEST_HOLD, self._wait_no_longer)

    def _wait_no_longer(self) -> None:
        self._releasing = asyncio.create_task(self._release())

    async def finish(self) -> None:
        """Send what was held back, now that the app is done, unless it has been sent."""
        self._timer.cancel()
        await (self._releasing or self._release())

    async def _release(self) -> None:
        try:
            opened = os.fstat(self._file)
            if not self._is_there(opened):
                logger.debug("%.200r is gone, now that the app is done: it is sent by the app", self._path)
                return await self._serve(f"/dev/fd/{self._file}", opened, {})
        finally:
            os.close(self._file)
        await self._send_redirect()

    def _is_there(self, opened: os.stat_result) -> bool:
        """Whether the path leads to the file that was opened, still."""
        try:
            return os.path.samestat(os.stat(self._path), opened)
        except OSError:
            return False

    def _target(self, status: int, headers: Headers, names: dict[bytes, bytes], path: str | None) -> bytes | str | None:
        """Where to redirect a file, or the reason why not (text), or None where the path is not known."""
        if self._redirect_header in names:
            return names[self._redirect_header]
        if status != 200:
            return f"nginx would turn its status, {status}, into 200"
        if b"content-encoding" in names:
            return "nginx would drop its Content-Encoding"
        if path is None:
            return None
        if self._scope["method"] not in ("GET", "HEAD") and not FOR_GET.isdisjoint(self._headers):
            return "nginx, which redirects every method as GET, would heed its range or condition"
        uri = self._offered.uri(path)
        if uri is None:
            return "no pair that is offered covers it"
        size = len(uri) + sum(len(name) + len(value) + 4 for name, value in headers)
        if len(uri) > LONGEST_URI or size > LONGEST_HEADERS:
            return f"its URI, {len(uri)} bytes, or all its headers, {size} bytes, could be too long for nginx"
        if self._redirect_header == SENDFILE:
            plain = unquote(uri, errors="replace")
            if not PLAIN.fullmatch(plain) or "\ufffd" in plain:
                return "Apache and lighttpd do not read such a name alike"
            return plain.encode()
        return uri.encode("ascii")

    async def _leave_to_app(self, names: dict[bytes, bytes], path: str | None, message: Message) -> None:
        """Send what the app would have sent without the middleware, ranges included."""
        size = names.get(b"content-length", b"")
        if path is not None:
            await self._serve(path, None, self.extensions)
        elif self._ranges and b"accept-ranges" in names and size.isdigit():
            await self._serve("", os.stat_result((stat.S_IFREG, *[0] * 5, int(size), 0, 0, 0)), {})
        else:
            await self._send(self._start)
            await self._send(message)

    async def _serve(self, path: str, stat_result: os.stat_result | None, extensions: dict[str, Any]) -> None:
        response = FileResponse(path, self._start["status"], media_type="*/*", stat_result=stat_result)
        response.raw_headers[:] = self._start.get("headers", ())
        # A sender of files that knows no ranges sends the whole, so this does, too.
        self._withhold_ranges("accept-ranges" not in response.headers)
        await response({**self._scope, "extensions": extensions}, self._receive, self._send)
