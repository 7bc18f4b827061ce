"""What a client gets through a real nginx from a real uvicorn."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import httpx
import pytest
from behind_nginx import MODES, NAMES, TEXT, assert_clean, sent_by_nginx, url
from servers import Site
from storage import BODY as OBJECT
from storage import SIGNATURE


@pytest.fixture(scope="module", autouse=True)
def files(site: Site) -> None:
    (site.files / "a.txt").write_bytes(TEXT)
    (site.files / "sub").mkdir()
    (site.files / "sub" / "b.txt").write_bytes(b"below")
    (site.vault / "a.txt").write_bytes(TEXT)
    for name in NAMES:
        Path(os.fsdecode(os.path.join(os.fsencode(site.files), name))).write_bytes(b"content of " + name)


@pytest.mark.parametrize("mode", MODES)
class TestModes:
    """Each way to trust the proxy's offer."""

    def test_file_is_sent_by_nginx(self, site: Site, mode: str) -> None:
        """A FileResponse comes from nginx byte for byte, with the app's own headers."""
        response = site.offers.get(url(mode, "file", b"a.txt"))
        assert response.status_code == 200
        assert response.content == TEXT
        assert sent_by_nginx(response)
        assert response.headers["cache-control"] == "private"
        assert response.headers["set-cookie"] == "a=1"
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert_clean(response)

    def test_range(self, site: Site, mode: str) -> None:
        """nginx answers a range."""
        response = site.offers.get(url(mode, "file", b"a.txt"), headers={"Range": "bytes=3-6"})
        assert response.status_code == 206
        assert response.content == b"3456"
        assert response.headers["content-range"] == "bytes 3-6/1000"
        assert sent_by_nginx(response)
        assert_clean(response)

    def test_redirect_response(self, site: Site, mode: str) -> None:
        """An AccelRedirectResponse comes from nginx."""
        response = site.offers.get(url(mode, "redirect", b"a.txt"))
        assert response.content == TEXT
        assert sent_by_nginx(response)
        assert_clean(response)

    def test_what_is_no_file(self, site: Site, mode: str) -> None:
        """Responses that are not files come from the app."""
        response = site.offers.get(f"/{mode}/text")
        assert response.text == "hello " * 200
        assert response.headers["x-own"] == "1"

    def test_secret_does_not_reach_the_app(self, site: Site, mode: str) -> None:
        """The app sees the secret only in the modes that know of none."""
        seen = site.offers.get(f"/{mode}/headers").text
        assert ("x-accel-secret" in seen) == (mode not in ("secret", "both"))


