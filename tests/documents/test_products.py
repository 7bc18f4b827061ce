"""Three products' ways to send files, in our own words, before and after: with nginx and without."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import boto3
import httpx
import pytest
from asgi import ask
from behind_nginx import sent_by_nginx
from botocore.config import Config
from needs import need_nginx
from pages import ENVIRONMENT
from servers import UVICORN, Nginx, asgi_server, client, free_port
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from test_recipes import output_of
from test_s3 import rclone

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap

FILES = Path(os.environ.get("FILES", "/nonexistent"))
NAMES = ["Super Game (USA) [!].zip", "50% ü; a=b.zip", "what?#+&.zip"]
KEY = "2026/annual report.zip"
ROMS = PathMap({FILES: "/library"})


class FileRedirectResponse(Response):
    """RomM's: a percent-encoded path, and a name for the download."""

    def __init__(self, path: str, name: str) -> None:
        named = f"attachment; filename*=UTF-8''{quote(name)}; filename=\"{quote(name)}\""
        headers = {"X-Accel-Redirect": quote(path), "Content-Disposition": named}
        super().__init__(media_type="application/octet-stream", headers=headers)


async def rom_before(request: Request) -> Response:
    name = request.path_params["name"]
    if os.environ.get("DEV_MODE"):
        return FileResponse(FILES / name, filename=name, media_type="application/octet-stream")
    return FileRedirectResponse(f"/library/{name}", name)


async def rom_after(request: Request) -> Response:
    name = request.path_params["name"]
    return AccelRedirectResponse(FILES / name, mapping=ROMS, filename=name, media_type="application/octet-stream")


async def roms(request: Request) -> Response:
    """Several files as one ZIP: a list for nginx's mod_zip."""
    lines = [f"- {(FILES / name).stat().st_size} {quote(f'/library/{name}')} {name}" for name in NAMES]
    return PlainTextResponse("\n".join(lines), headers={"X-Archive-Files": "zip"})


async def dataset_before(request: Request) -> Response:
    """Galaxy's: the administrator says which proxy there is. nginx gets a base and the absolute path."""
    path = str(FILES / request.path_params["name"])
    if "NGINX_BASE" in os.environ:
        return Response(headers={"X-Accel-Redirect": os.environ["NGINX_BASE"] + quote(path)})
    if "APACHE_XSENDFILE" in os.environ:
        return Response(headers={"X-Sendfile": path})
    return FileResponse(path)


async def dataset_after(request: Request) -> Response:
    return FileResponse(FILES / request.path_params["name"])


def signed(key: str) -> str:
    """A presigned URL."""
    version_4 = Config(signature_version="s3v4")
    s3 = boto3.client("s3", region_name="us-east-1", endpoint_url=os.environ["STORAGE_URL"], config=version_4)
    url: str = s3.generate_presigned_url("get_object", Params={"Bucket": "archives", "Key": key}, ExpiresIn=60)
    return url


async def object_before(request: Request) -> Response:
    """A MinIO behind an internal location, by hand."""
    return Response(headers={"X-Accel-Redirect": f"/minio/{quote(KEY)}?{signed(KEY).partition('?')[2]}"})


async def object_after(request: Request) -> Response:
    url = signed(KEY)
    query, fallback = url.partition("?")[2], RedirectResponse(url)
    return AccelRedirectResponse(f"/minio/{KEY}", filename="annual report.zip", query=query, fallback=fallback)


def product(mapping: dict[Path | str, str], sendfile_type: str, *routes: Route) -> Starlette:
    """The routes before and after: below `/old` without the middleware, below `/new` with it."""
    accel = Middleware(AccelMiddleware, mapping, sendfile_type=sendfile_type)
    new = Starlette(routes=routes, middleware=[accel])
    return Starlette(routes=[Mount("/old", Starlette(routes=routes)), Mount("/new", new)])


