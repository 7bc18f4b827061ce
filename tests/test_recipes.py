"""The pages' apps, each assembled from the blocks of its page: what it promises, behind nginx and without."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import runpy
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

import httpx
import pytest
from conftest import need_nginx
from servers import UVICORN, Nginx, asgi_server, client
from test_docs import ENVIRONMENT, ROOT, blocks, titled_blocks
from test_nginx import assert_clean, sent_by_nginx

STARTING = "docs/getting-started.md"


class Page:
    """The app of a page, and nginx in front of it with the page's blocks, or with those of Getting started."""

    def __init__(self, folder: Path, document: str) -> None:
        self.home = folder / Path(document).stem
        self.home.mkdir()
        self.storage = self.home / "mnt" / "storage"
        self.document = document
        self.code = self.home / f"page_{self.home.name.replace('-', '_')}.py"
        self.code.write_text(self._placed("\n\n".join(blocks(document, "python"))))
        self.add("storage/reports/7.pdf")

    def _placed(self, text: str) -> str:
        return text.replace("/mnt/", f"{self.home}/mnt/").replace(
            "http://127.0.0.1:8000", f"http://unix:{self.home}/app.sock:"
        )

    def add(self, *names: str, size: int = 0) -> None:
        """Make files under what the page calls /mnt, each with its name in it."""
        for name in names:
            path = self.home / "mnt" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content(name) + b"." * size)

    @contextlib.contextmanager
    def running(self) -> Iterator[Page]:
        with (
            asgi_server(
                self.home,
                *UVICORN,
                app=f"{self.code.stem}:app",
                name="app",
                tcp=False,
                PYTHONPATH=os.pathsep.join([str(self.home), str(ROOT)]),
                **ENVIRONMENT,
            ),
            client(self.home / "app.sock", cookies=no_cookies()) as self.direct,
            self.nginx(*(blocks(self.document, "nginx")[:1] or blocks(STARTING, "nginx"))) as self.proxied,
        ):
            yield self

    @contextlib.contextmanager
    def nginx(self, *configuration: str, name: str = "nginx", user: str = "root") -> Iterator[httpx.Client]:
        need_nginx()
        listens_on = self.home / f"{name}.sock"
        text = self._placed("\n".join(configuration))
        with (
            Nginx(self.home, f"server {{ listen unix:{listens_on};\n{text}\n}}", listens_on, user=user),
            client(listens_on, cookies=no_cookies()) as proxied,
        ):
            yield proxied

    def names(self) -> dict[str, Any]:
        """What the page's code defines."""
        return runpy.run_path(str(self.code))


def no_cookies() -> CookieJar:
    """For a client that sends no cookies but those that a test says."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def content(name: str) -> bytes:
    return f"content of {name}".encode()


def assert_sent(page: Page, url: str, name: str, **headers: str) -> None:
    """The file comes, from nginx and from the app alone."""
    for site in (page.proxied, page.direct):
        response = site.get(url, headers=headers)
        assert response.status_code == 200
        assert response.content.rstrip(b".") == content(name)
        assert_clean(response)
        assert sent_by_nginx(response) == (site is page.proxied)


def assert_refused(page: Page, url: str, status: int, **headers: str) -> None:
    """The app says no, whoever is in front of it, and nginx's internal location is closed."""
    for site in (page.proxied, page.direct):
        response = site.get(url, headers=headers)
        assert response.status_code == status
        assert b"content of" not in response.content
        assert not [name for name in response.headers if name.startswith("x-accel")]


@pytest.fixture(scope="class")
def page(request: pytest.FixtureRequest, folder: Path) -> Iterator[Page]:
    """The page of a class that says which, with the files that it needs under /mnt."""
    page = Page(folder, request.cls.document)
    page.add(*request.cls.files)
    with page.running():
        yield page


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


class TestReadme:
    """The README's app and its nginx configuration."""

    document = "README.md"
    files = ("storage/invoices/7.pdf",)

    def test_files(self, page: Page) -> None:
        """Each route gives the file, from nginx and without it."""
        assert_sent(page, "/reports/7", "storage/reports/7.pdf", Cookie="who=me")
        assert_sent(page, "/invoices/7", "storage/invoices/7.pdf")

    def test_refusal(self, page: Page) -> None:
        """The app decides."""
        assert_refused(page, "/reports/7", 403)
        assert page.proxied.get("/download/reports/7.pdf").status_code == 404