class TestFileFromNginx:
    """What nginx makes of a file that the app returned as a FileResponse."""

    def test_not_modified(self, site: Site) -> None:
        """nginx's own validators work: 304 for its ETag and its date."""
        first = site.offers.get(url("mapping", "file", b"a.txt"))
        for headers in (
            {"If-None-Match": first.headers["etag"]},
            {"If-Modified-Since": first.headers["last-modified"]},
        ):
            response = site.offers.get(url("mapping", "file", b"a.txt"), headers=headers)
            assert response.status_code == 304
            assert response.headers["etag"] == first.headers["etag"]

    def test_range_not_satisfiable(self, site: Site) -> None:
        """A range behind the end is nginx's 416."""
        response = site.offers.get(url("mapping", "file", b"a.txt"), headers={"Range": "bytes=5000-"})
        assert response.status_code == 416
        assert response.headers["content-range"] == "bytes */1000"

    def test_several_ranges(self, site: Site) -> None:
        """Several ranges come as nginx's multipart."""
        response = site.offers.get(url("mapping", "file", b"a.txt"), headers={"Range": "bytes=0-1,5-6"})
        assert response.status_code == 206
        assert response.headers["content-type"].startswith("multipart/byteranges")
        assert b"56" in response.content

    def test_malformed_range(self, site: Site) -> None:
        """A malformed range is ignored, as nginx does, and causes no error page."""
        response = site.offers.get(url("mapping", "file", b"a.txt"), headers={"Range": "bytes=x-y"})
        assert response.content == TEXT or response.status_code == 416

    def test_if_range(self, site: Site) -> None:
        """A download goes on where the file is the same, and starts over where it is not."""
        etag = site.offers.get(url("mapping", "file", b"a.txt")).headers["etag"]
        headers = {"Range": "bytes=0-0", "If-Range": etag}
        assert site.offers.get(url("mapping", "file", b"a.txt"), headers=headers).content == b"0"
        headers = {"Range": "bytes=0-0", "If-Range": '"another"'}
        assert site.offers.get(url("mapping", "file", b"a.txt"), headers=headers).content == TEXT

    def test_head(self, site: Site) -> None:
        """A HEAD is answered by nginx, too, with the headers of the GET."""
        for headers in ({}, {"Range": "bytes=0-0"}):
            head = site.offers.head(url("mapping", "file", b"a.txt"), headers=headers)
            get = site.offers.get(url("mapping", "file", b"a.txt"), headers=headers)
            assert head.status_code == get.status_code
            assert head.content == b""
            assert {**head.headers, "date": ""} == {**get.headers, "date": ""}
            assert_clean(head)

    def test_post(self, site: Site) -> None:
        """The file that answers a POST comes from nginx, too."""
        response = site.offers.post(url("mapping", "file", b"a.txt"), content=b"x" * 100_000)
        assert response.content == TEXT
        assert sent_by_nginx(response)

    def test_empty_file(self, site: Site) -> None:
        """An empty file is an empty 200."""
        (site.files / "empty.txt").write_bytes(b"")
        response = site.offers.get(url("mapping", "file", b"empty.txt"))
        assert (response.status_code, response.content) == (200, b"")
        assert response.headers["content-length"] == "0"

    def test_disposition(self, site: Site) -> None:
        """Starlette's Content-Disposition is kept."""
        response = site.offers.get(url("mapping", "named", b"a.txt", filename="grüße.txt"))
        assert response.headers["content-disposition"] == "attachment; filename*=utf-8''gr%C3%BC%C3%9Fe.txt"

    def test_static_files(self, site: Site) -> None:
        """StaticFiles come from nginx, and with nginx's ETag the browser's copy is found good."""
        response = site.offers.get("/mapping/static/a.txt")
        assert response.content == TEXT
        assert sent_by_nginx(response)
        headers = {"If-None-Match": response.headers["etag"]}
        assert site.offers.get("/mapping/static/a.txt", headers=headers).status_code == 304
        assert site.offers.get("/mapping/static/none.txt").status_code == 404

    @pytest.mark.parametrize("path", ["/mapping/sub/file", "/mapping/api/file", "/base/file", "/copied/file"])
    @pytest.mark.parametrize("wanted", [None, "bytes=0-3"])
    def test_from_within(self, site: Site, path: str, wanted: str | None) -> None:
        """From a mounted app, a FastAPI app, behind BaseHTTPMiddleware and behind one that copies the scope."""
        headers = {} if wanted is None else {"Range": wanted}
        response = site.offers.get(path, params={"hex": b"a.txt".hex()}, headers=headers)
        assert response.content == (TEXT if wanted is None else TEXT[:4])
        assert sent_by_nginx(response)
        if path.startswith(("/base", "/copied")):
            assert response.headers.get("x-passed") is None  # nginx drops it; the app's own test sees it

    @pytest.mark.parametrize("mode", ["gzip-inside", "gzip-outside"])
    def test_gzip(self, site: Site, mode: str) -> None:
        """GZipMiddleware does not come between nginx and the file, and still compresses other responses."""
        headers = {"Accept-Encoding": "gzip"}
        response = site.offers.get(url(mode, "file", b"a.txt"), headers=headers)
        assert response.content == TEXT
        assert "content-encoding" not in response.headers
        assert sent_by_nginx(response)
        response = site.offers.get(f"/{mode}/text", headers=headers)
        assert response.headers["content-encoding"] == "gzip"
        assert response.text == "hello " * 200

    def test_cors_header_comes_back(self, site: Site) -> None:
        """A header that nginx drops is back where the internal location says so, if the app set it."""
        headers = {"Origin": "https://other.example"}
        response = site.offers.get(url("cors", "file", b"a.txt"), headers=headers)
        assert response.headers["access-control-allow-origin"] == "https://other.example"
        assert "access-control-allow-origin" not in site.offers.get(url("mapping", "file", b"a.txt")).headers
        assert "x-own" not in response.headers  # the one that the location does not bring back

    def test_own_target_of_a_file_response(self, site: Site) -> None:
        """FileResponse(headers={"X-Accel-Redirect": ...}) goes where it says."""
        response = site.offers.get(url("mapping", "file-with-redirect", b"a.txt", to="/download/sub/b.txt"))
        assert response.content == b"below"
        assert sent_by_nginx(response)
        assert_clean(response)

    @pytest.mark.skipif(sys.platform != "linux", reason="the figures come from Linux's /proc")
    def test_large_file_leaves_the_app_flat(self, site: Site) -> None:
        """The app's memory and reading stay as they are while 1 GiB goes out."""
        size = 1 << 30
        with (site.files / "large.bin").open("wb") as sparse:
            sparse.truncate(size)

        def of_the_app(name: str, key: str) -> int:
            found = re.search(
                rf"^{key}:\s+(\d+)", Path(f"/proc/{site.app.process.pid}/{name}").read_text(), re.MULTILINE
            )
            assert found is not None
            return int(found[1])

        peak, read = of_the_app("status", "VmHWM"), of_the_app("io", "rchar")
        received = 0
        with site.offers.stream("GET", url("mapping", "file", b"large.bin")) as response:
            for chunk in response.iter_raw(1 << 20):
                received += len(chunk)
        assert received == size
        assert of_the_app("status", "VmHWM") - peak < 4096  # KiB
        assert of_the_app("io", "rchar") - read < 1 << 20  # bytes


