"""The location that `asgi-accel nginx --storage` prints, with a real nginx and a storage that is hostile."""

from __future__ import annotations

import contextlib
import io
import re
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest
from certificates import make_certificate
from needs import need_nginx
from pages import blocks
from servers import DEADLINE, UVICORN, Nginx, asgi_server, client, free_port

from asgi_accel import PathMap
from asgi_accel.cli import main
from asgi_accel.cli.nginx import nginx
from asgi_accel.cli.storage import Storage, Storages

BODY = b"bytes of the object"
LARGE = 256 * 1024 * 1024
# What names the object. None of it is for clients.
PRIVATE = ("archives", "s3cret", "signature", "the-key", "storage.example")
# All that a storage could say to a browser, to nginx, or of itself.
HOSTILE = {
    "Content-Type": "text/html",
    "Content-Disposition": "inline",
    "Content-Language": "xx",
    "Content-Location": "/archives/the-key",
    "Content-Security-Policy": "default-src *",
    "Cache-Control": "public, max-age=9",
    "Expires": "Thu, 01 Jan 2099 00:00:00 GMT",
    "Set-Cookie": "session=stolen",
    "Refresh": "0; url=https://evil.example/",
    "Clear-Site-Data": '"*"',
    "Location": "https://storage.example/archives/the-key?signature=s3cret",
    "Link": "</evil.css>; rel=stylesheet",
    "Access-Control-Allow-Origin": "*",
    "Strict-Transport-Security": "max-age=0",
    "X-Content-Type-Options": "sniff",
    "Vary": "*",
    "NEL": "{}",
    "Report-To": "{}",
    "SourceMap": "/evil.map",
    "Service-Worker-Allowed": "/",
    "WWW-Authenticate": "Basic realm=archives",
    "X-Accel-Redirect": "/download/private.txt",
    "X-Accel-Limit-Rate": "1",
    "X-Accel-Expires": "100",
    "X-Accel-Buffering": "no",
    "X-Accel-Charset": "koi8-r",
    "X-Sendfile": "/etc/passwd",
    "x-amz-request-id": "the-key",
    "x-amz-id-2": "the-key",
    "x-amz-version-id": "1",
    "x-amz-server-side-encryption": "AES256",
    "x-amz-website-redirect-location": "https://evil.example/",
    "x-goog-hash": "md5=",
    "x-ms-request-id": "1",
    "x-amz-meta-owner": "the-key",  # the one of these that only `--hide-header` knows
}
OF_THE_BYTES = {"accept-ranges", "content-length", "content-range", "etag", "last-modified"}
OF_NGINX = {"connection", "date", "server", "transfer-encoding"}
# What the app says of the object.
SAID = {
    "Content-Security-Policy": "sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-cache",
    "Vary": "Origin",
    "X-Frame-Options": "DENY",
}
MAY_SEND = {"host", "connection", "range", "if-range", "if-match", "if-none-match"} | {
    "if-modified-since",
    "if-unmodified-since",
}


class _Handler(BaseHTTPRequestHandler):
    """Answers by the path: `/archives/status/404`, `/archives/large`, `/archives/silent`, or any other with 200."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_any(self) -> None:
        self.server.version = self.request_version
        length = int(self.headers.get("content-length", "0"))
        assert isinstance(self.rfile, io.BufferedReader)
        body = self.rfile.read(length)
        self.connection.setblocking(False)
        with contextlib.suppress(OSError):
            body += self.rfile.peek()  # what comes after the request would be the next one
        self.connection.setblocking(True)
        self.server.asked.append((self.command, self.path, dict(self.headers.items()), body))
        kind, _, rest = self.path.partition("?")[0].removeprefix("/archives/").partition("/")
        if kind == "silent":
            self.server.over.wait(DEADLINE)
            self.close_connection = True
            return
        status = int(rest) if kind == "status" else 206 if "Range" in self.headers else 200
        body = b"" if status in (204, 304) else BODY
        if status >= 300:
            body = f"<Error>{self.path}</Error>".encode() if body else b""
        if status == 206:
            body = body[2:5]
        self.send_response(status, "Of the storage")
        for name, value in HOSTILE.items():
            if kind == "plain" and name != "Cache-Control":  # what a cache may keep
                continue
            if not self.path.startswith("/bad/") or name == "X-Accel-Redirect":  # it alone, where nginx obeys them all
                self.send_header(name, value)
        self.send_header("ETag", '"of-the-object-38"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes 2-4/{len(BODY)}")
        self.send_header("Content-Length", str(LARGE if kind == "large" else len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "large":
            return self._send_large()
        for byte in body if kind == "slow" else [body]:
            self.wfile.write(bytes([byte]) if isinstance(byte, int) else byte)
            self.wfile.flush()

    do_GET = do_HEAD = do_POST = do_any

    def _send_large(self) -> None:
        part = bytes(65536)
        with contextlib.suppress(OSError):
            while self.server.sent < LARGE:
                self.wfile.write(part)
                self.server.sent += len(part)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    sent = 0
    version = ""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.over = threading.Event()
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A handshake that nginx breaks off is what some tests are about."""


