"""The pages' apps, each assembled from the blocks of its page: what it promises, behind nginx and without."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, ClassVar, get_type_hints
from urllib.parse import quote

import httpx
import pytest
from asgi import ask
from behind_nginx import assert_clean, sent_by_nginx
from needs import need_nginx
from pages import ENVIRONMENT, LOG_FORMAT, ROOT, blocks, titled_blocks
from servers import UVICORN, Nginx, asgi_server, client
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from asgi_accel import AccelMiddleware

STARTING = "docs/getting-started.md"
PRIVATE = "private, no-cache"
TYPES = "types { text/html html; application/pdf pdf; }\n"  # as in Debian's nginx.conf


class Page:
    """The app of a page, and nginx in front of it with the page's blocks, or with those of Getting started."""

    def __init__(self, folder: Path, document: str, more: str = "") -> None:
        self.home = Path(tempfile.mkdtemp(prefix=f"{Path(document).stem}-", dir=folder))
        self.home.chmod(0o755)  # nginx's workers may be somebody else
        self.storage = self.home / "mnt" / "storage"
        self.document = document
        self.code = self.home / f"page_{self.home.name.replace('-', '_')}.py"
        self.code.write_text(self._placed("\n\n".join([*blocks(document, "python"), more])))
        self.add("storage/reports/7.pdf")

    def _placed(self, text: str) -> str:
        return (
            text.replace("/mnt/", f"{self.home}/mnt/")
            .replace("/var/log/nginx/", f"{self.home}/")
            .replace("http://127.0.0.1:8000", f"http://unix:{self.home}/app.sock:")
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
            self.nginx(*configuration(self.document)) as self.proxied,
        ):
            yield self

    @contextlib.contextmanager
    def nginx(self, *configuration: str, name: str = "nginx", user: str = "root") -> Iterator[httpx.Client]:
        need_nginx()
        listens_on = self.home / f"{name}.sock"
        formats = [block for block in configuration if LOG_FORMAT in block]
        text = self._placed("\n".join(block for block in configuration if block not in formats))
        listen = f"listen unix:{listens_on};"
        text = text.replace("listen 80;", listen) if "server {" in text else f"server {{ {listen}\n{text}\n}}"
        text = "\n".join([*formats, text])
        with (
            Nginx(self.home, TYPES + text, listens_on, user=user),
            client(listens_on, cookies=no_cookies()) as proxied,
        ):
            yield proxied

    def names(self) -> dict[str, Any]:
        """What the page's code defines."""
        return runpy.run_path(str(self.code))


def configuration(document: str) -> list[str]:
    """The page's nginx, with those locations of Getting started that it does not show."""
    own = blocks(document, "nginx")
    (starting,) = blocks(STARTING, "nginx")
    if "server {" in "".join(own):
        return own
    locations = re.findall(r"^(location \S+ {)(.*?^}\n)", starting, re.MULTILINE | re.DOTALL)
    assert len(locations) == 2
    return [*own, *(name + rest for name, rest in locations if name not in "".join(own))]