class TestLeftToTheApp:
    """What cannot be redirected safely comes from the app, as without the middleware."""

    @pytest.mark.parametrize("wanted", [None, "bytes=0-3", "bytes=0-1,4-5", "x", "bytes=99999-"])
    @pytest.mark.parametrize(
        ("methods", "mode", "route", "name"),
        [
            ("GET POST", "mapping", "404", "a.txt"),
            ("GET POST", "mapping", "encoded", "a.txt"),
            ("GET POST", "elsewhere", "file", "a.txt"),
            ("GET POST", "mapping", "file", "../vault/a.txt"),
            ("GET POST", "mapping", "file", "$vault/a.txt"),
        ],
    )
    @pytest.mark.parametrize("server", ["", "/granian"])
    def test_same_as_without(
        self, site: Site, server: str, mode: str, route: str, name: str, methods: str, wanted: str | None
    ) -> None:
        """Status, headers and body are those of the app without the middleware, ranges included."""
        path = name.replace("$vault", str(site.vault)).encode()
        for method in methods.split():
            expected = comparable(site.offers, method, server + str(url("plain", route, path)), wanted)
            assert comparable(site.offers, method, server + str(url(mode, route, path)), wanted) == expected

    @pytest.mark.parametrize("wanted", [None, "bytes=0-3", "bytes=99999-"])
    @pytest.mark.parametrize(("route", "name"), [("404", b"a.txt"), ("encoded", b"a.txt"), ("file", b"../vault/a.txt")])
    def test_head(self, site: Site, route: str, name: bytes, wanted: str | None) -> None:
        """Its HEAD is that of the app, too."""
        expected = comparable(site.offers, "HEAD", str(url("plain", route, name)), wanted)
        assert comparable(site.offers, "HEAD", str(url("mapping", route, name)), wanted) == expected

    def test_long_name_is_left_to_the_app(self, site: Site) -> None:
        """A URI that nginx's buffer could not take is no 502."""
        folder = site.files
        for _ in range(4):
            folder = folder / ("ä" * 100)
        folder.mkdir(parents=True)
        (folder / "deep.txt").write_bytes(TEXT)
        response = site.offers.get(url("mapping", "file", bytes(folder / "deep.txt")), headers={"Range": "bytes=0-3"})
        assert response.status_code == 206
        assert response.content == b"0123"
        assert not sent_by_nginx(response)

    def test_large_headers_are_left_to_the_app(self, site: Site) -> None:
        """So is one whose headers would not fit together with the URI."""
        folder = site.files / ("b" * 200) / ("c" * 200) / ("d" * 200)
        folder.mkdir(parents=True)
        (folder / "a.txt").write_bytes(TEXT)
        path = bytes(folder / "a.txt")
        response = site.offers.get(url("mapping", "named", path, filename="n" * 3300))
        assert response.content == TEXT
        assert not sent_by_nginx(response)

    def test_ranged_endpoint_sees_its_range(self, site: Site) -> None:
        """An endpoint that streams ranges itself sees Range and If-Range as they were sent."""
        headers = {"Range": "bytes=2-4", "If-Range": '"x"'}
        response = site.offers.get("/mapping/ranged", headers=headers)
        assert response.status_code == 206
        assert response.content == b"234"
        assert response.headers["x-saw-range"] == "bytes=2-4"
        assert response.headers["x-saw-if-range"] == '"x"'

    def test_event_stream_starts_at_once(self, site: Site) -> None:
        """The headers of an event stream arrive before its first event."""
        for mode in ("mapping", "always", "base"):
            with site.offers.stream("GET", f"/{mode}/events") as response:
                assert response.headers["content-type"].startswith("text/event-stream")

    def test_app_that_raises(self, site: Site) -> None:
        """An app that raises is a 500; a file that is not there is nginx's 404."""
        assert site.offers.get("/mapping/fail").status_code == 500
        assert site.offers.get(url("mapping", "file", b"none.txt")).status_code == 404


