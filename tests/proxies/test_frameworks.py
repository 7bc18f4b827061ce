"""Other frameworks under the middleware: the same messages as without it, and the apps of docs/frameworks.md."""

import contextlib
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from asgi import ask
from pages import ROOT
from servers import UVICORN, asgi_server, client

from asgi_accel import AccelMiddleware

# Some frameworks warn of themselves, or of each other, under new Pythons.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]

TEXT = b"0123456789" * 50
COOKIE = ("Set-Cookie", "seen=1")


def litestar(file: Path) -> Any:
    from litestar import Litestar, Response, get
    from litestar.response import File, Stream

    @get("/page")
    async def page() -> Response[str]:
        return Response("a page", headers=dict([COOKIE]))

    @get("/stream")
    async def stream() -> Stream:
        return Stream(parts())

    @get("/file")
    async def send() -> File:
        return File(file)

    return Litestar([page, stream, send])


def quart(file: Path) -> Any:
    from quart import Quart, Response, send_file

    app = Quart("tests")
    app.config["SEND_FILE_MAX_AGE_DEFAULT"] = None  # else `Expires` is another one each second

    @app.get("/page")
    async def page() -> Response:
        return Response("a page", headers=dict([COOKIE]))

    @app.get("/stream")
    async def stream() -> Response:
        return Response(parts())

    @app.get("/file")
    async def send() -> Response:
        return await send_file(file, conditional=True)

    return app


def django(file: Path) -> Any:
    from django.conf import settings

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["localhost"])
    from django.core.handlers.asgi import ASGIHandler
    from django.http import FileResponse, HttpResponse, StreamingHttpResponse
    from django.urls import path

    async def page(request: Any) -> HttpResponse:
        return HttpResponse("a page", headers=dict([COOKIE]))

    async def stream(request: Any) -> StreamingHttpResponse:
        return StreamingHttpResponse(parts())

    def send(request: Any) -> FileResponse:
        return FileResponse(file.open("rb"))

    class Urls:
        urlpatterns = (path("page", page), path("stream", stream), path("file", send))

    class Handler(ASGIHandler):  # type: ignore[misc]
        def resolve_request(self, request: Any) -> Any:
            request.urlconf = Urls
            return super().resolve_request(request)

    settings.ROOT_URLCONF = None
    import django as package

    package.setup(set_prefix=False)
    return Handler()


def sanic(file: Path) -> Any:
    from sanic import HTTPResponse, Request, Sanic
    from sanic import file as send_file

    app = Sanic(f"tests-{os.urandom(4).hex()}")

    @app.get("/page")
    async def page(request: Request[Any, Any]) -> HTTPResponse:
        return HTTPResponse("a page", headers=dict([COOKIE]))

    @app.get("/stream")
    async def stream(request: Request[Any, Any]) -> None:
        response = await request.respond()
        async for part in parts():
            await response.send(part)

    @app.get("/file")
    async def send(request: Request[Any, Any]) -> HTTPResponse:
        return await send_file(file)

    return app


def blacksheep(file: Path) -> Any:
    from blacksheep import Application, Response, Router, StreamedContent
    from blacksheep.server.responses import file as send_file

    app = Application(router=Router())

    @app.router.get("/page")
    async def page() -> Response:
        return Response(200, [tuple(text.encode() for text in COOKIE)])  # type: ignore[list-item]

    @app.router.get("/stream")
    async def stream() -> Response:
        return Response(200, content=StreamedContent(b"text/plain", parts))

    @app.router.get("/file")
    async def send() -> Response:
        return send_file(str(file), "text/plain")

    app.serve_files(file.parent, root_path="/files")
    return app


def falcon(file: Path) -> Any:
    from falcon.asgi import App

    class Page:
        async def on_get(self, req: Any, resp: Any) -> None:
            resp.text = "a page"
            resp.append_header(*COOKIE)

    class Stream:
        async def on_get(self, req: Any, resp: Any) -> None:
            resp.stream = parts()

    app = App()
    app.add_route("/page", Page())
    app.add_route("/stream", Stream())
    app.add_static_route("/files", str(file.parent))
    app.add_static_route("/file", str(file.parent), fallback_filename=file.name)
    return app


async def parts() -> AsyncIterator[bytes]:
    for part in (b"one ", b"two ", b"three"):
        yield part
        await anyio.lowlevel.checkpoint()


FRAMEWORKS: list[Callable[[Path], Any]] = [litestar, quart, django, sanic, blacksheep, falcon]


