"""ServeStatic's ASGI app, a sender of files by pathsend that knows nothing of Starlette."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest
from asgi import Answer, ask
from servestatic.asgi import ServeStaticASGI

from asgi_accel import AccelMiddleware

pytestmark = pytest.mark.anyio

TEXT = b"0123456789" * 50
PATHSEND = "http.response.pathsend"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_bytes(TEXT)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(TEXT))
    return tmp_path


async def get(folder: Path, *headers: tuple[bytes, bytes], offered: bool = True, **options: Any) -> Answer:
    app = AccelMiddleware(ServeStaticASGI(None, root=folder, prefix="static/"), {folder: "/files"})
    offer = [(b"x-accel-mapping", os.fsencode(f"{folder}/=/files/"))] if offered else []
    return await ask(app, *offer, *headers, path="/static/a.txt", **options)


async def test_redirected(folder: Path) -> None:
    """A file is redirected, with its own headers."""
    answer = await get(folder)
    assert (answer.header(b"x-accel-redirect"), answer.body) == (b"/files/a.txt", b"")
    assert answer.header(b"cache-control") == b"max-age=60, public"
    assert answer.header(b"etag") is None


@pytest.mark.parametrize(
    "header",
    [(b"range", b"bytes=2-4"), (b"range", b"bytes=9999-"), (b"accept-encoding", b"gzip"), (b"if-none-match", b"x")],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_it_decides_itself(folder: Path, header: tuple[bytes, bytes], method: str) -> None:
    """It looks at ranges and encodings before it asks for pathsend, so it answers those itself, as without.

    A HEAD has no ETag, as of every file sender.
    """
    if header[0] == b"if-none-match":
        etag = (await get(folder, offered=False)).header(b"etag")
        assert etag is not None
        header = (header[0], etag)
    expected = await get(folder, header, offered=False, method=method)
    answer = await get(folder, header, method=method)
    headers = [header for header in expected.headers if method != "HEAD" or header[0] != b"etag"]
    assert (answer.status, answer.headers, answer.body) == (expected.status, headers, expected.body)


async def test_server_with_pathsend(folder: Path) -> None:
    """What is left to the app goes to the server by its own pathsend."""
    answer = await get(folder, (b"accept-encoding", b"gzip"), extensions={PATHSEND: {}})
    assert answer.header(b"content-encoding") == b"gzip"
    assert answer.messages[1:] == [{"type": PATHSEND, "path": str(folder / "a.txt.gz")}]
