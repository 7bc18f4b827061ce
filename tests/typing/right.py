"""How users call the package. Four type checkers must accept all of it (tools/check_types.py). It is not run."""

import os
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import hypercorn.asyncio
import hypercorn.config
import hypercorn.typing
import uvicorn
from asgiref.typing import ASGI3Application, ASGIReceiveCallable, ASGISendCallable
from asgiref.typing import Scope as AsgirefScope
from fastapi import FastAPI
from litestar import Litestar
from litestar.middleware import DefineMiddleware
from litestar.types import ASGIApp as LitestarApp
from quart import Quart
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap

pairs: list[tuple[str, str]] = [("/mnt/a", "/a")]
paths: dict[Path, str] = {Path("/mnt/a"): "/a"}
mapping: PathMap = PathMap({"/mnt/storage": "/download"})
PathMap(pairs)
PathMap(paths)
PathMap([(Path("/mnt/a"), "/a")])
PathMap(mapping)
PathMap({"/mnt/a": "/a", Path("/mnt/b"): "/b"})
parsed: PathMap = PathMap.parse(os.environ["ACCEL_MAPPING"])
uri: str | None = mapping.uri("/mnt/storage/a.txt")
uri = mapping.uri(Path("/mnt/storage/a.txt"))
path: str | None = mapping.path("/download/a.txt")
items: Iterator[tuple[str, str]] = iter(mapping)

AccelRedirectResponse("/download/a.txt")
AccelRedirectResponse(Path("/mnt/storage/a.txt"), mapping=mapping, filename="a.txt", media_type="text/plain")
AccelRedirectResponse("/mnt/storage/a.txt", mapping={"/mnt/storage": "/download"})
AccelRedirectResponse(
    "/download/a.txt",
    200,
    {"Cache-Control": "private"},
    "text/plain",
    BackgroundTask(print),
    content_disposition_type="inline",
    query={"token": "x", "part": [1, 2]},
    buffering=False,
    limit_rate=1_000_000,
    expires=datetime.now(timezone.utc) + timedelta(hours=1),
    charset="utf-8",
)
AccelRedirectResponse("/download/a.txt", query="token=x", expires=60)


def with_starlette(app: ASGIApp) -> ASGIApp:
    AccelMiddleware(app, parsed, always=True)
    AccelMiddleware(app, "/mnt/a/=/a/", secret="x")
    AccelMiddleware(app, paths)
    AccelMiddleware(app, pairs)
    AccelMiddleware(app, trust_header=True)
    starlette = Starlette(middleware=[Middleware(AccelMiddleware, mapping=mapping)])
    starlette.add_middleware(AccelMiddleware, mapping=mapping)
    return starlette


api = FastAPI()
api.add_middleware(AccelMiddleware, mapping={"/mnt/storage": "/download"})


@api.get("/a", response_class=AccelRedirectResponse)
def by_path() -> str:
    return "/download/a.txt"


@api.get("/b")
async def by_response() -> AccelRedirectResponse:
    return AccelRedirectResponse("/download/b.txt")


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    await FileResponse("/mnt/storage/a.txt")(scope, receive, send)


async def by_asgiref(scope: AsgirefScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def untyped(scope, receive, send):  # type: ignore[no-untyped-def]
    await send({"type": "http.response.body"})


# Apps of any framework, by its own types.
AccelMiddleware(plain, mapping)
AccelMiddleware(by_asgiref, mapping)
AccelMiddleware(untyped, mapping)
AccelMiddleware(Response("an app, too"), mapping)
AccelMiddleware(AccelMiddleware(api, mapping), mapping)

quart = Quart(__name__)
AccelMiddleware(quart, mapping)
AccelMiddleware(quart.asgi_app, mapping)
quart.asgi_app = AccelMiddleware(quart.asgi_app, mapping)  # type: ignore[method-assign]

litestar = Litestar([], middleware=[DefineMiddleware(AccelMiddleware, mapping=mapping)])
AccelMiddleware(litestar, mapping)


def in_litestar(app: LitestarApp) -> LitestarApp:
    return AccelMiddleware(app, mapping)


Litestar([], middleware=[in_litestar])


def in_asgiref(app: ASGI3Application) -> ASGI3Application:
    return AccelMiddleware(app, mapping)


async def in_hypercorn(app: hypercorn.typing.ASGIFramework) -> None:
    await hypercorn.asyncio.serve(AccelMiddleware(app, mapping), hypercorn.config.Config())


uvicorn.run(AccelMiddleware(api, mapping))