@contextlib.asynccontextmanager
async def started(app: Any) -> AsyncIterator[None]:
    """An app between the start and the end of its lifespan, where it has one."""
    up, stopping = anyio.Event(), anyio.Event()
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:
            await stopping.wait()
            return {"type": "lifespan.shutdown"}
        asked = True
        return {"type": "lifespan.startup"}

    async def send(message: dict[str, Any]) -> None:
        assert not message["type"].endswith("failed"), message
        up.set()

    async def run() -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        with contextlib.suppress(ValueError, RuntimeError):  # Django says that it knows no lifespan
            await app(scope, receive, send)
        up.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await up.wait()
        try:
            yield
        finally:
            stopping.set()


async def messages(app: Any, path: str, *headers: tuple[bytes, bytes], method: str = "GET") -> list[dict[str, Any]]:
    """What the app sends, each iterable of headers as a list."""
    with anyio.fail_after(60):
        answer = await ask(app, *headers, path=path, method=method)
    return [
        {**message, "headers": [(bytes(name), bytes(value)) for name, value in message["headers"]]}
        if "headers" in message
        else dict(message)
        for message in collected(answer.messages)
    ]


def collected(sent: list[Any]) -> list[Any]:
    """Messages, with the parts of a body as one: how a file is cut into parts may vary with the time it takes."""
    start, *body = sent
    assert all(message["type"] == "http.response.body" for message in body)
    assert [message.get("more_body", False) for message in body] == [True] * (len(body) - 1) + [False]
    return [start, {"body": b"".join(bytes(message.get("body", b"")) for message in body)}]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT)
    return path


@pytest.mark.parametrize("make", FRAMEWORKS)
async def test_same_messages(make: Callable[[Path], Any], file: Path) -> None:
    """Pages, streams, files and ranges are the same, offered or not, in a scope that may have pathsend already."""
    offer = (b"x-accel-mapping", os.fsencode(f"{file.parent}/=/files/"))
    seen = {}
    app = make(file)
    async with started(app):
        wrapped = AccelMiddleware(app, {file.parent: "/files"})
        for path in ("/page", "/stream", "/file", "/files/a.txt", "/none"):
            for method in ("GET", "HEAD"):
                for extra in ((), ((b"range", b"bytes=2-4"),), ((b"range", b"bytes=9999-"),)):
                    expected = await messages(app, path, *extra, method=method)
                    seen[method, path, len(extra)] = expected[0]["status"], expected[1]["body"]
                    assert await messages(wrapped, path, *extra, method=method) == expected
                    assert await messages(wrapped, path, offer, *extra, method=method) == expected
    # What is compared is what was asked for.
    assert seen["GET", "/page", 0][0] == 200
    assert seen["GET", "/stream", 0] == (200, b"one two three")
    assert seen["GET", "/file", 0] == (200, TEXT)
    assert seen["GET", "/none", 0][0] == 404


PAGE = dict(
    re.findall(
        r"^## (\w+)\n(?:(?!^## ).)*?^```python\n(.*?)^```$",
        (ROOT / "docs/frameworks.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
)


class TestPage:
    """docs/frameworks.md: each heading's app hands the report to the proxy, or sends it."""

    def test_each(self) -> None:
        """Each framework of the table has one; FastAPI's is in Getting started."""
        table = (ROOT / "docs/frameworks.md").read_text().partition("|---|---|---|\n")[2].partition("\n\n")[0]
        named = re.findall(r"[A-Z]\w+", " ".join(row.split("|")[1] for row in table.splitlines()))
        assert sorted(named) == sorted([*PAGE, "FastAPI"])

    @pytest.mark.parametrize("name", sorted(PAGE))
    def test_app(self, folder: Path, name: str) -> None:
        """Each has an interpreter of its own: Django and Sanic have settings and apps that are global."""
        home = folder / f"with_{name.lower()}"
        storage = home / "mnt" / "storage"
        (storage / "reports").mkdir(parents=True)
        (storage / "reports" / "7.pdf").write_bytes(TEXT)
        (home / f"{home.name}.py").write_text(PAGE[name].replace("/mnt/", f"{home}/mnt/"))
        path = "/reports/7"
        server = asgi_server(
            home,
            *UVICORN,
            app=f"{home.name}:app",
            name="app",
            PYTHONPATH=os.pathsep.join([str(home), str(ROOT)]),
        )
        with server, client(home / "app.sock") as browser:
            redirected = browser.get(path, headers={"X-Accel-Mapping": f"{storage}/=/download/"})
            assert redirected.headers["x-accel-redirect"] == "/download/reports/7.pdf"
            assert redirected.content == b""
            served = browser.get(path)
            assert (served.status_code, served.content) == (200, TEXT)
            assert served.headers["content-type"] == redirected.headers["content-type"] == "application/pdf"
            part = browser.get(path, headers={"Range": "bytes=2-4"})
            assert (part.status_code, part.content) == (206, TEXT[2:5])