class TestGettingStarted:
    """The first app."""

    document = STARTING
    files = ()

    def test_file(self, page: Page) -> None:
        """nginx sends it, and without nginx the app."""
        assert_sent(page, "/reports/7", "storage/reports/7.pdf", Cookie="who=me")
        assert page.proxied.head("/reports/7", headers={"Cookie": "who=me"}).status_code == 200

    def test_refusal(self, page: Page) -> None:
        """The app decides, and nginx's location is internal."""
        assert_refused(page, "/reports/7", 403)
        assert page.proxied.get("/download/reports/7.pdf").status_code == 404

    def test_etag_tells(self, page: Page) -> None:
        """A hyphen in the ETag is nginx's."""
        cookie = {"Cookie": "who=me"}
        assert "-" in page.proxied.get("/reports/7", headers=cookie).headers["etag"]
        assert "-" not in page.direct.get("/reports/7", headers=cookie).headers["etag"]


class TestResponses:
    """Redirects of one's own."""

    def test_routes(self, folder: Path) -> None:
        """An invoice has its name; a route with the response class gives the path alone."""
        page = Page(folder, "docs/responses.md")
        page.add("storage/invoices/7.pdf", "storage/manual.pdf")
        with page.running():
            assert_sent(page, "/invoices/7", "storage/invoices/7.pdf")
            assert_sent(page, "/manual", "storage/manual.pdf")
            for site in (page.proxied, page.direct):
                named = site.get("/invoices/7").headers["content-disposition"]
                assert (
                    named == "attachment; filename=\"Rechnung f_r 7.pdf\"; filename*=UTF-8''Rechnung%20f%C3%BCr%207.pdf"
                )


class TestPermissions:
    """Who may have a file is decided by dependencies."""

    document = "docs/recipes/permissions.md"
    files = (
        "storage/documents/7f3a.pdf",
        "storage/documents/c41d.pdf",
        "storage/handbook/1.pdf",
        "storage/users/anna/a.txt",
        "storage/users/carla/b.txt",
    )

    anna = "Bearer token-of-anna"
    ben = "Bearer token-of-ben"

    @pytest.mark.parametrize("url", ["/documents/7", "/documents/7/download"])
    def test_document(self, page: Page, url: str) -> None:
        """Its reader gets it; another user, a forged token and nobody do not."""
        assert_sent(page, url, "storage/documents/7f3a.pdf", Authorization=self.anna)
        assert_refused(page, url, 404, Authorization=self.ben)
        assert_refused(page, url, 401, Authorization="Bearer forged")
        assert_refused(page, url, 401)
        assert page.proxied.head(url, headers={"Authorization": self.anna}).status_code == 200

    def test_what_does_not_exist_looks_like_what_one_may_not_see(self, page: Page) -> None:
        """A stranger cannot tell which numbers there are."""
        strange, missing = (
            page.proxied.get(url, headers={"Authorization": self.ben}) for url in ("/documents/7", "/documents/9")
        )
        assert (strange.status_code, strange.content) == (missing.status_code, missing.content)

    def test_headers(self, page: Page) -> None:
        """No cache may keep it, and the download has its title."""
        headers = {"Authorization": self.anna}
        assert page.proxied.get("/documents/7", headers=headers).headers["cache-control"] == "private"
        named = page.proxied.get("/documents/7/download", headers=headers).headers["content-disposition"]
        assert named.endswith("filename*=UTF-8''Vertrag%20f%C3%BCr%20Anna.pdf")

    def test_router(self, page: Page) -> None:
        """The router's dependency guards each of its routes."""
        assert_sent(page, "/handbook/1", "storage/handbook/1.pdf", Authorization=self.ben)
        assert_refused(page, "/handbook/1", 401)
        assert_refused(page, "/handbook/..%2Fusers", 404, Authorization=self.ben)

    def test_names(self, page: Page) -> None:
        """A name leads to one's own files, and nowhere else."""
        assert_sent(page, "/mine/a.txt", "storage/users/anna/a.txt", Authorization=self.anna)
        for name in ("b.txt", "..%2Fcarla%2Fb.txt", "..", "%2e%2e"):
            assert_refused(page, f"/mine/{name}", 404, Authorization=self.anna)
        assert_refused(page, "/mine/a.txt", 404, Authorization=self.ben)  # who has no folder


