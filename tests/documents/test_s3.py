"""docs/recipes/object-storage.md with boto3, nginx and storages that speak S3: rclone (checks signatures), moto."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import httpx
import pytest
from behind_nginx import assert_clean
from certificates import make_certificate
from needs import need_nginx
from pages import ENVIRONMENT, ROOT, blocks
from servers import DEADLINE, Process, free_port
from test_recipes import PRIVATE, Page, content, output_of

PAGE = "docs/recipes/object-storage.md"
BIN = Path(sys.executable).parent
KEYS = [
    "2026/annual report.zip",
    " blank at both ends ",
    "a+b c.txt",
    "100%.txt",
    "100%25 %2F.txt",
    "a#b?c.txt",
    "a&b=c;d,e.txt",
    'it\'s "quoted".txt',
    "(a) [b] {c} $d !e @f *g ~h :i |j \\k ^l `m <n>.txt",
    "Übersicht €/日本語/🙂.pdf",
    "/".join(["a long key" * 20] * 4 + ["ü" * 97 + "/z"]),  # 1,000 bytes, the most that S3 has
]
# None of it is for clients.
SECRETS = (
    "archives",
    "x-amz",
    "AKID",
    ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
    "2026/annual",
    "annual%20",
    "127.0.0.1",
    "localhost",
)
# Of moto's own, as metadata of one's own would be.
HIDDEN = " ".join(
    f"--hide-header {name}" for name in ("x-amzn-requestid", "x-amz-sdk-checksum-algorithm", "x-amz-content-sha256")
)
# A route for any key, and one whose signature somebody has changed.
MORE = """
@app.get("/any")
def any_key(key: str) -> AccelRedirectResponse:
    return from_storage(key)


@app.get("/forged")
def forged(key: str, old: str, new: str) -> AccelRedirectResponse:
    response = from_storage(key)
    response.headers["X-Accel-Redirect"] = response.headers["X-Accel-Redirect"].replace(old, new)
    return response
"""


def rclone(home: Path, port: int, *options: str) -> Process:
    """rclone with the directories of a folder as its buckets. It refuses what is not signed by the tests' key."""
    key = f"{ENVIRONMENT['AWS_ACCESS_KEY_ID']},{ENVIRONMENT['AWS_SECRET_ACCESS_KEY']}"
    serve = [str(BIN / "rclone"), "serve", "s3", str(home / "buckets"), "--addr", f"127.0.0.1:{port}"]
    return Process([*serve, "--auth-key", key, "--config", "/dev/null", *options], port, home / "rclone.log")


def moto(home: Path, port: int) -> Process:
    """moto, which knows ranges and conditions."""
    return Process([str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(port)], port, home / "moto.log")


Start = Callable[[Path, int], Process]


@contextlib.contextmanager
def a_page(
    folder: Path, start: Start, address: str = "http://127.0.0.1", options: str = "", more: str = ""
) -> Iterator[tuple[Page, Process]]:
    """The page's app and what its command prints, for a storage of this machine. `more` is for its location."""
    need_nginx()
    page = Page(folder, PAGE, MORE)
    port = free_port()
    for key in KEYS:
        (page.home / "buckets" / "archives" / key).parent.mkdir(parents=True, exist_ok=True)
        (page.home / "buckets" / "archives" / key).write_bytes(content(key))
    page.code.write_text(page.code.read_text().replace("https://storage.example", f"{address}:{port}"))
    (command,) = blocks(PAGE, "sh")
    command = command.replace("https://storage.example", f"{address}:{port}").replace("--resolver 127.0.0.53", options)
    text = output_of(command.replace("--upstream 127.0.0.1:8000", f"--unix {page.home}/app.sock"))
    text = text.replace("proxy_method GET;", f"proxy_method GET; {more}")
    with (
        start(page.home, port) as storage,
        page.running(),
        page.nginx(text, name="storage") as page.proxied,
    ):
        page.proxied.timeout = httpx.Timeout(DEADLINE)
        for site in (page.proxied, page.direct):
            site.headers["Cookie"] = "session=of-a-member"
        yield page, storage


@pytest.fixture(scope="class")
def page(folder: Path) -> Iterator[Page]:
    with a_page(folder, rclone) as (page, _):
        yield page


def assert_silent(response: httpx.Response, status: int) -> None:
    """The client learns the status, and nothing of the storage."""
    assert response.status_code == status
    said = f"{response.headers} {response.text}"
    assert not [word for word in SECRETS if word in said], said


