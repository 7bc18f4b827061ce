"""The ASGI apps: the same routes without the middleware and with it."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import anyio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap

FILES = Path(os.environ["FILES"])
MAPPING = PathMap({FILES: "/download"})


async def by_hand(request: Request) -> Response:
    headers = {"X-Accel-Redirect": f"/download/{request.path_params['name']}"}
    return Response(headers=headers, media_type="application/octet-stream")


async def redirect(request: Request) -> Response:
    return AccelRedirectResponse(f"/download/{request.path_params['name']}")


async def mapped(request: Request) -> Response:
    return AccelRedirectResponse(f"{FILES}/{request.path_params['name']}", mapping=MAPPING)


async def file(request: Request) -> Response:
    return FileResponse(f"{FILES}/{request.path_params['name']}")


async def file_with_stat(request: Request) -> Response:
    path = f"{FILES}/{request.path_params['name']}"
    return FileResponse(path, stat_result=os.stat(path))


async def small(request: Request) -> Response:
    return JSONResponse({"answer": 42})


async def ask(request: Request) -> Response:
    return Response(status_code=204)


async def remove(path: str) -> None:
    await anyio.sleep(2)
    os.unlink(path)


def written(request: Request) -> Response:
    """A ZIP of all photos, as docs/recipes/zip.md writes it."""
    with tempfile.NamedTemporaryFile(dir=FILES, suffix=".zip", delete=False) as file:
        os.fchmod(file.fileno(), 0o644)
        with zipfile.ZipFile(file, "w") as archive:
            for path in FILES.glob("*.photo"):
                archive.write(path, path.name)
    return FileResponse(file.name, background=BackgroundTask(remove, file.name))


class Pieces:
    """What zipfile can write to: keeps what has been written until somebody takes it."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        taken, self.parts = b"".join(self.parts), []
        return taken


def pieces() -> Iterator[bytes]:
    sink = Pieces()
    with zipfile.ZipFile(sink, "w") as archive:  # type: ignore[call-overload]  # it needs no more than this
        for path in FILES.glob("*.photo"):
            with path.open("rb") as source, archive.open(path.name, "w") as target:
                while data := source.read(1 << 20):
                    target.write(data)
                    yield sink.take()
    yield sink.take()


async def streamed(request: Request) -> Response:
    """The same ZIP, made while it is sent."""
    return StreamingResponse(pieces(), media_type="application/zip")


class Least:
    """The least that hands a file over: its path becomes a header, whatever the request says and the file is called."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope["extensions"] = {"http.response.pathsend": {}}
        start: Message = {}

        async def redirect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            elif message["type"] == "http.response.pathsend":
                target = b"/download" + message["path"].removeprefix(str(FILES)).encode()
                headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
                headers += [(b"content-length", b"0"), (b"x-accel-redirect", target)]
                await send({**start, "headers": headers})
                await send({"type": "http.response.body", "body": b""})

        await self.app(scope, receive, redirect)


WAYS = {
    "by-hand": by_hand,
    "redirect": redirect,
    "mapped": mapped,
    "file": file,
    "file-with-stat": file_with_stat,
}


async def send(request: Request) -> Response:
    """One route for all: of several routes a later one takes longer to find."""
    return await WAYS[request.path_params["way"]](request)


routes = [
    Route("/json", small),
    Route("/ask", ask),
    Mount("/static", StaticFiles(directory=FILES)),
    Route("/zip/written", written),
    Route("/zip/streamed", streamed),
    Route("/{way}/{name}", send),
]
plain = Starlette(routes=routes)
accel = Starlette(routes=routes, middleware=[Middleware(AccelMiddleware, MAPPING)])
least = Least(plain)
