"""`X-Sendfile`, in real Apache with mod_xsendfile and real lighttpd."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from asgi import ask
from behind_nginx import NAMES, TEXT, VARY
from pages import blocks
from servers import UVICORN, Process, asgi_server, client, free_port
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from asgi_accel import AccelMiddleware, AccelRedirectResponse

FILES = Path(os.environ.get("FILES", "/nonexistent"))
# What the two proxies would read differently, or not at all: the app sends these.
UNLIKE = {
    *(b"100%.txt", b"100%25.txt", b"%2e%2e", b"%00"),
    *(b"new\nline.txt", b"tab\t.txt", b"trailing ", b"\xff\xfe\x80invalid.txt"),
}
SENDFILE = Path("/usr/lib/apache2/modules/mod_xsendfile.so")
APACHE = """
ServerName localhost
ServerRoot $folder
PidFile $folder/apache.pid
ErrorLog $folder/apache-error.log
Listen 127.0.0.1:$port
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
LoadModule headers_module /usr/lib/apache2/modules/mod_headers.so
LoadModule xsendfile_module /usr/lib/apache2/modules/mod_xsendfile.so
DefaultRuntimeDir $folder
<IfDefine ROOT>
User nobody
Group nogroup
</IfDefine>

$block
XSendFilePath $folder/elsewhere
"""
LIGHTTPD = """
server.document-root = "$folder"
server.bind = "127.0.0.1"
server.port = $port
server.errorlog = "$folder/lighttpd-error.log"
server.modules = ("mod_proxy", "mod_setenv")
$block
"""


async def file(request: Request) -> Response:
    path = FILES / os.fsdecode(bytes.fromhex(request.query_params["hex"]))
    headers = {"X-Own": "1", "Cache-Control": "private", "Set-Cookie": "a=1", "Access-Control-Allow-Origin": "*"}
    status = int(request.query_params.get("status", "200"))
    return FileResponse(path, status, headers, media_type="text/x-own", filename="name.txt")


async def file_without_etag(request: Request) -> Response:
    path = FILES / request.query_params["name"]
    response = FileResponse(path, stat_result=path.stat())
    del response.headers["etag"]
    return response


async def redirect(request: Request) -> Response:
    return AccelRedirectResponse(FILES / "a.txt", headers={"X-Own": "1"})


async def by_hand(request: Request) -> Response:
    headers = {"X-Sendfile": request.query_params["to"]}
    if "vary" in request.query_params:
        headers["Vary"] = request.query_params["vary"]
    return Response(headers=headers, status_code=int(request.query_params["status"]))


async def scheme(request: Request) -> Response:
    return Response(request.url.scheme)


routes = [
    Route("/scheme", scheme),
    Route("/file", file, methods=["GET", "HEAD", "POST"]),
    Route("/no-etag", file_without_etag),
    Route("/redirect", redirect),
    Route("/by-hand", by_hand),
    Mount("/static", StaticFiles(directory="/")),
]
accel = Middleware(AccelMiddleware, {FILES: str(FILES)}, sendfile_type="X-Sendfile")
# For a proxy that has other files in that place, so that it shows who sends.
elsewhere = Middleware(
    AccelMiddleware, {FILES: str(FILES.parent / "elsewhere")}, always=True, sendfile_type="X-Sendfile"
)
app = Starlette(
    routes=[
        Mount("/accel", Starlette(routes=routes, middleware=[accel])),
        Mount("/elsewhere", Starlette(routes=routes, middleware=[elsewhere])),
        Mount("/plain", Starlette(routes=routes)),
    ]
)


def need(*paths: str) -> None:
    """Skip a test where a server is not installed; in CI, fail it."""
    if not all(map(shutil.which, paths)) and not all(map(os.path.exists, paths)):
        message = "missing: apt-get install apache2 libapache2-mod-xsendfile lighttpd (Debian)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="module")
def files(folder: Path) -> Iterator[Path]:
    """The files, and uvicorn with the app."""
    files = folder / "sendfile" / "files"
    files.mkdir(parents=True)
    (files / "a.txt").write_bytes(TEXT)
    (files / "sub").mkdir()
    elsewhere = files.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.txt").write_bytes(b"the proxy's own")
    (files.parent / "secret.txt").write_bytes(b"outside")
    (files.parent / "files2").mkdir()
    (files.parent / "files2" / "a.txt").write_bytes(b"outside")
    for name in NAMES:
        Path(os.fsdecode(os.path.join(os.fsencode(files), name))).write_bytes(b"content of " + name)
        Path(os.fsdecode(os.path.join(os.fsencode(elsewhere), name))).write_bytes(b"the proxy's " + name)
    with asgi_server(
        folder, *UVICORN, "--forwarded-allow-ips", "*", app="test_sendfile:app", name="sendfile", FILES=str(files)
    ):
        yield files


@pytest.fixture(scope="module", params=["apache2", "lighttpd"])
def proxy(request: pytest.FixtureRequest, folder: Path, files: Path) -> Iterator[httpx.Client]:
    """A client of each proxy."""
    need("/usr/sbin/" + request.param, str(SENDFILE))
    port, text = free_port(), APACHE if request.param == "apache2" else LIGHTTPD
    # The configuration that docs/proxies.md gives, with this app's directories and socket.
    (block,) = blocks("docs/proxies.md", "apache" if request.param == "apache2" else "lighttpd")
    block = block.replace("/mnt/storage", "$files").replace("http://127.0.0.1:8000/", "unix:$app|http://localhost/")
    block = block.replace('"host" => "127.0.0.1",\n    "port" => 8000', '"host" => "$app"')
    block = block.replace('("$files/"),', '("$files/", "$folder/elsewhere/"),')
    text = text.replace("$block", block)
    for name, value in {"folder": files.parent, "port": port, "files": files, "app": folder / "sendfile.sock"}.items():
        text = text.replace(f"${name}", str(value))
    (files.parent / request.param).write_text(text)
    options = ["-D", "FOREGROUND", *(["-D", "ROOT"] if os.geteuid() == 0 else [])]
    command = ["/usr/sbin/" + request.param, *(options if request.param == "apache2" else ["-D"])]
    log = files.parent / f"{request.param}.log"
    with Process([*command, "-f", str(files.parent / request.param)], port, log), client(port) as running:
        running.headers["x-test"] = request.param
        yield running


def url(name: bytes, way: str = "accel", **query: str) -> httpx.URL:
    return httpx.URL(f"/{way}/file", params={"hex": name.hex(), **query})


def is_lighttpd(proxy: httpx.Client) -> bool:
    return proxy.headers["x-test"] == "lighttpd"


class TestProxy:
    """What a client gets."""

    def test_the_proxy_sends(self, proxy: httpx.Client) -> None:
        """The proxy sends the file that it finds at the mapping's right side, and each header comes once."""
        response = proxy.get(url(b"a.txt", "elsewhere"))
        assert (response.status_code, response.content) == (200, b"the proxy's own")
        assert "x-sendfile" not in response.headers
        assert len(response.headers) == len(response.headers.multi_items())

    def test_scheme(self, proxy: httpx.Client) -> None:
        """The app learns it from the proxy, not from the client."""
        assert proxy.get("/plain/scheme", headers={"X-Forwarded-Proto": "https"}).text == "http"

    @pytest.mark.parametrize("name", NAMES)
    def test_name(self, proxy: httpx.Client, name: bytes) -> None:
        """Each name arrives whole, or the app sends the file."""
        response = proxy.get(url(name))
        assert (response.status_code, response.content) == (200, b"content of " + name)
        sender = b"content of " if name in UNLIKE else b"the proxy's "
        assert proxy.get(url(name, "elsewhere")).content == sender + name

    def test_headers(self, proxy: httpx.Client) -> None:
        """All of the app's headers stay, its validators too, and nothing of the redirect shows but lighttpd's Vary."""
        with_, without = proxy.get(url(b"a.txt")), proxy.get(url(b"a.txt", "plain"))
        assert with_.headers.pop("vary", None) == ("X-Accel-Mapping" if is_lighttpd(proxy) else None)
        ignored = {"date", "server", "accept-ranges", "keep-alive"}
        for response in (with_, without):
            for name in ignored:
                response.headers.pop(name, None)
        assert with_.headers == without.headers
        assert with_.content == without.content == TEXT

    @pytest.mark.parametrize(("said", "shown"), VARY)
    def test_vary(self, proxy: httpx.Client, files: Path, said: str, shown: str | None) -> None:
        """Apache takes X-Accel-Mapping out of the app's Vary; lighttpd cannot."""
        query = {"to": f"{files}/a.txt", "status": "200", "vary": said}
        response = proxy.get("/plain/by-hand", params=query)
        assert response.content == TEXT
        if is_lighttpd(proxy):
            assert response.headers["vary"] == said
        else:  # Apache takes the blanks out of any Vary
            assert response.headers.get("vary") == (shown and shown.replace(" ", ""))

    @pytest.mark.parametrize(("wanted", "status"), [("bytes=3-6", 206), ("bytes=-4", 206), ("bytes=99999-", 416)])
    def test_range(self, proxy: httpx.Client, wanted: str, status: int) -> None:
        """The proxy answers ranges."""
        response = proxy.get(url(b"a.txt"), headers={"Range": wanted})
        assert response.status_code == status
        if status == 206:
            assert response.content == (TEXT[3:7] if wanted == "bytes=3-6" else TEXT[-4:])

    def test_several_ranges(self, proxy: httpx.Client) -> None:
        """Ranges far apart come in parts; lighttpd joins those that are near each other."""
        response = proxy.get(url(b"a.txt"), headers={"Range": "bytes=0-1,500-501"})
        assert response.status_code == 206
        assert response.headers["content-type"].startswith("multipart/byteranges")
        response = proxy.get(url(b"a.txt"), headers={"Range": "bytes=0-1,5-6"})
        assert response.headers.get("content-range") == ("bytes 0-6/1000" if is_lighttpd(proxy) else None)

    def test_conditions(self, proxy: httpx.Client) -> None:
        """The proxy uses the app's own ETag and date, which HEAD has, too."""
        headers = proxy.head(url(b"a.txt")).headers
        assert proxy.get(url(b"a.txt")).headers["etag"] == headers["etag"]
        for name, value in (("If-None-Match", headers["etag"]), ("If-Modified-Since", headers["last-modified"])):
            assert proxy.get(url(b"a.txt"), headers={name: value}).status_code == 304
        for value, status in ((headers["etag"], 206), ('"other"', 200)):
            sent = {"Range": "bytes=3-6", "If-Range": value}
            assert proxy.get(url(b"a.txt"), headers=sent).status_code == status
        response = proxy.get(url(b"a.txt"), headers={"If-Match": '"other"'})
        assert response.status_code == (200 if is_lighttpd(proxy) else 412)

    def test_no_etag_of_the_app(self, proxy: httpx.Client) -> None:
        """A file without an ETag from the app is not taken for another: Apache would give all the same one, "0"."""
        first = proxy.get("/accel/no-etag?name=a.txt")
        asked = {"If-None-Match": first.headers.get("etag", '"0"')}
        other = proxy.get("/accel/no-etag?name=plain.txt", headers=asked)
        assert (other.status_code, other.content) == (200, b"content of plain.txt")

    @pytest.mark.parametrize("way", ["renamed", "deleted", "longer"])
    def test_file_that_changes(self, proxy: httpx.Client, files: Path, way: str) -> None:
        """A name that is used again is the new file at once: lighttpd's cache would hold the old one for a second."""
        path, new = files / "changes.txt", files / "new.txt"
        for number in range(4):
            content = b"%d" % number * (100 + number)
            if way == "deleted":
                path.unlink(missing_ok=True)
            target = new if way == "renamed" else path
            target.write_bytes(content)
            if way == "renamed":
                new.replace(path)
            assert proxy.get(url(b"changes.txt")).content == content

    def test_post(self, proxy: httpx.Client) -> None:
        """A POST is answered with the file by the proxy; one with a range is left to the app."""
        assert proxy.post(url(b"a.txt", "elsewhere")).content == b"the proxy's own"
        left = proxy.post(url(b"a.txt", "elsewhere"), headers={"Range": "bytes=0-1"})
        # Apache takes the range out of what the app sends if all of it is there at once, whatever the method.
        assert (left.status_code, left.content) in ((200, TEXT), (206, TEXT[:2]))

    def test_accel_redirect(self, proxy: httpx.Client) -> None:
        """An X-Accel-Redirect, which these proxies do not know, is answered with the file by the app."""
        response = proxy.get("/accel/redirect", headers={"Range": "bytes=3-6"})
        assert (response.status_code, response.content, response.headers["x-own"]) == (206, TEXT[3:7], "1")
        assert "x-accel-redirect" not in response.headers

    @pytest.mark.parametrize(
        ("to", "apache", "lighttpd"),
        [
            ("none.txt", 404, 404),
            ("sub", 404, 403),
            ("../secret.txt", 404, 403),
            ("../files2/a.txt", 404, 403),
            ("%2e%2e/secret.txt", 404, 403),
            ("/etc/passwd", 404, 403),
        ],
    )
    def test_what_the_proxy_refuses(
        self, proxy: httpx.Client, files: Path, to: str, apache: int, lighttpd: int
    ) -> None:
        """The proxy's own limit holds for a header by hand, whose path does not show."""
        target = to if to.startswith("/") else f"{files}/{to}"
        response = proxy.get("/plain/by-hand", params={"to": target, "status": "200"})
        assert response.status_code == (lighttpd if is_lighttpd(proxy) else apache)
        assert "x-sendfile" not in response.headers

    def test_status_by_hand(self, proxy: httpx.Client, files: Path) -> None:
        """Why another status is left to the app: Apache sends no file and shows the header, lighttpd keeps both."""
        response = proxy.get("/plain/by-hand", params={"to": f"{files}/a.txt", "status": "403"})
        assert response.status_code == 403
        assert ("x-sendfile" in response.headers, response.content) == (
            (False, TEXT) if is_lighttpd(proxy) else (True, b"")
        )

    def test_head(self, proxy: httpx.Client) -> None:
        """A HEAD tells the length."""
        response = proxy.head(url(b"a.txt"))
        assert (response.status_code, response.headers["content-length"]) == (200, "1000")

    @pytest.mark.parametrize(("name", "status"), [(b"a.txt", "404"), (b"../secret.txt", "200")])
    def test_left_to_the_app(self, proxy: httpx.Client, name: bytes, status: str) -> None:
        """Files that are not redirected come from the app."""
        response = proxy.get(url(name, status=status))
        assert (response.status_code, response.content) == (int(status), b"outside" if b".." in name else TEXT)

    @pytest.mark.parametrize("connection", ["keep-alive", "close, X-Accel-Mapping, X-Sendfile-Type"])
    def test_client_cannot_choose(self, proxy: httpx.Client, files: Path, connection: str) -> None:
        """The proxy replaces what a client says of the mapping; Apache lets it be taken away, so that the app sends."""
        forged = {"X-Accel-Mapping": f"{files}/=/etc/", "X-Sendfile-Type": "X-Accel-Redirect", "Connection": connection}
        response = proxy.get(url(b"a.txt"), headers=forged)
        assert (response.status_code, response.content) == (200, TEXT)