def comparable(client: httpx.Client, method: str, address: str, wanted: str | None) -> tuple[object, ...]:
    """What must be the same: status, all headers but the date, and body, but for a multipart's random boundaries."""
    body = b""
    with client.stream(method, address, headers={} if wanted is None else {"Range": wanted}) as response:
        try:
            for chunk in response.iter_raw():
                body += chunk
        except httpx.RemoteProtocolError:
            body += b"cut short"  # Starlette 0.47 declares a longer multipart than it sends
    boundary = re.compile(r"\b[0-9a-f]{26}\b")
    headers = [(name, boundary.sub("-", value)) for name, value in response.headers.multi_items() if name != "date"]
    return response.status_code, headers, boundary.sub("-", body.decode("latin-1"))


class TestNames:
    """File names are bytes, and arrive whole."""

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("route", ["file", "redirect"])
    @pytest.mark.parametrize("way", ["offers", "silent", "granian"])
    def test_name(self, site: Site, route: str, name: bytes, way: str) -> None:
        """In both classes, with the proxy and without it."""
        if way == "granian":
            target = httpx.URL("/granian" + str(url("mapping", route, name)))
            response = site.offers.get(target)
        else:
            response = getattr(site, way).get(url("mapping", route, name))
        assert response.status_code == 200
        assert response.content == b"content of " + name
        assert sent_by_nginx(response) == (way != "silent")

    def test_nginx_found_no_name_unsafe(self, site: Site) -> None:
        """nginx's log gains no error."""
        before = site.nginx_errors()
        for name in NAMES:
            site.offers.get(url("mapping", "file", name))
        assert site.nginx_errors() == before


class TestNoOffer:
    """A proxy that does not offer, or none at all: the app serves its files."""

    @pytest.mark.parametrize("wanted", [None, "bytes=0-3", "bytes=0-1,4-5", "x"])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("path", ["file?hex=612e747874", "static/a.txt", "404?hex=612e747874", "text"])
    @pytest.mark.parametrize("server", ["silent", "direct"])
    def test_same_as_without(self, site: Site, server: str, path: str, method: str, wanted: str | None) -> None:
        """Every response is the same as without the middleware, header for header."""
        client = getattr(site, server)
        expected = comparable(client, method, f"/plain/{path}", wanted)
        assert comparable(client, method, f"/mapping/{path}", wanted) == expected

    @pytest.mark.parametrize("server", ["silent", "direct"])
    def test_redirect_becomes_the_file(self, site: Site, server: str) -> None:
        """A redirect is answered with the file, with ranges and the response's own headers."""
        client = getattr(site, server)
        response = client.get(url("mapping", "redirect", b"a.txt", filename="name.txt"))
        assert response.content == TEXT
        assert response.headers["x-own"] == "1"
        assert response.headers["content-disposition"] == 'attachment; filename="name.txt"'
        assert response.headers["content-length"] == "1000"
        assert_clean(response)
        response = client.get(url("mapping", "redirect", b"a.txt"), headers={"Range": "bytes=3-6"})
        assert (response.status_code, response.content) == (206, b"3456")
        response = client.head(url("mapping", "redirect", b"a.txt"))
        assert (response.status_code, response.headers["content-length"]) == (200, "1000")

    def test_missing_file(self, site: Site) -> None:
        """A redirect to no file, or to a folder, is a 404, as from nginx."""
        for to in ("/download/none.txt", "/download/sub"):
            assert site.direct.get("/mapping/by-hand", params={"to": to}).status_code == 404


