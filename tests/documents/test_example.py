"""The example as a stranger runs it: `make demo`, with nginx and without."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import runpy
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from behind_nginx import sent_by_nginx
from needs import need, need_nginx
from servers import Nginx, Process, free_port

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples" / "fastapi_app"
FILES = EXAMPLE / "files"
ALICE = ("alice", "wonderland")
BOB = ("bob", "builder")
# Numbers of the library's first files, and the samples that they are copies of.
CLIP, REPORT, OVERVIEW, INVOICE, NOTES, BACKUP = range(1, 7)
SAMPLES = {REPORT: "report.pdf", OVERVIEW: "overview.txt", INVOICE: "invoice.pdf", NOTES: "notes.txt"}
GIB = 2**30
HOLE = 64 * 2**20  # bytes that the video has more than its sample


def two_free_ports() -> int:
    """A port that is free, as is the one after it."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError, OverflowError), socket.socket() as next_one:
            next_one.bind(("127.0.0.1", port + 1))
            return port


@dataclass
class Demo:
    process: subprocess.Popen[str]
    port: int
    said: str
    temporary: Path
    behind_nginx: bool
    by_hand: bool = False  # with nginx.conf, and not by `asgi-accel run`

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def app_address(self) -> str:
        return f"http://127.0.0.1:{self.port + 1}"

    def stored(self) -> list[Path]:
        """What is on the disk."""
        return list(self.temporary.glob("*/data/files/*"))

    @contextlib.contextmanager
    def client(self, user: tuple[str, str] | None = None, address: str | None = None) -> Iterator[httpx.Client]:
        """Somebody who has signed in, or not."""
        with httpx.Client(base_url=address or self.address, trust_env=False, timeout=20) as client:
            if user:
                answer = client.post("/sign-in", data={"user": user[0], "password": user[1]})
                assert (answer.status_code, answer.headers["location"]) == (303, "/")
            yield client


def start(folder: Path, **environment: str) -> Demo:
    port = two_free_ports()
    temporary = folder / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, EXAMPLE / "demo.py"],
        env={**os.environ, "PORT": str(port), "TMPDIR": str(temporary), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    while "Ctrl-C" not in said:
        line = process.stdout.readline()
        assert line, f"the demo ended: {said}"
        said += line
    return Demo(process, port, said, temporary, "There is no nginx" not in said)


def stop(demo: Demo, number: signal.Signals = signal.SIGINT) -> str:
    demo.process.send_signal(number)
    return demo.process.communicate(timeout=20)[0]


def nginx_conf(folder: Path, port: int, files: Path) -> str:
    """nginx.conf as it stands, with paths and ports of this test."""
    server = (EXAMPLE / "nginx.conf").read_text()
    for documented, own in (
        ("server app:8000", f"server 127.0.0.1:{port + 1}"),
        ("listen 8080", f"listen 127.0.0.1:{port}; listen unix:{folder}/by-hand.sock"),
        ("/srv/data/files/=", f"{files}/="),
        ("alias /srv/data/files/", f"alias {files}/"),
    ):
        assert documented in server, documented
        server = server.replace(documented, own)
    return server


@contextlib.contextmanager
def by_hand(folder: Path, **environment: str) -> Iterator[Demo]:
    """The example with its nginx.conf, as compose.yaml starts it."""
    port, temporary = two_free_ports(), folder / "temporary"
    data = temporary / "library" / "data"
    uvicorn = [sys.executable, "-B", "-m", "uvicorn", "--app-dir", str(EXAMPLE), "app:app", "--port", str(port + 1)]
    uvicorn += ["--log-level", "warning", "--timeout-keep-alive", "75"]
    environment |= {"DATA": str(data), "PROXY_PORT": str(port), "APP_PORT": str(port + 1)}
    said = runpy.run_path(str(EXAMPLE / "demo.py"))["advice"](port, folder, "nginx")
    with (
        Process(uvicorn, port + 1, folder / "app.log", **environment) as app,
        Nginx(folder, nginx_conf(folder, port, data / "files"), folder / "by-hand.sock"),
    ):
        yield Demo(app.process, port, said, temporary, behind_nginx=True, by_hand=True)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["behind nginx", "nginx.conf", "alone"])
