"""The app that the tests put behind nginx: the same routes without the middleware and with it in each mode."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
from fastapi import FastAPI
from inner import LOSSY, SCOPE, ChangeScope
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap

ALL_METHODS = ["GET", "HEAD", "POST"]


def given_path(request: Request) -> Path:
    """The path in the query, in hexadecimal, since file names are bytes; relative to the files unless absolute."""
    return FILES / os.fsdecode(bytes.fromhex(request.query_params["hex"]))


async def file(request: Request) -> Response:
    headers = {"Cache-Control": "private", "X-Own": "1", "Set-Cookie": "a=1"}
    return FileResponse(given_path(request), headers=headers)


async def named_file(request: Request) -> Response:
    return FileResponse(given_path(request), filename=request.query_params["filename"])


async def missing_page(request: Request) -> Response:
    return FileResponse(given_path(request), status_code=404, headers={"X-Own": "1"})


async def encoded_file(request: Request) -> Response:
    return FileResponse(given_path(request), headers={"Content-Encoding": "x-own"}, media_type="text/plain")


async def file_with_redirect(request: Request) -> Response:
    """What people try first: the header on a response that has a body already."""
    return FileResponse(given_path(request), headers={"X-Accel-Redirect": request.query_params["to"]})


async def redirect(request: Request) -> Response:
    return AccelRedirectResponse(
        given_path(request),
        mapping=MAPPING,
        filename=request.query_params.get("filename"),
        charset=request.query_params.get("charset"),
        headers={"X-Own": "1", "Cache-Control": "private"},
    )


async def redirect_to(request: Request) -> Response:
    query, media_type = map(request.query_params.get, ("query", "media_type"))
    return AccelRedirectResponse(request.query_params["path"], media_type=media_type, query=query)


async def redirect_by_hand(request: Request) -> Response:
    headers = {"X-Accel-Redirect": request.query_params["to"], "X-Accel-Buffering": "yes"}
    return Response(b"", int(request.query_params.get("status", "200")), headers=headers)


def make_temporary() -> str:
    file, path = tempfile.mkstemp(dir=FILES)
    os.write(file, b"temporary ")
    os.close(file)
    return path


async def unlink(path: str) -> None:
    os.unlink(path)


async def deleted_by_function(request: Request) -> Response:
    path = make_temporary()
    return FileResponse(path, background=BackgroundTask(os.unlink, path))


async def deleted_by_coroutine(request: Request) -> Response:
    path = make_temporary()
    return FileResponse(path, background=BackgroundTask(unlink, path))


async def unlink_later(path: str) -> None:
    await anyio.sleep(0.3)
    os.unlink(path)


async def deleted_slowly(request: Request) -> Response:
    """Deleted at a time when nginx has it, and the client has perhaps gone."""
    path = make_temporary()
    return FileResponse(path, background=BackgroundTask(unlink_later, path))


async def slow_task(request: Request) -> Response:
    """Deleted at once, by an app that then goes on for a while."""
    path = make_temporary()

    async def task() -> None:
        os.unlink(path)
        await anyio.sleep(0.3)

    return FileResponse(path, background=BackgroundTask(task))


class DeletedAtTheEnd:
    """An endpoint that cleans up when its response is done, as a FastAPI dependency with `yield` does."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with tempfile.TemporaryDirectory(dir=FILES) as folder:
            (Path(folder) / "a.txt").write_bytes(b"temporary ")
            await FileResponse(Path(folder) / "a.txt")(scope, receive, send)


