"""What else users have nginx do with what it sends: caches, compression, HTTP/2, a second nginx, error pages."""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from behind_nginx import TEXT, sent_by_nginx
from needs import need_nginx
from servers import UVICORN, Nginx, asgi_server, client
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from asgi_accel import AccelMiddleware, AccelRedirectResponse

HTTP = """
types { text/plain txt; }
default_type application/octet-stream;
sendfile on;
proxy_http_version 1.1;
proxy_set_header Connection "";
proxy_set_header Host $host;
proxy_set_header X-Accel-Mapping "$folder/files/=/download/";
proxy_cache_path $folder/pages keys_zone=pages:1m;
proxy_cache_path $folder/objects keys_zone=objects:1m;
upstream app { server unix:$folder/setups-app.sock; keepalive 4; }
upstream storage { server unix:$folder/storage.sock; }

# Stands for object storage: a URI with any signature.
server {
    listen unix:$folder/storage.sock;
    root $folder/objects-of-the-storage;
    location /hour/ { add_header Cache-Control max-age=3600; }
    location /unbuffered/ { add_header Cache-Control max-age=3600; add_header X-Accel-Buffering no; }
    # Lets a request say how long its response may be cached.
    location /asked/ { add_header X-Accel-Expires $http_x_keep; }
}

# A cache where the app is.
server {
    listen unix:$folder/cache.sock;
    location / {
        proxy_pass http://app;
        proxy_cache pages;
        proxy_cache_valid any 1h;
        add_header X-Cache $upstream_cache_status;
    }
    location /silent/ {
        proxy_pass http://app/;
        proxy_set_header X-Accel-Mapping "";
        proxy_cache pages;
        proxy_cache_valid any 1h;
    }
    location /only-200/ {
        proxy_pass http://app;
        proxy_cache pages;
        proxy_cache_valid 200 1h;
    }
    location /download/ { internal; alias $folder/files/; }
}

# A cache where the storage is.
server {
    listen unix:$folder/storage-cache.sock;
    proxy_cache objects;
    add_header X-Cache $upstream_cache_status;
    location / {
        proxy_pass http://app;
        proxy_cache off;
    }
    # nginx's default key, which holds the whole internal URI.
    location /default-key/ {
        internal;
        proxy_pass http://storage/;
        proxy_cache_valid 1h;
    }
    # What nginx's documentation gives as the default.
    location /request-uri/ {
        internal;
        proxy_pass http://storage/;
        proxy_cache_valid 1h;
        proxy_cache_key $scheme$proxy_host$request_uri;
    }
    location /uri/ {
        internal;
        proxy_pass http://storage/;
        proxy_cache_valid 1h;
        proxy_cache_key $proxy_host$uri;
    }
    location /storage-decides/ {
        internal;
        proxy_pass http://storage/;
        proxy_cache_key $proxy_host$uri;
    }
    location /app-decides/ {
        internal;
        set $keep $upstream_http_x_accel_expires;
        proxy_pass http://storage/asked/;
        proxy_set_header X-Keep $keep;
        proxy_cache_key $proxy_host$uri;
    }
    location /slices/ {
        internal;
        slice 100;
        proxy_pass http://storage/;
        proxy_set_header Range $slice_range;
        proxy_cache_valid 200 206 1h;
        proxy_cache_key $proxy_host$uri$slice_range;
    }
    location @named {
        proxy_pass http://storage;
        proxy_cache_valid 1h;
    }
}

# Compression.
server {
    listen unix:$folder/gzip.sock;
    gzip on;
    gzip_types text/plain;
    gzip_vary on;
    location / { proxy_pass http://app; }
    location /download/ { internal; alias $folder/files/; }
}
server {
    listen unix:$folder/gzip-static.sock;
    location / { proxy_pass http://app; }
    location /download/ { internal; alias $folder/files/; gzip_static on; }
}

server {
    listen unix:$folder/http2.sock http2;
    location / { proxy_pass http://app; }
    location /download/ { internal; alias $folder/files/; add_header X-Limit-Rate $limit_rate; }
}

# Two in a row: the outer ones are named by what is special about the inner ones.
server {
    listen unix:$folder/inner-sends.sock;
    location / { proxy_pass http://unix:$folder/cache.sock; }
}
server {
    listen unix:$folder/inner-as-usual.sock;
    location / { proxy_pass http://unix:$folder/as-usual.sock; }
    location /download/ { internal; alias $folder/files/; }
}
server {
    listen unix:$folder/as-usual.sock;
    location / { proxy_pass http://app; proxy_set_header Host $host; }
}
server {
    listen unix:$folder/inner-passes-on.sock;
    location / { proxy_pass http://unix:$folder/passes-on.sock; }
    location /download/ { internal; alias $folder/files/; add_header X-Limit-Rate $limit_rate; }
}
server {
    listen unix:$folder/passes-on.sock;
    location / {
        proxy_pass http://app;
        proxy_set_header Host $host;
        proxy_ignore_headers X-Accel-Redirect X-Accel-Limit-Rate;
        proxy_pass_header X-Accel-Redirect;
        proxy_pass_header X-Accel-Limit-Rate;
    }
    location /cached/ {
        proxy_pass http://app/;
        proxy_set_header Host $host;
        proxy_ignore_headers X-Accel-Redirect;
        proxy_pass_header X-Accel-Redirect;
        proxy_cache pages;
        proxy_cache_valid any 1h;
    }
}
server {
    listen unix:$folder/both-offer.sock;
    location / {
        proxy_pass http://unix:$folder/offers-too.sock;
        proxy_set_header X-Accel-Mapping "$folder/files/=/outer/";
    }
}
server {
    listen unix:$folder/offers-too.sock;
    location / { proxy_pass http://app; }
    location /download/ { internal; alias $folder/files/; }
}

# Other ways to a location, and out of it.
server {
    listen unix:$folder/ways.sock;
    location / { proxy_pass http://app; }
    location /download/ { internal; alias $folder/files/; }
    location /tried/ {
        internal;
        alias $folder/files/;
        try_files $uri /download/fallback.txt;
    }
    location /error-page/ {
        internal;
        alias $folder/files/;
        error_page 404 = @gone;
    }
    location @gone { return 410 gone; }
    location /method/ { internal; return 200 $request_method; }
    location @method { return 200 $request_method; }
    # Where the first app has nothing, ours is asked.
    location /first/ {
        proxy_pass http://storage;
        proxy_intercept_errors on;
        error_page 404 = @app;
    }
    location /first-recursive/ {
        proxy_pass http://storage;
        proxy_intercept_errors on;
        recursive_error_pages on;
        error_page 404 = @app;
    }
    location /first-keeps-404/ {
        proxy_pass http://storage;
        proxy_intercept_errors on;
        error_page 404 @app;
    }
    location @app { proxy_pass http://app; }
    location /kept-open/ {
        internal;
        alias $folder/files/;
        open_file_cache max=100;
        open_file_cache_valid 1h;
    }
}
server {
    listen unix:$folder/asks.sock;
    auth_request /ask;
    location / { proxy_pass http://app; }
    location = /ask { internal; proxy_pass http://app; auth_request off; }
    location /download/ { internal; alias $folder/files/; }
    location /download-unasked/ { internal; alias $folder/files/; auth_request off; }
}
"""