def demo(request: pytest.FixtureRequest, folder: Path) -> Iterator[Demo]:
    own = folder / request.param.replace(" ", "-")
    own.mkdir()
    environment = {"MAX_UPLOAD": "300000"}
    if request.param == "nginx.conf":
        need_nginx()
        with by_hand(own, **environment) as running:
            yield running
        return
    if request.param == "alone":
        environment |= {"NGINX": "/nonexistent", "CADDY": "/nonexistent"}
    else:
        need_nginx()
    running = start(own, **environment)
    assert running.behind_nginx == (request.param == "behind nginx")
    yield running
    stop(running)


@pytest.fixture
def alice(demo: Demo) -> Iterator[httpx.Client]:
    with demo.client(ALICE) as client:
        yield client


@pytest.fixture
def bob(demo: Demo) -> Iterator[httpx.Client]:
    with demo.client(BOB) as client:
        yield client


@pytest.fixture
def nobody(demo: Demo) -> Iterator[httpx.Client]:
    with demo.client() as client:
        yield client


def wait_until(look: Callable[[], list[Any]], count: int) -> list[Any]:
    """Look until there is as much as there should be."""
    deadline = time.monotonic() + 20
    while len(found := look()) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def family(pid: int) -> Iterator[int]:
    """A process and its children."""
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from family(int(child))


def answers(port: int) -> list[int]:
    with socket.socket() as connection:
        return [port] if connection.connect_ex(("127.0.0.1", port)) == 0 else []


def upload(client: httpx.Client, name: str, content: bytes) -> httpx.Response:
    return client.post("/files", files={"upload": (name, content)})


def uploaded(client: httpx.Client, name: str, content: bytes) -> int:
    """Upload a file, and return its number."""
    answer = upload(client, name, content)
    assert answer.status_code == 303
    return int(answer.headers["location"].removeprefix("/#file-"))


