"""The ASGI apps: the same routes without the middleware and with it."""

from __future__ import annotations

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
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


routes = [
    Route("/by-hand/{name}", by_hand),
    Route("/redirect/{name}", redirect),
    Route("/mapped/{name}", mapped),
    Route("/file/{name}", file),
    Route("/file-with-stat/{name}", file_with_stat),
    Route("/ask", ask),
    Route("/json", small),
    Mount("/static", StaticFiles(directory=FILES)),
]
plain = Starlette(routes=routes)
accel = Starlette(routes=routes, middleware=[Middleware(AccelMiddleware, MAPPING)])
least = Least(plain)