seen = {"visits": 0, "questions": 0}


async def file(request: Request) -> Response:
    return FileResponse(
        FILES / request.path_params["name"], filename=request.path_params["name"], headers={"Cache-Control": "public"}
    )


async def mine(request: Request) -> Response:
    """The file of who asks, which anybody may cache unless the query says otherwise."""
    cache_control = request.query_params.get("cache-control", "public, max-age=3600")
    return FileResponse(FILES / f"{request.cookies['who']}.txt", headers={"Cache-Control": cache_control})


async def to(request: Request) -> Response:
    query = request.query_params
    if "who" not in request.cookies:
        return PlainTextResponse("who are you?", 403)
    return AccelRedirectResponse(
        query["path"].replace("WHO", request.cookies["who"]),
        query=query.get("query"),
        expires=int(query["expires"]) if "expires" in query else None,
        limit_rate=int(query["limit_rate"]) if "limit_rate" in query else None,
        buffering=query["buffering"] == "yes" if "buffering" in query else None,
        headers={"Cache-Control": "max-age=60"},
        filename="name.txt",
    )


async def count(request: Request) -> Response:
    seen["visits"] += 1
    return PlainTextResponse(str(seen["visits"]))


async def ask(request: Request) -> Response:
    seen["questions"] += 1
    return Response(status_code=204 if "who" in request.cookies else 403)


