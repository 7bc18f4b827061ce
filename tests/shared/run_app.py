"""The app that tests/command/test_run*.py put behind a proxy by `asgi-accel run`."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap

FILES = Path(os.environ["FILES"])
MAPPING = PathMap({FILES: "/download"})
ALL = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]


async def echo(request: Request) -> Response:
    """What the app is told of a request, and its body."""
    scope = request.scope
    told = {name: scope[name] for name in ("method", "scheme", "path", "http_version", "root_path")}
    told["raw_path"] = scope["raw_path"].decode()
    told["query"] = scope["query_string"].decode()
    told["client"] = scope["client"] and scope["client"][0]
    told["headers"] = [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]]
    told["body"] = (await request.body()).decode("latin-1")
    return JSONResponse(told, headers={"X-Own": "1"})


async def form(request: Request) -> Response:
    async with request.form() as data:
        return JSONResponse(sorted(str(value) for value in data.values()))


async def upload(request: Request) -> Response:
    """Say when the first bytes are there, by a file, and by another if the client goes before the last."""
    size = 0
    try:
        async for part in request.stream():
            if not size and "first" in request.query_params:
                Path(request.query_params["first"]).touch()
            size += len(part)
    except ClientDisconnect:
        Path(request.query_params["gone"]).touch()
    return PlainTextResponse(str(size))


async def events(request: Request) -> Response:
    """Events, each when a file says so. The response may say how long it will be."""
    go_on = Path(request.query_params["after"])

    async def parts() -> AsyncIterator[str]:
        yield "data: first\n\n"
        while not go_on.exists():  # noqa: ASYNC110 - it is the test that makes it
            await asyncio.sleep(0.01)
        yield "data: second\n\n"

    kind = request.query_params.get("type", "text/event-stream")
    headers = {"Content-Length": request.query_params["length"]} if "length" in request.query_params else {}
    return StreamingResponse(parts(), media_type=kind, headers=headers)


async def endless(request: Request) -> Response:
    """Bytes without end. A file is made when the client has gone."""

    async def parts() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(65536)
                await asyncio.sleep(0)
        finally:
            Path(request.query_params["gone"]).touch()

    return StreamingResponse(parts())


async def patient(request: Request) -> Response:
    """Say by a file that a request has come, and by another that its client has gone. Nothing is sent meanwhile."""
    Path(request.query_params["first"]).touch()
    while (await request.receive())["type"] != "http.disconnect":
        pass
    Path(request.query_params["gone"]).touch()
    return Response()


async def slow(request: Request) -> Response:
    """A long answer of the app's own."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield bytes(1000)
            await asyncio.sleep(0.1)

    return StreamingResponse(parts(), headers={"Content-Length": "10000"})


async def file(request: Request) -> Response:
    return FileResponse(FILES / request.path_params["name"], headers={"X-Content-Type-Options": "nosniff"})


async def encoded(request: Request) -> Response:
    return FileResponse(FILES / "a.txt", headers={"Content-Encoding": "x-own"})


async def redirect(request: Request) -> Response:
    kind = request.query_params.get("type")
    name = request.path_params["name"]
    return AccelRedirectResponse(FILES / name, mapping=MAPPING, filename="größe.txt", media_type=kind)


async def orphan(request: Request) -> Response:
    """Leave a process to the first one of the namespace, which has to reap it."""
    process = await asyncio.create_subprocess_exec("sh", "-c", "sleep 0.05 & exit")
    await process.wait()
    return PlainTextResponse("left")


async def websocket(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(json.dumps({"client": socket.client and socket.client.host, "url": str(socket.url)}))
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        pass


site = Starlette(
    routes=[
        Route("/form", form, methods=ALL),
        Route("/upload", upload, methods=ALL),
        Route("/events", events),
        Route("/endless", endless),
        Route("/patient", patient, methods=ALL),
        Route("/slow", slow),
        Route("/orphan", orphan),
        Route("/file/{name:path}", file, methods=ALL),
        Route("/encoded", encoded),
        Route("/redirect/{name:path}", redirect, methods=ALL),
        Mount("/static", StaticFiles(directory=FILES)),
        WebSocketRoute("/ws", websocket),
        Route("/{path:path}", echo, methods=ALL),
    ],
    middleware=[
        Middleware(CORSMiddleware, allow_origins=["https://other.example"]),
        Middleware(AccelMiddleware, mapping=MAPPING),
    ],
)
plain = Starlette(routes=site.routes)  # without the middleware


def create() -> Starlette:
    return site


@asynccontextmanager
async def until_told(app: Starlette) -> AsyncIterator[None]:
    while not Path(os.environ["GO_ON"]).exists():  # noqa: ASYNC110 - it is the test that makes it
        await asyncio.sleep(0.01)
    yield


@asynccontextmanager
async def without_end(app: Starlette) -> AsyncIterator[None]:
    yield
    await asyncio.Event().wait()


stubborn = AccelMiddleware(Starlette(routes=site.routes, lifespan=without_end), MAPPING)
late = AccelMiddleware(Starlette(routes=site.routes, lifespan=until_told), MAPPING)


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    """An app whose start has no end."""
    await asyncio.Event().wait()
