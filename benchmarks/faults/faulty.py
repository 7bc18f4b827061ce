"""The app for the faults: the same files with the middleware and without, and files that change while they are sent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import parse_qs

import anyio.to_thread
from apps import FILES, deleted_by_coroutine, deleted_by_function
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_accel import AccelMiddleware

SECRET = "only the proxy knows"


def replace(path: Path, new: bytes) -> None:
    """Write the new file beside the old, and rename it: how files should be changed."""
    other = path.with_suffix(".new")
    other.write_bytes(new)
    other.replace(path)


def rewrite(path: Path, new: bytes) -> None:
    with path.open("r+b") as file:
        file.write(new)


def truncate(path: Path, new: bytes) -> None:
    os.truncate(path, len(new))


def append(path: Path, new: bytes) -> None:
    with path.open("ab") as file:
        file.write(new[path.stat().st_size :])


def delete(path: Path, new: bytes) -> None:
    path.unlink()


def make_unreadable(path: Path, new: bytes) -> None:
    path.chmod(0)


Change = Callable[[Path, bytes], None]
CHANGES: dict[str, Change] = {
    "replaced by a rename": replace,
    "rewritten in place": rewrite,
    "truncated": truncate,
    "appended to": append,
    "deleted": delete,
    "made unreadable": make_unreadable,
}


def change(files: Path, name: str) -> None:
    """Change `file`: the new content is in `new`, which lies beside it."""
    CHANGES[name](files / "file", (files / "new").read_bytes())


class ChangeFile:
    """Change the file, if the request asks for it, when the app has said what it sends and nobody has opened it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def change_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                for name in parse_qs(scope["query_string"].decode("latin-1")).get("change", ()):
                    change(FILES, name)
            await send(message)

        await self.app(scope, receive, change_and_send)


async def file(request: Request) -> Response:
    return FileResponse(FILES / request.path_params["name"])


async def state(request: Request) -> Response:
    """What the app holds at this moment, this request included."""
    return JSONResponse(
        {
            "tasks": len(asyncio.all_tasks()),
            "threads": threading.active_count(),
            "descriptors": len(os.listdir("/proc/self/fd")),
        }
    )


@contextlib.asynccontextmanager
async def become_nobody(app: Starlette) -> AsyncIterator[None]:
    """Give up root's rights to read every file. Threads are needed once before, since they import modules."""
    await anyio.to_thread.run_sync(os.getpid)
    if "AS_NOBODY" in os.environ:
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
    yield


files = Starlette(
    routes=[
        Route("/deleted-by-function", deleted_by_function),
        Route("/deleted-by-coroutine", deleted_by_coroutine),
        Route("/{name}", file),
    ]
)
site = Starlette(
    routes=[
        Mount("/plain", ChangeFile(files)),
        Mount("/accel", ChangeFile(AccelMiddleware(files, {FILES: "/download"}))),
        Mount("/secret", AccelMiddleware(files, secret=SECRET)),
        Route("/state", state),
    ],
    lifespan=become_nobody,
)