@contextlib.contextmanager
def a_storage(context: ssl.SSLContext | None = None) -> Iterator[_Server]:
    server = _Server(context)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def storage() -> Iterator[_Server]:
    with a_storage() as server:
        yield server


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[Path]:
    need_nginx()
    files = folder / "beside-the-storage"
    files.mkdir()
    (files / "private.txt").write_text("not for clients")
    with asgi_server(folder, *UVICORN, app="operator_app:app", name="stored", FILES=str(files)):
        yield files


@contextlib.contextmanager
def a_site(folder: Path, files: Path, url: str, more: str = "", **options: Any) -> Iterator[tuple[httpx.Client, Nginx]]:
    """nginx with what is printed for that app and that storage. `more` comes first in the storage's location."""
    home = Path(tempfile.mkdtemp(dir=folder))
    home.chmod(0o755)
    prefix = options.pop("prefix", "/bucket/")
    storages = Storages([Storage.parse(f"{prefix}={url}")], hidden=["x-amz-meta-owner"], **options)
    text = nginx(
        PathMap({files: "/download", prefix: prefix}),
        f"unix:{folder}/stored.sock",
        listen=f"unix:{home}/site.sock",
        storages=storages,
    )
    text = text.replace("proxy_method GET;", f"proxy_method GET; {more}")
    with Nginx(home, text, home / "site.sock") as server, client(home / "site.sock") as asked:
        assert isinstance(server, Nginx)
        yield asked, server


@pytest.fixture
def site(folder: Path, app: Path, storage: _Server) -> Iterator[httpx.Client]:
    with a_site(folder, app, f"http://127.0.0.1:{storage.server_port}/archives/") as (asked, _):
        yield asked


def assert_private(response: httpx.Response) -> None:
    """Nothing that names the object is in the answer, and nothing that the storage says of itself."""
    shown = f"{response.headers} {response.text}".lower()
    assert not [word for word in PRIVATE if word in shown], shown
    said = {name.lower() for name in SAID} | {"content-type", "content-disposition"}
    assert response.headers.keys() <= OF_THE_BYTES | OF_NGINX | said
    assert all(len(response.headers.get_list(name)) == 1 for name in response.headers)


class TestComesIn:
    """What of the storage's answer reaches the client."""

    def test_object(self, site: httpx.Client) -> None:
        """The bytes and the validators are the storage's, all else is what the app has said."""
        response = site.get("/stored/the-key", params=SAID)
        assert (response.status_code, response.content) == (200, BODY)
        assert response.headers["etag"] == '"of-the-object-38"'
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert response.headers["content-disposition"] == 'attachment; filename="report.txt"'
        assert {name: response.headers[name] for name in SAID} == SAID
        assert_private(response)

    def test_says_nothing(self, site: httpx.Client) -> None:
        """What the app does not say, nobody says."""
        response = site.get("/stored/the-key")
        assert not {name.lower() for name in SAID} & response.headers.keys()
        assert_private(response)

    def test_range(self, site: httpx.Client) -> None:
        """A range is the storage's to answer."""
        response = site.get("/stored/the-key", headers={"Range": "bytes=2-4"}, params=SAID)
        assert (response.status_code, response.content) == (206, BODY[2:5])
        assert response.headers["content-range"] == f"bytes 2-4/{len(BODY)}"
        assert_private(response)

    def test_head(self, site: httpx.Client, storage: _Server) -> None:
        """A HEAD has the object's length. The storage is asked by GET, for which the app has signed."""
        response = site.head("/stored/the-key", params=SAID)
        assert (response.status_code, response.headers["content-length"]) == (200, str(len(BODY)))
        assert_private(response)
        assert [method for method, *_ in storage.asked] == ["GET"]

    def test_slow(self, site: httpx.Client) -> None:
        """A storage that sends byte by byte is waited for."""
        response = site.get("/stored/slow", params=SAID)
        assert (response.status_code, response.content) == (200, BODY)

    def test_client_cannot_choose(self, site: httpx.Client) -> None:
        """A client that asks for the location itself gets a 404."""
        for path in ("/bucket/the-key", "/bucket/", "/bucket../private.txt"):
            assert site.get(path).status_code == 404


