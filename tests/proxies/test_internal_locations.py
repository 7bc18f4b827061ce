"""Internal locations that do more than `alias`: a thumbnail made by nginx, and another server."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from needs import need_nginx
from servers import UVICORN, Nginx, asgi_server, client
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from asgi_accel import AccelMiddleware, AccelRedirectResponse

FILTER = Path("/usr/lib/nginx/modules/ngx_http_image_filter_module.so")
PICTURE = Path(__file__).parent.parent.parent / "docs" / "pictures" / "demo.png"
KEY = "2026/50% ü b?.txt"


async def thumbnail(request: Request) -> Response:
    """nginx makes it, in another location than the original's. Without nginx: the original."""
    return AccelRedirectResponse(f"/thumbnails/{PICTURE.name}", media_type="image/png", fallback=FileResponse(PICTURE))


async def elsewhere(request: Request) -> Response:
    """As docs/nginx.md says for a location that captures the path."""
    headers = {"Content-Security-Policy": "default-src 'self'"}
    return AccelRedirectResponse("/elsewhere/" + quote(KEY), headers=headers)


app = Starlette(
    routes=[
        Route("/thumbnail", thumbnail),
        Route("/object", elsewhere),
        *(Route(path, lambda request: PlainTextResponse("a list")) for path in ("/pictures", "/elsewhere")),
    ],
    middleware=[Middleware(AccelMiddleware, mapping={PICTURE.parent: "/pictures"})],
)


async def _asked(request: Request) -> Response:
    """The other server: its answer is what it was asked for."""
    headers = {"Content-Security-Policy": "default-src 'none'", "X-Accel-Redirect": "/pictures/demo.png"}
    return PlainTextResponse(request.scope["raw_path"], headers=headers)


other = Starlette(routes=[Route("/{path:path}", _asked)])


@contextlib.contextmanager
def _site(folder: Path, locations: str, modules: str = "") -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """nginx with these locations, and the app itself."""
    need_nginx()
    listens_on = folder / "nginx.sock"
    http = f"""
    server {{
        listen unix:{listens_on};
        location / {{
            proxy_pass http://unix:{folder}/app.sock;
            proxy_set_header X-Accel-Mapping '"{PICTURE.parent}/"=/pictures/';
        }}
        location /pictures/ {{ internal; alias "{PICTURE.parent}/"; }}
        {locations}
    }}
    """
    with (
        asgi_server(folder, *UVICORN, app="test_internal_locations:app", name="app"),
        asgi_server(folder, *UVICORN, app="test_internal_locations:other", name="other"),
        Nginx(folder, http, listens_on, modules=modules),
        client(listens_on) as proxied,
        client(folder / "app.sock") as direct,
    ):
        yield proxied, direct


def _width(png: bytes) -> int:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(png[16:20], "big")


@pytest.mark.skipif("NGINX" in os.environ or not FILTER.exists(), reason="only Debian's nginx has image_filter")
def test_thumbnail(tmp_path: Path) -> None:
    """nginx's image_filter makes a small picture of it; without nginx the fallback sends the original."""
    original = PICTURE.read_bytes()
    locations = f'location /thumbnails/ {{ internal; alias "{PICTURE.parent}/"; image_filter resize 100 -; }}'
    with _site(tmp_path, locations, f"load_module {FILTER};") as (proxied, direct):
        small, whole, head = proxied.get("/thumbnail"), direct.get("/thumbnail"), direct.head("/thumbnail")
        assert (small.status_code, small.headers["content-type"], _width(small.content)) == (200, "image/png", 100)
        assert (whole.status_code, whole.content, "x-accel-redirect" in whole.headers) == (200, original, False)
        assert head.headers["content-length"] == str(len(original))


@pytest.mark.parametrize("variable", [False, True])
def test_other_server(tmp_path: Path, variable: bool) -> None:
    """docs/nginx.md: which path the other server is asked for, whose headers come, and who names no file of ours."""
    target = f"unix:{tmp_path}/other.sock"
    location, upstream = (
        ("~ ^/elsewhere/(.*)$", f"http://{target}:/$1") if variable else ("/elsewhere/", f"http://{target}:/")
    )
    locations = f"""
    location {location} {{
        internal;
        proxy_ignore_headers X-Accel-Redirect;
        set $own_csp $upstream_http_content_security_policy;
        proxy_hide_header Content-Security-Policy;
        add_header Content-Security-Policy $own_csp;
        proxy_pass {upstream};
    }}
    """
    with _site(tmp_path, locations) as (proxied, _):
        answer = proxied.get("/object")
        assert answer.headers.get_list("content-security-policy") == ["default-src 'self'"]
        # With $1, nginx passes on what it has decoded once. Without, it encodes again, so `quote` is one time too many.
        once = f"/{quote(KEY)}"
        assert answer.text == (once if variable else quote(once))


def test_route_without_the_slash(tmp_path: Path) -> None:
    """`asgi-accel nginx --app` looks for it: with `proxy_pass` nginx answers that route itself, with `alias` not."""
    with _site(tmp_path, "location /elsewhere/ { internal; proxy_pass http://127.0.0.1:9/; }") as (proxied, _):
        assert [proxied.get(path).status_code for path in ("/pictures", "/elsewhere")] == [200, 404]
