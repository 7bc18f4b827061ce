"""The app sends files itself: those of its redirects if there is no offer, and those that the proxy cannot send.

Ranges are `FileResponse`'s own.
"""

import contextlib
import os
import stat
from collections.abc import Awaitable, Iterable

import anyio.to_thread
from starlette.responses import FileResponse, PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from asgi_accel import log
from asgi_accel.log import logger
from asgi_accel.mapping import decode_uri
from asgi_accel.offer import IN_SCOPE, REDIRECT, Header, Headers, Trust
from asgi_accel.wait import OpenFile


class Serving:
    """The `send` of one request for which no proxy offers to send a redirect: the app sends its file."""

    _is_answered = False

    def __init__(self, trust: Trust, scope: Scope, receive: Receive, send: Send) -> None:
        self._trust = trust
        self._scope = scope
        self._requests = requests = scope[IN_SCOPE]  # an app may take it out of its scope
        self._before = len(requests)
        self._receive = receive
        self._send = send

    def send(self, message: Message) -> Awaitable[None]:
        if self._is_answered:
            return nothing()

        if message["type"] != "http.response.start":
            return self._send(message)

        message, target = find(REDIRECT, message)
        if target is None or self._is_of_another(target):
            return self._send(message)

        path = self._path_of(target.decode("utf-8", "surrogateescape"))
        if path is None:
            return self._send(message)

        self._is_answered = True
        return self._send_redirected(path, message)

    def _is_of_another(self, target: bytes) -> bool:
        """Whether the redirect is for the proxy of an `AccelMiddleware` further in, and by its mapping."""
        for request in self._requests[self._before :]:
            knows_uris = request.trust.sendfile_type == REDIRECT
            if knows_uris and (not request.is_done or request.target == target):
                return True
        return False

    def _path_of(self, uri: str) -> str | None:
        path = self._trust.mapping.path(uri)
        shown = uri.partition("?")[0]  # a query may be a signature
        logger.debug("no proxy offers to send the redirect to %.200r: the app looks for the file %.200r", shown, path)

        if path is None:
            is_named = uri.startswith("@")  # a named location is no path
            is_malformed = decode_uri(uri) is None and not is_named
            self._trust.warn(log.MALFORMED if is_malformed else log.NO_PAIR, shown)
        return path

    async def _send_redirected(self, path: str, start: Message) -> None:
        """Send the file that a redirect stands for, with the redirect's own headers."""
        status = await _stat_file(path)
        if status is None:
            logger.debug("there is no file %.200r: 404", path)
            await PlainTextResponse("Not Found", 404)(self._scope, self._receive, self._send)
            return

        await send_file(path, status, start, self._scope, self._receive, self._send)


async def send_file(
    file: str | OpenFile,
    status: os.stat_result | None,
    start: Message,
    scope: Scope,
    receive: Receive,
    send: Send,
    more: Iterable[Header] = (),
) -> None:
    """Send a file, or the part of it that the request asks for.

    Args:
        file: Its path, or the open file.
        status: Its `os.stat`, if that is known.
        start: The start of the response whose place the file takes. Its headers come first.
        scope: The request's.
        receive: The request's.
        send: Where the messages go.
        more: Headers that the response has besides, if they are not in `start`; the file's own come last.
    """
    given = [header for header in in_lower_case(start["headers"]) if not _is_replaced(*header)]
    names = dict(given)
    given += [header for header in more if header[0] not in names and not _is_replaced(*header)]
    names = dict(given)
    response = FileResponse(file, media_type=None if isinstance(file, str) else "*/*")  # type: ignore[arg-type]
    response.raw_headers[:] = given + [header for header in response.raw_headers if header[0] not in names]
    if status is not None:
        response.stat_result = status
        response.set_stat_headers(status)

    # Without the requests of `AccelMiddleware`: the file itself is wanted, and no redirect.
    await response({**scope, IN_SCOPE: []}, receive, send)


def _is_replaced(name: bytes, value: bytes) -> bool:
    """Whether a header of a redirect is for the proxy, or describes a body of the redirect itself."""
    is_multipart = name == b"content-type" and value.startswith(b"multipart/byteranges")
    is_for_the_proxy = name.startswith(b"x-accel-") or name == b"x-sendfile"
    return is_multipart or is_for_the_proxy or name in (b"content-length", b"content-range")


async def _stat_file(path: str) -> os.stat_result | None:
    """The `os.stat` of a regular file, or None."""
    with contextlib.suppress(OSError):
        status = await anyio.to_thread.run_sync(os.stat, path)
        if stat.S_ISREG(status.st_mode):
            return status
    return None


def find(wanted: bytes, start: Message) -> tuple[Message, bytes | None]:
    """The value of one of a start's headers, whose name may be in any case; `wanted` is in lower case.

    Returns:
        The start, too, since ASGI says that headers are an iterable, which may end: they can be read again in this one.
    """
    headers = start.get("headers", ())
    if not isinstance(headers, (list, tuple)):
        headers = list(headers)
        start = {**start, "headers": headers}

    length = len(wanted)
    for name, value in headers:  # each header of each response: its length tells it faster
        if len(name) == length and name.lower() == wanted:
            return start, value
    return start, None


def in_lower_case(headers: Iterable[Header]) -> Headers:
    """Headers with their names in lower case."""
    return [(name.lower(), value) for name, value in headers]


def with_validators(headers: Headers, path: str, status: os.stat_result) -> Headers:
    """The headers with the `ETag` and `Last-Modified` that `FileResponse` makes when it sends a file."""
    names = dict(headers)
    made = FileResponse(path, stat_result=status).raw_headers
    return headers + [header for header in made if header[0] in (b"etag", b"last-modified") and header[0] not in names]


async def nothing() -> None:
    """Send nothing."""