async def questions(request: Request) -> Response:
    return PlainTextResponse(str(seen["questions"]))


async def offers(request: Request) -> Response:
    return PlainTextResponse("\n".join(request.headers.getlist("x-accel-mapping")))


FILES = Path(os.environ.get("FILES", "/nonexistent"))
app = Starlette(
    routes=[
        Route("/file/{name}", file),
        Route("/mine", mine),
        Route("/to", to, methods=["GET", "POST"]),
        Route("/{any}/to", to),
        Route("/count", count),
        Route("/ask", ask),
        Route("/questions", questions),
        Route("/offers", offers),
    ],
    middleware=[Middleware(AccelMiddleware, {FILES: "/download"})],
)

ALICE = {"Cookie": "who=alice"}
BOB = {"Cookie": "who=bob"}
GZIP = {"Accept-Encoding": "gzip"}


class Setups:
    """The folders of the files and the storage, and a client for each of nginx's servers."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.files = folder / "files"
        self.objects = folder / "objects-of-the-storage"
        self._stack = stack
        self._clients: dict[str, httpx.Client] = {}

    def __getitem__(self, name: str) -> httpx.Client:
        if name not in self._clients:
            self._clients[name] = self._stack.enter_context(client(self.folder / f"{name}.sock"))
        return self._clients[name]


@pytest.fixture(scope="module")
def setups(folder: Path) -> Iterator[Setups]:
    need_nginx()
    folder = folder / "setups"
    with contextlib.ExitStack() as stack:
        running = Setups(folder, stack)
        running.files.mkdir(parents=True)
        for name in ("a.txt", "100% ü?.txt", "fallback.txt"):
            (running.files / name).write_bytes(TEXT)
        for kind in ("", "hour", "unbuffered", "asked"):
            (running.objects / kind).mkdir(parents=True)
        for who in ("alice", "bob"):
            (running.files / f"{who}.txt").write_text(f"the file of {who}")
            (running.objects / f"{who}.txt").write_text(f"the object of {who}")
        stack.enter_context(
            asgi_server(folder, *UVICORN, app="test_setups:app", name="setups-app", FILES=str(running.files))
        )
        stack.enter_context(Nginx(folder, HTTP.replace("$folder", str(folder)), folder / "ways.sock"))
        yield running


@pytest.fixture
def http2(setups: Setups) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(setups.folder / "http2.sock"), http1=False, http2=True)
    with httpx.Client(transport=transport, base_url="http://localhost", trust_env=False) as running:
        yield running


class TestCacheAtTheApp:
    """`proxy_cache` in the location that proxies to the app."""

    def test_no_redirect_is_cached(self, setups: Setups) -> None:
        """Each user gets their own file under one URI, though app and nginx allow the cache to keep it for an hour."""
        for address in ("/mine", "/to?path=/download/WHO.txt&expires=3600"):
            for who, headers in (("alice", ALICE), ("bob", BOB)):
                response = setups["cache"].get(address, headers=headers)
                assert response.text == f"the file of {who}"
                assert sent_by_nginx(response)

    @pytest.mark.parametrize(("cache_control", "next_gets"), [("max-age=60", "alice"), ("private", "bob")])
    def test_file_from_the_app_is_cached(self, setups: Setups, cache_control: str, next_gets: str) -> None:
        """A file that the app sends itself, as where nothing is offered, is cached unless its headers forbid it."""
        params = {"cache-control": cache_control}
        assert setups["cache"].get("/silent/mine", params=params, headers=ALICE).text == "the file of alice"
        assert setups["cache"].get("/silent/mine", params=params, headers=BOB).text == f"the file of {next_gets}"

    def test_refusal_is_cached(self, setups: Setups) -> None:
        """With `proxy_cache_valid any`, one who may not have a file shuts out all who may."""
        for way, after in (("/to", 403), ("/only-200/to", 200)):
            for headers, status in ((ALICE, 200), ({}, 403), (ALICE, after)):
                response = setups["cache"].get(way, params={"path": "/download/alice.txt"}, headers=headers)
                assert response.status_code == status

    def test_other_responses_are(self, setups: Setups) -> None:
        """The cache that caches no redirect does cache."""
        first = setups["cache"].get("/count")
        assert first.headers["x-cache"] == "MISS"
        second = setups["cache"].get("/count")
        assert (second.text, second.headers["x-cache"]) == (first.text, "HIT")

    def test_range(self, setups: Setups) -> None:
        """nginx keeps a range from the app where it caches, and answers it from the file."""
        response = setups["cache"].get("/file/a.txt", headers={"Range": "bytes=3-6"})
        assert (response.status_code, response.content) == (206, TEXT[3:7])

    def test_head(self, setups: Setups) -> None:
        """nginx asks the app by GET where it caches, so a HEAD has the GET's ETag."""
        response = setups["cache"].head("/file/a.txt")
        assert response.headers["content-length"] == "1000"
        assert response.headers["etag"] == setups["cache"].get("/file/a.txt").headers["etag"]


