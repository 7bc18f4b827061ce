"""How users call the package; checked by mypy --strict, not run."""

import os
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.types import ASGIApp

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


AccelRedirectResponse("/a", limit_rate="1")  # type: ignore[arg-type]
AccelRedirectResponse("/a", mapping={"/a": "/b"})  # type: ignore[arg-type]
PathMap({"/a": 1})  # type: ignore[arg-type]
AccelMiddleware(api, secret=b"x")  # type: ignore[arg-type]
