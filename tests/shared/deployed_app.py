"""The app that test_deployment.py runs as another user: it makes a file, sends it, and says who asks."""

from __future__ import annotations

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send
from storage import SIGNATURE

from asgi_accel import AccelMiddleware, AccelRedirectResponse

OTHER = Path(__file__)  # a file that no pair of the mapping covers
FILES = Path(os.environ.get("FILES", "/nonexistent"))
CONTENT = b"made by the app"


async def make(request: Request) -> Response:
    """Make a file, as apps do."""
    (FILES / "reports").mkdir()
    (FILES / "reports" / "7.txt").write_bytes(CONTENT)
    return Response()


async def made(request: Request) -> Response:
    return FileResponse(FILES / "reports" / "7.txt")


async def other(request: Request) -> Response:
    return FileResponse(OTHER)


async def stored(request: Request) -> Response:
    return AccelRedirectResponse("/bucket/my object", query=SIGNATURE)


async def who(request: Request) -> Response:
    assert request.client is not None
    return PlainTextResponse(f"{request.client.host} by {request.url.scheme}")


routes = [
    Route("/make", make, methods=["POST"]),
    Route("/made", made),
    Route("/other", other),
    Route("/stored", stored),
    Route("/who", who),
]
offered = AccelMiddleware(Starlette(routes=routes), {FILES: "/download", "/bucket": "/bucket"})
always = AccelMiddleware(Starlette(routes=[Mount("/always", routes=routes)]), {FILES: "/download"}, always=True)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The app, and the same with `always=True` under `/always`."""
    await (always if scope.get("path", "").startswith("/always/") else offered)(scope, receive, send)