class TestCacheAtTheStorage:
    """`proxy_cache` in the internal location that proxies to object storage."""

    def get(
        self, setups: Setups, path: str, query: str = "signature=1", headers: dict[str, str] = ALICE, **more: str
    ) -> tuple[str, str | None]:
        response = setups["storage-cache"].get("/to", params={"path": path, "query": query, **more}, headers=headers)
        assert response.status_code == 200
        return response.text, response.headers.get("x-cache")

    def test_default_key(self, setups: Setups) -> None:
        """nginx's own default key is the internal URI: right for each user, and useless where signatures differ."""
        assert self.get(setups, "/default-key/WHO.txt") == ("the object of alice", "MISS")
        assert self.get(setups, "/default-key/WHO.txt") == ("the object of alice", "HIT")
        assert self.get(setups, "/default-key/WHO.txt", headers=BOB) == ("the object of bob", "MISS")
        assert self.get(setups, "/default-key/WHO.txt", "signature=2") == ("the object of alice", "MISS")

    def test_request_uri_hands_on_what_is_not_ones_own(self, setups: Setups) -> None:
        """A key with $request_uri, which is the client's, gives the next user the object of the first."""
        assert self.get(setups, "/request-uri/WHO.txt") == ("the object of alice", "MISS")
        assert self.get(setups, "/request-uri/WHO.txt", headers=BOB) == ("the object of alice", "HIT")

    def test_named_location_hands_on_what_is_not_ones_own(self, setups: Setups) -> None:
        """So does the default key in a named location, which has no URI but the client's."""
        (setups.objects / "to").write_text("for who asks first")
        assert self.get_named(setups, ALICE) == ("for who asks first", "MISS")
        (setups.objects / "to").write_text("for who asks next")
        assert self.get_named(setups, BOB) == ("for who asks first", "HIT")

    def get_named(self, setups: Setups, headers: dict[str, str]) -> tuple[str, str | None]:
        response = setups["storage-cache"].get("/to", params={"path": "@named"}, headers=headers)
        return response.text, response.headers.get("x-cache")

    def test_uri_as_key(self, setups: Setups) -> None:
        """A key with $uri, which is the internal one, is right for each user, whatever the signature."""
        assert self.get(setups, "/uri/WHO.txt") == ("the object of alice", "MISS")
        assert self.get(setups, "/uri/WHO.txt", "signature=2") == ("the object of alice", "HIT")
        assert self.get(setups, "/uri/WHO.txt", headers=BOB) == ("the object of bob", "MISS")

    def test_app_is_asked_each_time(self, setups: Setups) -> None:
        """What is in the cache is for those whom the app lets have it."""
        params = {"path": "/uri/WHO.txt"}
        assert setups["storage-cache"].get("/to", params=params, headers=ALICE).status_code == 200
        assert setups["storage-cache"].get("/to", params=params).status_code == 403

    @pytest.mark.parametrize("expires", ["0", "3600"])
    def test_expires_of_a_redirect_is_not_heard(self, setups: Setups, expires: str) -> None:
        """`expires` neither makes nginx keep an object nor keeps it from it: the storage's headers do."""
        (setups.objects / "plain.txt").write_text("an object")
        (setups.objects / "hour" / "a.txt").write_text("an object")
        for _ in range(2):
            assert self.get(setups, "/storage-decides/plain.txt", expires=expires) == ("an object", "MISS")
        self.get(setups, "/storage-decides/hour/a.txt", expires=expires)
        assert self.get(setups, "/storage-decides/hour/a.txt", expires=expires) == ("an object", "HIT")

    def test_expires_can_be_passed_on(self, setups: Setups) -> None:
        """`set` keeps it from the app's response, for a storage that a request can tell how long to let it cache."""
        for expires, status in (("0", "MISS"), ("3600", "HIT")):
            (setups.objects / "asked" / f"{expires}.txt").write_text("an object")
            self.get(setups, f"/app-decides/{expires}.txt", expires=expires)
            assert self.get(setups, f"/app-decides/{expires}.txt", expires=expires) == ("an object", status)

    def test_buffering_of_a_redirect_is_not_heard(self, setups: Setups) -> None:
        """nginx caches nothing unbuffered: it hears the storage say so, and not a redirect."""
        (setups.objects / "hour" / "b.txt").write_text("an object")
        (setups.objects / "unbuffered" / "b.txt").write_text("an object")
        for path, status in (("/storage-decides/hour/b.txt", "HIT"), ("/storage-decides/unbuffered/b.txt", "MISS")):
            self.get(setups, path, buffering="no")
            assert self.get(setups, path, buffering="no") == ("an object", status)

    def test_slices(self, setups: Setups) -> None:
        """`slice` fetches and caches the object in parts, and the client gets it whole or the range of it."""
        (setups.objects / "long.txt").write_bytes(TEXT)
        params = {"path": "/slices/long.txt"}
        for start, status in ((95, "MISS"), (98, "HIT"), (598, "MISS")):
            headers = {**ALICE, "Range": f"bytes={start}-{start + 9}"}
            response = setups["storage-cache"].get("/to", params=params, headers=headers)
            assert (response.status_code, response.content) == (206, TEXT[start : start + 10])
            assert response.headers["x-cache"] == status
        assert setups["storage-cache"].get("/to", params=params, headers=ALICE).content == TEXT