class TestSigned:
    """A storage that checks signatures."""

    def test_it_does(self, page: Page) -> None:
        """The storage gives nothing without a signature, or with a changed one."""
        url = page.direct.get("/any", params={"key": KEYS[0]}).headers["location"]
        assert httpx.get(url, trust_env=False).content == content(KEYS[0])
        assert httpx.get(url.partition("?")[0], trust_env=False).status_code == 400
        for changed in (url[:-4] + "0000", url.replace("Expires=60", "Expires=6000")):
            assert httpx.get(changed, trust_env=False).status_code == 403

    def test_object(self, page: Page) -> None:
        """nginx sends it with what the app says, and nothing of the client's spoils the signature."""
        of_the_client = {"Authorization": "Basic YTpi", "x-amz-acl": "x"}
        response = page.proxied.get("/archives/7", headers=of_the_client)
        assert (response.status_code, response.content) == (200, content(KEYS[0]))
        assert response.headers["content-type"] == "application/zip"
        assert response.headers["content-disposition"] == 'attachment; filename="7.zip"'
        assert response.headers["cache-control"] == PRIVATE
        assert response.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in response.headers if name.startswith(("x-a", "access-control"))]
        assert_clean(response)

    @pytest.mark.parametrize("key", KEYS, ids=lambda key: key[:20])
    def test_key(self, page: Page, key: str) -> None:
        """Each key arrives whole."""
        response = page.proxied.get("/any", params={"key": key})
        assert (response.status_code, response.content) == (200, content(key))
        assert page.proxied.head("/archives/7").status_code == 405

    def test_table(self) -> None:
        """What the page explains is what its command prints."""
        (command,) = blocks(PAGE, "sh")
        printed = output_of(command)
        cells = re.findall(r"^\| (`.*?) \|", (ROOT / PAGE).read_text(), re.MULTILINE)
        explained = [line for cell in cells for line in re.findall("`([^`]*)`", cell)]
        assert len(explained) == 10
        assert not [line for line in explained if line not in printed]

    def test_refusal(self, page: Page) -> None:
        """The app decides."""
        for url in ("/archives/7", "/archives/7?session=of-a-member", "/archives/7?member=1"):
            assert page.proxied.get(url, headers={"Cookie": "session=forged"}).status_code == 403
        assert page.proxied.get("/archives/9").status_code == 404
        assert page.proxied.get("/bucket/2026/annual%20report.zip").status_code == 404

    @pytest.mark.parametrize(
        ("old", "new"), [("Expires=60", "Expires=6000"), ("Signature=", "Signature=0"), ("annual", "other")]
    )
    def test_storage_refuses(self, page: Page, old: str, new: str) -> None:
        """What the storage refuses is a 404 that tells nothing."""
        response = page.proxied.get("/forged", params={"key": KEYS[0], "old": old, "new": new})
        assert_silent(response, 404)

    def test_missing(self, page: Page) -> None:
        """So is what it does not have."""
        assert_silent(page.proxied.get("/archives/8"), 404)

    def test_without_nginx(self, page: Page) -> None:
        """The client is sent to the storage itself, and only if it may have the object."""
        answer = page.direct.get("/archives/7")
        assert (answer.status_code, answer.headers["cache-control"]) == (307, "no-store")
        assert httpx.get(answer.headers["location"], trust_env=False).content == content(KEYS[0])
        assert not [name for name in answer.headers if name.startswith("x-a")]
        assert page.direct.get("/archives/7?member=1", headers={"Cookie": ""}).status_code == 403

    def test_another_address(self, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
        """The page's function refuses to sign for an address that nginx does not ask."""
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        names = page.names()
        sign = names["from_storage"]
        sign.__globals__["STORAGE"] = "https://storage.example/archives/"
        with pytest.raises(RuntimeError, match=r"nginx asks https://storage\.example/archives/"):
            sign("a")


class TestRanges:
    """A storage that answers ranges and conditions as S3 does."""

    def test_ranges(self, folder: Path) -> None:
        """They are the storage's to answer, through nginx."""
        with a_page(folder, moto, options=HIDDEN) as (page, storage):
            endpoint = f"http://127.0.0.1:{storage.listens_on}"
            s3 = boto3.client(
                "s3",
                region_name="us-east-1",
                endpoint_url=endpoint,
                aws_access_key_id=ENVIRONMENT["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
            )
            s3.create_bucket(Bucket="archives")
            for key in KEYS:
                s3.put_object(Bucket="archives", Key=key, Body=content(key), ContentType="text/html")
            for key in KEYS:
                part = page.proxied.get("/any", params={"key": key}, headers={"Range": "bytes=3-6"})
                assert (part.status_code, part.content) == (206, content(key)[3:7])
                assert part.headers["content-range"] == f"bytes 3-6/{len(content(key))}"
                assert part.headers["content-type"] != "text/html"
            etag = part.headers["etag"]
            for header, status in (
                ({"If-None-Match": etag}, 304),
                ({"If-None-Match": '"other"'}, 200),
                ({"Range": "bytes=9999-"}, 416),
            ):
                response = page.proxied.get("/any", params={"key": KEYS[-1]}, headers=header)
                assert response.status_code == status
                assert not [name for name in response.headers if name.startswith("x-amz")]


class TestHttps:
    """A storage with a certificate of an authority of its own."""

    def test_private_authority(self, folder: Path) -> None:
        """With `--storage-ca` nginx believes it, and without it does not ask."""
        ca, _ = make_certificate(folder / "s3-tls", "localhost")
        home = ca.parent

        def start(at: Path, port: int) -> Process:
            return rclone(at, port, "--cert", str(home / "certificate.pem"), "--key", str(home / "key.pem"))

        with a_page(folder, start, "https://localhost", f"--storage-ca {ca}") as (page, _):
            response = page.proxied.get("/archives/7")
            assert (response.status_code, response.content) == (200, content(KEYS[0]))
        other, _ = make_certificate(folder / "s3-tls-other", "localhost")
        with a_page(folder, start, "https://localhost", f"--storage-ca {other}") as (page, _):
            assert_silent(page.proxied.get("/archives/7"), 502)


class TestFails:
    """A storage that does not answer."""

    def test_down(self, folder: Path) -> None:
        """It has gone."""
        with a_page(folder, rclone) as (page, storage):
            storage.stop()
            assert_silent(page.proxied.get("/archives/7"), 502)

    def test_slow(self, folder: Path) -> None:
        """It takes the connection and says nothing. nginx waits for 60 seconds, and for one here."""
        with a_page(folder, rclone, more="proxy_read_timeout 1s;") as (page, storage):
            storage.process.send_signal(signal.SIGSTOP)
            try:
                assert_silent(page.proxied.get("/archives/7"), 502)
            finally:
                storage.process.send_signal(signal.SIGCONT)
