"""One kind of request, many times, in one process: `counting.py` counts its instructions.

python benchmarks/instructions/request.py ROW TIMES
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap

FOLDER = Path(os.environ.get("ROWS_FOLDER") or tempfile.mkdtemp())
FILE = FOLDER / "4k.bin"
FILE.write_bytes(b"x" * 4096)
MAPPING = PathMap({FOLDER: "/acc"})

# As nginx sends them, with what the configuration sets and what a browser sends.
PLAIN = [
    (b"host", b"x.example"),
    (b"user-agent", b"curl"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip"),
    (b"cookie", b"a=b"),
    (b"x-forwarded-for", b"1.2.3.4"),
    (b"x-forwarded-proto", b"https"),
    (b"x-real-ip", b"1"),
]
OFFER = [*PLAIN, (b"x-accel-mapping", os.fsencode(f"{FOLDER}/=/acc/"))]


async def by_hand(request: Request) -> Response:
    return Response(b"", headers={"X-Accel-Redirect": "/acc/4k.bin"}, media_type="application/octet-stream")


async def by_class(request: Request) -> Response:
    return AccelRedirectResponse("/acc/4k.bin")


async def by_class_and_mapping(request: Request) -> Response:
    return AccelRedirectResponse(str(FILE), mapping=MAPPING)


async def file(request: Request) -> Response:
    return FileResponse(str(FILE))


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-length", b"2"), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hi"})


def routed(endpoint: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
    return Starlette(routes=[Route("/x", endpoint)])


# The app, and the request's headers.
ROWS: dict[str, tuple[ASGIApp, list[tuple[bytes, bytes]]]] = {
    "by hand": (routed(by_hand), OFFER),
    "by hand, middleware": (AccelMiddleware(routed(by_hand), MAPPING), OFFER),
    "class": (routed(by_class), OFFER),
    "class, mapping=": (routed(by_class_and_mapping), OFFER),
    "class, mapping=, middleware": (AccelMiddleware(routed(by_class_and_mapping), MAPPING), OFFER),
    "FileResponse, middleware": (AccelMiddleware(routed(file), MAPPING), OFFER),
    "FileResponse, middleware, hold=0": (AccelMiddleware(routed(file), MAPPING, hold=0), OFFER),
    "page": (page, PLAIN),
    "page, TrustedHostMiddleware": (TrustedHostMiddleware(page, ["*.example"]), PLAIN),
    "page, middleware, nothing offered": (AccelMiddleware(page, MAPPING), PLAIN),
    "page, middleware, offered": (AccelMiddleware(page, MAPPING), OFFER),
}


async def send(message: Message) -> None:
    pass


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def main(row: str, times: int) -> None:
    target, headers = ROWS[row]
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/x",
        "raw_path": b"/x",
        "root_path": "",
        "query_string": b"",
        "asgi": {},
    }
    for _ in range(times):
        await target({**scope, "headers": list(headers)}, receive, send)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
