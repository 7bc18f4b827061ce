"""The app sends a file itself: one that is left to it, one that is gone by now, or a part of one.

Ranges are `FileResponse`'s own.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable

import anyio
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from asgi_accel.offer import RANGES
from asgi_accel.wait import OpenFile

CHUNK = 64 * 1024  # bytes, as `FileResponse` reads
NEEDED_FOR_RANGES = {b"accept-ranges", b"content-type", b"etag", b"last-modified"}  # by `FileResponse`


def with_list(message: Message) -> Message:
    """A message whose headers can be read more than once: ASGI says that they are an iterable."""
    headers = message.get("headers")
    return message if headers is None or isinstance(headers, list | tuple) else {**message, "headers": list(headers)}


def in_lower_case(start: Message) -> list[tuple[bytes, bytes]]:
    """The headers of a start, names in lower case."""
    return [(name.lower(), value) for name, value in start.get("headers", ())]


def is_part(message: Message) -> bool:
    """Whether a pathsend message names only a part of a file (asgiref's pull request 538)."""
    return bool(message.get("offset")) or message.get("count") is not None


async def send_all(send: Send, *messages: Message) -> None:
    for message in messages:
        await send(message)


async def drop() -> None:
    """Send nothing: the response has been answered already."""


class UnlessRefused:
    """A `send` that drops a response which refuses a range (400 or 416), and remembers that."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.refused = False

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start" and message["status"] in (400, 416):
            self.refused = True
        return drop() if self.refused else self._send(message)


async def send_file(
    file: str | OpenFile, stat_result: os.stat_result | None, start: Message, scope: Scope, receive: Receive, send: Send
) -> None:
    """Send a file under the start that another file sender made, or the part of it that the request asks for."""
    headers = in_lower_case(start)
    names = dict(headers)
    if stat_result is not None and b"content-length" in names:  # the file may have another size by now
        size = (b"content-length", b"%d" % stat_result.st_size)
        headers = [size if header[0] == b"content-length" else header for header in headers]
    if not names.keys() >= NEEDED_FOR_RANGES:  # A file sender that knows no ranges sends the whole, so this does, too.
        scope = {**scope, "headers": [header for header in scope["headers"] if header[0] not in RANGES]}
    response = FileResponse(file, start["status"], media_type="*/*", stat_result=stat_result)  # type: ignore[arg-type]
    response.raw_headers[:] = headers
    await response(scope, receive, send)


async def send_bytes(message: Message, send: Send) -> None:
    """Send what a pathsend message stands for: a file, or a part of it (asgiref's pull request 538)."""
    left = message.get("count")
    async with await anyio.open_file(message["path"], "rb") as file:
        await file.seek(message.get("offset") or 0)
        while chunk := await file.read(CHUNK if left is None else min(CHUNK, left)):
            left = None if left is None else left - len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
