"""The app behind the printed configurations: a file, an upload, a websocket, and what the proxy tells it."""

from __future__ import annotations

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from asgi_accel import AccelMiddleware, AccelRedirectResponse

FILES = Path(os.environ.get("FILES", "/nonexistent"))


async def file(request: Request) -> Response:
    """A file, with headers that the query names."""
    return FileResponse(FILES / request.path_params["name"], headers=dict(request.query_params))


async def stored(request: Request) -> Response:
    """An object of the storage, by its signed URL."""
    headers = {name: value for name, value in request.query_params.items() if name not in ("query", "type")}
    return AccelRedirectResponse(
        f"/bucket/{request.path_params['key']}",
        query=request.query_params.get("query", "signature=s3cret"),
        media_type=request.query_params.get("type", "text/plain"),
        headers=headers,
        filename="report.txt",
    )


async def redirect(request: Request) -> Response:
    headers = {name: value for name, value in request.query_params.items() if name != "to"}
    return AccelRedirectResponse(request.query_params["to"], headers=headers)


async def upload(request: Request) -> Response:
    size = 0
    async for part in request.stream():
        size += len(part)
    return PlainTextResponse(str(size))


async def headers(request: Request) -> Response:
    """What the app is told, and from which of its ports the proxy has asked."""
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    assert request.client is not None
    return PlainTextResponse("\n".join([f"port: {request.client.port}", *lines]))


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(f"echo {await websocket.receive_text()}")
    await websocket.close()


app = Starlette(
    routes=[
        Route("/files/{name:path}", file),
        Route("/stored/{key:path}", stored, methods=["GET", "HEAD", "POST"]),
        Route("/redirect", redirect),
        Route("/upload", upload, methods=["POST"]),
        Route("/headers", headers),
        WebSocketRoute("/echo", echo),
    ],
    middleware=[Middleware(AccelMiddleware, mapping={FILES: "/download"})],
)