@pytest.mark.anyio
class TestInProcess:
    """What the middleware sends."""

    async def test_header(self, tmp_path: Path) -> None:
        """The header is the path as the proxy sees it, and the app's validators stay."""
        (tmp_path / "a ü.txt").write_bytes(TEXT)
        app = AccelMiddleware(FileResponse(tmp_path / "a ü.txt"), {tmp_path: "/srv"}, sendfile_type="x-sendfile")
        offer = (b"x-accel-mapping", os.fsencode(f"{tmp_path}/=/srv/"))
        for more in ([], [(b"x-sendfile-type", b"X-SENDFILE")]):
            answer = await ask(app, offer, *more)
            assert answer.header(b"x-sendfile") == "/srv/a ü.txt".encode()
            assert (answer.header(b"content-length"), answer.body) == (b"0", b"")
            assert answer.header(b"etag")
            assert answer.header(b"accept-ranges") is None

    @pytest.mark.parametrize("name", [b"100%.txt", b"trailing ", b"new\nline", b"\xff.txt", b"\x7f"])
    async def test_name_that_is_not_read_alike(self, tmp_path: Path, name: bytes) -> None:
        """A name that Apache and lighttpd would take for different files is left to the app."""
        path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
        path.write_bytes(TEXT)
        answer = await ask(
            AccelMiddleware(FileResponse(path), {tmp_path: "/srv"}, always=True, sendfile_type="X-Sendfile")
        )
        assert (answer.header(b"x-sendfile"), answer.body) == (None, TEXT)

    async def test_other_type(self, tmp_path: Path) -> None:
        """A proxy that takes another header is offered nothing."""
        (tmp_path / "a.txt").write_bytes(TEXT)
        app = AccelMiddleware(FileResponse(tmp_path / "a.txt"), {tmp_path: "/srv"}, sendfile_type="X-Sendfile")
        offer = (b"x-accel-mapping", os.fsencode(f"{tmp_path}/=/srv/"))
        answer = await ask(app, offer, (b"x-sendfile-type", b"X-Accel-Redirect"))
        assert (answer.header(b"x-sendfile"), answer.body) == (None, TEXT)

    async def test_thruster(self, tmp_path: Path) -> None:
        """It names its header and no mapping: with `always=True` the path goes out."""
        (tmp_path / "a.txt").write_bytes(TEXT)
        app = AccelMiddleware(FileResponse(tmp_path / "a.txt"), {tmp_path: "/srv"}, sendfile_type="X-Sendfile")
        always = AccelMiddleware(app.app, {tmp_path: "/srv"}, sendfile_type="X-Sendfile", always=True)
        thruster = (b"x-sendfile-type", b"X-Sendfile")
        assert (await ask(always, thruster)).header(b"x-sendfile") == b"/srv/a.txt"
        assert (await ask(app, thruster)).body == TEXT
        with pytest.raises(ValueError, match="trust_header=True and X-Sendfile"):
            AccelMiddleware(app.app, trust_header=True, sendfile_type="X-Sendfile")

    async def test_own_target(self, tmp_path: Path) -> None:
        """A file response with a target of its own keeps it."""
        (tmp_path / "a.txt").write_bytes(TEXT)
        response = FileResponse(tmp_path / "a.txt", headers={"X-Sendfile": "/own"})
        answer = await ask(AccelMiddleware(response, {tmp_path: "/srv"}, always=True, sendfile_type="X-Sendfile"))
        assert (answer.header(b"x-sendfile"), answer.body) == (b"/own", b"")

    async def test_own_accel_redirect(self, tmp_path: Path) -> None:
        """A file response with the header of another proxy is redirected by its file."""
        (tmp_path / "a.txt").write_bytes(TEXT)
        response = FileResponse(tmp_path / "a.txt", headers={"X-Accel-Redirect": "/own"})
        answer = await ask(AccelMiddleware(response, {tmp_path: "/srv"}, always=True, sendfile_type="X-Sendfile"))
        assert (answer.header(b"x-sendfile"), answer.header(b"x-accel-redirect")) == (b"/srv/a.txt", None)

    def test_unknown_type(self) -> None:
        """Any other header is refused by its name."""
        with pytest.raises(ValueError, match="X-LIGHTTPD-send-file"):
            AccelMiddleware(FileResponse("/a"), {"/a": "/b"}, sendfile_type="X-LIGHTTPD-send-file")