def no_cookies() -> CookieJar:
    """For a client that sends no cookies but those that a test says."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def output_of(command: str, folder: Path = ROOT) -> str:
    """What a command of a page prints, in the folder of its app: `asgi-accel nginx ...`."""
    return subprocess.run(
        [sys.executable, "-m", "asgi_accel", *shlex.split(command)[1:]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def content(name: str) -> bytes:
    return f"content of {name}".encode()


def assert_sent(page: Page, url: str, name: str, *, cache: str | None = PRIVATE, **headers: str) -> None:
    """The file comes, from nginx and from the app alone, and says who may keep it."""
    for site in (page.proxied, page.direct):
        response = site.get(url, headers=headers)
        assert response.status_code == 200
        assert response.content.rstrip(b".") == content(name)
        assert_clean(response)
        assert response.headers.get("cache-control") == cache
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
    files = ()

    def test_file(self, page: Page) -> None:
        """The route gives the file, from nginx and without it."""
        assert_sent(page, "/reports/7", "storage/reports/7.pdf", Cookie="who=me")

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
        """An invoice has its name."""
        page = Page(folder, "docs/responses.md")
        page.add("storage/invoices/7.pdf")
        with page.running():
            assert_sent(page, "/invoices/7", "storage/invoices/7.pdf")
            for site in (page.proxied, page.direct):
                named = site.get("/invoices/7").headers["content-disposition"]
                assert (
                    named == "attachment; filename=\"Rechnung f_r 7.pdf\"; filename*=UTF-8''Rechnung%20f%C3%BCr%207.pdf"
                )


class TestPermissions:
    """Who may have a file is decided by dependencies."""

    document = "docs/recipes/permissions.md"
    files = ("storage/documents/7f3a.pdf", "storage/users/1/a.txt", "storage/users/3/b.txt")

    anna = "session=of-anna"
    ben = "session=of-ben"

    def test_document(self, page: Page) -> None:
        """Its reader gets it; another user, a forged session and nobody do not."""
        assert_sent(page, "/documents/7", "storage/documents/7f3a.pdf", Cookie=self.anna)
        assert_refused(page, "/documents/7", 404, Cookie=self.ben)
        assert_refused(page, "/documents/7", 401, Cookie="session=forged")
        assert_refused(page, "/documents/7", 401)
        assert page.proxied.head("/documents/7", headers={"Cookie": self.anna}).status_code == 200

    def test_what_does_not_exist_looks_like_what_one_may_not_see(self, page: Page) -> None:
        """A stranger cannot tell which numbers there are."""
        strange, missing = (
            page.proxied.get(url, headers={"Cookie": self.ben}) for url in ("/documents/7", "/documents/9")
        )
        assert (strange.status_code, strange.content) == (missing.status_code, missing.content)

    def test_title(self, page: Page) -> None:
        """The download has it."""
        named = page.proxied.get("/documents/7", headers={"Cookie": self.anna}).headers["content-disposition"]
        assert named.endswith("''Vertrag%20f%C3%BCr%20Anna.pdf")

    def test_names(self, page: Page) -> None:
        """A name leads to one's own files, and nowhere else."""
        assert_sent(page, "/mine/a.txt", "storage/users/1/a.txt", Cookie=self.anna)
        for name in ("b.txt", "..%2F3%2Fb.txt", "..", "%2e%2e"):
            assert_refused(page, f"/mine/{name}", 404, Cookie=self.anna)
        assert_refused(page, "/mine/a.txt", 404, Cookie=self.ben)  # who has no folder
        assert (
            page.proxied.get("/mine/a.txt", headers={"Cookie": self.anna})
            .headers["content-disposition"]
            .startswith("attachment;")
        )

    def test_folders_have_numbers(self, page: Page) -> None:
        """A user's name is no path: it could be `..`, or begin with a slash."""
        names = page.names()
        assert get_type_hints(names["signed_in"])["return"] is int
        assert get_type_hints(names["mine"])["user"] is int


