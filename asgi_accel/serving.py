"""The app sends files itself: those of its redirects if there is no offer, and those that the proxy must not send.

Ranges are `FileResponse`'s own.
"""

import contextlib
import os
import stat
from collections.abc import Awaitable

import anyio
import anyio.to_thread
from starlette.responses import FileResponse, PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from asgi_accel.log import MALFORMED, NO_PAIR, logger
from asgi_accel.mapping import decode_uri
from asgi_accel.offer import IN_SCOPE, RANGES, REDIRECT, Headers, Offer
from asgi_accel.wait import OpenFile

# `FileResponse` reads the last three to answer a range, and fails without them. The first says that there are ranges.
NEEDED_FOR_RANGES = {b"accept-ranges", b"content-type", b"etag", b"last-modified"}


class Serving:
    """The `send` of one request for which no proxy offers to send a redirect: the app sends its file."""

    _answered = False

    def __init__(self, offer: Offer, scope: Scope, receive: Receive, send: Send) -> None:
        self._offer = offer
        self._scope = scope
        self._offers, self._before = scope[IN_SCOPE], len(scope[IN_SCOPE])
        self._receive = receive
        self._send = send

    def send(self, message: Message) -> Awaitable[None]:
        # If an `AccelMiddleware` further in has an offer, a redirect is by its mapping, and for its proxy.
        if message["type"] == "http.response.start" and len(self._offers) == self._before:
            message = with_list(message)
            for name, value in message.get("headers", ()):
                if len(name) == 16 and name.lower() == REDIRECT:
                    path = self._path_of(value.decode("utf-8", "surrogateescape"))
                    if path is not None:
                        self._answered = True
                        return self._send_redirected(path, message)
        return send_all(self._send) if self._answered else self._send(message)

    def _path_of(self, uri: str) -> str | None:
        path = self._offer.mapping.path(uri)
        shown = uri.partition("?")[0]  # a query may be a signature
        logger.debug("no proxy offers to send the redirect to %.200r: the app looks for the file %.200r", shown, path)
        if path is None:  # a named location, with its @, is no path
            self._offer.warn(NO_PAIR if decode_uri(uri) is not None or uri.startswith("@") else MALFORMED, shown)
        return path

    async def _send_redirected(self, path: str, start: Message) -> None:
        """Send the file that a redirect stands for, with the redirect's own headers."""
        status = await stat_file(path)
        if status is None:
            logger.debug("there is no file %.200r: 404", path)
            return await PlainTextResponse("Not Found", 404)(self._scope, self._receive, self._send)
        response = FileResponse(path, stat_result=status)
        own = [header for header in in_lower_case(start) if not _is_replaced(*header)]
        response.raw_headers[:] = own + [header for header in response.raw_headers if header[0] not in dict(own)]
        await response(self._scope, self._receive, self._send)


def _is_replaced(name: bytes, value: bytes) -> bool:
    """Whether a header of a redirect is for the proxy, or describes a body of the redirect itself."""
    is_multipart = name == b"content-type" and value.startswith(b"multipart/byteranges")
    return is_multipart or name.startswith(b"x-accel-") or name in (b"content-length", b"content-range")


async def stat_file(path: str) -> os.stat_result | None:
    """The `os.stat` of a regular file, or None."""
    with contextlib.suppress(OSError):
        status = await anyio.to_thread.run_sync(os.stat, path)
        return status if stat.S_ISREG(status.st_mode) else None
    return None


async def send_file(
    file: str | OpenFile, status: os.stat_result | None, start: Message, scope: Scope, receive: Receive, send: Send
) -> None:
    """Send a file under the start that another file sender made, or the part of it that the request asks for."""
    headers = in_lower_case(start)
    names = dict(headers)
    if status is not None and b"content-length" in names:  # the file may have another size by now
        size = (b"content-length", b"%d" % status.st_size)
        headers = [size if header[0] == b"content-length" else header for header in headers]
    if not names.keys() >= NEEDED_FOR_RANGES:  # the other file sender sends the whole file, so this one does, too
        scope = {**scope, "headers": [header for header in scope["headers"] if header[0] not in RANGES]}
    response = FileResponse(file, start["status"], media_type="*/*", stat_result=status)  # type: ignore[arg-type]
    response.raw_headers[:] = headers
    await response(scope, receive, send)


def is_part(message: Message) -> bool:
    """Whether a pathsend message names only a part of a file (asgiref's pull request 538)."""
    return bool(message.get("offset")) or message.get("count") is not None


async def send_bytes(message: Message, send: Send) -> None:
    """Send what a pathsend message stands for: a file, or a part of it."""
    left = message.get("count")
    async with await anyio.open_file(message["path"], "rb") as file:
        await file.seek(message.get("offset") or 0)
        while chunk := await file.read(min(65536, 65536 if left is None else left)):
            left = None if left is None else left - len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def with_list(message: Message) -> Message:
    """A message whose headers can be read more than once: ASGI says that they are an iterable."""
    headers = message.get("headers")
    return message if headers is None or isinstance(headers, (list, tuple)) else {**message, "headers": list(headers)}


def in_lower_case(start: Message) -> Headers:
    """The headers of a start, names in lower case."""
    return [(name.lower(), value) for name, value in start.get("headers", ())]


async def send_all(send: Send, *messages: Message) -> None:
    for message in messages:
        await send(message)