def expected(status: int) -> int:
    if status < 300 or status in (304, 412, 416, 503):
        return status
    return 503 if status == 429 else 404 if status < 500 else 502


class TestStatus:
    """Each status that a storage can answer with."""

    def test_all(self, site: httpx.Client) -> None:
        """An error has nginx's own page, which names nothing."""
        for status in {*range(200, 600)} - {408, 444, 499}:
            response = site.get(f"/stored/status/{status}", params=SAID)
            assert response.status_code == expected(status), status
            if status < 300:
                assert {name: response.headers[name] for name in SAID} == SAID, status
            assert_private(response)

    @pytest.mark.parametrize("status", [408, 444])
    def test_closed(self, site: httpx.Client, status: int) -> None:
        """By two of them nginx itself means that nobody is there: it hangs up."""
        with pytest.raises(httpx.RemoteProtocolError):
            site.get(f"/stored/status/{status}")

    def test_not_modified(self, site: httpx.Client, storage: _Server) -> None:
        """What the client has already is the storage's to say, by all conditions."""
        conditions = {"If-None-Match": '"x"', "If-Modified-Since": "Thu, 01 Jan 2026 00:00:00 GMT"}
        assert site.get("/stored/status/304", headers=conditions, params=SAID).status_code == 304
        (_, _, sent, _) = storage.asked[0]
        assert conditions.items() <= sent.items()


class TestGoesOut:
    """What of the client's request reaches the storage."""

    def test_headers(self, site: httpx.Client, storage: _Server) -> None:
        """Ranges and conditions do, and nothing else."""
        client_says = {
            "Cookie": "session=1",
            "Authorization": "Bearer token",
            "Referer": "https://www.example/secret",
            "Origin": "https://www.example",
            "X-Api-Key": "key",
            "x-amz-security-token": "forged",
            "x-amz-copy-source": "/other",
            "Accept-Encoding": "gzip",
            "User-Agent": "a browser",
            "Range": "bytes=2-4",
            "If-Range": '"of-the-object-38"',
            "If-Match": '"of-the-object-38"',
            "If-Unmodified-Since": "Thu, 01 Jan 2099 00:00:00 GMT",
        }
        site.get("/stored/the-key", headers=client_says)
        ((method, path, sent, body),) = storage.asked
        assert (method, path, body) == ("GET", "/archives/the-key?signature=s3cret", b"")
        assert storage.version == "HTTP/1.1"
        assert {name.lower() for name in sent} <= MAY_SEND
        assert sent["Host"] == f"127.0.0.1:{storage.server_port}"
        for name in ("Range", "If-Range", "If-Match", "If-Unmodified-Since"):
            assert sent[name] == client_says[name]

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_body(self, site: httpx.Client, storage: _Server, method: str) -> None:
        """A body does not, whatever the method."""
        response = site.request(method, "/stored/the-key", content=b"a form" * 10000)
        assert response.content == BODY
        ((asked, _, sent, body),) = storage.asked
        assert (asked, body) == ("GET", b"")
        assert not {"content-length", "transfer-encoding"} & {name.lower() for name in sent}

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_nothing_after_the_headers(self, folder: Path, app: Path, method: str) -> None:
        """A body without its length would be the storage's next request, of the client's making."""
        heard: list[bytes] = []
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def listen() -> None:
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as request:
                    while (line := request.readline()).strip():
                        heard.append(line)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    connection.shutdown(socket.SHUT_WR)  # so nginx closes, and all that it has sent is here
                    heard.append(request.read())

            thread = threading.Thread(target=listen)
            thread.start()
            with a_site(folder, app, f"http://127.0.0.1:{listener.getsockname()[1]}/archives/") as (asked, _):
                assert asked.request(method, "/stored/the-key", content=b"GET / HTTP/1.1\r\n" * 10).text == "ok"
            thread.join(DEADLINE)
        assert heard[0].startswith(b"GET /archives/the-key?")
        assert heard[-1] == b""

    @pytest.mark.parametrize("resolved", [False, True])
    @pytest.mark.parametrize("prefix", ["/bucket/", "/b (1)+[x]/"])
    def test_keys(self, folder: Path, app: Path, storage: _Server, resolved: bool, prefix: str) -> None:
        """An object's name arrives whole, by an address of old and by one that is asked for each time."""
        keys = ["a b.txt", "100%.txt", "100%25.txt", "ü?#&=+.txt", "a//b", "new\nline", "a'b\"c;d{e}$f", "~.a/..b"]
        with contextlib.ExitStack() as stack:
            options: dict[str, Any] = {}
            host = "127.0.0.1"
            if resolved:
                options["resolver"] = stack.enter_context(a_resolver())
                host = "storage.example"
            url = f"http://{host}:{storage.server_port}/archives"
            asked, _ = stack.enter_context(a_site(folder, app, url, prefix=prefix, **options))
            for key in keys:
                to = prefix + key
                response = asked.get("/redirect", params={"to": to})
                assert response.content == BODY
        assert [unquote(path) for _, path, _, _ in storage.asked] == [f"/archives/{key}" for key in keys]
        assert {sent["Host"] for *_, sent, _ in storage.asked} == {f"{host}:{storage.server_port}"}


