"""docs/scaling.md: its configurations, with servers of this machine in place of the others."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from behind_nginx import sent_by_nginx
from needs import need_nginx
from pages import blocks
from servers import UVICORN, Nginx, Process, asgi_server, client, nginx_binary
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from test_recipes import output_of

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap

CONTENT = os.urandom(1 << 20) * 16  # more than sockets hold
FILES = Path(os.environ.get("FILES", "/nonexistent"))
STORAGE = PathMap({FILES: "/download"})


async def file(request: Request) -> Response:
    return FileResponse(FILES / request.path_params["name"])


async def redirect(request: Request) -> Response:
    return AccelRedirectResponse(FILES / request.path_params["name"], mapping=STORAGE)


async def bucket(request: Request) -> Response:
    return AccelRedirectResponse(f"/bucket/{request.path_params['name']}", query={"signature": os.urandom(4).hex()})


async def machine(request: Request) -> Response:
    return PlainTextResponse(str(os.getpid()))


app = Starlette(
    routes=[
        Route("/file/{name}", file),
        Route("/redirect/{name}", redirect),
        Route("/object/{name}", bucket),
        Route("/machine", machine),
    ],
    middleware=[Middleware(AccelMiddleware, STORAGE)],
)


@pytest.fixture(scope="module")
def home(folder: Path) -> Path:
    need_nginx()
    path = folder / "scaling"
    (path / "files").mkdir(parents=True)
    (path / "files" / "film.mp4").write_bytes(CONTENT)
    return path


def app_machine(home: Path, name: str, files: str = "") -> Process:
    return asgi_server(home, *UVICORN, app="test_scaling:app", name=name, FILES=files or str(home / "files"))


@pytest.fixture(scope="module")
def first(home: Path) -> Iterator[Process]:
    with app_machine(home, "first") as running:
        yield running


def configured(home: Path, name: str, app: Process, files: str = "") -> tuple[str, Path]:
    """What is printed for that app, with the page's lines for `server`."""
    pair = f"{files or home / 'files'}/=/download/"
    text = output_of(f"asgi-accel nginx --mapping '{pair}' --unix {app.listens_on} --server-name www.example")
    listens_on = home / f"{name}.sock"
    (more,) = (block for block in blocks("docs/scaling.md", "nginx") if "tcp_nopush" in block)
    return text.replace("listen 80;", f"listen unix:{listens_on};\n{more}"), listens_on


def printed(command: str, home: Path, name: str, app: Process, storage: str, place: str) -> tuple[str, Path]:
    """What the page's command prints, with an app, a directory and a storage of this test."""
    listens_on = home / f"{name}.sock"
    assert storage in command
    command = command.replace("/mnt/storage/=", f"{home}/files/=").replace(storage, "http://127.0.0.1:9/")
    command = command.replace("--upstream 127.0.0.1:8000", f"--unix {app.listens_on}")
    text = output_of(f"{command.strip()} --listen unix:{listens_on}")
    assert "proxy_pass http://127.0.0.1:9/;" in text
    return text.replace("proxy_pass http://127.0.0.1:9/;", f"proxy_pass {place};"), listens_on


class TestOneMachine:
    """A worker for each core, one app."""

    def test_file(self, home: Path, first: Process) -> None:
        """The configuration works as it stands."""
        text, listens_on = configured(home, "one", first)
        with Nginx(home, text, listens_on), client(listens_on) as browser:
            response = browser.get("/file/film.mp4")
            assert sent_by_nginx(response)
            assert response.content == CONTENT

    def test_workers(self, home: Path) -> None:
        """nginx takes what the page says of its workers."""
        (workers,) = blocks("docs/scaling.md", "text")
        (home / "workers.conf").write_text(f"pid {home}/pid; error_log {home}/error.log; {workers} http {{ }}")
        nginx = nginx_binary()
        assert nginx is not None
        subprocess.run([nginx, "-t", "-p", home, "-c", home / "workers.conf", "-e", home / "error.log"], check=True)


class TestAppMachines:
    """Several machines that decide, one nginx that sends."""

    @pytest.fixture
    def second(self, home: Path) -> Iterator[Process]:
        with app_machine(home, "second") as running:
            yield running

    @pytest.fixture
    def browser(self, home: Path, first: Process, second: Process) -> Iterator[httpx.Client]:
        text, listens_on = configured(home, f"apps{len(list(home.iterdir()))}", first)
        (machines,) = (block for block in blocks("docs/scaling.md", "nginx") if "least_conn" in block)
        named = machines.splitlines()[0]
        assert named in text
        text = re.sub(rf"^{re.escape(named)}.*?^\}}\n", machines, text, flags=re.DOTALL | re.MULTILINE)
        assert text.count("server 10.0.0.1") == 2
        text = text.replace("10.0.0.11:8000", f"unix:{first.listens_on}")
        text = text.replace("10.0.0.12:8000", f"unix:{second.listens_on}")
        with Nginx(home, text, listens_on), client(listens_on) as browser:
            yield browser

    def test_both_are_asked(self, browser: httpx.Client) -> None:
        """Any machine can answer: nothing is kept between requests."""
        assert len({browser.get("/machine").text for _ in range(4)}) == 2
        for _ in range(4):
            assert sent_by_nginx(browser.head("/redirect/film.mp4"))

    def test_machine_that_goes_away(self, browser: httpx.Client, second: Process) -> None:
        """A machine that is taken down ends no download and is noticed by no one."""
        with contextlib.ExitStack() as stack:
            downloads = [stack.enter_context(browser.stream("GET", "/file/film.mp4")) for _ in range(4)]
            assert [download.status_code for download in downloads] == [200] * 4
            second.process.send_signal(signal.SIGKILL)
            second.process.wait()
            for download in downloads:
                assert download.read() == CONTENT
        for _ in range(6):
            assert browser.get("/redirect/film.mp4").content == CONTENT

    def test_machine_without_the_files(self, home: Path) -> None:
        """The app's machine need not have the file."""
        with app_machine(home, "bare", "/mnt/not-on-this-machine") as bare:
            text, listens_on = configured(home, "bared", bare, "/mnt/not-on-this-machine")
            text = text.replace('alias "/mnt/not-on-this-machine/"', f'alias "{home}/files/"')
            with Nginx(home, text, listens_on), client(listens_on) as browser:
                assert browser.get("/redirect/film.mp4").content == CONTENT
                assert browser.get("/file/film.mp4").content == CONTENT


