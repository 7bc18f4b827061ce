"""Redirects coming out become files: if no proxy offers to send them, the app serves them itself."""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable

import anyio.to_thread
from starlette.responses import FileResponse, PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from asgi_accel.log import MALFORMED, NO_PAIR, logger
from asgi_accel.mapping import is_malformed
from asgi_accel.offer import REDIRECT, Offer
from asgi_accel.sending import drop, with_list
from asgi_accel.target import Headers


class Serving:
    """The `send` of one request for which no proxy offers to send a redirect."""

    _answered = False

    def __init__(self, offer: Offer, scope: Scope, receive: Receive, send: Send) -> None:
        self._offer = offer
        self._scope = scope
        self._receive = receive
        self._send = send

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            message = with_list(message)
            for name, value in message.get("headers", ()):
                if len(name) == 16 and name.lower() == REDIRECT:
                    path = self._path_of(value.decode("utf-8", "surrogateescape"))
                    if path is not None:
                        self._answered = True
                        return self._send_redirected(path, message["headers"])
        return drop() if self._answered else self._send(message)

    def _path_of(self, uri: str) -> str | None:
        path = self._offer.mapping.path(uri)
        shown = uri.partition("?")[0]  # a query may be a signature
        logger.debug("nothing is offered to send the redirect to %.200r: it stands for the file %.200r", shown, path)
        if path is None:
            is_bad = is_malformed(uri) and not uri.startswith("@")  # that is a named location
            self._offer.log.once(MALFORMED if is_bad else NO_PAIR, shown)
        return path

    async def _send_redirected(self, path: str, headers: Headers) -> None:
        """Send the file that a redirect stands for, with the redirect's own headers."""
        try:
            stat_result = await anyio.to_thread.run_sync(os.stat, path)
        except OSError:
            stat_result = None
        if stat_result is None or not stat.S_ISREG(stat_result.st_mode):
            logger.debug("there is no file %.200r: 404", path)
            return await PlainTextResponse("Not Found", 404)(self._scope, self._receive, self._send)
        response = FileResponse(path, stat_result=stat_result)
        own = [(name.lower(), value) for name, value in headers]
        own = [header for header in own if not _is_replaced(*header)]
        names = dict(own)
        response.raw_headers[:] = own + [header for header in response.raw_headers if header[0] not in names]
        await response(self._scope, self._receive, self._send)


def _is_replaced(name: bytes, value: bytes) -> bool:
    """Whether a header of a redirect speaks to the proxy, or of a body that the redirect had itself."""
    return (
        name.startswith(b"x-accel-")
        or name in (b"content-length", b"content-range")
        or (name == b"content-type" and value.startswith(b"multipart/byteranges"))
    )