class TestStaticFiles:
    """A directory for those who have signed in."""

    document = "docs/recipes/static-files.md"
    files = (
        "storage/handbook/index.html",
        "storage/handbook/chapter 1.html",
        "storage/secret.txt",
    )

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, page: Page) -> str:
        """What the browser has after the login, which answers with a page's address."""
        answer = page.proxied.post("/login", data={"password": ENVIRONMENT["HANDBOOK_PASSWORD"]})
        assert (answer.status_code, answer.headers["location"]) == (303, "/handbook/")
        return answer.headers["set-cookie"].partition(";")[0]

    def test_signed_in(self, page: Page, session: str) -> None:
        """nginx sends the files, a directory's index too, and knows what the browser has."""
        assert_sent(page, "/handbook/", "storage/handbook/index.html", Cookie=session)
        assert_sent(page, "/handbook/chapter%201.html", "storage/handbook/chapter 1.html", Cookie=session)
        first = page.proxied.get("/handbook/", headers={"Cookie": session})
        assert first.headers["cache-control"] == "private"
        again = page.proxied.get("/handbook/", headers={"Cookie": session, "If-None-Match": first.headers["etag"]})
        assert again.status_code == 304

    @pytest.mark.parametrize("cookie", ["", "session=eyJ1c2VyIjogInJlYWRlciJ9.forged.forged"])
    def test_not_signed_in(self, page: Page, cookie: str) -> None:
        """The way leads to the login, with a forged session, too, and for names that are not there."""
        for name in ("", "chapter%201.html", "none.html"):
            for site in (page.proxied, page.direct):
                answer = site.get(f"/handbook/{name}", headers={"Cookie": cookie})
                assert (answer.status_code, answer.headers["location"]) == (303, "/login")
                assert answer.content == b""

    def test_wrong_password(self, page: Page) -> None:
        """A wrong password is no way in."""
        answer = page.proxied.post("/login", data={"password": "guessed"})
        assert (answer.status_code, "set-cookie" in answer.headers) == (200, False)

    def test_no_way_out(self, page: Page, session: str) -> None:
        """The directory is the one that is mounted."""
        for name in ("none.html", "..%2Fsecret.txt", "%2e%2e/secret.txt"):
            assert_refused(page, f"/handbook/{name}", 404, Cookie=session)


class TestSignedLinks:
    """Links that cannot be changed, and end."""

    document = "docs/recipes/signed-links.md"
    files = (
        "storage/shared/a b.pdf",
        "storage/shared/other.pdf",
        "storage/secret.pdf",
    )

    # nginx's own check is the page's only block of its.
    @pytest.fixture(scope="class")
    @classmethod
    def site(cls, page: Page) -> Iterator[Page]:
        with page.nginx(*blocks(STARTING, "nginx"), *blocks(page.document, "nginx"), name="all") as page.proxied:
            yield page

    @pytest.fixture(scope="class")
    @classmethod
    def names(cls, page: Page) -> dict[str, Any]:
        return page.names()

    def test_link(self, site: Page, names: dict[str, Any]) -> None:
        """It gives the file, as long as it is right."""
        link = names["signed_link"]("a b.pdf", 60)
        assert_sent(site, link, "storage/shared/a b.pdf")
        assert_refused(site, link.replace("a%20b", "other"), 403)
        assert_refused(site, link.replace("expires=", "expires=1"), 403)
        assert_refused(site, link[:-1], 403)
        assert_refused(site, link.partition("signature=")[0] + "signature=%C3%BC", 403)
        assert_refused(site, "/shared/a%20b.pdf", 422)
        assert_refused(site, link.replace("a%20b", "..%2Fsecret"), 403)
        assert_refused(site, names["signed_link"]("a b.pdf", -1), 410)
        assert_refused(site, names["signed_link"]("none.pdf", 60), 404)

    def test_token(self, site: Page, names: dict[str, Any]) -> None:
        """So does itsdangerous's."""
        link = names["token_link"]("a b.pdf")
        assert_sent(site, link, "storage/shared/a b.pdf")
        assert_refused(site, link[:-2] + "xy", 403)
        with pytest.MonkeyPatch.context() as patch:
            now = time.time()
            patch.setattr(time, "time", lambda: now - 3700)
            old = names["token_link"]("a b.pdf")
        assert_refused(site, old, 410)

    def test_without_the_app(self, site: Page, names: dict[str, Any]) -> None:
        """nginx checks a link of its own."""
        link = names["public_link"]("a b.pdf", 60)
        response = site.proxied.get(link)
        assert response.content == content("storage/shared/a b.pdf")
        assert sent_by_nginx(response)
        for url, status in (
            (link.replace("a%20b", "other"), 403),
            (link.replace("expires=", "expires=1"), 403),
            ("/public/other.pdf", 403),
            (names["public_link"]("a b.pdf", -1), 410),
        ):
            assert site.proxied.get(url).status_code == status