class TestRedirectResponse:
    """What only an AccelRedirectResponse can say."""

    def test_plain_path(self, site: Site) -> None:
        """The path is plain text."""
        response = site.offers.get("/mapping/redirect-to", params={"path": "/download/100%.txt"})
        assert response.content == b"content of 100%.txt"

    @pytest.mark.parametrize(
        ("name", "by_nginx", "by_the_app"),
        [
            ("a.txt", "text/plain", "text/plain; charset=utf-8"),
            ("a.html", "application/octet-stream", "text/html; charset=utf-8"),
        ],
    )
    def test_type_by_nginx(self, site: Site, name: str, by_nginx: str, by_the_app: str) -> None:
        """With an empty `media_type`, nginx's `types` decide, and the name where the app sends the file."""
        (site.files / name).write_bytes(TEXT)
        address = httpx.URL("/mapping/redirect-to", params={"path": f"/download/{name}", "media_type": ""})
        response = site.offers.get(address)
        assert (response.content, sent_by_nginx(response)) == (TEXT, True)
        assert response.headers.get_list("content-type") == [by_nginx]
        response = site.silent.get(address)
        assert (response.content, sent_by_nginx(response)) == (TEXT, False)
        assert response.headers.get_list("content-type") == [by_the_app]

    def test_fastapi_response_class(self, site: Site) -> None:
        """A FastAPI route with response_class returns the path alone."""
        response = site.offers.get("/mapping/api/redirect", params={"path": "/download/what?.txt"})
        assert response.content == b"content of what?.txt"
        assert sent_by_nginx(response)

    def test_status_by_hand_is_lost(self, site: Site) -> None:
        """nginx answers 200 whatever status a redirect has, which is why the class takes no other."""
        response = site.offers.get("/mapping/by-hand", params={"to": "/download/a.txt", "status": "403"})
        assert (response.status_code, response.content) == (200, TEXT)

    def test_unescaped_by_hand_is_404(self, site: Site) -> None:
        """nginx decodes what it gets, which is why the class encodes."""
        assert (
            site.offers.get("/mapping/by-hand", params={"to": "/download/100%25.txt"}).content == b"content of 100%.txt"
        )
        assert site.offers.get("/mapping/by-hand", params={"to": "/download/what?.txt"}).status_code == 404

    def test_object_storage(self, site: Site) -> None:
        """`query` reaches the storage behind an internal location that proxies, as it is."""
        params = {"path": "/storage/my object", "query": SIGNATURE}
        response = site.offers.get("/mapping/redirect-to", params=params)
        assert (response.status_code, response.content) == (200, OBJECT)
        assert response.headers["etag"] == '"object"'
        response = site.offers.get("/mapping/redirect-to", params={"path": "/storage/my object"})
        assert response.status_code == 403

    def test_named_location(self, site: Site) -> None:
        """A named location is taken by its name, and gets the request's own URI."""
        response = site.offers.get("/mapping/redirect-to", params={"path": "@storage"})
        assert response.content == OBJECT

    def test_charset(self, site: Site) -> None:
        """nginx says which character set the app named, if its configuration knows it."""
        body = "привет".encode("koi8-r")
        (site.files / "koi8.txt").write_bytes(body)
        response = site.offers.get(url("mapping", "redirect", b"koi8.txt", charset="koi8-r"))
        assert response.content == body
        assert response.headers["content-type"] == "text/plain; charset=koi8-r"


def test_eye_of_the_tests(site: Site) -> None:
    """Starlette's ETag is not taken for nginx's."""
    response = site.direct.get(url("plain", "file", b"a.txt"))
    assert response.headers["etag"]
    assert not sent_by_nginx(response)
