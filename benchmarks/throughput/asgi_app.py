"""The ASGI apps: the same routes without the middleware and with it."""

from __future__ import annotations

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

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


async def ask(request: Request) -> Response:
    return Response(status_code=204)


routes = [
    Route("/by-hand/{name}", by_hand),
    Route("/redirect/{name}", redirect),
    Route("/mapped/{name}", mapped),
    Route("/file/{name}", file),
    Route("/file-with-stat/{name}", file_with_stat),
    Route("/ask", ask),
    Mount("/static", StaticFiles(directory=FILES)),
]
plain = Starlette(routes=routes)
accel = Starlette(routes=routes, middleware=[Middleware(AccelMiddleware, MAPPING)])