class TestCompression:
    """nginx compresses what it sends for the app."""

    def test_gzip(self, setups: Setups) -> None:
        """The file arrives compressed and whole, with a weak ETag that finds the browser's copy good."""
        response = setups["gzip"].get("/file/a.txt", headers=GZIP)
        assert response.headers["content-encoding"] == "gzip"
        assert response.headers["vary"] == "Accept-Encoding"
        assert response.content == TEXT
        etag = setups["gzip"].get("/file/a.txt").headers["etag"]
        assert response.headers["etag"] == f"W/{etag}"
        headers = {**GZIP, "If-None-Match": response.headers["etag"]}
        assert setups["gzip"].get("/file/a.txt", headers=headers).status_code == 304

    def test_gzip_has_no_ranges(self, setups: Setups) -> None:
        """A client that takes gzip gets no range; one that does not, does."""
        headers = {"Range": "bytes=3-6"}
        response = setups["gzip"].get("/file/a.txt", headers={**GZIP, **headers})
        assert (response.status_code, response.content) == (200, TEXT)
        assert "accept-ranges" not in response.headers
        response = setups["gzip"].get("/file/a.txt", headers=headers)
        assert (response.status_code, response.content) == (206, TEXT[3:7])

    def test_gzip_static(self, setups: Setups) -> None:
        """`gzip_static` sends what is compressed beside the file, whatever that is, with the app's Content-Type."""
        (setups.files / "s.txt").write_text("plain")
        (setups.files / "s.txt.gz").write_bytes(gzip.compress(b"from beside it"))
        response = setups["gzip-static"].get("/file/s.txt", headers=GZIP)
        assert (response.headers["content-encoding"], response.text) == ("gzip", "from beside it")
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert setups["gzip-static"].get("/file/s.txt").text == "plain"