class TestStaticFiles:
    """A directory for those who have signed in."""

    document = "docs/recipes/static-files.md"
    files = (
        "storage/handbook/index.html",
        "storage/handbook/chapter 1.html",
        "storage/handbook/report.pdf",
        "storage/handbook/.env",
        "storage/handbook/.git/config",
        "storage/handbook/a/.b/c.txt",
        "storage/handbook/a/b..c.txt",
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
        """The app sends the pages, a directory's index too, and nginx the rest; both know what the browser has."""
        for site in (page.proxied, page.direct):
            for name, url in (("index", ""), ("chapter 1", "chapter%201.html")):
                response = site.get(f"/handbook/{url}", headers={"Cookie": session})
                assert response.content == content(f"storage/handbook/{name}.html")
                assert response.headers["cache-control"] == PRIVATE
                assert not sent_by_nginx(response)
        assert_sent(page, "/handbook/report.pdf", "storage/handbook/report.pdf", Cookie=session)
        for url in ("", "report.pdf"):
            first = page.proxied.get(f"/handbook/{url}", headers={"Cookie": session})
            known = {"Cookie": session, "If-None-Match": first.headers["etag"]}
            assert page.proxied.get(f"/handbook/{url}", headers=known).status_code == 304

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

    def test_dot_files(self, page: Page, session: str) -> None:
        """What begins with a dot, or lies below such a directory, is not for readers."""
        for name in (".env", ".git/config", "a/.b/c.txt", "a%2F.b%2Fc.txt", "a/%2eb/c.txt", ".git", "//.env"):
            assert_refused(page, f"/handbook/{name}", 404, Cookie=session)
        assert_sent(page, "/handbook/a/b..c.txt", "storage/handbook/a/b..c.txt", Cookie=session)

    def test_form(self, page: Page) -> None:
        """Only the kind of form that has no character set is read, and little of it."""
        body = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"a" * 50_000 + b"\r\n--b--\r\n"
        for kind in ("charset=punycode; boundary=b", "boundary=b"):
            headers = {"Content-Type": f"multipart/form-data; {kind}"}
            assert page.direct.post("/login", content=body, headers=headers).status_code == 400
        large = f"password={'a' * 50_000}"
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        for form in (large, iter([large.encode()])):  # with a Content-Length, and without
            assert page.direct.post("/login", content=form, headers=headers).status_code == 400


class TestSignedLinks:
    """Links that cannot be changed, and end."""

    document = "docs/recipes/signed-links.md"
    files = (
        "storage/shared/a b.pdf",
        "storage/shared/other.pdf",
        "storage/shared/page.html",
        "storage/secret.pdf",
    )

    @pytest.fixture(scope="class")
    @classmethod
    def names(cls, page: Page) -> dict[str, Any]:
        return page.names()

    def test_link(self, page: Page, names: dict[str, Any]) -> None:
        """It gives the file, as long as it is right."""
        link = names["signed_link"]("a b.pdf", 60)
        assert_sent(page, link, "storage/shared/a b.pdf")
        assert page.proxied.head(link).status_code == 200
        assert_refused(page, link.replace("a%20b", "other"), 403)
        assert_refused(page, link.replace("expires=", "expires=1"), 403)
        assert_refused(page, link[:-1], 403)
        assert_refused(page, link.partition("signature=")[0] + "signature=%C3%BC", 403)
        assert_refused(page, "/shared/a%20b.pdf", 422)
        assert_refused(page, link.replace("a%20b", "..%2Fsecret"), 403)
        assert_refused(page, names["signed_link"]("a b.pdf", -1), 410)
        assert_refused(page, names["signed_link"]("none.pdf", 60), 404)

    def test_uploaded_page(self, page: Page, names: dict[str, Any]) -> None:
        """An HTML file is saved: it does not run as a page of the site."""
        link = names["signed_link"]("page.html", 60)
        for way in (page.proxied, page.direct):
            assert way.get(link).headers["content-disposition"].startswith("attachment;")
        assert page.direct.get(link).headers["x-content-type-options"] == "nosniff"


class TestVideo:
    """Videos for viewers."""

    viewer: ClassVar = {"Cookie": "session=of-a-viewer"}

    @pytest.fixture(scope="class")
    @classmethod
    def page(cls, folder: Path) -> Iterator[Page]:
        page = Page(folder, "docs/recipes/video.md")
        page.add("storage/videos/7.mp4", size=3_000_000)
        with page.running():
            yield page

    def test_viewer(self, page: Page) -> None:
        """Gets the video and any part of it."""
        assert_sent(page, "/videos/7", "storage/videos/7.mp4", **self.viewer)
        for site in (page.proxied, page.direct):
            assert site.head("/videos/7", headers=self.viewer).status_code == 200
            part = site.get("/videos/7", headers={**self.viewer, "Range": "bytes=11-30"})
            assert part.status_code == 206
            assert part.content == b"storage/videos/7.mp4"
            assert part.headers["cache-control"] == PRIVATE
            assert part.headers["content-type"] == "video/mp4"

    @pytest.mark.parametrize("url", ["/videos/7", "/free/7"])
    def test_others(self, page: Page, url: str) -> None:
        """Get nothing."""
        assert_refused(page, url, 403)

    def test_limit(self, page: Page) -> None:
        """A megabyte takes a second. Small ranges are faster, as the page says."""
        start = time.monotonic()
        response = page.proxied.get("/free/7", headers=self.viewer)
        whole = time.monotonic() - start
        assert len(response.content) > 3_000_000
        assert response.headers["cache-control"] == PRIVATE
        start = time.monotonic()
        for first in range(0, 3_000_000, 50_000):
            part = page.proxied.get("/free/7", headers={**self.viewer, "Range": f"bytes={first}-{first + 49_999}"})
            assert (part.status_code, len(part.content)) == (206, 50_000)
        ranges = time.monotonic() - start
        assert 1.5 < whole < 20
        assert ranges < whole

    def test_large_ranges(self, page: Page) -> None:
        """A range of a megabyte takes most of a second: nothing of it is free."""
        start = time.monotonic()
        for _ in range(2):
            page.proxied.get("/free/7", headers={**self.viewer, "Range": "bytes=0-999999"})
        assert time.monotonic() - start > 1

    def test_limit_that_holds(self, page: Page) -> None:
        """With `max_ranges 0` each request begins at the first byte."""
        assert "`max_ranges 0;`" in (ROOT / page.document).read_text()
        (configuration,) = blocks(STARTING, "nginx")
        configuration = configuration.replace("internal;", "internal; max_ranges 0;")
        with page.nginx(configuration, name="no-ranges") as site:
            part = site.get("/free/7", headers={**self.viewer, "Range": "bytes=1000000-1999999"})
            assert (part.status_code, part.content[:10]) == (200, b"content of")


class TestHls:
    """HTTP Live Streaming with a token in the path."""

    document = "docs/recipes/hls.md"
    files = tuple(f"storage/videos/7/{name}" for name in ("list.m3u8", "part-1.ts", "key.bin", "a\\b.ts"))
    viewer: ClassVar = {"Cookie": "session=of-a-viewer"}

    @pytest.fixture(scope="class")
    @classmethod
    def playlist(cls, page: Page) -> str:
        """The address that a player gets."""
        return str(page.names()["playlist"](7))

    def test_player(self, page: Page, playlist: str) -> None:
        """A player without a cookie gets the playlist, and the segments beside it."""
        assert_sent(page, playlist, "storage/videos/7/list.m3u8")
        segment = playlist.replace("list.m3u8", "part-1.ts")
        assert_sent(page, segment, "storage/videos/7/part-1.ts")
        types = [page.proxied.get(url).headers["content-type"] for url in (playlist, segment)]
        assert types == ["application/vnd.apple.mpegurl", "video/mp2t"]

    def test_token(self, page: Page, playlist: str) -> None:
        """It is for one video and some hours."""
        _, _, _, token, _ = playlist.split("/")
        expires, signature = token.split("-")
        assert_refused(page, playlist.replace("/7/", "/8/"), 403)
        assert_refused(page, playlist.replace(expires, str(int(expires) + 1)), 403)
        assert_refused(page, playlist.replace(signature, signature[:-1] + "%C3%BC"), 403)
        old = f"1-{page.names()['sign'](7, 1)}"
        assert_refused(page, playlist.replace(token, old), 403)

    def test_nothing_else(self, page: Page, playlist: str) -> None:
        """Only what a player needs is there."""
        for name in ("key.bin", "none.ts", "..%2F7.mp4", "..ts", "%252e%252e.ts", "a%5Cb.ts"):
            assert_refused(page, playlist.replace("list.m3u8", name), 404)
        assert page.direct.get(playlist.replace("list.m3u8", "list.m3u8%00.ts")).status_code == 404

    def test_key(self, page: Page) -> None:
        """The key asks for the session, and nothing keeps it."""
        for site in (page.proxied, page.direct):
            answer = site.get("/keys/7", headers=self.viewer)
            assert (answer.status_code, len(answer.content)) == (200, 16)
            assert answer.headers["cache-control"] == "no-store"
            assert site.get("/keys/7").status_code == 403


class TestDirectories:
    """Several places."""

    document = "docs/recipes/directories.md"
    files = ("storage/large/1.iso", "archive/2024.zip")

    @pytest.fixture(scope="class")
    @classmethod
    def page(cls, folder: Path) -> Iterator[Page]:
        page = Page(folder, cls.document)
        page.add(*cls.files)
        (command,) = blocks(cls.document, "sh")
        command = command.replace("main:app", f"{page.code.stem}:app")
        command = command.replace("--upstream 127.0.0.1:8000", f"--unix {page.home}/app.sock")
        printed = output_of(command, page.home).replace(f"{page.home}/mnt/", "/mnt/")
        with page.running(), page.nginx(printed, name="printed") as page.proxied:
            yield page

    def test_places(self, page: Page) -> None:
        """Each file comes from its own."""
        assert_sent(page, "/images/1", "storage/large/1.iso", cache=None)
        assert_sent(page, "/yearbooks/2024", "archive/2024.zip", cache=None)

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

    @pytest.mark.parametrize("prefix", ["files", "large", "archive"])
    def test_locations_are_internal(self, page: Page, prefix: str) -> None:
        """No client gets in."""
        assert page.proxied.get(f"/{prefix}/1.iso").status_code == 404


class TestUploads:
    """Avatars for everybody, files for their owner."""

    document = "docs/recipes/uploads.md"
    files = ()
    anna: ClassVar = {"Cookie": "session=of-anna"}
    ben: ClassVar = {"Cookie": "session=of-ben"}

    @pytest.fixture(scope="class")
    @classmethod
    def page(cls, folder: Path) -> Iterator[Page]:
        page = Page(folder, cls.document)
        for name in ("avatars", "files"):
            (page.storage / name).mkdir()
        with page.running():
            yield page

    @pytest.mark.parametrize("start", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a"])
    def test_avatar(self, page: Page, start: bytes) -> None:
        """Everybody and every cache may have it. Another picture has another address, and the old one goes."""
        for site in (page.proxied, page.direct):
            image = start + os.urandom(1000)
            url = site.put("/me/avatar", content=image, headers=self.anna).json()
            for way in (page.proxied, page.direct):
                response = way.get(url)
                assert response.content == image
                assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
                assert response.headers["x-content-type-options"] == "nosniff"
                assert response.headers["content-security-policy"] == "sandbox; default-src 'none'"
                assert response.headers["content-type"].startswith("image/")
                assert sent_by_nginx(response) == (way is page.proxied)
            assert len(list((page.storage / "avatars").glob("1-*"))) == 1

    @pytest.mark.parametrize("content", [b"<svg/>", b"<html>", b"GIF", b"", b" \x89PNG\r\n\x1a\n"])
    def test_what_is_no_image(self, page: Page, content: bytes) -> None:
        """The first bytes decide."""
        headers = {**self.ben, "Content-Type": "image/png"}
        assert page.proxied.put("/me/avatar", content=content, headers=headers).status_code == 415
        assert not list((page.storage / "avatars").glob("2-*"))

    def test_names_of_avatars(self, page: Page) -> None:
        """Nothing else comes out by their route."""
        for name in ("..", "1-0123456789abcdef.svg", "1-0123456789abcdef.png%0a", "%2e%2e%2ffiles"):
            for site in (page.proxied, page.direct):
                assert site.get(f"/avatars/{name}").status_code in (404, 422)

    @pytest.mark.parametrize("name", ["page.html", "a b.svg", "\u00fc %.bin", "..", "a\nb"])
    def test_file(self, page: Page, name: str) -> None:
        """Its owner saves it under its name, whatever it is. Nobody else gets it."""
        body = b"<script>alert(1)</script>" + os.urandom(100)
        # The app refuses `..` before it has read the body, which nginx may still be sending: that can be a 502.
        site = page.direct if name == ".." else page.proxied
        answer = site.put(f"/me/files/{quote(name, safe='')}", content=body, headers=self.anna)
        if name == "..":
            assert answer.status_code in (404, 405)
            return
        url = answer.json()
        for site in (page.proxied, page.direct):
            response = site.get(url, headers=self.anna)
            assert response.content == body
            assert response.headers["content-type"] == "application/octet-stream"
            assert response.headers["content-disposition"].startswith("attachment; filename")
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["content-security-policy"] == "sandbox; default-src 'none'"
            assert response.headers["cache-control"] == PRIVATE
            assert sent_by_nginx(response) == (site is page.proxied)
            assert_refused(page, url, 404, **self.ben)
            assert_refused(page, url, 401)

    @pytest.mark.parametrize("chunked", ["", "Transfer-Encoding: chunked"])
    def test_strangers_fill_no_disk(self, page: Page, chunked: str) -> None:
        """Who has not signed in has nothing kept, and is refused before the body has come."""
        before = list(page.storage.rglob("*"))
        for url in ("/me/avatar", "/me/files/a"):
            for place in ("nginx.sock", "app.sock"):
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(20)
                    connection.connect(str(page.home / place))
                    # Its beginning, and no more: nginx answers 502 if it still writes when the app has hung up.
                    body = b"5f5e100\r\n" * bool(chunked) + bytes(1000)
                    head = f"PUT {url} HTTP/1.1\r\nHost: x\r\n{chunked or 'Content-Length: 90000000'}\r\n\r\n"
                    connection.sendall(head.encode() + body)
                    assert connection.recv(100)[9:12] == b"401"
        assert list(page.storage.rglob("*")) == before

    def test_too_large(self, page: Page) -> None:
        """Too much is refused, and nothing of it stays."""
        before = list(page.storage.rglob("*"))
        image = b"GIF89a" + bytes(1_000_000)
        for site in (page.proxied, page.direct):
            assert site.put("/me/avatar", content=image, headers=self.anna).status_code == 413
            assert site.put("/me/avatar", content=iter([image]), headers=self.anna).status_code == 413
        assert list(page.storage.rglob("*")) == before

    def test_other_sites(self, page: Page) -> None:
        """A browser asks before a PUT of another site, and the app does not allow it."""
        asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "PUT"}
        for site in (page.proxied, page.direct):
            answer = site.options("/me/avatar", headers={**asked, **self.anna})
            assert "access-control-allow-origin" not in answer.headers


class TestCounting:
    """A report counts once a day, however it is asked for."""

    @pytest.fixture
    def page(self, folder: Path) -> Iterator[Page]:
        page = Page(folder, "docs/recipes/counting.md")
        page.add(*(f"storage/reports/{number}.pdf" for number in range(1, 10)), size=100_000)
        with page.running():
            yield page

    @staticmethod
    def asked(page: Page, number: int, **headers: str) -> httpx.Response:
        return page.proxied.get(f"/reports/{number}", headers={"Cookie": "session=of-anna", **headers})

    def test_files(self, page: Page) -> None:
        """Who has signed in gets a report."""
        assert_sent(page, "/reports/1", "storage/reports/1.pdf", Cookie="session=of-anna")
        assert_refused(page, "/reports/1", 401)
        assert_refused(page, "/reports/99", 404, Cookie="session=of-anna")

    def test_quota(self, page: Page) -> None:
        """Ranges do not count again, and do not get round the quota either. Each user has a quota of their own."""
        for number in (1, 2, 3):
            for wanted in ("bytes=0-9", "bytes=100-199", "bytes=-5"):
                assert self.asked(page, number, Range=wanted).status_code == 206
        for wanted in ("bytes=0-9", "bytes=100-199", "bytes=-5", "", "bytes=abc"):
            assert self.asked(page, 4, Range=wanted).status_code == 429
        assert self.asked(page, 1).status_code == 200
        assert page.direct.get("/reports/4", headers={"Cookie": "session=of-anna"}).status_code == 429
        assert page.proxied.get("/reports/4", headers={"Cookie": "session=of-ben"}).status_code == 200

    def test_all_at_once(self, page: Page) -> None:
        """Nine reports at once are three."""

        def get(number: int) -> int:
            with client(page.home / "nginx.sock", timeout=30) as browser:
                return browser.get(f"/reports/{number}", headers={"Cookie": "session=of-anna"}).status_code

        with ThreadPoolExecutor(9) as pool:
            assert sorted(pool.map(get, range(1, 10))) == [200] * 3 + [429] * 6

    def test_what_has_arrived(self, page: Page) -> None:
        """nginx's log has the bytes of each download, and the client does not see its name."""
        size = len(self.asked(page, 1).content)
        for wanted in ("bytes=0-9", "bytes=100-199"):
            assert "x-download" not in self.asked(page, 2, Range=wanted).headers
        self.asked(page, 2, Range="bytes=9999999-")  # a 416, whose page is not the file's bytes
        log = page.home / "downloads.log"
        deadline = time.monotonic() + 10
        while len(log.read_text().splitlines()) < 4:  # a line is written a moment after the response
            assert time.monotonic() < deadline
            time.sleep(0.01)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert {line["status"] for line in lines} == {200, 206, 416}
        for number, expected in ((1, size), (2, 110)):
            sent = [line for line in lines if line["download"] == f"user 1, report {number}" and line["status"] < 300]
            assert sum(line["bytes"] for line in sent) == expected


class TestOneTimeLinks:
    """Links that work once."""

    document = "docs/recipes/one-time-links.md"
    files = ("storage/a b.pdf",)

    @staticmethod
    def link(page: Page, seconds: float = 60, name: str = "a b.pdf") -> str:
        return str(page.names()["one_time_link"](str(page.storage / name), seconds))

    def test_once(self, page: Page) -> None:
        """The button gives the file, once; looking at the page uses nothing up."""
        for site in (page.proxied, page.direct):
            link = self.link(page)
            for _ in range(3):
                button = site.get(link)
                assert '<form method="post">' in button.text
                assert button.headers["cache-control"] == "no-store"
            response = site.post(link)
            assert response.content == content("storage/a b.pdf")
            assert response.headers["content-disposition"] == 'attachment; filename="a b.pdf"'
            assert response.headers["cache-control"] == PRIVATE
            assert_clean(response)
            assert sent_by_nginx(response) == (site is page.proxied)
            for way in (page.proxied, page.direct):
                again = way.post(link, headers={"Range": "bytes=0-3"})
                assert (again.status_code, b"content of" in again.content) == (410, False)

    def test_all_at_once(self, page: Page) -> None:
        """Of many who click at the same time, one gets it."""
        link = self.link(page)

        def click(_: int) -> int:
            with client(page.home / "nginx.sock", timeout=30) as browser:
                return browser.post(link).status_code

        with ThreadPoolExecutor(20) as pool:
            assert sorted(pool.map(click, range(20))) == [200] + [410] * 19

    def test_other_links(self, page: Page) -> None:
        """One that is old, guessed, or whose file has gone, gives nothing. The last one is not used up."""
        for link in (self.link(page, -1), "/once/guessed", "/once/%27%20OR%201=1", self.link(page, name="none.pdf")):
            for site in (page.proxied, page.direct):
                assert site.post(link).status_code == 410
        late = self.link(page, name="late.pdf")
        assert page.proxied.post(late).status_code == 410
        page.add("storage/late.pdf")
        assert page.proxied.post(late).content == content("storage/late.pdf")

    def test_database(self, page: Page) -> None:
        """Who reads the database has no link."""
        token = self.link(page).rpartition("/")[2]
        assert token.encode() not in (page.home / "mnt" / "links.db").read_bytes()


class TestZip:
    """Many files as one."""

    document = "docs/recipes/zip.md"
    files = ("storage/photos/1 a.jpg", "storage/photos/2.jpg")
    anna: ClassVar = {"Cookie": "session=of-anna"}

    @pytest.fixture
    def page(self, folder: Path) -> Iterator[Page]:
        page = Page(folder, self.document)
        page.add(*self.files, size=100_000)
        page.code.write_text(page.code.read_text().replace("anyio.sleep(10)", "anyio.sleep(0.5)"))
        (page.storage / "zips").mkdir()
        if os.geteuid() == 0:
            shutil.chown(page.storage / "zips", group="nogroup")
        (page.storage / "zips").chmod(0o2750)
        workers = page.nginx(*blocks(STARTING, "nginx"), name="workers", user="nobody nogroup")
        with page.running(), workers as page.proxied:
            yield page

    def test_zip(self, page: Page) -> None:
        """nginx sends it, and it is gone afterwards."""
        for site in (page.proxied, page.direct):
            response = site.get("/albums/7", headers=self.anna)
            assert response.headers["content-disposition"] == 'attachment; filename="album.zip"'
            assert response.headers["cache-control"] == PRIVATE
            assert sent_by_nginx(response) == (site is page.proxied)
            with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
                assert archive.testzip() is None
                assert archive.namelist() == ["1 a.jpg", "2.jpg"]
        deadline = time.monotonic() + 20
        while list((page.storage / "zips").iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_slow_client(self, page: Page) -> None:
        """Who reads slowly gets all of it, though it has been deleted."""
        page.add(*self.files, size=20_000_000)  # more than sockets hold
        with page.proxied.stream("GET", "/albums/7", headers=self.anna) as response:
            deadline = time.monotonic() + 20
            while list((page.storage / "zips").iterdir()):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert len(response.read()) == int(response.headers["content-length"]) > 40_000_000

    def test_bounds(self, page: Page) -> None:
        """Who may not have the album gets nothing, and nobody fills the disk."""
        for url in ("/albums/7", "/albums/7/by-nginx"):
            assert_refused(page, url, 404)
            assert_refused(page, url.replace("7", "8"), 404, **self.anna)
        for number in range(20):
            (page.storage / "zips" / f"{number}.zip").touch()
        assert_refused(page, "/albums/7", 503, **self.anna)

    def test_list(self, page: Page) -> None:
        """What mod_zip reads passes as the app has written it; without nginx the ZIP comes."""
        response = page.proxied.get("/albums/7/by-nginx", headers=self.anna)
        assert response.headers["x-archive-files"] == "zip"
        size = (page.storage / "photos" / "2.jpg").stat().st_size
        assert response.text.splitlines()[1] == f"- {size} /download/photos/2.jpg 2.jpg"
        assert page.direct.get("/albums/7/by-nginx", headers=self.anna).content.startswith(b"PK")

    def test_name_adds_no_line(self, page: Page) -> None:
        """A name with a line break names no other file."""
        photos = page.storage / "photos"
        (photos / "a\r\n- 5 secret").touch()
        page.code.write_text(page.code.read_text().replace("photos/2.jpg", r"photos/a\r\n- 5 secret"))
        names = page.names()
        texts: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            texts.append(names["by_nginx"](Request(scope), names["ALBUMS"][7]).body.decode())

        asyncio.run(ask(AccelMiddleware(app, "/=/", always=True)))
        (text,) = texts
        assert text.splitlines()[1] == "- 0 /download/photos/a%0D%0A-%205%20secret a__- 5 secret"
        assert len(text.splitlines()) == 2


BUSY = """
import time as clock
@app.get("/busy")
def busy() -> None:
    clock.sleep(0.8)
"""


class TestReports:
    """Files that are made for one download."""

    analyst: ClassVar = {"Cookie": "session=of-an-analyst"}

    @pytest.fixture(scope="class")
    @classmethod
    def page(cls, folder: Path) -> Iterator[Page]:
        page = Page(folder, "docs/recipes/reports.md", BUSY)
        reports = page.storage / "reports"
        (reports / "7.pdf").unlink()
        # As on a real machine, nginx's workers are somebody else. The directory has their group, as the page says.
        if os.geteuid() == 0:
            shutil.chown(reports, group="nogroup")
        reports.chmod(0o2750)
        workers = page.nginx(*blocks(STARTING, "nginx"), name="workers", user="nobody nogroup")
        with page.running(), workers as page.proxied:
            yield page

    def empty(self, page: Page) -> None:
        """Wait until no report is left: the task may end after the response."""
        deadline = time.monotonic() + 10
        while list((page.storage / "reports").iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_deleted(self, page: Page) -> None:
        """A report arrives whole, and leaves nothing behind."""
        for site in (page.proxied, page.direct):
            response = site.get("/reports/2026", headers=self.analyst)
            assert response.text == "month,total\r\n2026-01,100\r\n"
            assert response.headers["content-disposition"] == 'attachment; filename="report-2026.csv"'
            assert response.headers["cache-control"] == PRIVATE
            assert_clean(response)
        self.empty(page)

    def test_threads_are_busy(self, page: Page) -> None:
        """Each of 40 reports arrives while the app's threads have much to do: nginx may read what it is sent to."""

        def get(url: str) -> int:
            place = "app.sock" if url == "/busy" else "workers.sock"
            with client(page.home / place, timeout=60) as browser:
                return browser.get(url, headers=self.analyst).status_code

        with ThreadPoolExecutor(240) as pool:
            asked = [(url, pool.submit(get, url)) for url in ["/busy", "/busy", "/busy", "/busy", "/reports/2026"] * 40]
            assert [answer.result() for url, answer in asked if url != "/busy"] == [200] * 40
        self.empty(page)

    def test_kept(self, page: Page) -> None:
        """An export is nginx's to send, until it is old."""
        for _ in range(2):
            response = page.proxied.get("/exports/2026", headers=self.analyst)
            assert response.status_code == 200
            assert response.text.count("\n") == 2
            assert response.headers["cache-control"] == PRIVATE
            assert sent_by_nginx(response)
        (path,) = (page.storage / "reports").iterdir()
        clean_up = page.names()["clean_up"]
        clean_up()
        assert path.exists()
        os.utime(path, (0, 0))
        clean_up()
        assert not path.exists()

    def test_what_a_bad_range_leaves(self, page: Page) -> None:
        """If Starlette skips the task, the clean-up finds the file."""
        for _ in range(3):
            page.direct.get("/reports/2026", headers={**self.analyst, "Range": "bytes=abc"})
        for path in (page.storage / "reports").iterdir():
            os.utime(path, (0, 0))
        page.names()["clean_up"]()
        assert not list((page.storage / "reports").iterdir())

    def test_bounds(self, page: Page) -> None:
        """Nobody makes files without permission, and nobody makes any number of them."""
        for kind in ("reports", "exports"):
            assert_refused(page, f"/{kind}/2026", 403)
            for year in ("0", "299", "1999", "2101", "-1", "x"):
                assert_refused(page, f"/{kind}/{year}", 422, **self.analyst)
        assert not list((page.storage / "reports").iterdir())


def test_testing(tmp_path: Path) -> None:
    """The page's tests pass, and they fail for an app without the middleware."""
    files = titled_blocks("docs/recipes/testing.md")
    for name, code in files.items():
        (tmp_path / name).write_text(code)

    def run() -> str:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"],
            cwd=tmp_path,
            env={**os.environ, "SHOP_FILES": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        ).stdout

    assert "4 passed" in run()
    (tmp_path / "shop.py").write_text(files["shop.py"].replace("app.add_middleware", "# app.add_middleware"))
    assert "1 failed, 3 passed" in run()


class TestMoving:
    """Before, after, and each state between the steps."""

    document = "docs/recipes/moving.md"
    files = ("storage/a.pdf", "storage/100%.pdf", "storage/sub/b.pdf", "storage/.env", "storage/F\u00fcr Anna.pdf")
    offer = '    proxy_set_header X-Accel-Mapping "/mnt/storage/=/download/";\n'

    @contextlib.contextmanager
    def state(self, folder: Path, *, line: bool, middleware: bool) -> Iterator[httpx.Client]:
        """nginx with its line or without, the app with the middleware or without."""
        page = Page(folder, self.document)
        page.add(*self.files)
        if not middleware:
            page.code.write_text(re.sub(r"^app\.add_middleware.*", "", page.code.read_text(), flags=re.MULTILINE))
        (configuration,) = blocks(STARTING, "nginx")
        assert self.offer in configuration
        with (
            page.running(),
            page.nginx(configuration.replace(self.offer, "" if not line else self.offer), name="state") as site,
        ):
            yield site

    @pytest.mark.parametrize(
        ("line", "middleware", "sender"),
        [(False, False, "nginx"), (True, False, "nginx"), (True, True, "nginx"), (False, True, "Python")],
        ids=["before", "first step", "second step", "the other order"],
    )
    def test_steps(self, folder: Path, line: bool, middleware: bool, sender: str) -> None:
        """nginx goes on sending after each step. In the other order, Python sends until nginx has its line."""
        with self.state(folder, line=line, middleware=middleware) as site:
            response = site.get("/old/a.pdf")
            assert response.content == content("storage/a.pdf")
            assert sent_by_nginx(response) == (sender == "nginx")

    @pytest.mark.parametrize("route", ["old", "new"])
    def test_files(self, page: Page, route: str) -> None:
        """With the middleware, the old route and the new one give the file, with nginx and without."""
        assert_sent(page, f"/{route}/a.pdf", "storage/a.pdf", cache=PRIVATE if route == "new" else None)

    def test_names(self, page: Page) -> None:
        """What a header by hand gets wrong: a name with a %, and a subdirectory that nobody meant."""
        assert page.proxied.get("/old/100%25.pdf").status_code == 404
        assert page.proxied.get("/old/sub%252fb.pdf").content == content("storage/sub/b.pdf")
        assert_sent(page, "/new/100%25.pdf", "storage/100%.pdf")
        assert_sent(page, "/new/F%C3%BCr%20Anna.pdf", "storage/F\u00fcr Anna.pdf")
        named = page.proxied.get("/new/F%C3%BCr%20Anna.pdf").headers["content-disposition"]
        assert named == "attachment; filename=\"F_r Anna.pdf\"; filename*=UTF-8''F%C3%BCr%20Anna.pdf"

    def test_check(self, page: Page) -> None:
        """No name leads to a directory, to what is hidden, out of the directory, or to a 500."""
        for name in ("sub%252fb.pdf", "sub", "..", "%2e%2e", ".env", "x" * 300, "%ff", "none.pdf"):
            assert_refused(page, f"/new/{name}", 404)
        for name in ("%00", "a.pdf%00"):  # nginx itself answers 400
            assert page.direct.get(f"/new/{name}").status_code == 404
        moved = page.proxied.get("/old/sub")
        assert (moved.status_code, "/download/sub/" in moved.headers["location"]) == (301, True)  # as the page says
