"""`asgi-accel run`: an app behind a real proxy. What client and app get, who sends the files, and what one sees."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from needs import need
from pages import ROOT, blocks
from running import Running, wait_until
from servers import UVICORN, asgi_server
from websockets.sync.client import connect

TEXT = b"The quick brown fox jumps over the lazy dog\n" * 100
HARD = "a b\"c'd;e#g%25?ü&+.txt"
# What the proxy says of the client, and of itself.
PROXYS = {"x-forwarded-for", "x-forwarded-proto", "x-accel-mapping", "via", "connection", "host"}


@pytest.fixture(scope="module")
def files(folder: Path) -> Path:
    files = folder / "run-files"
    (files / "sub").mkdir(parents=True)
    (files / "a.txt").write_bytes(TEXT)
    (files / "sub" / HARD).write_bytes(TEXT)
    return files


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def running(request: pytest.FixtureRequest, folder: Path, files: Path) -> Iterator[Running]:
    need(request.param)
    with Running(folder, "--proxy", request.param) as running:
        yield running


@pytest.fixture(scope="module")
def alone(folder: Path, files: Path) -> Iterator[int]:
    """The port of uvicorn with the same app and no proxy."""
    with asgi_server(folder, *UVICORN, app="run_app:site", name="run-alone", tcp=True, FILES=str(files)) as process:
        assert isinstance(process.listens_on, int)
        yield process.listens_on


def ask(
    port: int, method: str, path: str, headers: dict[str, str], body: Any = None
) -> tuple[int, dict[str, str], bytes]:
    """An exchange, with a path that goes out as it is."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        with connection.getresponse() as response:
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def port_of(running: Running) -> int:
    assert running.url is not None
    port = urlsplit(running.url).port
    assert port is not None
    return port