@pytest.mark.parametrize("taken_out", [True, False])
def test_cache(folder: Path, app: Path, storage: _Server, taken_out: bool) -> None:
    """With the cache of docs/nginx.md, a part is not kept for the whole. With the lines for ranges left in, it is."""
    (lines,) = (block for block in blocks("docs/nginx.md", "nginx") if block.startswith("proxy_cache objects;"))
    home = Path(tempfile.mkdtemp(dir=folder))
    home.chmod(0o755)
    storages = Storages([Storage.parse(f"/bucket/=http://127.0.0.1:{storage.server_port}/archives/")])
    where = f"unix:{home}/site.sock"
    text = nginx(PathMap({app: "/download"}), f"unix:{folder}/stored.sock", listen=where, storages=storages)
    if taken_out:
        text = re.sub(r"proxy_set_header (Range|If-).*;", "", text)
    text = text.replace("proxy_method GET;", f"proxy_method GET; {lines}")
    cache = f"proxy_cache_path {home}/objects keys_zone=objects:1m;\n"
    with Nginx(home, cache + text, home / "site.sock"), client(home / "site.sock") as asked:
        part = asked.get("/stored/plain", headers={"Range": "bytes=2-4"})
        assert (part.status_code, part.content) == (206, BODY[2:5])
        whole = asked.get("/stored/plain", params={"query": "signature=another"})
    assert (whole.content == BODY) is taken_out
    assert len(storage.asked) == 1


class TestFails:
    """A storage that does not answer, or is another's."""

    def test_refuses(self, folder: Path, app: Path) -> None:
        """Nobody listens there: 502, and the log does not have the signature."""
        with a_site(folder, app, f"http://127.0.0.1:{free_port()}/archives/") as (asked, server):
            response = asked.get("/stored/the-key", params=SAID)
            assert response.status_code == 502
            assert_private(response)
            assert "s3cret" not in server.error_log.read_text()

    def test_says_nothing(self, folder: Path, app: Path, storage: _Server) -> None:
        """It takes the connection, and says nothing: 502 when nginx has waited, 60 seconds and here one."""
        url = f"http://127.0.0.1:{storage.server_port}/archives/"
        with a_site(folder, app, url, more="proxy_read_timeout 1s;") as (asked, server):
            response = asked.get("/stored/silent", params=SAID, timeout=DEADLINE)
            assert response.status_code == 502
            assert_private(response)
            assert "s3cret" not in server.error_log.read_text()

    def test_nothing_is_spooled(self, site: httpx.Client, storage: _Server) -> None:
        """A client that reads slowly makes the storage wait, and nothing goes to nginx's disk meanwhile."""
        with site.stream("GET", "/stored/large") as response:
            parts = response.iter_raw(1)  # if it is forgotten, the connection is closed
            next(parts)
            sent, deadline = -1, time.monotonic() + DEADLINE
            while sent != storage.sent:
                assert time.monotonic() < deadline
                sent = storage.sent
                time.sleep(0.5)
        assert 0 < sent < LARGE / 4