romm = product(
    {FILES: "/library"},
    "X-Accel-Redirect",
    Route("/before/{name}", rom_before),
    Route("/after/{name}", rom_after),
    Route("/many", roms),
)
galaxy = product(
    {"/": "/_x_accel_redirect"},
    "X-Sendfile" if "APACHE_XSENDFILE" in os.environ else "X-Accel-Redirect",
    Route("/before/{name}", dataset_before),
    Route("/after/{name}", dataset_after),
)
minio = product(
    {FILES: "/library", "/minio": "/minio"},
    "X-Accel-Redirect",
    Route("/before", object_before),
    Route("/after", object_after),
)


@contextlib.contextmanager
def site(
    folder: Path, name: str, mapping: str, *options: str, **environment: str
) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """nginx with what is printed for that mapping, and the app itself."""
    need_nginx()
    home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder))
    (home / "files").mkdir()
    for file in NAMES:
        (home / "files" / file).write_bytes(f"content of {file}".encode())
    listens_on = home / "nginx.sock"
    mapping = mapping.replace("FILES", f"{home}/files")
    command = f"asgi-accel nginx --mapping '{mapping}' --unix {home}/app.sock --listen unix:{listens_on}"
    text = output_of(" ".join([command, *options]))
    environment["FILES"] = f"{home}/files"
    with (
        asgi_server(home, *UVICORN, app=f"test_products:{name}", name="app", tcp=False, **environment),
        Nginx(home, text, listens_on),
        client(listens_on) as proxied,
        client(home / "app.sock") as direct,
    ):
        yield proxied, direct


def saved_as(response: httpx.Response) -> str:
    """The name under which a browser saves it."""
    value = response.headers["content-disposition"]
    full = re.search(r"filename\*=utf-8''([^;]*)", value, re.IGNORECASE)
    return unquote(full[1] if full else value.partition('filename="')[2].removesuffix('"'))


@pytest.mark.parametrize("development", [False, True])
class TestRomm:
    """A redirect by hand, a branch for development, and mod_zip."""

    @pytest.fixture(scope="class")
    @classmethod
    def sites(cls, folder: Path) -> Iterator[dict[bool, tuple[httpx.Client, httpx.Client]]]:
        mapping = "FILES/=/library/"
        with site(folder, "romm", mapping) as deployed, site(folder, "romm", mapping, DEV_MODE="1") as at_home:
            yield {False: deployed, True: at_home}

    @pytest.mark.parametrize("name", NAMES)
    def test_files(self, sites: dict[bool, tuple[httpx.Client, httpx.Client]], development: bool, name: str) -> None:
        """With the middleware each route gives the file, with nginx and without, whatever the branch says."""
        proxied, direct = sites[development]
        for route in ("/new/before", "/new/after"):
            for way in (proxied, direct):
                response = way.get(f"{route}/{quote(name)}")
                assert (response.status_code, response.content) == (200, f"content of {name}".encode())
                assert response.headers["content-type"] == "application/octet-stream"
                assert sent_by_nginx(response) == (way is proxied)
                assert saved_as(response) == name

    def test_without_the_middleware(
        self, sites: dict[bool, tuple[httpx.Client, httpx.Client]], development: bool
    ) -> None:
        """Before, the branch decided: nothing without nginx, and no nginx in development."""
        proxied, direct = sites[development]
        assert sent_by_nginx(proxied.get(f"/old/before/{quote(NAMES[0])}")) != development
        assert (direct.get(f"/old/before/{quote(NAMES[0])}").content == b"") != development

    def test_missing(self, sites: dict[bool, tuple[httpx.Client, httpx.Client]], development: bool) -> None:
        """A file that is not there is a 404, as it was."""
        for way in sites[development]:
            assert way.get("/new/after/none.zip").status_code == 404

    def test_list_of_mod_zip(self, sites: dict[bool, tuple[httpx.Client, httpx.Client]], development: bool) -> None:
        """It passes untouched."""
        for way in sites[development]:
            old, new = (way.get(f"/{state}/many") for state in ("old", "new"))
            assert new.content == old.content
            drop = {"date"}
            assert {*new.headers.items()} - {("date", new.headers.get("date"))} == {
                (name, value) for name, value in old.headers.items() if name not in drop
            }
            assert new.headers["x-archive-files"] == "zip"
            assert new.text.count("/library/") == len(NAMES)