EXCHANGES: dict[str, tuple[str, str, dict[str, str], bytes | None]] = {
    "page": ("GET", "/page?a=1&b=%20", {"Accept": "text/html", "Cookie": "a=1"}, None),
    "post": ("POST", "/page", {"Content-Type": "application/octet-stream"}, bytes(range(256))),
    "put": ("PUT", "/page", {"X-Any": "1"}, b"x"),
    "delete": ("DELETE", "/page", {}, None),
    "head": ("HEAD", "/page", {}, None),
    "options": ("OPTIONS", "/page", {}, None),
    "preflight": (
        "OPTIONS",
        "/page",
        {"Origin": "https://other.example", "Access-Control-Request-Method": "GET"},
        None,
    ),
    "form": ("POST", "/form", {"Content-Type": "application/x-www-form-urlencoded"}, b"a=1&b=%C3%BC"),
    "cookies": ("GET", "/page", {"Cookie": "; ".join(f"c{n}={'x' * 1000}" for n in range(16))}, None),
    "long query": ("GET", f"/page?q={'x' * 16000}", {}, None),
    "slash": ("GET", "/a%2Fb", {}, None),
    "slashes": ("GET", "//a///b/", {}, None),
    "slashes before the prefix": ("GET", "//download//a.txt", {}, None),
    "dots": ("GET", "/a/./b/../c", {}, None),
    "not utf-8": ("GET", "/%FF", {}, None),
    "small letters": ("GET", "/%c3%bc", {}, None),
    "plain websocket": ("GET", "/ws", {}, None),
    "h2c": (
        "GET",
        "/page",
        {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABk"},
        None,
    ),
    "no file": ("GET", "/static/nothing.txt", {}, None),
}
FORGED = {
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Prefix": "/evil",
    "X-Real-IP": "203.0.113.7",
    "Forwarded": "for=203.0.113.7;proto=https",
    "X-Accel-Mapping": "/=/evil/",
    "X-Accel-Secret": "guess",
    "X-Sendfile-Type": "X-Sendfile",
}


class TestExchanges:
    """Each is for client and app as with uvicorn alone, the proxy's own headers aside."""

    @pytest.mark.parametrize("name", EXCHANGES)
    def test_exchange(self, running: Running, alone: int, name: str) -> None:
        told = []
        for port in (port_of(running), alone):
            status, headers, body = ask(port, *EXCHANGES[name])
            for own in ("date", "server", "via", "connection", "keep-alive", "etag"):
                headers.pop(own, None)
            if "x-own" in headers:
                headers.pop("content-length")
            echoed = json.loads(body) if "x-own" in headers and body else body
            if isinstance(echoed, dict):
                asked = {name: value for name, value in echoed["headers"] if name not in PROXYS}
                host = dict(echoed["headers"])["host"]
                assert host == f"127.0.0.1:{port}"
                # An upgrade that is none to a websocket does not pass.
                asked.pop("upgrade", None)
                asked.pop("http2-settings", None)
                echoed["headers"] = asked
            told.append((status, headers, echoed))
        assert told[0] == told[1]

    def test_forged(self, running: Running) -> None:
        """What a client says of itself does not count, and does not reach the app."""
        told = json.loads(ask(port_of(running), "GET", "/page", FORGED)[2])
        assert (told["client"], told["scheme"]) == ("127.0.0.1", "http")
        headers = dict(told["headers"])
        assert headers["x-forwarded-for"] == "127.0.0.1"
        assert headers["x-forwarded-proto"] == "http"
        assert headers["x-accel-mapping"] == f"{running.files}/=/download/"
        assert not headers.keys() & {
            "x-forwarded-host",
            "x-forwarded-prefix",
            "x-real-ip",
            "forwarded",
            "x-accel-secret",
        }
        assert not re.search(r"203\.0\.113\.7|evil", str(headers))

    def test_nul(self, running: Running, alone: int) -> None:
        """nginx answers %00 in a path by itself, and has no switch for that. Caddy passes it on."""
        status = ask(port_of(running), "GET", "/a%00b", {})[0]
        assert ask(alone, "GET", "/a%00b", {})[0] == 200
        assert status == (400 if "nginx" in running.command else 200)

    def test_upgrade_to_anything_else(self, running: Running) -> None:
        """A tunnel past the proxy, in which a client could say what it likes, does not come about."""
        told = json.loads(ask(port_of(running), *EXCHANGES["h2c"])[2])
        assert "upgrade" not in dict(told["headers"])

    @pytest.mark.parametrize("how", ["Content-Length: 100000000", "Transfer-Encoding: chunked"])
    def test_upload(self, running: Running, how: str) -> None:
        """100 MB: the app has the first bytes before the last are sent, and nothing is kept on disk meanwhile."""
        first = running.home / f"first-{how[:4]}"
        part, end = bytes(1_000_000), b""
        if "chunked" in how:
            part, end = b"%x\r\n%s\r\n" % (len(part), part), b"0\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port_of(running))) as connection:
            connection.settimeout(20)
            connection.sendall(f"POST /upload?first={first} HTTP/1.1\r\nHost: a\r\n{how}\r\n\r\n".encode() + part)
            wait_until(first.exists, "the app has the first bytes")
            for _ in range(99):
                connection.sendall(part)
            connection.sendall(end)
            # nginx deletes such files as soon as it has opened them.
            kept = [path for path in running.opened() if path.startswith(f"{running.temporary}/asgi-accel-")]
            answer = connection.recv(65536)
            while b"100000000" not in answer:
                more = connection.recv(65536)
                assert more, answer
                answer += more
            assert {path.rpartition("/")[2] for path in kept} <= {"log", "app.sock"}

    @pytest.mark.parametrize(
        "told", [{"type": "text/event-stream"}, {"type": "text/plain"}, {"type": "text/plain", "length": "27"}]
    )
    def test_events(self, running: Running, told: dict[str, str]) -> None:
        """An event comes when it is sent, not when there are more."""
        after = running.home / f"after-{len(told)}-{told['type'][-3:]}"
        start = time.monotonic()
        with running.client.stream("GET", "/events", params={"after": str(after), **told}) as response:
            parts = response.iter_text()
            assert next(parts) == "data: first\n\n"
            assert time.monotonic() - start < 5  # it would not come at all before `after` is there
            after.touch()
            assert next(parts) == "data: second\n\n"

    def test_websocket(self, running: Running) -> None:
        with connect(f"ws://127.0.0.1:{port_of(running)}/ws?a=1", max_size=None) as websocket:
            told = json.loads(websocket.recv(20))
            assert told == {"client": "127.0.0.1", "url": f"ws://127.0.0.1:{port_of(running)}/ws?a=1"}
            for text in ("short", "x" * 1_000_000):
                websocket.send(text)
                assert websocket.recv(20) == text

    @pytest.mark.skipif("LONG_TESTS" not in os.environ, reason="takes longer than a minute: make test-all")
    def test_long_websocket(self, running: Running) -> None:
        """One that nobody says anything on for longer than nginx's default, 60 seconds."""
        with connect(f"ws://127.0.0.1:{port_of(running)}/ws", ping_interval=None) as websocket:
            websocket.recv(20)
            with pytest.raises(TimeoutError):
                websocket.recv(65)
            websocket.send("still there")
            assert websocket.recv(20) == "still there"

    @pytest.mark.parametrize("running", ["nginx"], indirect=True)  # Caddy has no such limits
    def test_nothing_ends_after_a_minute(self, running: Running) -> None:
        """What the test above waits for: no limit of nginx on silence is shorter than a day."""
        (place,) = running.temporary.glob("*/nginx.conf")
        limits = re.findall(r"(\w+_timeout) (\w+);", place.read_text())
        assert {name for name, value in limits if value == "1d"} == {
            "client_body_timeout",
            "send_timeout",
            "proxy_read_timeout",
            "proxy_send_timeout",
        }

    def test_one_way_in(self, running: Running) -> None:
        """Nothing but the proxy's port is open: not the app's, and not Caddy's own to change its configuration."""
        assert running.ports() == {port_of(running)}

    def test_client_hangs_up(self, running: Running) -> None:
        gone = running.home / "gone"
        with running.client.stream("GET", "/endless", params={"gone": str(gone)}) as response:
            next(response.iter_raw())
        wait_until(gone.exists, "the app knows that the client has gone")

    @pytest.mark.parametrize("path", ["/upload", "/patient"])
    def test_client_hangs_up_early(self, running: Running, path: str) -> None:
        """In the middle of an upload, and while the app has not answered yet."""
        first, gone = running.home / f"first-{path[1:]}", running.home / f"gone-{path[1:]}"
        size = 2000 if path == "/upload" else 1000
        with socket.create_connection(("127.0.0.1", port_of(running))) as connection:
            head = f"POST {path}?first={first}&gone={gone} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"
            connection.sendall(head.encode() + bytes(1000))
            wait_until(first.exists, "the app has the request")
        wait_until(gone.exists, "the app knows that the client has gone")


class TestFiles:
    """The proxy sends them, whichever way the app names them."""

    @pytest.mark.parametrize("path", ["/file/a.txt", "/static/a.txt", "/redirect/a.txt"])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_file(self, running: Running, path: str, method: str) -> None:
        response = running.client.request(method, path, headers={"Origin": "https://other.example"})
        assert response.status_code == 200
        assert response.content == (TEXT if method == "GET" else b"")
        assert response.headers["content-length"] == str(len(TEXT))
        assert response.headers["access-control-allow-origin"] == "https://other.example"
        assert "Origin" in response.headers["vary"]
        assert "x-accel" not in str(response.headers).lower()
        if path.startswith("/file"):
            assert response.headers["x-content-type-options"] == "nosniff"
        if path.startswith("/redirect"):
            assert response.headers["content-disposition"].endswith("filename*=UTF-8''gr%C3%B6%C3%9Fe.txt")
        if method == "GET":
            wait_until(lambda: f"{method} {path} -> /download/a.txt" in running.said, "the line")

    @pytest.mark.parametrize("route", ["file", "static", "redirect"])
    def test_hard_name(self, running: Running, route: str) -> None:
        path = f"/{route}/sub/{quote(HARD)}"
        response = running.client.get(path)
        assert (response.status_code, response.content) == (200, TEXT)
        wait_until(lambda: f"GET {path} -> /download/sub/a%20b" in running.said, "the line")

    def test_type(self, running: Running) -> None:
        """What the app leaves to the proxy, it knows by the name."""
        answer = running.client.get("/redirect/a.txt", params={"type": ""})
        assert answer.headers["content-type"].startswith("text/plain")

    def test_resuming(self, running: Running) -> None:
        first = running.client.get("/file/a.txt", headers={"Range": "bytes=0-99"})
        assert (first.status_code, first.content) == (206, TEXT[:100])
        rest = running.client.get("/file/a.txt", headers={"Range": "bytes=100-", "If-Range": first.headers["etag"]})
        assert (rest.status_code, rest.content) == (206, TEXT[100:])
        assert running.client.get("/file/a.txt", headers={"If-None-Match": first.headers["etag"]}).status_code == 304
        assert running.client.get("/file/a.txt", headers={"Range": "bytes=99999-"}).status_code == 416

    @pytest.mark.parametrize("running", ["nginx"], indirect=True)  # Caddy has no switch for this
    def test_packets(self, running: Running) -> None:
        """nginx sends a file's headers with its first bytes: large files are a sixth faster by that."""
        with socket.create_connection(("127.0.0.1", port_of(running))) as connection:
            connection.settimeout(20)
            connection.sendall(b"GET /file/a.txt HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            while connection.recv(65536):
                pass
            # tcpi_data_segs_in of struct tcp_info in linux/tcp.h: packets with data that have come in.
            (packets,) = struct.unpack_from("I", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 152)
        assert packets == 1

    def test_prefix_is_not_for_clients(self, running: Running) -> None:
        """With nginx it is nothing; with Caddy it is a path of the app."""
        response = running.client.get("/download/a.txt?by=client")
        assert TEXT not in response.content
        by, status = ("nginx", 404) if "nginx" in running.command else ("app  ", 200)
        wait_until(lambda: re.search(rf"^{by} {status} .* GET /download/a\.txt$", running.said, re.M), "the line")


class TestLines:
    """What one sees."""

    def test_lines(self, running: Running) -> None:
        """Who has sent a body, how many bytes, and for a file the internal URI. No queries."""
        proxy = running.command[running.command.index("--proxy") + 1]
        ask(port_of(running), "GET", "/static/a.txt?token=secret", {})
        ask(port_of(running), "GET", "/lines?token=secret", {})
        wait_until(lambda: "GET /lines" in running.said, "the line")
        assert re.search(rf"^{proxy} +200 +4,400 B  GET /static/a\.txt -> /download/a\.txt$", running.said, re.M)
        assert re.search(r"^app +200 +\d+ B  GET /lines$", running.said, re.M)
        assert "secret" not in running.said

    def test_first_line(self, running: Running) -> None:
        """Which proxy it is, Caddy's version, and where it is from."""
        assert re.search(
            r"^run   run_app:site behind (nginx|caddy v\d\S+) \(/.+\); Ctrl-C ends it$", running.said, re.M
        )

    def test_unprintable(self, running: Running) -> None:
        """What a terminal would obey does not come out, however a client writes it into a path."""
        with socket.create_connection(("127.0.0.1", port_of(running))) as connection:
            connection.settimeout(20)
            connection.sendall(b"GET /\x9b31m\xe2\x80\xaeend HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            while connection.recv(4096):
                pass
        wait_until(lambda: "31m" in running.said, "the line")
        assert "GET /\ufffd31m\\u202eend" in running.said
        assert "\x9b" not in running.said


# docs/run.md shows a page besides, and what is printed at the end.
PAGE = """
@app.get("/")
def page() -> str:
    return "x" * 310  # and two quotes
"""


@pytest.mark.parametrize("proxy", ["nginx", "caddy"])
@pytest.mark.parametrize("document", ["README.md", "docs/getting-started.md", "docs/run.md"])
def test_first_commands(folder: Path, document: str, proxy: str) -> None:
    """The file of the page's app is sent by the proxy, and one sees what the page shows, and at the end a sum."""
    need(proxy)
    home = Path(tempfile.mkdtemp(dir=folder))
    (home / "reports").mkdir()
    (home / "reports" / "7.pdf").write_bytes(bytes(5_000_000))
    code = "".join(blocks(document, "python") or [*blocks("README.md", "python"), PAGE])
    (home / "main.py").write_text(code.replace("/mnt/storage", str(home)))
    path = os.pathsep.join([str(home), str(ROOT)])
    with Running(folder, "--proxy", proxy, app="main:app", PYTHONPATH=path) as running:
        assert running.client.get("/reports/7", headers={"Cookie": "who=me"}).status_code == 200
        if PAGE in code:
            assert running.client.get("/").status_code == 200
        else:
            assert running.client.get("/reports/7").status_code == 403
        (shown,) = (block for block in blocks(document, "text") if block.startswith("http://127.0.0.1:8000"))
        requests, _, total = shown.replace("nginx", proxy).partition("run   ")
        for line in requests.splitlines()[1:]:
            wait_until(lambda line=line: line in running.said, line)  # type: ignore[misc]
        assert running.end() == 0
        size = 312 if PAGE in code else 22
        said = f"run   responses sent by {proxy} 1 (5,000,000 B), by app 1 ({size} B)\n"
        assert said in running.said
        assert total in said


@pytest.mark.parametrize("proxy", ["nginx", "caddy"])
def test_object_storage(folder: Path, proxy: str) -> None:
    """The command sets none up, so a redirect to it is a 404, as docs/run.md says. No signature is seen."""
    need(proxy)
    with Running(folder, "--proxy", proxy, "--verbose", app="test_fallback:storing") as running:
        response = running.client.get("/")
        running.end()
    assert response.status_code == 404
    assert "-> /bucket/a" in running.said
    for seen in (running.said, response.text, str(response.headers)):
        assert "signature" not in seen