class TestHttps:
    """Certificates are verified."""

    def test_private_authority(self, folder: Path, app: Path) -> None:
        """With its authority's certificate, the storage is believed, also where it speaks TLS 1.3 alone."""
        ca, context = make_certificate(folder / "storage-tls", "localhost")
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        names: list[str | None] = []
        context.sni_callback = lambda _, name, __: names.append(name)  # which storages of many buckets go by
        with a_storage(context) as storage:
            url = f"https://localhost:{storage.server_port}/archives/"
            with a_site(folder, app, url, ca=str(ca)) as (asked, _):
                response = asked.get("/stored/the-key", params=SAID)
                assert (response.status_code, response.content) == (200, BODY)
                assert_private(response)
        assert names == ["localhost"]

    @pytest.mark.parametrize(("name", "known"), [("localhost", False), ("other.example", True)])
    def test_not_believed(self, folder: Path, app: Path, name: str, known: bool) -> None:
        """A certificate of an authority that is not given, or for another name, is none: nothing is asked."""
        ca, context = make_certificate(folder / f"storage-{name}", name)
        other, _ = make_certificate(folder / f"other-{name}", name)
        with a_storage(context) as storage:
            url = f"https://localhost:{storage.server_port}/archives/"
            with a_site(folder, app, url, ca=str(ca if known else other)) as (asked, server):
                response = asked.get("/stored/the-key", params=SAID)
                assert response.status_code == 502
                assert_private(response)
                assert "s3cret" not in server.error_log.read_text()
            assert storage.asked == []


@contextlib.contextmanager
def a_resolver() -> Iterator[str]:
    """A name server that says 127.0.0.1 of each name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))

        def answer() -> None:
            while True:
                question, client = listener.recvfrom(512)
                if not question:
                    return
                end = question.index(b"\0", 12) + 5
                wanted = question[end - 4 : end - 2] == b"\0\x01"  # A; of AAAA there is none
                head = question[:2] + b"\x81\x80\0\x01" + bytes([0, wanted]) + b"\0\0\0\0"
                record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x7f\0\0\x01" if wanted else b""
                listener.sendto(head + question[12:end] + record, client)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.sendto(b"", listener.getsockname())
        thread.join()


class TestAnotherLocation:
    """A location that asks something else than the app."""

    def test_redirect_of_another(self, folder: Path, app: Path, storage: _Server) -> None:
        """It could have nginx send the app's files. The printed comment has the line that keeps it from that."""
        text = nginx(PathMap({app: "/download"}), f"unix:{folder}/stored.sock", listen=f"unix:{folder}/other.sock")
        (line,) = (line for line in text.splitlines() if "# proxy_ignore_headers" in line)
        line = line.replace("# ", "")
        other = f"proxy_pass http://127.0.0.1:{storage.server_port};"
        locations = f"location /bad/ {{ {other} }}\nlocation /good/ {{ {other} {line} }}"
        text = text.replace("    # If another location", f"{locations}\n    # If another location")
        with Nginx(folder, text, folder / "other.sock"), client(folder / "other.sock") as asked:
            assert asked.get("/bad/x").text == "not for clients"
            assert asked.get("/good/x").content == BODY

    def test_headers_by_hand(self, folder: Path, app: Path, storage: _Server) -> None:
        """With the page's lines the app's header is shown; `$upstream_http_...` alone is the other server's."""
        (block,) = (block for block in blocks("docs/nginx.md", "nginx") if "$own_csp" in block)
        block = block.replace("127.0.0.1:9000", f"127.0.0.1:{storage.server_port}")
        kept = block.replace("/elsewhere/ {", "/kept/ { internal;")
        late = "add_header X-Late $upstream_http_content_security_policy; proxy_ignore_headers X-Accel-Redirect;"
        lost = f"location /lost/ {{ internal; proxy_pass http://127.0.0.1:{storage.server_port}; {late} }}"
        text = nginx(PathMap({app: "/download"}), f"unix:{folder}/stored.sock", listen=f"unix:{folder}/own.sock")
        text = text.replace("    # If another location", f"{kept}\n{lost}\n    # If another location")
        said = {"Content-Security-Policy": "sandbox"}
        with Nginx(folder, text, folder / "own.sock"), client(folder / "own.sock") as asked:
            response = asked.get("/redirect", params={"to": "/kept/x", **said})
            assert (response.content, response.headers["content-security-policy"]) == (BODY, "sandbox")
            response = asked.get("/redirect", params={"to": "/lost/x", **said})
            assert (response.content, response.headers["x-late"]) == (BODY, HOSTILE["Content-Security-Policy"])

    def test_captured_path(self, folder: Path, app: Path, storage: _Server) -> None:
        """A path that a regular expression captures is passed on as it was decoded: once encoded, it arrives whole."""
        listens_on = folder / "captured.sock"
        to = f"proxy_ignore_headers X-Accel-Redirect; proxy_pass http://127.0.0.1:{storage.server_port}/archives/$1;"
        caught = f"location ~ ^/caught/(.*) {{ internal; {to} }}"
        text = nginx(PathMap({app: "/download"}), f"unix:{folder}/stored.sock", listen=f"unix:{listens_on}")
        text = text.replace("    # If another location", f"{caught}\n    # If another location")
        key = "a b+c%?#ü.txt"
        with Nginx(folder, text, listens_on), client(listens_on) as asked:
            assert asked.get("/redirect", params={"to": f"/caught/{quote(key)}"}).content == BODY
        ((_, path, _, _),) = storage.asked
        assert path == f"/archives/{quote(key)}"


