"""Who sent the bytes: what the strip at the foot of the page tells. Not needed by an app that only sends files."""

import os
import time
from collections import deque
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PROXY = os.environ.get("PROXY", "nginx")  # or Caddy


@dataclass
class Transfer:
    file: str
    asked: str  # the request's Range
    status: int  # the app's; what the client gets from the proxy may be a 206
    sender: str  # the proxy, or "Python"
    sent: int  # bytes that went through the app
    busy: float  # seconds from the call of the app until it returned
    done: bool = False


Transfers = dict[str, deque[Transfer]]  # by user, newest first; a process has its own


class TransfersMiddleware:
    """Watch from outside of AccelMiddleware, where a redirect can be told from a file."""

    def __init__(self, app: ASGIApp, transfers: Transfers) -> None:
        self.app = app
        self.transfers = transfers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            return await self.app(scope, receive, send)
        started = time.perf_counter()
        transfer: Transfer | None = None

        async def watch(message: Message) -> None:
            nonlocal transfer
            file = scope.get("state", {}).get("file")  # set by the route once it has let the user in
            if message["type"] == "http.response.start" and file is not None:
                sender = PROXY if "x-accel-redirect" in Headers(raw=message["headers"]) else "Python"
                asked = Headers(scope=scope).get("range", "")
                transfer = Transfer(file, asked, message["status"], sender, 0, 0)
                self.transfers.setdefault(scope["session"]["user"], deque(maxlen=50)).appendleft(transfer)
            elif transfer is not None:
                transfer.sent += len(message.get("body", b""))
            await send(message)
            if transfer is not None:
                transfer.busy = time.perf_counter() - started

        try:
            await self.app(scope, receive, watch)
        finally:
            if transfer is not None:
                transfer.busy, transfer.done = time.perf_counter() - started, True
