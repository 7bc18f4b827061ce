"""The configuration that `asgi-accel nginx` prints, as a file in conf.d of nginx as Debian installs it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from behind_nginx import VARY, sent_by_nginx
from needs import need_nginx
from pages import blocks
from servers import HYPERCORN, UVICORN, Process, asgi_server, client, free_port, nginx_binary
from sockets import converse, first_line
from test_config import printed

ETC = Path("/etc/nginx")
HOST = "www.example"
H2C = f"""GET /headers HTTP/1.1
Host: {HOST}
Connection: Upgrade, HTTP2-Settings
Upgrade: h2c
HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA

"""
# What nginx drops of a redirect, and the printed location brings back.
BACK = {
    "Content-Language": "de",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Content-Security-Policy-Report-Only": "default-src 'self'",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-site",
    "Link": "</a>; rel=next",
    "Origin-Agent-Cluster": "?1",
    "Permissions-Policy": "camera=()",
    "Referrer-Policy": "no-referrer",
    "Repr-Digest": "sha-256=:AAAA:",
    "Service-Worker-Allowed": "/",
    "SourceMap": "/a.js.map",
    "Strict-Transport-Security": "max-age=1",
    "Timing-Allow-Origin": "*",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}
FORGED = {
    "X-Forwarded-For": "1.2.3.4",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Prefix": "/evil",
    "X-Real-IP": "1.2.3.4",
    "Forwarded": "for=1.2.3.4",
    "X-Accel-Mapping": "/=/x/",
    "X-Accel-Secret": "guess",
    "X-Sendfile-Type": "X-Sendfile",
}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can have files that nginx may not read")


class Debian:
    """A copy of the package's /etc/nginx with sites in its conf.d. Port 80 of its default site is another one here."""

    def __init__(self, home: Path) -> None:
        self.etc = home / "etc"
        self.log = home / "error.log"
        self.port = free_port()
        need_nginx()
        if not (ETC / "sites-available" / "default").exists():
            pytest.skip("this machine has no nginx of Debian's")
        shutil.copytree(ETC, self.etc, ignore=shutil.ignore_patterns("modules-enabled", "conf.d"))
        (self.etc / "conf.d").mkdir()
        configuration = (self.etc / "nginx.conf").read_text()
        for path, here in (("/etc/nginx", self.etc), ("/var/log/nginx", home), ("/run/nginx.pid", home / "pid")):
            configuration = configuration.replace(path, str(here))
        (self.etc / "nginx.conf").write_text(configuration)
        # Whoever runs this, nginx has a place for what it keeps of requests.
        temporary = [
            f"{kind}_temp_path {home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        ]
        (self.etc / "conf.d" / "00-here.conf").write_text("\n".join(temporary))
        default = (self.etc / "sites-available" / "default").read_text()
        default = re.sub(r"listen \[::\]:80.*;", "", default).replace("listen 80", f"listen 127.0.0.1:{self.port}")
        (self.etc / "sites-enabled" / "default").unlink()
        (self.etc / "sites-enabled" / "default").write_text(default)

    def command(self, *options: str) -> list[str]:
        return [str(nginx_binary()), "-c", str(self.etc / "nginx.conf"), "-e", str(self.log), *options]

    def test(self) -> str:
        """What `nginx -t` says."""
        result = subprocess.run(self.command("-t"), capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stderr

    @contextlib.contextmanager
    def run(self, **sites: str) -> Iterator[httpx.Client]:
        """Run nginx with these files in conf.d; the client asks for the site of the tests."""
        for name, text in sites.items():
            (self.etc / "conf.d" / f"{name}.conf").write_bytes(os.fsencode(text))
        # Without root's rights nginx ignores its `user`, and says so.
        said = [line for line in self.test().splitlines() if 'the "user" directive' not in line]
        assert "warn" not in "".join(said)
        with (
            Process(self.command("-g", "daemon off;"), self.port, self.log),
            client(self.port) as asked,
        ):
            asked.headers["host"] = HOST
            yield asked


@pytest.fixture
def debian(folder: Path) -> Debian:
    home = Path(tempfile.mkdtemp(dir=folder))
    home.chmod(0o755)
    return Debian(home)


@pytest.fixture(scope="module")
def files(folder: Path) -> Path:
    files = folder / "debian"
    files.mkdir()
    (files / "a.txt").write_bytes(b"0123456789" * 10000)
    return files


@pytest.fixture(scope="module")
def app(folder: Path, files: Path) -> Iterator[str]:
    """The app, under uvicorn on a port."""
    with asgi_server(
        folder, *UVICORN, "--no-proxy-headers", app="operator_app:app", name="debian", tcp=True, FILES=str(files)
    ) as server:
        yield f"127.0.0.1:{server.listens_on}"


@pytest.fixture
def site(
    debian: Debian, files: Path, app: str, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> str:
    """What is printed for the app, by its own mapping."""
    monkeypatch.setattr("operator_app.FILES", files)
    return printed(
        capsysbinary,
        *("--mapping", f"{files}=/download", "--upstream", app, "--listen", f"127.0.0.1:{debian.port}"),
        *("--server-name", HOST, "--client-max-body-size", "100m"),
    )


class TestWorksAsItStands:
    """One file in conf.d, and nothing else."""

    def test_download(self, debian: Debian, site: str) -> None:
        """nginx sends the file, whole and in part."""
        with debian.run(site=site) as asked:
            response = asked.get("/files/a.txt")
            assert (response.status_code, len(response.content)) == (200, 100_000)
            assert sent_by_nginx(response)
            assert asked.get("/files/a.txt", headers={"Range": "bytes=1-3"}).text == "123"

    def test_websocket(self, debian: Debian, site: str) -> None:
        """A websocket works, however its name is written."""
        with debian.run(site=site):
            assert converse(debian.port, HOST, "/echo", "hello") == "echo hello"
            key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\nSec-WebSocket-Version: 13"
            asks = f"GET /echo HTTP/1.1\nHost: {HOST}\nConnection: Upgrade\nUpgrade: WebSocket\n{key}\n\n"
            assert first_line(debian.port, asks).split()[1] == "101"

    def test_upload(self, debian: Debian, site: str) -> None:
        """An upload of more than 1 MB arrives, and without the option nginx refuses it, as the file says."""
        with debian.run(site=site) as asked:
            assert asked.post("/upload", content=bytes(3_000_000)).text == "3000000"

    def test_upload_refused(self, debian: Debian, site: str) -> None:
        """Without the option nginx refuses more than 1 MB, as the file then says."""
        small = re.sub(r"client_max_body_size .*;", "", site)
        with debian.run(site=small) as asked:
            assert asked.post("/upload", content=bytes(3_000_000)).status_code == 413

    def test_kept_alive(self, debian: Debian, site: str) -> None:
        """Connections to the app are kept: nginx asks for all of these from one port."""
        with debian.run(site=site) as asked:
            ports = {asked.get("/headers").text.splitlines()[0] for _ in range(3)}
        assert len(ports) == 1

    def test_whole_disk(
        self, debian: Debian, app: str, files: Path, capsysbinary: pytest.CaptureFixture[bytes]
    ) -> None:
        """One prefix for the whole disk works, and the file says what that means."""
        given = ["--mapping", "/=/disk", "--upstream", app, "--listen", f"127.0.0.1:{debian.port}"]
        text = printed(capsysbinary, *given, "--server-name", HOST)
        assert "# This is the whole disk" in text
        with debian.run(site=text) as asked:
            assert sent_by_nginx(asked.get("/redirect", params={"to": f"/disk{files}/a.txt"}))

    def test_another_name(self, debian: Debian, site: str) -> None:
        """Debian's own site answers for other names, until it is removed."""
        with debian.run(site=site) as asked:
            assert "echo" not in asked.get("/headers", headers={"Host": "other.example"}).text
        (debian.etc / "sites-enabled" / "default").unlink()
        with debian.run(site=site) as asked:
            assert asked.get("/headers", headers={"Host": "other.example"}).status_code == 200

    def test_no_name(self, debian: Debian, site: str) -> None:
        """Without the names of the site, Debian's answers, as the file says."""
        with debian.run(site=re.sub("server_name .*;", "", site)) as asked:
            assert asked.get("/headers").status_code == 404

    def test_two_sites(
        self, debian: Debian, site: str, app: str, files: Path, capsysbinary: pytest.CaptureFixture[bytes]
    ) -> None:
        """Several files may be in one conf.d, for one app, too."""
        given = ["--mapping", f"{files}=/download", "--upstream", app, "--listen", f"127.0.0.1:{debian.port}"]
        other = printed(capsysbinary, *given, "--server-name", "other.example")
        with debian.run(site=site, other=other) as asked:
            for host in (HOST, "other.example"):
                assert sent_by_nginx(asked.get("/files/a.txt", headers={"Host": host}))
                assert converse(debian.port, host, "/echo", "hello") == "echo hello"


# What an app may have besides the page's one route.
MORE = """
from fastapi import WebSocket

@app.post("/upload")
async def upload(request: Request) -> int:
    return len(await request.body())

@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(f"echo {await websocket.receive_text()}")
"""


def test_getting_started(
    debian: Debian, folder: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/getting-started.md, word by word: a file from nginx, a websocket and an upload that work."""
    home = folder / "word-by-word"
    (home / "storage" / "reports").mkdir(parents=True)
    (home / "storage" / "reports" / "7.pdf").write_bytes(b"a report")
    (code,) = blocks("docs/getting-started.md", "python")
    (home / "main.py").write_text(code.replace("/mnt/", f"{home}/") + MORE)
    commands = "".join(blocks("docs/getting-started.md", "sh")).splitlines()
    (command,) = (line.partition(" > ")[0] for line in commands if line.startswith("asgi-accel nginx"))
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(home)
    monkeypatch.delitem(sys.modules, "main", raising=False)
    text = printed(capsysbinary, *shlex.split(command)[2:])
    monkeypatch.delitem(sys.modules, "main")
    with asgi_server(folder, *UVICORN, "--app-dir", str(home), app="main:app", name="word-by-word", tcp=True) as server:
        text = text.replace("listen 80", f"listen 127.0.0.1:{debian.port}").replace("8000", str(server.listens_on))
        with debian.run(site=text) as asked:
            response = asked.get("/reports/7", headers={"Cookie": "who=me"})
            assert (response.content, sent_by_nginx(response)) == (b"a report", True)
            assert asked.get("/reports/7").status_code == 403
            assert asked.post("/upload", content=bytes(3_000_000)).text == "3000000"
            assert converse(debian.port, HOST, "/echo", "hello") == "echo hello"


class TestWhatTheAppIsTold:
    """Headers of the request."""

    def test_forged(self, debian: Debian, site: str, files: Path) -> None:
        """What a client says of itself does not reach the app."""
        with debian.run(site=site) as asked:
            told = asked.get("/headers", headers=FORGED).text.lower()
            assert sent_by_nginx(asked.get("/files/a.txt", headers=FORGED))
        lines = dict(line.split(": ", 1) for line in told.splitlines())
        assert lines["x-forwarded-for"] == "127.0.0.1"
        assert lines["x-forwarded-proto"] == "http"
        assert lines["x-accel-mapping"] == f"{files}/=/download/"
        gone = {name.lower() for name in FORGED} - {"x-forwarded-for", "x-forwarded-proto", "x-accel-mapping"}
        assert not gone & lines.keys()

    @pytest.mark.parametrize(
        ("host", "seen"),
        [
            (HOST, HOST),
            (f"{HOST}:8443", f"{HOST}:8443"),
            ("WWW.example:80", "www.example:80"),
            ("[::1]:8080", "[::1]:8080"),
            ("[::1]", "[::1]"),
        ],
    )
    def test_host(self, debian: Debian, site: str, host: str, seen: str) -> None:
        """The app knows the host, with the port that the client has asked for."""
        with debian.run(site=site.replace(f"server_name {HOST}", f'server_name {HOST} "[::1]"')) as asked:
            assert f"host: {seen}" in asked.get("/headers", headers={"Host": host}).text.splitlines()

    def test_another_host(self, debian: Debian, site: str) -> None:
        """A request that names two hosts tells the app the one by which nginx has chosen the site."""
        target = f"http://{HOST}/headers"
        with debian.run(site=site) as asked:
            response = asked.get("/headers", headers={"Host": "evil.example"}, extensions={"target": target.encode()})
        assert f"host: {HOST}" in response.text.splitlines()


class TestUpgrade:
    """Only a websocket may upgrade."""

    @pytest.mark.parametrize(("upgrade", "status"), [("$accel_upgrade", "200"), ("$http_upgrade", "101")])
    def test_h2c(
        self, debian: Debian, folder: Path, files: Path, site: str, app: str, upgrade: str, status: str
    ) -> None:
        """Hypercorn takes `Upgrade: h2c` for a tunnel in which anything can be said; nginx does not pass it on.

        With the variable that most examples have it does.
        """
        text = site.replace("Upgrade $accel_upgrade", f"Upgrade {upgrade}")
        if upgrade == "$http_upgrade":
            text = text.replace("Connection $accel_connection", "Connection upgrade")
        with asgi_server(
            folder, *HYPERCORN, app="operator_app:app", name=f"h2c-{status}", tcp=True, FILES=str(files)
        ) as server:
            text = text.replace(app, f"127.0.0.1:{server.listens_on}")
            with debian.run(site=text):
                assert first_line(debian.port, H2C).split()[1] == status

    def test_two(self, debian: Debian, site: str) -> None:
        """Two of them are none."""
        two = H2C.replace("Upgrade: h2c", "Upgrade: h2c\nUpgrade: websocket")
        with debian.run(site=site):
            assert first_line(debian.port, two).split()[1] == "200"


class TestBroughtBack:
    """Headers of the response."""

    def test_all(self, debian: Debian, site: str) -> None:
        """Those that browsers look for come back, once each, and nothing comes where the app says nothing."""
        with debian.run(site=site) as asked:
            response = asked.get("/files/a.txt", params=BACK)
            assert sent_by_nginx(response)
            assert {name: response.headers.get_list(name) for name in BACK} == {k: [v] for k, v in BACK.items()}
            assert not {"vary", *(name.lower() for name in BACK)} & asked.get("/files/a.txt").headers.keys()

    @pytest.mark.parametrize(("said", "comes"), VARY)
    def test_vary(self, debian: Debian, site: str, said: str, comes: str | None) -> None:
        """`Vary` comes back without the name that is between app and proxy."""
        with debian.run(site=site) as asked:
            # The middleware leaves a header that is a redirect already as it is.
            query = {"X-Accel-Redirect": "/download/a.txt", "Vary": said}
            response = asked.get("/files/a.txt", params=query)
        assert sent_by_nginx(response)
        assert response.headers.get("vary") == comes


@needs_root
class TestMayNotRead:
    """nginx's workers are another user than the app's, www-data."""

    @pytest.mark.parametrize("name", ["private.txt", "closed/a.txt"])
    def test_refused(self, debian: Debian, site: str, files: Path, name: str) -> None:
        """A file that only its owner may read is a 403, and so is one in such a folder; the file says what to do."""
        path = files / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("private")
        (path if path.parent == files else path.parent).chmod(0o600 if path.parent == files else 0o700)
        with debian.run(site=site) as asked:
            assert asked.get(f"/files/{name}").status_code == 403
            assert "Permission denied" in debian.log.read_text()
        for word in ("403", "www-data", "`user`", "UMask=0027", "setfacl"):
            assert word in site

    def test_user(self, debian: Debian, site: str, files: Path) -> None:
        """With the app's user they read it."""
        (files / "own.txt").write_text("private")
        (files / "own.txt").chmod(0o600)
        main = debian.etc / "nginx.conf"
        main.write_text(main.read_text().replace("user www-data;", "user root;"))
        with debian.run(site=site) as asked:
            assert sent_by_nginx(asked.get("/files/own.txt"))

    def test_group(self, debian: Debian, site: str, files: Path) -> None:
        """With a group that both have and what UMask=0027 makes of files and folders, too."""
        folder = files / "group"
        folder.mkdir()
        (folder / "a.txt").write_text("for the group")
        for path, mode in ((folder, 0o750), (folder / "a.txt", 0o640)):
            shutil.chown(path, group="www-data")
            path.chmod(mode)
        with debian.run(site=site) as asked:
            assert sent_by_nginx(asked.get("/files/group/a.txt"))