async def ranged(request: Request) -> Response:
    """An endpoint that streams ranges by hand, as from object storage."""
    body = b"0123456789"
    wanted = request.headers.get("range")
    seen = {"X-Saw-Range": str(wanted), "X-Saw-If-Range": str(request.headers.get("if-range"))}
    if wanted is None:
        return StreamingResponse(iter([body]), headers=seen)
    start, _, end = wanted.removeprefix("bytes=").partition("-")
    part = body[int(start) : int(end) + 1]
    seen["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
    return StreamingResponse(iter([part]), 206, headers=seen)


async def events(request: Request) -> Response:
    """An event stream whose first event comes only when the client hangs up."""

    async def wait() -> AsyncIterator[bytes]:
        while (await request.receive())["type"] != "http.disconnect":
            continue
        yield b"data: too late\n\n"

    # Without the header nginx keeps a response back until it has more of it than the headers.
    return StreamingResponse(wait(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def text(request: Request) -> Response:
    return PlainTextResponse("hello " * 200, headers={"X-Own": "1"})


async def stream(request: Request) -> Response:
    return StreamingResponse(iter([b"one ", b"two"]), headers={"X-Own": "1"})


async def moved(request: Request) -> Response:
    return RedirectResponse("/elsewhere", headers={"X-Own": "1"})


async def not_modified(request: Request) -> Response:
    return Response(status_code=304, headers={"ETag": '"own"', "X-Own": "1"})


async def file_with_task(request: Request) -> Response:
    return FileResponse(given_path(request), background=BackgroundTask(list))


async def headers(request: Request) -> Response:
    return PlainTextResponse("\n".join(f"{name}: {value}" for name, value in request.headers.items()))


async def fail(request: Request) -> Response:
    raise RuntimeError("as intended")


async def gives_up(scope: Scope, receive: Receive, send: Send) -> None:
    """A file sender that sends nothing, since its client has gone, and leaves a line for each step."""

    def note(text: str) -> None:
        with (FILES / scope["path"].rpartition("/")[2]).open("a") as file:
            file.write(text)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        note(f"called {'http.response.pathsend' in scope.get('extensions', {})}\n")
        while (await receive())["type"] != "http.disconnect":
            continue

    await AccelMiddleware(app, MAPPING)(scope, receive, send)
    note("returned\n")


class PassOn(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["X-Passed"] = request.headers.get("host", "")
        return response


class Wordy:
    """A middleware that adds long headers, as one for security does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-wordy", b"w" * 5000)]}
            await send(message)

        await self.app(scope, receive, add)


class CopyScope:
    """A middleware that gives the app a scope, and a list of headers, of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [*scope["headers"], (b"x-copied", b"1")]}
        await self.app(scope, receive, send)


api = FastAPI(openapi_url=None)


@api.get("/file")
async def api_file(hex: str) -> FileResponse:  # noqa: A002
    return FileResponse(FILES / os.fsdecode(bytes.fromhex(hex)))


@api.get("/redirect", response_class=AccelRedirectResponse)
async def api_redirect(path: str) -> str:
    return path


def build(files: Path, *middleware: Middleware) -> Starlette:
    """The app, with its files in one folder."""
    routes = [
        Route("/file", file, methods=ALL_METHODS),
        Route("/named", named_file),
        Route("/404", missing_page, methods=ALL_METHODS),
        Route("/encoded", encoded_file),
        Route("/file-with-redirect", file_with_redirect),
        Route("/redirect", redirect, methods=ALL_METHODS),
        Route("/redirect-to", redirect_to),
        Route("/by-hand", redirect_by_hand),
        Route("/deleted-by-function", deleted_by_function),
        Route("/deleted-by-coroutine", deleted_by_coroutine),
        Route("/deleted-slowly", deleted_slowly),
        Route("/slow-task", slow_task),
        Route("/deleted-at-the-end", DeletedAtTheEnd()),
        Route("/ranged", ranged),
        Route("/events", events),
        Route("/text", text),
        Route("/stream", stream),
        Route("/moved", moved),
        Route("/304", not_modified),
        Route("/file-with-task", file_with_task),
        Route("/headers", headers),
        Route("/fail", fail),
        Mount("/static", StaticFiles(directory=files)),
        Mount("/sub", Starlette(routes=[Route("/file", file)])),
        Mount("/api", api),
    ]
    return Starlette(routes=routes, middleware=middleware)


FILES = Path(os.environ.get("FILES", "/nonexistent"))
MAPPING = PathMap({FILES: "/download"})
SECRET = "only the proxy knows"


def with_inner(*outer: Middleware) -> list[Mount]:
    """The app behind each middleware of `inner.py`, with others around that."""
    inner = {name: Middleware(ChangeScope, change) for name, change in SCOPE.items()}
    inner |= {name: Middleware(kind) for name, kind in LOSSY.items()}
    return [
        Mount(f"/{name}", Starlette(routes=[Route("/file", file)], middleware=[*outer, middleware]))
        for name, middleware in inner.items()
    ]


def build_site() -> Starlette:
    accel = Middleware(AccelMiddleware, mapping=MAPPING)
    gzip = Middleware(GZipMiddleware)
    return Starlette(
        routes=[
            Mount("/plain", build(FILES)),
            Mount("/mapping", build(FILES, accel)),
            Mount("/always", build(FILES, Middleware(AccelMiddleware, mapping=str(MAPPING), always=True))),
            Mount("/secret", build(FILES, Middleware(AccelMiddleware, secret=SECRET))),
            Mount("/both", build(FILES, Middleware(AccelMiddleware, MAPPING, secret=SECRET))),
            Mount("/trust", build(FILES, Middleware(AccelMiddleware, trust_header=True))),
            Mount("/elsewhere", build(FILES, Middleware(AccelMiddleware, {"/nowhere": "/download"}))),
            Mount("/base", build(FILES, accel, Middleware(PassOn))),
            Mount("/copied", build(FILES, accel, Middleware(PassOn), Middleware(CopyScope), Middleware(PassOn))),
            Mount("/wordy", build(FILES, Middleware(Wordy), accel)),
            Mount("/gzip-inside", build(FILES, accel, gzip)),
            Mount("/gzip-outside", build(FILES, gzip, accel)),
            Mount("/gives-up", gives_up),
            Mount("/inner", routes=with_inner(accel)),
            Mount("/inner-alone", routes=with_inner()),
            Mount("/cors", build(FILES, accel, Middleware(CORSMiddleware, allow_origins=["https://other.example"]))),
        ]
    )


if "FILES" in os.environ:
    site = build_site()