class TestVideo:
    """Videos for viewers."""

    viewer: ClassVar = {"Cookie": "session=of-a-viewer"}

    @pytest.fixture(scope="class")
    @classmethod
    def page(cls, folder: Path) -> Iterator[Page]:
        page = Page(folder, "docs/recipes/video.md")
        page.add("storage/videos/7.mp4", size=3_000_000)
        page.add("storage/videos/7/list.m3u8", "storage/videos/7/part-1.ts", "storage/videos/7/notes.txt")
        with page.running():
            yield page

    def test_viewer(self, page: Page) -> None:
        """Gets the page, the video and any part of it."""
        assert 'src="/videos/7"' in page.proxied.get("/watch/7", headers=self.viewer).text
        assert_sent(page, "/videos/7", "storage/videos/7.mp4", **self.viewer)
        for site in (page.proxied, page.direct):
            part = site.get("/videos/7", headers={**self.viewer, "Range": "bytes=11-30"})
            assert part.status_code == 206
            assert part.content == b"storage/videos/7.mp4"
            assert part.headers["cache-control"] == "private, max-age=3600"
            assert part.headers["content-type"] == "video/mp4"

    @pytest.mark.parametrize("url", ["/watch/7", "/videos/7", "/free/7", "/hls/7/list.m3u8", "/hls/7/part-1.ts"])
    def test_others(self, page: Page, url: str) -> None:
        """Get nothing."""
        assert_refused(page, url, 403)

    def test_limit(self, page: Page) -> None:
        """After a first megabyte at full speed, two seconds for two megabytes."""
        start = time.monotonic()
        response = page.proxied.get("/free/7", headers=self.viewer)
        assert len(response.content) > 3_000_000
        assert 1 < time.monotonic() - start < 10
        assert response.headers["cache-control"] == "private, max-age=3600"
        assert_sent(page, "/free/7", "storage/videos/7.mp4", **self.viewer)

    def test_hls(self, page: Page) -> None:
        """Playlist and segments have their types, and nothing else is there."""
        assert_sent(page, "/hls/7/list.m3u8", "storage/videos/7/list.m3u8", **self.viewer)
        assert_sent(page, "/hls/7/part-1.ts", "storage/videos/7/part-1.ts", **self.viewer)
        playlist, segment = (
            page.proxied.get(f"/hls/7/{name}", headers=self.viewer).headers for name in ("list.m3u8", "part-1.ts")
        )
        assert (playlist["content-type"], playlist["cache-control"]) == ("application/vnd.apple.mpegurl", "no-cache")
        assert (segment["content-type"], segment["cache-control"]) == (
            "video/mp2t",
            "private, max-age=86400, immutable",
        )
        for name in ("notes.txt", "none.ts", "..%2F7.mp4", "..ts"):
            assert_refused(page, f"/hls/7/{name}", 404, **self.viewer)