class TestHTTP2:
    """Clients that speak HTTP/2 to nginx."""

    def test_file(self, http2: httpx.Client) -> None:
        """Files, ranges and names are as with HTTP/1.1."""
        for _ in range(2):
            response = http2.get("/file/100%25%20%C3%BC%3F.txt")
            assert (response.http_version, response.content) == ("HTTP/2", TEXT)
            assert sent_by_nginx(response)
            disposition = "attachment; filename*=utf-8''100%25%20%C3%BC%3F.txt"
            assert response.headers["content-disposition"] == disposition
        response = http2.get("/file/a.txt", headers={"Range": "bytes=3-6"})
        assert (response.status_code, response.content) == (206, TEXT[3:7])
        response = http2.head("/file/a.txt")
        assert (response.headers["content-length"], response.content) == ("1000", b"")

    def test_limit_rate(self, http2: httpx.Client) -> None:
        """`limit_rate` is nginx's for the file."""
        params = {"path": "/download/a.txt", "limit_rate": "12345"}
        response = http2.get("/to", params=params, headers=ALICE)
        assert response.content == TEXT
        assert response.headers["x-limit-rate"] == "12345"


class TestTwoInARow:
    """A second nginx between the client and the one that proxies to the app."""

    def test_inner_has_the_files(self, setups: Setups) -> None:
        """Nothing is to be done where the inner one offers to send files."""
        outer = setups["inner-sends"]
        response = outer.get("/file/a.txt")
        assert response.content == TEXT
        assert sent_by_nginx(response)
        response = outer.get("/file/a.txt", headers={"Range": "bytes=3-6"})
        assert (response.status_code, response.content) == (206, TEXT[3:7])

    def test_inner_takes_the_redirect_for_itself(self, setups: Setups) -> None:
        """Where the outer one offers, a usual inner one looks for the file itself, and does not find it."""
        response = setups["inner-as-usual"].get("/file/a.txt")
        assert (response.status_code, response.text) == (404, "Not Found")

    def test_inner_passes_the_redirect_on(self, setups: Setups) -> None:
        """Two directives for each header have the inner one pass it on."""
        outer = setups["inner-passes-on"]
        response = outer.get("/file/a.txt")
        assert response.content == TEXT
        assert sent_by_nginx(response)
        assert "x-accel-redirect" not in response.headers
        params = {"path": "/download/a.txt", "limit_rate": "12345"}
        assert outer.get("/to", params=params, headers=ALICE).headers["x-limit-rate"] == "12345"

    def test_inner_that_passes_on_must_not_cache(self, setups: Setups) -> None:
        """An inner one that passes redirects on caches them, too, and gives the next user the file of the first."""
        outer = setups["inner-passes-on"]
        assert outer.get("/cached/mine", headers=ALICE).text == "the file of alice"
        assert outer.get("/cached/mine", headers=BOB).text == "the file of alice"

    def test_both_offer(self, setups: Setups) -> None:
        """The app sees one offer, the inner one's, which takes the redirect."""
        outer = setups["both-offer"]
        assert outer.get("/offers").text == f"{setups.files}/=/download/"
        assert sent_by_nginx(outer.get("/file/a.txt"))