class TestGalaxy:
    """A base and the absolute path: one prefix for the whole disk."""

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("base", ["", "/_x_accel_redirect"])
    def test_files(self, folder: Path, name: str, base: str) -> None:
        """The setting is not needed any more: each request says whether there is an nginx."""
        environment = {"NGINX_BASE": base} if base else {}
        with site(folder, "galaxy", "/=/_x_accel_redirect/", **environment) as (proxied, direct):
            for route in ("/new/before", "/new/after"):
                for way in (proxied, direct):
                    response = way.get(f"{route}/{quote(name)}")
                    assert (response.status_code, response.content) == (200, f"content of {name}".encode())
                    assert sent_by_nginx(response) == (way is proxied)
            assert sent_by_nginx(proxied.get(f"/old/before/{quote(name)}")) == bool(base)
            assert proxied.get("/_x_accel_redirect/etc/hostname").status_code == 404

    @pytest.mark.anyio
    async def test_apache(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """The switch for Apache is `sendfile_type`, and a header by hand passes."""
        path = tmp_path / "a.txt"
        path.write_text("content")
        monkeypatch.setattr("test_products.FILES", tmp_path)
        monkeypatch.setenv("APACHE_XSENDFILE", "1")
        routes = [Route("/before/{name}", dataset_before), Route("/after/{name}", dataset_after)]
        app = AccelMiddleware(Starlette(routes=routes), {"/": "/"}, sendfile_type="X-Sendfile")
        for route in ("before", "after"):
            answer = await ask(app, (b"x-accel-mapping", b"/=/"), path=f"/{route}/a.txt")
            assert (answer.header(b"x-sendfile"), answer.body) == (str(path).encode(), b"")
        answer = await ask(app, path="/after/a.txt")
        assert answer.body == b"content"


class TestMinio:
    """A storage behind an internal location."""

    @pytest.fixture(scope="class")
    @classmethod
    def sites(cls, folder: Path) -> Iterator[tuple[httpx.Client, httpx.Client]]:
        home = Path(tempfile.mkdtemp(prefix="minio-", dir=folder))
        (home / "buckets" / "archives" / KEY).parent.mkdir(parents=True)
        (home / "buckets" / "archives" / KEY).write_bytes(b"content of an object")
        port = free_port()
        storage = f"--storage /minio/=http://127.0.0.1:{port}/archives/"
        environment = {"STORAGE_URL": f"http://127.0.0.1:{port}", **ENVIRONMENT}
        with rclone(home, port), site(folder, "minio", "FILES/=/library/", storage, **environment) as sites:
            yield sites

    @pytest.mark.parametrize("route", ["/old/before", "/new/before", "/new/after"])
    def test_object(self, sites: tuple[httpx.Client, httpx.Client], route: str) -> None:
        """It comes by the old header and by the new response."""
        proxied, _ = sites
        response = proxied.get(route, headers={"Cookie": "session=1"})
        assert (response.status_code, response.content) == (200, b"content of an object")

    def test_what_is_better(self, sites: tuple[httpx.Client, httpx.Client]) -> None:
        """The response brings a name and a type, which are the app's to say."""
        proxied, _ = sites
        before, after = (proxied.get(f"/new/{route}").headers for route in ("before", "after"))
        assert "content-disposition" not in before
        assert after["content-disposition"] == 'attachment; filename="annual report.zip"'
        assert after["content-type"] == "application/zip"

    def test_without_nginx(self, sites: tuple[httpx.Client, httpx.Client]) -> None:
        """Before, the client gets nothing but the signature. After, it is sent to the storage."""
        _, direct = sites
        before, after = direct.get("/old/before"), direct.get("/new/after")
        assert (before.content, "Signature" in before.headers["x-accel-redirect"]) == (b"", True)
        assert after.status_code == 307
        assert not [name for name in after.headers if name.startswith("x-accel")]
        assert httpx.get(after.headers["location"], trust_env=False).content == b"content of an object"