class TestLibrary:
    """The same requests, behind nginx and alone."""

    @pytest.mark.parametrize(
        ("user", "number", "kind"),
        [
            (ALICE, REPORT, "application/pdf"),
            (ALICE, OVERVIEW, "text/plain; charset=utf-8"),
            (BOB, INVOICE, "application/pdf"),
            (BOB, NOTES, "text/plain; charset=utf-8"),
        ],
    )
    def test_files(self, demo: Demo, user: tuple[str, str], number: int, kind: str) -> None:
        """Each user has files, shown and saved, byte for byte; the other one, and who has not signed in, has not."""
        with demo.client(user) as owner, demo.client(BOB if user == ALICE else ALICE) as other, demo.client() as nobody:
            for url, disposition in ((f"/files/{number}", "inline"), (f"/files/{number}/download", "attachment")):
                response = owner.get(url)
                assert response.status_code == 200
                assert response.content == (FILES / SAMPLES[number]).read_bytes()
                assert response.headers["content-type"] == kind
                assert response.headers["content-disposition"].startswith(f"{disposition}; filename")
                assert response.headers["x-content-type-options"] == "nosniff"
                assert response.headers["cache-control"] == "private, no-cache"
                assert not [header for header in response.headers if header.startswith("x-accel")]
                assert sent_by_nginx(response) == demo.behind_nginx
                head = owner.head(url)
                assert head.headers["content-length"] == response.headers["content-length"]
                refused = other.get(url)
                assert refused.status_code == 403
                assert "This file is not yours." in refused.text
                assert nobody.get(url).status_code == 401

    def test_name_of_the_download(self, alice: httpx.Client) -> None:
        """A download has its name."""
        value = alice.get(f"/files/{OVERVIEW}/download").headers["content-disposition"]
        assert value == (
            'attachment; filename="_bersicht 100 _ f_r M_rz.txt"; '
            "filename*=UTF-8''%C3%9Cbersicht%20100%20%25%20f%C3%BCr%20M%C3%A4rz.txt"
        )

    def test_video(self, demo: Demo, alice: httpx.Client) -> None:
        """The video is large, and a browser can seek in it."""
        (stored,) = (path for path in demo.stored() if HOLE < path.stat().st_size < GIB)
        video = stored.read_bytes()
        response = alice.get(f"/files/{CLIP}", headers={"Range": f"bytes={HOLE}-"})
        assert response.status_code == 206
        assert response.content == video[HOLE:]
        assert response.headers["content-type"] == "video/mp4"
        assert sent_by_nginx(response) == demo.behind_nginx
        assert alice.get(f"/files/{CLIP}/download").content == video

    def test_large_file(self, alice: httpx.Client) -> None:
        """A GiB is there, to its last byte, and takes no room on the disk."""
        assert alice.head(f"/files/{BACKUP}/download").headers["content-length"] == str(GIB)
        end = alice.get(f"/files/{BACKUP}/download", headers={"Range": f"bytes={GIB - 1}-"})
        assert (end.status_code, end.content) == (206, b"\0")

    def test_room_on_the_disk(self, demo: Demo) -> None:
        """The large files are sparse."""
        large = [path.stat() for path in demo.stored() if path.stat().st_size > HOLE]
        assert len(large) == 2
        assert sum(stat.st_blocks * 512 for stat in large) < 1_000_000

    def test_passwords(self, nobody: httpx.Client) -> None:
        """Nobody gets in with another password, or as somebody unknown."""
        for user, password in (("alice", "builder"), ("alice", ""), ("carol", "wonderland"), ("carol", "")):
            answer = nobody.post("/sign-in", data={"user": user, "password": password})
            assert answer.status_code in (400, 401)  # 400: nothing given
            assert "set-cookie" not in answer.headers

    def test_forged_cookie(self, nobody: httpx.Client, alice: httpx.Client) -> None:
        """A session that the app has not signed is none."""
        session = alice.cookies["session"]
        for forged in ("eyJ1c2VyIjogImFsaWNlIn0=", session[:-3] + "AAA", "x" + session):
            assert nobody.get("/", headers={"Cookie": f"session={forged}"}).status_code == 401

    def test_cookie(self, nobody: httpx.Client) -> None:
        """The cookie is out of reach for scripts and for requests that another site starts."""
        answer = nobody.post("/sign-in", data={"user": "bob", "password": "builder"})
        value = answer.headers["set-cookie"].lower()
        assert "httponly" in value
        assert "samesite=lax" in value

    def test_passwords_are_hashed(self, demo: Demo) -> None:
        """Who reads the database has no password."""
        (database,) = demo.temporary.glob("*/data/library.db")
        for _, password in (ALICE, BOB):
            assert password.encode() not in database.read_bytes()

    def test_sign_out(self, demo: Demo) -> None:
        """Who has signed out has no files."""
        with demo.client(ALICE) as client:
            assert client.get(f"/files/{REPORT}").status_code == 200
            assert client.post("/sign-out").status_code == 303
            for url in ("/", f"/files/{REPORT}", f"/files/{REPORT}/download", "/transfers"):
                assert client.get(url).status_code == 401

    def test_shelf(self, alice: httpx.Client) -> None:
        """The page plays the video, and its links lead somewhere."""
        page = alice.get("/")
        links = re.findall('(?:href|src)="(/[^"#]*)', page.text)
        assert {f"/files/{number}/download" for number in (CLIP, REPORT, OVERVIEW, BACKUP)} <= {*links}
        for link in links:
            with alice.stream("GET", link) as answer:
                assert answer.status_code == (403 if link == f"/files/{INVOICE}" else 200)
        assert f'<video controls playsinline preload="metadata" src="/files/{CLIP}">' in page.text
        assert not [name for name in ("Invoice", "Notes") if name in page.text]  # Bob's
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["content-security-policy"].startswith("default-src 'self';")

    @pytest.mark.parametrize(
        "name", ["a.txt", "Fotos 50 % Übersicht 写真 \"'<b>.txt", "../../library.db", "x" * 500 + ".txt"]
    )
    def test_upload(self, alice: httpx.Client, bob: httpx.Client, name: str) -> None:
        """What was uploaded can be downloaded at once, by its owner alone, whatever its name."""
        content = os.urandom(200_000)
        number = uploaded(alice, name, content)
        for url in (f"/files/{number}", f"/files/{number}/download"):
            answer = alice.get(url)
            assert answer.content == content
            assert answer.status_code == 200
            assert bob.get(url).status_code == 403
        assert "<b>" not in alice.get("/").text

    def test_upload_needs_a_user(self, demo: Demo, nobody: httpx.Client) -> None:
        """Nobody uploads without signing in. With nginx.conf the way leads to the sign-in."""
        before = len(demo.stored())
        assert upload(nobody, "a.txt", b"x").status_code == (303 if demo.by_hand else 401)
        assert len(demo.stored()) == before

    @pytest.mark.parametrize("path", ["/files", "/sign-in", "/", "/nonsense", "/files/1"])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_strangers_fill_no_disk(self, demo: Demo, path: str, chunked: bool) -> None:
        """Who has not signed in has nothing of a large body kept: it is refused while it is on its way."""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        head += "Transfer-Encoding: chunked\r\n\r\n" if chunked else "Content-Length: 400000000\r\n\r\n"
        # What makes it refuse, and no more: nginx answers 502 if it still writes when the app has hung up.
        part = b'--b\r\nContent-Disposition: form-data; name="upload"; filename="a"\r\n\r\n'
        part = part.ljust(64 * 1024 + 1 if chunked and path == "/sign-in" else 1000, b"\0")
        with socket.create_connection(("127.0.0.1", demo.port), timeout=20) as connection:
            connection.sendall(head.encode() + b"%x\r\n" % 400_000_000 * chunked + part)
            answer = connection.recv(1000)
        assert int(answer[9:12]) in (303, 401, 404, 405, 413)

    def test_slow_character_set(self, demo: Demo, alice: httpx.Client) -> None:
        """A form is UTF-8. Other character sets can take Python most of a minute to read."""
        body = b'--b\r\nContent-Disposition: form-data; name="user"\r\n\r\n' + b"a" * 50_000 + b"\r\n--b--\r\n"
        for kind in ("charset=punycode; boundary=b", 'boundary=b; Charset="utf-7"'):
            headers = {"Content-Type": f"multipart/form-data; {kind}"}
            for url in ("/sign-in", "/files"):
                assert alice.post(url, content=body, headers=headers).status_code == 415
        headers = {"Content-Type": "multipart/form-data; charset=UTF-8; boundary=b"}
        assert alice.post("/sign-in", content=body, headers=headers).status_code == 400

    def test_other_sites(self, demo: Demo) -> None:
        """A page of another site, or on another port of this host, signs nobody in and uploads nothing."""
        with demo.client(ALICE) as client:
            before = client.get("/").text
            for elsewhere in (
                {"Origin": "https://evil.example"},
                {"Origin": f"http://127.0.0.1:{demo.port - 1}"},
                {"Origin": "null"},
                {"Origin": demo.address, "Sec-Fetch-Site": "same-site"},
                {"Sec-Fetch-Site": "cross-site"},
            ):
                for url in ("/sign-in", "/sign-out", "/files"):
                    form = {"user": "bob", "password": "builder"}
                    answer = client.post(url, data=form, files={"upload": ("a", b"x")}, headers=elsewhere)
                    assert answer.status_code == 403
            assert client.get("/").text == before  # of Alice, with her files
            for own in ({"Origin": demo.address}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
                assert client.post("/sign-out", headers=own).status_code == 303

    def test_missing_file(self, demo: Demo, bob: httpx.Client) -> None:
        """A file that somebody has taken away is shown as missing, and is a 404."""
        before = {*demo.stored()}
        number = uploaded(bob, "gone.txt", b"x")
        ({*demo.stored()} - before).pop().unlink()
        shelf = bob.get("/")
        assert shelf.status_code == 200
        assert re.search(r"gone\.txt</a>\s*<p class=\"muted\">Text · missing", shelf.text)
        for url in (f"/files/{number}", f"/files/{number}/download"):
            assert bob.get(url).status_code == 404

    def test_locked_database(self, demo: Demo, bob: httpx.Client) -> None:
        """If the database is locked, the user is told to try again, and no file is left without a row."""
        (database,) = demo.temporary.glob("*/data/library.db")
        before = demo.stored()
        with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as locked:
            locked.execute("BEGIN EXCLUSIVE")
            answer = upload(bob, "a.txt", b"x")
        assert (answer.status_code, "try again" in answer.text.lower()) == (503, True)
        assert {*demo.stored()} == {*before}

    def test_crowd(self, demo: Demo, alice: httpx.Client) -> None:
        """Many who sign in at once are let in a few at a time, or told to come back; others do not wait for them."""
        form = b"user=alice&password=guessed"
        request = b"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        request += b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n" % len(form)

        with contextlib.ExitStack() as stack:
            crowd = []
            for _ in range(60):
                one = stack.enter_context(socket.create_connection(("127.0.0.1", demo.port), timeout=60))
                one.sendall(request + form[:-1])
                crowd.append(one)

            # All are there, and the app has seen each: now they come at once.
            assert alice.get("/").status_code == 200
            for one in crowd:
                one.sendall(form[-1:])
            statuses = [int(one.makefile("rb").readline().split()[1]) for one in crowd]
        assert {*statuses} == {401, 503}
        assert statuses.count(401) >= 20

    def test_stored_names(self, demo: Demo, alice: httpx.Client) -> None:
        """No name that a user chose becomes a path, and only nginx's group may read the files."""
        uploaded(alice, "../../evil.html", b"x")
        for path in demo.stored():
            assert re.fullmatch("[0-9a-f]{32}", path.name)
            assert path.stat().st_mode & 0o777 == 0o640
        assert not list(demo.temporary.rglob("*evil*"))
        (database,) = demo.temporary.glob("*/data/library.db")
        assert database.stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize(
        "name", ["a.html", "a.svg", "a.xhtml", "a.xml", "a.js", "a.txt.gz", "a", "data:text/html,x"]
    )
    def test_active_content(self, alice: httpx.Client, name: str) -> None:
        """An uploaded page is saved and never shown, so its scripts act for nobody."""
        answer = alice.get(f"/files/{uploaded(alice, name, b'<script>alert(1)</script>')}")
        assert answer.headers["content-disposition"].startswith("attachment;")
        assert answer.headers["x-content-type-options"] == "nosniff"

    def test_upload_limit(self, alice: httpx.Client) -> None:
        """A file that is too large is refused with a page, and not kept."""
        before = alice.get("/").text.count("<li")
        answer = upload(alice, "large.bin", bytes(300_001))
        assert answer.status_code == 413
        assert "At most 300,000 bytes" in answer.text
        assert alice.get("/").text.count("<li") == before
        uploaded(alice, "just right.bin", bytes(300_000))

    def test_mistakes(self, alice: httpx.Client) -> None:
        """A wrong address gets a page, too."""
        for url, status in (
            ("/files/999", 404),
            (f"/files/{10**30}", 404),
            (f"/files/-{10**30}", 404),
            ("/files/x", 400),
            ("/no", 404),
        ):
            answer = alice.get(url)
            assert answer.status_code == status
            assert "Back to your files" in answer.text

    def test_no_way_out(self, demo: Demo, alice: httpx.Client) -> None:
        """Neither the internal location nor a path with dots leads to a file."""
        stored = demo.stored()[0]
        for path in (f"/protected/{stored.name}", "/protected../library.db", "/static/..%2Fapp.py", "/files/..%2Fx"):
            assert alice.get(path).status_code in (400, 404)

    def test_strip(self, demo: Demo, alice: httpx.Client, bob: httpx.Client) -> None:
        """The strip says who sent a file, how much went through the app, and nothing of another user."""
        name = f"{time.monotonic_ns()}.bin"
        number = uploaded(alice, name, bytes(123_456))
        alice.get(f"/files/{number}", headers={"Range": "bytes=100-199"})
        alice.get(f"/files/{number}/download")
        # The client has all of a file a little before the app has returned.
        whole, part = wait_until(lambda: [one for one in alice.get("/transfers").json()[:2] if one["done"]], 2)
        assert (whole["file"], whole["asked"]) == (name, "")
        assert (part["file"], part["asked"]) == (name, "bytes=100-199")
        for transfer, size in ((whole, 123_456), (part, 100)):
            assert transfer["sender"] == ("nginx" if demo.behind_nginx else "Python")
            assert transfer["sent"] == (0 if demo.behind_nginx else size)
            assert 0 < transfer["busy"] < 5
        assert name not in bob.get("/transfers").text

    def test_what_it_says(self, demo: Demo) -> None:
        """The commands that it prints work as they are."""
        commands = re.findall(r"^ +(curl .*)$", demo.said, re.MULTILINE)
        assert len(commands) == 3
        answers = [subprocess.run(shlex.split(f"{command} -sS --noproxy *"), capture_output=True, check=True).stdout
                   for command in commands]  # fmt: skip
        assert [answer[9:12] for answer in answers] == [b"303", b"206", b"403"]
        assert (b"nginx" in answers[1]) == demo.behind_nginx
        checks = re.findall(r"^ +(\S*asgi-accel check .*)$", demo.said, re.MULTILINE)
        assert len(checks) == demo.behind_nginx
        for check in checks:
            ended = subprocess.run(
                check, shell=True, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
            )
            assert ended.returncode == 0, ended.stdout + ended.stderr
            assert "nginx: 200" in ended.stdout
            assert "✗" not in ended.stdout


@pytest.mark.parametrize("demo", ["behind nginx"], indirect=True)
class TestWithoutNginxBeside:
    """`make demo` shows the same app with nginx and without."""

    def test_same_session(self, demo: Demo) -> None:
        """Who has signed in behind nginx has without it, and gets the same files, from the app."""
        with demo.client(ALICE) as proxied, demo.client(address=demo.app_address) as direct:
            direct.cookies.update(proxied.cookies)
            one, other = proxied.get(f"/files/{CLIP}"), direct.get(f"/files/{CLIP}")
            assert one.content == other.content
            assert (sent_by_nginx(one), sent_by_nginx(other)) == (True, False)
            assert f'href="{demo.app_address}/"' in proxied.get("/").text
            assert f'href="{demo.address}/"' in direct.get("/").text
            senders = [transfer["sender"] for transfer in proxied.get("/transfers").json()[:2]]
            assert senders == ["Python", "nginx"]

    def test_it_is_told_which(self, demo: Demo) -> None:
        """Both addresses are printed, and each page says which it is."""
        for address, words in ((demo.address, "through nginx"), (demo.app_address, "straight to the app")):
            assert f"  {address} " in demo.said
            with demo.client(ALICE, address) as client:
                assert words in client.get("/").text


def test_beside_the_app(folder: Path) -> None:
    """`uvicorn app:app` in the example's folder works, too, and a restart keeps what there is."""
    data = folder / "own data"
    port = free_port()
    for uploaded_before in (False, True):
        process = subprocess.Popen(
            [sys.executable, "-B", "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"],
            cwd=EXAMPLE,
            env={**os.environ, "DATA": str(data)},
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                wait_until(partial(answers, port), 1)
                client.post("/sign-in", data={"user": "alice", "password": "wonderland"})
                page = client.get("/").text
                assert ("a.txt" in page) == uploaded_before
                assert page.count("Backup of the old laptop.img</a>") == 1
                upload(client, "a.txt", b"x")
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("proxy", ["nginx", "caddy", "none"])
def test_leaves_nothing_behind(folder: Path, number: signal.Signals, proxy: str) -> None:
    """When it ends, also by SIGKILL, no file, no process and no listener is left."""
    if proxy != "none":
        need(proxy)
    own = folder / f"end-{number}-{proxy}"
    own.mkdir()
    tree = sorted(EXAMPLE.rglob("*"))
    without = {"nginx": {}, "caddy": {"NGINX": "/none"}, "none": {"NGINX": "/none", "CADDY": "/none"}}
    demo = start(own, **without[proxy])
    assert {"nginx": "behind nginx", "caddy": "behind Caddy", "none": "alone"}[proxy] in demo.said

    # The demo's guard, the command, its guard, the app, and nginx with its four workers, which start after it listens.
    count = {"nginx": 9, "caddy": 5, "none": 2}[proxy]
    children = wait_until(lambda: list(family(demo.process.pid))[1:], count)
    assert len(children) == count
    with demo.client(ALICE) as client:
        uploaded(client, "a.txt", b"x")

    assert stop(demo, number) == ""
    assert demo.process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    wait_until(lambda: [] if any(Path(f"/proc/{child}").exists() for child in children) else [True], 1)
    assert list(demo.temporary.iterdir()) == []
    assert sorted(EXAMPLE.rglob("*")) == tree
    assert not answers(demo.port) + answers(demo.port + 1)


def test_nothing_can_be_printed(folder: Path) -> None:
    """If its output cannot be written, the demo ends, and leaves nothing behind."""
    own = folder / "full"
    own.mkdir()
    with (
        open("/dev/full", "w") as full,
        subprocess.Popen(
            [sys.executable, EXAMPLE / "demo.py"],
            env={**os.environ, "PORT": str(two_free_ports()), "TMPDIR": str(own)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()  # if it hangs, its guard ends the rest
    assert process.returncode == 1
    assert "No space left on device" in said
    assert list(own.iterdir()) == []


@pytest.mark.parametrize(
    ("port", "words"),
    [
        ("taken", "listens on port"),
        ("next taken", "where the app alone goes"),
        ("x", "is not a number"),
        ("65535", "is not a number"),
    ],
)
def test_bad_port(port: str, words: str) -> None:
    """A port that is taken, or none, is told in a sentence, with what to give instead."""
    with socket.socket() as listener:
        number = two_free_ports() + (port == "next taken")
        listener.bind(("127.0.0.1", number))
        listener.listen()
        given = str(number - (port == "next taken")) if port.endswith("taken") else port
        ended = subprocess.run(
            [sys.executable, EXAMPLE / "demo.py"], env={**os.environ, "PORT": given}, capture_output=True, text=True
        )
    assert ended.returncode == 1
    assert words in ended.stdout
    assert re.search(r"PORT=\d+ make demo", ended.stdout)
    assert ended.stderr == ""


class TestContainers:
    """The Dockerfile and compose.yaml, as far as they can be checked without running them."""

    compose: dict[str, Any] = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())
    dockerfile = (EXAMPLE / "Dockerfile").read_text()
    nginx = (EXAMPLE / "nginx.conf").read_text()

    def test_copied_files(self) -> None:
        """The image has all that the app is made of."""
        copied = [
            name for line in re.findall("^COPY (.*)$", self.dockerfile, re.MULTILINE) for name in line.split()[:-1]
        ]
        assert all((EXAMPLE / name).exists() for name in copied)
        others = {"Dockerfile", "README.md", "compose.yaml", "demo.py", "nginx.conf", "data", "__pycache__"}
        assert {*copied} == {path.name for path in EXAMPLE.iterdir()} - others

    def test_requirements(self) -> None:
        """The image installs what the tests do."""
        group = re.search(r"^example = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert group is not None
        required = (EXAMPLE / "requirements.txt").read_text().split()
        assert required == sorted(["asgi-accel", *re.findall('"([^"]*)"', group[1])])

    def test_one_volume_at_one_path(self) -> None:
        """nginx has the files, read-only and nothing else, where the app and nginx.conf look for them."""
        app, nginx = self.compose["services"]["app"], self.compose["services"]["nginx"]
        data = re.search(r"DATA=(\S+)", self.dockerfile)
        assert data is not None
        files = f"{data[1]}/files"
        assert f"files:{files}" in app["volumes"]
        assert nginx["volumes"] == ["./nginx.conf:/etc/nginx/conf.d/default.conf:ro", f"files:{files}:ro"]
        assert f'X-Accel-Mapping "{files}/=/protected/"' in self.nginx
        assert f"alias {files}/;" in self.nginx
        named = {volume.partition(":")[0] for volume in itertools.chain(app["volumes"], nginx["volumes"])} - {
            "./nginx.conf"
        }
        assert named == {*self.compose["volumes"]}

    def test_ports(self) -> None:
        """nginx finds the app, and the published ports lead to what listens."""
        app, nginx = self.compose["services"]["app"], self.compose["services"]["nginx"]
        port = re.search(r'"uvicorn", .*"--port", "(\d+)"', self.dockerfile)
        assert port is not None
        assert f"server app:{port[1]};" in self.nginx
        assert app["ports"] == [f"127.0.0.1:{app['environment']['APP_PORT']}:{port[1]}"]
        listen = re.search(r"listen (\d+);", self.nginx)
        assert listen is not None
        assert nginx["ports"] == [f"127.0.0.1:{app['environment']['PROXY_PORT']}:{listen[1]}"]

    def test_one_container(self, folder: Path) -> None:
        """The image with both: its command, in a folder with what the image has, sends files by nginx."""
        need_nginx()
        *_, before, run, last = self.dockerfile.split("\nFROM ")
        assert "AS app" in before
        assert run.startswith("app AS run\n")
        assert last.startswith("app\n")
        assert "nginx-light" in run
        assert run.index("USER root") < run.index("apt-get") < run.index("USER 1000:101") < run.index("CMD")
        command = json.loads(run.partition("CMD ")[2].splitlines()[0])
        exposed = re.search(r"EXPOSE (\d+)", run)
        assert exposed is not None
        port = command.index("--port") + 1
        assert (command[port], command[command.index("--host") + 1]) == (exposed[1], "0.0.0.0")
        command[port] = str(free_port())
        place = folder / "one container"
        place.mkdir()
        for line in re.findall("^COPY (.*)$", self.dockerfile, re.MULTILINE):
            for name in line.split()[:-1]:
                (place / name).symlink_to(EXAMPLE / name)
        whole = [sys.executable, "-B", "-m", "asgi_accel", *command[1:]]
        environment = {"DATA": str(folder / "one container's data"), "PYTHONDONTWRITEBYTECODE": "1"}
        process = Process(["env", "-C", str(place), *whole], int(command[port]), folder / "one.log", **environment)
        with process, httpx.Client(base_url=f"http://127.0.0.1:{command[port]}", trust_env=False, timeout=20) as client:
            client.post("/sign-in", data={"user": ALICE[0], "password": ALICE[1]})
            assert sent_by_nginx(client.get(f"/files/{REPORT}"))

    def test_nginx_takes_more_than_the_app(self) -> None:
        """An upload that the app would take is not refused by nginx before."""
        limit = re.search(r"client_max_body_size (\d+)g;", self.nginx)
        assert limit is not None
        assert int(limit[1]) * GIB > 10**9
        assert "or 10**9)" in (EXAMPLE / "app.py").read_text()
