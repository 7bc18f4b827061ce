"""The middlewares that people have, inside of AccelMiddleware and around it: a client sees what it sees without it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from needs import need_nginx
from other_middlewares import OTHERS
from pages import ROOT
from servers import UVICORN, Nginx, asgi_server, client

TEXT = b"0123456789" * 1000
Headers = dict[str, str]
ANY = {"Accept-Encoding": "gzip, br, zstd"}
ORIGIN = {"Origin": "https://other.example"}
REQUESTS: list[tuple[str, str, Headers]] = [
    ("GET", "page", {}),
    ("GET", "page", ANY | ORIGIN),
    ("POST", "page", {}),
    ("GET", "stream", {}),
    ("GET", "stream", ANY),
    ("GET", "nowhere", ORIGIN),
    ("GET", "file/a.txt", {}),
    ("GET", "file/a.txt", ORIGIN),
    ("GET", "file/a.txt", ANY),
    ("GET", "file/a.txt", {"Range": "bytes=2-9"}),
    ("GET", "file/a.txt", {"Range": "bytes=99999-"} | ORIGIN),
    ("HEAD", "file/a.txt", {}),
]
# docs/differences.md: what nginx has of its own for a file that it sends, compresses or leaves as it is, and drops.
OWN = re.compile("etag|accept-ranges|content-(encoding|length)|transfer-encoding|x-ratelimit-.*|retry-after")
# Counts and times, which differ from one request to the next.
VARYING = re.compile("date|x-ratelimit-.*|retry-after")
Site = tuple[httpx.Client, httpx.Client]


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Site]:
    """The app itself, and nginx as `asgi-accel nginx` prints it."""
    need_nginx()
    home = folder / "others"
    (home / "files").mkdir(parents=True)
    (home / "files" / "a.txt").write_bytes(TEXT)
    command = [sys.executable, "-m", "asgi_accel", "nginx", "--mapping", f"{home}/files/=/files/"]
    command += ["--unix", f"{home}/app.sock", "--listen", f"unix:{home}/nginx.sock"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    server = asgi_server(home, *UVICORN, app="other_middlewares:site", name="app", FILES=str(home / "files"))
    proxy = Nginx(home, printed, home / "nginx.sock")
    with server, proxy, client(home / "app.sock") as direct, client(home / "nginx.sock") as nginx:
        yield direct, nginx


def ask(site: Site, place: str, name: str, offer: str, method: str, path: str, headers: Headers) -> httpx.Response:
    """Ask the app itself if nothing is offered, or other files; nginx if it offers all."""
    if offer == "other":
        headers = headers | {"X-Accel-Mapping": "/nowhere/=/_none/"}
    return site[offer == "all"].request(method, f"/{place}/{name}/{path}", headers=headers)


def is_by_nginx(response: httpx.Response) -> bool:
    """nginx's ETag, or its error page."""
    return re.fullmatch(r'"[0-9a-f]{8}-[0-9a-f]+"', response.headers.get("etag", "")) is not None or (
        b"<center>nginx" in response.content
    )


def listed(response: httpx.Response) -> set[tuple[str, str]]:
    """The headers, without counts, times and signatures."""
    found = set()
    for name, value in response.headers.multi_items():
        signed = re.sub(r"^(session=[^.]+)\.[^;]+", r"\1", value)
        found.add((name, "" if VARYING.fullmatch(name) else signed))
    return found


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("place", ["around", "inside"])
@pytest.mark.parametrize("offer", ["nothing", "other", "all"])
def test_same(site: Site, name: str, place: str, offer: str) -> None:
    """Status, headers and body are the same but for the list in docs/differences.md."""
    for method, path, headers in REQUESTS:
        if (path, name) == ("stream", "slowapi (ASGI)"):
            continue  # it starts a response anew with each part
        without = ask(site, "without", name, offer, method, path, headers)
        response = ask(site, place, name, offer, method, path, headers)
        before, after = listed(without), listed(response)
        what = method, path, headers
        assert response.status_code == without.status_code, what
        if offer == "all" and is_by_nginx(response):
            assert path.startswith("file"), what
            before, after = ({item for item in found if not OWN.fullmatch(item[0])} for found in (before, after))
            before -= {("vary", "Accept-Encoding")}  # nginx sends it as it is
            if response.status_code == 416:
                own = "content-type", "content-range"  # Starlette 0.47 does not say "bytes" in it
                before, after = ({item for item in found if item[0] not in own} for found in (before, after))
                assert response.headers["content-range"] == f"bytes */{len(TEXT)}"
            else:
                assert response.content == without.content, what
        else:
            assert response.content == without.content, what
        assert after == before, what


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("place", ["around", "inside"])
def test_sent_by_nginx(site: Site, name: str, place: str) -> None:
    """Wherever the middleware is, nginx sends the file, which is not compressed; docs/frameworks.md names it."""
    response = ask(site, place, name, "all", "GET", "file/a.txt", ANY)
    assert is_by_nginx(response)
    assert "content-encoding" not in response.headers
    page = (ROOT / "docs" / "frameworks.md").read_text()
    assert name.removesuffix(" (ASGI)") in page.partition("## Other middlewares")[2]