class TestWays:
    """What a configuration does before a file is sent, and where there is none."""

    def get(self, setups: Setups, path: str, way: str = "/to") -> httpx.Response:
        return setups["ways"].get(way, params={"path": path}, headers=ALICE)

    def test_post(self, setups: Setups) -> None:
        """A redirect makes a GET of a POST, one to a named location does not."""
        for path, method in (("/method/", "GET"), ("@method", "POST")):
            assert setups["ways"].post("/to", params={"path": path}, headers=ALICE).text == method

    def test_try_files(self, setups: Setups) -> None:
        """`try_files` in an internal location sends the file, or another one where there is none."""
        assert self.get(setups, "/tried/alice.txt").text == "the file of alice"
        assert self.get(setups, "/tried/none.txt").content == TEXT

    def test_missing_file_keeps_the_apps_headers(self, setups: Setups) -> None:
        """nginx's 404 has the Cache-Control and the Content-Disposition of the file that was meant."""
        response = self.get(setups, "/download/none.txt")
        assert (response.status_code, response.headers["cache-control"]) == (404, "max-age=60")
        assert response.headers["content-disposition"] == 'attachment; filename="name.txt"'

    def test_error_page(self, setups: Setups) -> None:
        """`error_page` in an internal location answers for a file that is not there."""
        response = self.get(setups, "/error-page/none.txt")
        assert (response.status_code, response.text) == (410, "gone")

    def test_app_as_error_page(self, setups: Setups) -> None:
        """An app that is another's error page can redirect; with `=`, or the status stays that of the error."""
        for way, status in (("/first/to", 200), ("/first-keeps-404/to", 404)):
            response = self.get(setups, "/download/alice.txt", way)
            assert (response.status_code, response.text) == (status, "the file of alice")

    def test_error_page_after_error_page(self, setups: Setups) -> None:
        """The internal location's own `error_page` then needs `recursive_error_pages` where the first one stands."""
        assert self.get(setups, "/error-page/none.txt", "/first/to").status_code == 404
        assert self.get(setups, "/error-page/none.txt", "/first-recursive/to").status_code == 410

    @pytest.mark.parametrize(("location", "more"), [("download", 2), ("download-unasked", 1)])
    def test_auth_request(self, setups: Setups, location: str, more: int) -> None:
        """`auth_request` for a whole server asks again after a redirect, unless the internal location turns it off."""
        params = {"path": f"/{location}/alice.txt"}
        assert setups["asks"].get("/to", params=params).status_code == 403
        before = int(setups["ways"].get("/questions").text)
        assert setups["asks"].get("/to", params=params, headers=ALICE).text == "the file of alice"
        assert int(setups["ways"].get("/questions").text) == before + more

    def test_open_file_cache(self, setups: Setups) -> None:
        """`open_file_cache` sends a file that was replaced or deleted, for as long as it holds it to be valid."""
        path = setups.files / "changing.txt"
        path.write_text("old")
        assert self.get(setups, "/kept-open/changing.txt").text == "old"
        replacement = path.with_suffix(".new")
        replacement.write_text("new and longer")
        replacement.replace(path)
        assert self.get(setups, "/kept-open/changing.txt").text == "old"
        path.unlink()
        assert self.get(setups, "/kept-open/changing.txt").text == "old"
        assert self.get(setups, "/download/changing.txt").status_code == 404