class TestSharedStorage:
    """Several nginx."""

    def test_one_etag(self, home: Path, first: Process) -> None:
        """Copies with their times kept are one file to a client that goes on elsewhere; without, they are not."""
        etags: list[str] = []
        for name, keep in (("original", True), ("kept", True), ("lost", False)):
            place = home / name
            (place / "files").mkdir(parents=True)
            (shutil.copy2 if keep else shutil.copy)(home / "files" / "film.mp4", place / "files" / "film.mp4")
            if not keep:
                os.utime(place / "files" / "film.mp4", (1, 1))
            text, listens_on = configured(home, name, first)
            text = text.replace(f'alias "{home}/files/"', f'alias "{place}/files/"')
            with Nginx(home, text, listens_on), client(listens_on) as browser:
                first_etag = etags[0] if etags else ""
                etags.append(browser.head("/redirect/film.mp4").headers["etag"])
                headers = {"Range": "bytes=5-9", "If-Range": first_etag or etags[0]}
                rest = browser.get("/redirect/film.mp4", headers=headers)
                assert rest.status_code == (206 if keep else 200)
        assert etags[0] == etags[1] != etags[2]

    def test_files_of_another_machine(self, home: Path, first: Process) -> None:
        """The edge asks the machine with the disks: ranges and conditions reach it, and nothing else of the client."""
        disks = home / "disks.sock"
        seen = home / "disks.log"
        server = f"""log_format seen '$http_cookie$http_referer.';
            server {{ listen unix:{disks}; access_log {seen} seen; location / {{
                root {home}/files; add_header X-Accel-Redirect /other; add_header Set-Cookie stolen=1; }} }}"""
        (command,) = blocks("docs/scaling.md", "sh")
        text, listens_on = printed(command, home, "edge", first, "http://10.0.0.21:8080/", f"http://unix:{disks}:/")
        with Nginx(home, server, disks), Nginx(home, text, listens_on), client(listens_on) as browser:
            of_the_client = {"Cookie": "session=1", "Referer": "https://intranet.example/"}
            response = browser.get("/redirect/film.mp4", headers={"Range": "bytes=5-9", **of_the_client})
            assert (response.status_code, response.content) == (206, CONTENT[5:10])
            assert "set-cookie" not in response.headers
            again = browser.get("/redirect/film.mp4", headers={"If-None-Match": response.headers["etag"]})
            assert again.status_code == 304
            assert browser.get("/download/film.mp4").status_code == 404
        assert {*seen.read_text().split()} == {"--."}


class TestObjectStorage:
    """A storage service behind an internal location."""

    def test_cached_by_object(self, home: Path, first: Process) -> None:
        """With the lines of docs/nginx.md, an object is fetched once, whatever the signature."""
        storage = home / "storage.sock"
        log = home / "storage.log"
        served = f"""log_format saw '$request_uri';
            server {{ listen unix:{storage}; access_log {log} saw; root {home}/files; }}"""
        (command,) = blocks("docs/scaling.md", "sh")
        command = command.replace("/download/=http:", "/bucket/=http:")
        text, listens_on = printed(command, home, "bucket", first, "http://10.0.0.21:8080/", f"http://unix:{storage}:/")
        (cache,) = (block for block in blocks("docs/nginx.md", "nginx") if "proxy_cache objects" in block)
        text = re.sub(r"proxy_set_header (Range|If-).*", "", text)  # as the page says
        start = text.index('"/bucket/" {') + len('"/bucket/" {')
        text = f"proxy_cache_path {home}/objects keys_zone=objects:1m;\n{text[:start]}\n{cache}{text[start:]}"
        with Nginx(home, served, storage), Nginx(home, text, listens_on), client(listens_on) as browser:
            for _ in range(3):
                assert browser.get("/object/film.mp4").content == CONTENT
            part = browser.get("/object/film.mp4", headers={"Range": "bytes=5-9"})
            assert (part.status_code, part.content) == (206, CONTENT[5:10])
        (request,) = log.read_text().splitlines()
        assert re.fullmatch(r"/film\.mp4\?signature=[0-9a-f]{8}", request)
