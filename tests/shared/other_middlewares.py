"""An app in each of the middlewares that people have, without `AccelMiddleware`, with it outside of them and inside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import sentry_sdk
from asgi_gzip import GZipMiddleware as AsgiGzip
from brotli_asgi import BrotliMiddleware
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from secure import Secure
from secure.middleware import SecureASGIMiddleware
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from slowapi import Limiter
from slowapi.middleware import SlowAPIASGIMiddleware, SlowAPIMiddleware
from slowapi.util import get_remote_address
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette_compress import CompressMiddleware

from asgi_accel import AccelMiddleware

FILES = Path(os.environ.get("FILES", "/nonexistent"))


class PassOn(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


OTHERS: dict[str, Middleware] = {
    "CORSMiddleware": Middleware(CORSMiddleware, allow_origins=["https://other.example"]),
    "SessionMiddleware": Middleware(SessionMiddleware, secret_key="secret"),
    "GZipMiddleware": Middleware(GZipMiddleware),
    "BaseHTTPMiddleware": Middleware(PassOn),
    "brotli-asgi": Middleware(BrotliMiddleware),
    "starlette-compress": Middleware(CompressMiddleware),
    "asgi-gzip": Middleware(AsgiGzip),
    "Sentry": Middleware(SentryAsgiMiddleware),
    "OpenTelemetry": Middleware(OpenTelemetryMiddleware),
    "slowapi": Middleware(SlowAPIMiddleware),
    "slowapi (ASGI)": Middleware(SlowAPIASGIMiddleware),
    "secure": Middleware(SecureASGIMiddleware, secure=Secure.with_default_headers()),
}


async def page(request: Request) -> Response:
    if "session" in request.scope:
        request.session["seen"] = "page"
    return PlainTextResponse("a page " * 200)


async def stream(request: Request) -> Response:
    return StreamingResponse(iter([b"one " * 200, b"two"]), media_type="text/plain")


async def file(request: Request) -> Response:
    if "session" in request.scope:
        request.session["seen"] = "file"
    return FileResponse(FILES / request.path_params["name"])


def build(*middleware: Middleware) -> Starlette:
    routes = [Route("/page", page), Route("/stream", stream), Route("/file/{name}", file)]
    app = Starlette(routes=routes, middleware=middleware)
    app.state.limiter = Limiter(get_remote_address, default_limits=["100000/minute"], headers_enabled=True)
    return app


def build_site() -> Starlette:
    sentry_sdk.init("http://key@localhost/1", transport=lambda event: None, default_integrations=False)
    accel = Middleware(AccelMiddleware, mapping={FILES: "/files", "/nowhere": "/_none"})
    routes: list[Any] = []
    for name, other in OTHERS.items():
        for place, around in {"without": [other], "around": [accel, other], "inside": [other, accel]}.items():
            routes.append(Mount(f"/{place}/{name}", build(*around)))
    return Starlette(routes=routes)


if "FILES" in os.environ:
    site = build_site()