class Bucket(BaseHTTPRequestHandler):
    """Storage that sends an object to whoever has the signature, and speaks of itself."""

    objects: ClassVar = {"/archives/2026/annual report.zip": b"content of an object"}
    asked: ClassVar[list[dict[str, str]]] = []
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), {name: value for name, (value,) in parse_qs(url.query).items()}
        self.asked.append({name.lower(): value for name, value in self.headers.items()})
        text = f"GET {self.headers['Host']} {quote(path)} {query.get('X-Expires')}"
        right = hmac.new(ENVIRONMENT["STORAGE_KEY"].encode(), text.encode(), hashlib.sha256).hexdigest()
        if query.get("X-Signature") != right or int(query["X-Expires"]) < time.time():
            self._answer(403, b"SignatureDoesNotMatch in the bucket archives")
        elif path not in self.objects:
            self._answer(404, b"NoSuchKey in the bucket archives")
        elif self.headers["Range"] == "bytes=0-6":
            self._answer(206, self.objects[path][:7], **{"Content-Range": f"bytes 0-6/{len(self.objects[path])}"})
        else:
            self._answer(200, self.objects[path])

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        own = {"Content-Type": "binary/octet-stream", "Cache-Control": "public", "ETag": '"of-the-storage"'}
        own |= {"Content-Disposition": "inline", "Set-Cookie": "storage=1", "x-amz-request-id": "1", "x-amz-id-2": "2"}
        for name, value in (own | headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def bucket() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def name_server() -> Iterator[int]:
    """A name server that gives 127.0.0.1 for every name (RFC 1035), and no other kind of address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))

        def answer() -> None:
            while True:
                asked, client = listener.recvfrom(512)
                if not asked:
                    return
                end = asked.index(b"\0", 12) + 5
                found = asked[end - 4 : end - 2] == b"\0\1"  # an A record
                record = b"\xc0\x0c\0\1\0\1" + struct.pack("!IH4B", 30, 4, 127, 0, 0, 1) if found else b""
                head = asked[:2] + b"\x81\x80\0\1" + struct.pack("!H", found) + bytes(4)
                listener.sendto(head + asked[12:end] + record, client)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.sendto(b"", listener.getsockname())
            thread.join()


class TestObjectStorage:
    """The app signs, nginx fetches."""

    @pytest.fixture(scope="class")
    @classmethod
    def storage(cls) -> Iterator[int]:
        with bucket() as port:
            yield port

    @pytest.fixture(scope="class")
    @classmethod
    def page(cls, folder: Path, storage: int) -> Iterator[Page]:
        page = Page(folder, "docs/recipes/object-storage.md")
        with page.running(), page.nginx(cls.block(page, 0, storage), name="storage") as page.proxied:
            yield page

    @staticmethod
    def block(page: Page, number: int, storage: int) -> str:
        """One of the page's configurations, with the port of this storage."""
        return blocks(page.document, "nginx")[number].replace(":9000", f":{storage}")

    def test_object(self, page: Page) -> None:
        """Comes with the app's headers and the storage's ETag, in whole and in part."""
        response = page.proxied.get("/archives/7?member=1", headers={"Cookie": "a=1", "Authorization": "Basic YTpi"})
        assert response.content == b"content of an object"
        assert response.headers["content-type"] == "application/zip"
        assert response.headers["content-disposition"] == 'attachment; filename="annual report.zip"'
        assert response.headers["cache-control"] == "private"
        assert response.headers["etag"] == '"of-the-storage"'
        assert not [name for name in response.headers if name.startswith(("x-a", "set-cookie"))]
        assert Bucket.asked[-1]["host"] == "storage.example"
        assert not {"cookie", "authorization"} & Bucket.asked[-1].keys()
        part = page.proxied.get("/archives/7?member=1", headers={"Range": "bytes=0-6"})
        assert (part.status_code, part.content) == (206, b"content")

    def test_refusal(self, page: Page) -> None:
        """The app decides, and the storage is not asked."""
        before = len(Bucket.asked)
        assert page.proxied.get("/archives/7").status_code == 403
        assert page.proxied.get("/archives/9?member=1").status_code == 404
        assert page.proxied.get("/bucket/archives/2026/annual%20report.zip").status_code == 404
        assert len(Bucket.asked) == before

    def test_errors_of_the_storage(self, page: Page) -> None:
        """A missing object is a 404 that tells nothing."""
        response = page.proxied.get("/archives/8?member=1")
        assert response.status_code == 404
        assert b"bucket" not in response.content
        assert not [name for name in response.headers if name.startswith("x-a")]

    def test_without_nginx(self, page: Page) -> None:
        """The redirect goes out as it is, with no host in it."""
        target = page.direct.get("/archives/7?member=1").headers["x-accel-redirect"]
        assert target.startswith("/bucket/archives/2026/annual%20report.zip?X-Expires=")
        assert "storage.example" not in target

    def test_by_name(self, page: Page, storage: int) -> None:
        """nginx asks for the storage's address, and the signature still holds."""
        with name_server() as port:
            location = self.block(page, 1, storage).replace("127.0.0.53", f"127.0.0.1:{port} ipv6=off")
            (proxied,) = blocks(STARTING, "nginx")
            with page.nginx(proxied, location, name="by-name") as site:
                assert site.get("/archives/7?member=1").content == b"content of an object"


class TestDirectories:
    """Several places."""

    document = "docs/recipes/directories.md"
    files = (
        "storage/large/1.iso",
        "archive/2024.zip",
        "storage/tenants/acme/logo.svg",
        "storage/tenants/bolt/logo.svg",
    )

    def test_places(self, page: Page) -> None:
        """Each file comes from its own."""
        assert_sent(page, "/images/1", "storage/large/1.iso")
        assert_sent(page, "/yearbooks/2024", "archive/2024.zip")

    def test_longest_wins(self, page: Page) -> None:
        """In whatever order the offer has the pairs."""
        pairs = [f"{page.storage}/=/files/", f"{page.storage}/large/=/large/"]
        for offer in (pairs, pairs[::-1]):
            response = page.direct.get("/images/1", headers={"X-Accel-Mapping": ", ".join(offer)})
            assert response.headers["x-accel-redirect"] == "/large/1.iso"

    def test_what_only_the_app_has(self, page: Page) -> None:
        """Is sent by the app."""
        response = page.direct.get("/yearbooks/2024", headers={"X-Accel-Mapping": f"{page.storage}/=/files/"})
        assert response.content == content("archive/2024.zip")

    def test_tenants(self, page: Page) -> None:
        """Each has its own."""
        for tenant in ("acme", "bolt"):
            assert_sent(page, "/logo", f"storage/tenants/{tenant}/logo.svg", Host=f"{tenant}.example")
        assert_refused(page, "/logo", 404, Host="other.example")

    @pytest.mark.parametrize("prefix", ["files", "large", "archive"])
    def test_locations_are_internal(self, page: Page, prefix: str) -> None:
        """No client gets in."""
        assert page.proxied.get(f"/{prefix}/1.iso").status_code == 404


class TestReports:
    """Files that are made for one download."""

    @pytest.fixture(scope="class")
    @classmethod
    def page(cls, folder: Path) -> Iterator[Page]:
        page = Page(folder, "docs/recipes/reports.md")
        (page.storage / "reports" / "7.pdf").unlink()
        # As on a real machine, nginx's workers are not who runs the app.
        workers = page.nginx(*blocks(STARTING, "nginx"), name="workers", user="nobody nogroup")
        with page.running(), workers as page.proxied:
            yield page

    def test_deleted(self, page: Page) -> None:
        """A report arrives whole, and leaves nothing behind."""
        for site in (page.proxied, page.direct):
            response = site.get("/reports/2026")
            assert response.text == "month,total\r\n2026-01,100\r\n"
            assert response.headers["content-disposition"] == 'attachment; filename="report-2026.csv"'
            assert_clean(response)
        deadline = time.monotonic() + 10
        while list((page.storage / "reports").iterdir()):  # the task may end after the response
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_kept(self, page: Page) -> None:
        """An export is nginx's to send, until it is old."""
        for _ in range(2):
            response = page.proxied.get("/exports/2026")
            assert response.status_code == 200
            assert response.text.count("\n") == 13
            assert sent_by_nginx(response)
        (path,) = (page.storage / "reports").iterdir()
        delete_old_exports = page.names()["delete_old_exports"]
        delete_old_exports()
        assert path.exists()
        os.utime(path, (0, 0))
        delete_old_exports()
        assert not path.exists()


def test_testing(tmp_path: Path) -> None:
    """The page's tests pass, and they fail for an app without the middleware."""
    files = titled_blocks("docs/recipes/testing.md")
    for name, code in files.items():
        (tmp_path / name).write_text(code)

    def run() -> str:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_shop.py"],
            cwd=tmp_path,
            env={**os.environ, "SHOP_FILES": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        ).stdout

    assert "7 passed" in run()
    (tmp_path / "shop.py").write_text(files["shop.py"].replace("app.add_middleware", "# app.add_middleware"))
    assert "2 failed, 5 passed" in run()


class TestMoving:
    """Before and after."""

    document = "docs/recipes/moving.md"
    files = (
        "storage/a.pdf",
        "storage/100%.pdf",
    )

    @pytest.mark.parametrize("route", ["old", "older", "new", "new-redirect"])
    def test_files(self, page: Page, route: str) -> None:
        """With the middleware, the old routes and the new ones give the file, with nginx and without."""
        assert_sent(page, f"/{route}/a.pdf", "storage/a.pdf")

    def test_names(self, page: Page) -> None:
        """A name with a % is what a header by hand gets wrong."""
        assert page.proxied.get("/old/100%25.pdf").status_code == 404
        for route in ("new", "new-redirect"):
            assert_sent(page, f"/{route}/100%25.pdf", "storage/100%.pdf")
