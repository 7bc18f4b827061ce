"""The same promises behind nginx for each ASGI server, over a unix socket and over TCP."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
from behind_nginx import TEXT, sent_by_nginx, url
from needs import need_nginx
from servers import ANYCORN, GRANIAN, HYPERCORN, UVICORN, Nginx, asgi_server, client

SERVERS = {
    "uvicorn-h11": (*UVICORN, "--http", "h11"),
    "uvicorn-httptools": (*UVICORN, "--http", "httptools"),
    "hypercorn": HYPERCORN,
    "anycorn": ANYCORN,  # offers pathsend and zerocopysend itself
    "granian": GRANIAN,
}
if version("starlette").startswith("0."):  # of `make lowest`, whose anyio Anycorn cannot use
    del SERVERS["anycorn"]


@pytest.fixture(scope="module", params=[f"{name}-{over}" for name in SERVERS for over in ("unix", "tcp")])
def pair(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """A client of nginx, which offers, and one of the server itself."""
    need_nginx()
    files = folder / "servers"
    files.mkdir(exist_ok=True)
    (files / "a.txt").write_bytes(TEXT)
    (files / "100% ü.txt").write_bytes(b"named")
    name, _, over = request.param.rpartition("-")
    with asgi_server(folder, *SERVERS[name], name=request.param, tcp=over == "tcp", FILES=str(files)) as server:
        listens_on = folder / f"for-{request.param}.sock"
        address = f"unix:{server.listens_on}" if over == "unix" else f"127.0.0.1:{server.listens_on}"
        http = f"""
            upstream app {{ server {address}; keepalive 2; }}
            server {{
                listen unix:{listens_on};
                location / {{
                    proxy_pass http://app;
                    proxy_http_version 1.1;
                    proxy_set_header Connection "";
                    proxy_set_header Host $host;
                    proxy_set_header X-Accel-Mapping "{files}/=/download/";
                }}
                location /download/ {{ internal; alias {files}/; }}
            }}"""
        with Nginx(folder, http, listens_on), client(listens_on) as proxied, client(server.listens_on) as direct:
            yield proxied, direct


class TestServer:
    """What each server does with what the middleware sends."""

    def test_file(self, pair: tuple[httpx.Client, httpx.Client]) -> None:
        """A file and its ranges come from nginx, again and again on one connection."""
        proxied, _ = pair
        for _ in range(20):
            for route in ("file", "redirect"):
                response = proxied.get(url("mapping", route, b"a.txt"))
                assert response.content == TEXT
                assert sent_by_nginx(response)
                response = proxied.get(url("mapping", route, b"a.txt"), headers={"Range": "bytes=3-6"})
                assert (response.status_code, response.content) == (206, TEXT[3:7])
                assert proxied.get(url("mapping", route, "100% ü.txt".encode())).text == "named"

    def test_left_to_the_app(self, pair: tuple[httpx.Client, httpx.Client]) -> None:
        """What is left to the app comes whole, by the server's own pathsend where it has one."""
        proxied, _ = pair
        response = proxied.get(url("mapping", "404", b"a.txt"))
        assert (response.status_code, response.content) == (404, TEXT)
        assert not sent_by_nginx(response)
        response = proxied.get(url("mapping", "file", bytes(Path(__file__))), headers={"Range": "bytes=0-9"})
        assert (response.status_code, response.content) == (206, Path(__file__).read_bytes()[:10])

    @pytest.mark.parametrize("how", ["by-function", "by-coroutine", "at-the-end"])
    def test_deleted_afterwards(self, pair: tuple[httpx.Client, httpx.Client], how: str) -> None:
        """A file that the app deletes when it has responded is not lost behind nginx; Granian alone loses it."""
        proxied, _ = pair
        for _ in range(10):
            response = proxied.get(f"/mapping/deleted-{how}")
            assert (response.status_code, response.content) == (200, b"temporary ")

    def test_without_a_proxy(self, pair: tuple[httpx.Client, httpx.Client]) -> None:
        """A direct hit gets the file from the app, redirect or not."""
        _, direct = pair
        for route in ("file", "redirect"):
            response = direct.get(url("mapping", route, b"a.txt"))
            assert response.content == TEXT
            assert not sent_by_nginx(response)
            response = direct.get(url("mapping", route, b"a.txt"), headers={"Range": "bytes=3-6"})
            assert (response.status_code, response.content) == (206, TEXT[3:7])
            assert direct.head(url("mapping", route, b"a.txt")).headers["content-length"] == "1000"

    def test_others(self, pair: tuple[httpx.Client, httpx.Client]) -> None:
        """An event stream starts at once, and a ranged endpoint sees its range."""
        proxied, _ = pair
        with proxied.stream("GET", "/mapping/events") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
        response = proxied.get("/mapping/ranged", headers={"Range": "bytes=2-4"})
        assert (response.status_code, response.content) == (206, b"234")