class TestText:
    """What is printed, and what is refused."""

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            (["--storage", "bucket=https://storage.example/"], "'bucket=https://storage.example/'"),
            (["--storage", "/=https://storage.example/"], "such as /bucket/=https://"),
            (["--storage", "/bucket/"], "such as /bucket/=https://"),
            (["--storage", "/bucket/=storage.example"], "such as /bucket/=https://"),
            (["--storage", "/bucket/=ftp://storage.example/"], "such as /bucket/=https://"),
            (["--storage", "/bucket/=https://user@storage.example/"], "such as /bucket/=https://"),
            (["--storage", "/bucket/=https://storage.example/?a=b"], "such as /bucket/=https://"),
            (["--storage", "/bucket/=https://storage.example/$a/"], "such as /bucket/=https://"),
            (["--storage", "/a/../b/=https://storage.example/"], "'..'"),
            (["--storage", "/a?b=https://storage.example/"], "'?'"),
            (["--storage", f"/{'a' * 255}=https://storage.example/"], "255"),
            (["--storage", "/b/=https://s.example/", "--storage-ca", "/a\nb"], "control"),
            (["--storage", "/b/=https://s.example/", "--resolver", "127.0.0.1; }"], "'127.0.0.1; }'"),
            (["--storage", "/b$/=https://s.example/", "--resolver", "127.0.0.1"], "dollar"),
            (["--storage", "/b/=https://s.example/", "--hide-header", "a b"], "'a b'"),
            (["--storage", "/b/=https://s.example/", "--storage", "/b=https://t.example/"], "'/b/' twice"),
        ],
    )
    def test_refused(self, capsys: pytest.CaptureFixture[str], options: list[str], named: str) -> None:
        """What cannot be a storage is refused with one line that names it."""
        assert main(["nginx", "--mapping", "/mnt=/download", "--upstream", "a:1", *options]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert named in output.err
        assert output.err.count("\n") == 1

    def test_several(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        """Several storages are in one site. A prefix that a directory has, too, is the storage's."""
        need_nginx()
        given = [
            "--mapping",
            "/mnt=/download, /one=/one",
            "--unix",
            "/run/app.sock",
            "--listen",
            f"unix:{folder}/n.sock",
        ]
        stored = ["--storage", "/one/=http://127.0.0.1:9/", "--storage", "/two=http://127.0.0.1:9/a/b"]
        assert main(["nginx", *given, *stored]) == 0
        text = capsys.readouterr().out
        assert text.count("location ^~") == 3
        assert "proxy_pass http://127.0.0.1:9/a/b/;" in text
        with Nginx(folder, text, folder / "n.sock"):
            pass
