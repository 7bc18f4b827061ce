"""docs/deployment.md: its units, files and users, as far as can be told without systemd, Docker and Kubernetes."""

from __future__ import annotations

import configparser
import contextlib
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import yaml
from behind_nginx import sent_by_nginx
from deployed_app import CONTENT, OTHER
from needs import need_caddy, need_nginx
from pages import blocks, titled_blocks
from servers import DEADLINE, ROOT, SHARED, Caddy, Nginx, Process, client, free_port
from storage import BODY, Storage
from test_recipes import output_of

PAGE = "docs/deployment.md"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run servers as other users")


def yaml_file(title: str) -> Any:
    return list(yaml.safe_load_all(titled_blocks(PAGE, "yaml")[title]))


def composed(title: str) -> Any:
    """The page's Compose file, with what another block adds. Labels take the place of ports."""
    (compose,) = yaml_file("compose.yaml")
    for name, more in yaml_file(title)[0]["services"].items():
        service = compose["services"].setdefault(name, {})
        if "labels" in more:
            del service["ports"]
        service.update(more)
    return compose


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    ((_, text),) = titled_blocks(PAGE, "ini").items()
    parser.read_string(text)
    return parser


def text_line(start: str) -> list[str]:
    """The words of the only command on the page that begins so."""
    (line,) = (line for block in blocks(PAGE, "text") for line in block.splitlines() if line.startswith(start))
    return shlex.split(line)


def uvicorn_options(command: list[str]) -> dict[str, Any]:
    """What uvicorn's own parser makes of a command."""
    assert command[0].rpartition("/")[2] == "uvicorn"
    return uvicorn.main.make_context("uvicorn", command[1:]).params


def printed(number: int) -> str:
    """What the page's commands print, with a host that can be found, and a port that is free."""
    text = output_of(blocks(PAGE, "sh")[number].partition(" > ")[0])
    text = text.replace("server app:8000;", "server 127.0.0.1:8000;")
    return re.sub(r"listen (\d+);", f"listen 127.0.0.1:{free_port()};", text)


def assert_nginx_takes(folder: Path, text: str) -> None:
    need_nginx()
    home = Path(tempfile.mkdtemp(dir=folder))
    with Nginx(home, f"{text}\nserver {{ listen unix:{home}/t.sock; }}", home / "t.sock"):
        pass


class TestSystemd:
    """The unit."""

    def test_verify(self, tmp_path: Path) -> None:
        """systemd knows each line of it."""
        binary = shutil.which("systemd-analyze")
        if binary is None:
            assert os.environ.get("CI") != "true", "there is no systemd-analyze: apt-get install systemd"
            pytest.skip("there is no systemd-analyze")
        (text,) = titled_blocks(PAGE, "ini").values()
        (tmp_path / "site.service").write_text(text.replace("/srv/site/.venv/bin/uvicorn", shutil.which("true") or ""))
        result = subprocess.run([binary, "verify", "--man=no", "site.service"], cwd=tmp_path, capture_output=True)
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")

    def test_names(self) -> None:
        """The unit's user, group and directories are those of the commands."""
        service = unit()["Service"]
        user = text_line("useradd")[-1]
        assert (service["User"], service["Group"]) == (user, user)
        assert text_line("usermod")[1:] == ["--append", "--groups", service["Group"], "www-data"]
        options = uvicorn_options(shlex.split(service["ExecStart"]))
        assert options["uds"] == f"/run/{service['RuntimeDirectory']}/app.sock"
        command = text_line(".venv/bin/asgi-accel")
        assert (command[command.index("--unix") + 1], command[command.index("--app") + 1]) == (
            options["uds"],
            options["app"],
        )
        (output_of(shlex.join([*command[: command.index("--app")], "--mapping", "/a=/b", "--unix", "/a"])))


@dataclass(frozen=True)
class Users:
    """Who runs the two, and what the app's umask and the files' directory are."""

    app: tuple[int, int]
    nginx: tuple[int, ...]  # user, group, more groups
    owner: tuple[int, int]
    mode: int
    umask: str = "0022"
    run_mode: int = 0o750


def users(kind: str) -> Users:
    """The page's users. The numbers of names are made up, as `useradd` does it."""
    if kind == "systemd":
        service = unit()["Service"]
        numbers = {service["User"]: 64321, "www-data": 33}
        by_name = (numbers[service["User"]], numbers[service["Group"]])
        groups = tuple(numbers[name] for name in text_line("usermod")[3].split(","))
        modes = (int(service["StateDirectoryMode"], 8), service["UMask"], int(service["RuntimeDirectoryMode"], 8))
        return Users(by_name, (33, 33, *groups), by_name, *modes)
    install = text_line("RUN install")
    of_image = (int(install[install.index("--owner") + 1]), int(install[install.index("--group") + 1]))
    if kind == "compose":
        (compose,) = yaml_file("compose.yaml")
        user, group = map(int, compose["services"]["app"]["user"].split(":"))
        return Users((user, group), (101, 101), of_image, int(install[install.index("--mode") + 1], 8))
    pod = yaml_file("site.yaml")[0]["spec"]
    of_app = pod["containers"][0]["securityContext"]
    of_volume = pod["securityContext"]["fsGroup"]
    return Users((of_app["runAsUser"], of_app["runAsGroup"]), (101, 101, of_volume), (0, of_volume), 0o2775)


def as_user(user: int, group: int, *groups: int, umask: str = "0022") -> list[str]:
    number = ",".join(map(str, groups))
    become = ["setpriv", f"--reuid={user}", f"--regid={group}", f"--groups={number}" if groups else "--clear-groups"]
    # The working directory may be one that only this user may enter.
    return [*become, "sh", "-c", f'cd /; umask {umask}; exec "$@"', "sh"]


# What the app needs besides the package: the environment may be in a folder that only its owner may enter.
NEEDED = ["starlette", "anyio", "uvicorn", "h11", "click", "idna", "sniffio", "exceptiongroup", "typing_extensions.py"]


@functools.cache
def modules_for_others(folder: Path) -> str:
    """Copies of the modules, in a place that any user can read."""
    modules = folder / "modules-for-others"
    shutil.copytree(SHARED, modules)
    shutil.copytree(ROOT / "asgi_accel", modules / "asgi_accel")
    for name in NEEDED:
        source = Path(sysconfig.get_path("purelib")) / name
        if source.is_dir():
            shutil.copytree(source, modules / name)
        elif source.exists():
            shutil.copy(source, modules / name)
    return str(modules)


@functools.cache
def python_of_others(folder: Path) -> str:
    """A Python that other users may run: the tests' own may be in a home."""
    for python in (sys.executable, "/usr/bin/python3"):
        command = [*as_user(65534, 65534), python, "-c", "import uvicorn, deployed_app"]
        environment = {**os.environ, "PYTHONPATH": modules_for_others(folder)}
        if not subprocess.run(command, env=environment, cwd=folder, capture_output=True).returncode:
            return python
    pytest.skip("no other user may run this Python")


@dataclass
class Running:
    site: httpx.Client
    socket: Path
    files: Path


@contextlib.contextmanager
def running(folder: Path, users: Users) -> Iterator[Running]:
    """The app and nginx as those users, with a unix socket between them."""
    need_nginx()
    home = Path(tempfile.mkdtemp(dir=folder))
    home.chmod(0o755)
    state, run, port = home / "state", home / "run", free_port()
    for path, owner, mode in ((state, users.owner, users.mode), (run, users.app, users.run_mode)):
        path.mkdir()
        os.chown(path, *owner)
        path.chmod(mode)
    options = uvicorn_options(shlex.split(unit()["Service"]["ExecStart"]))
    serve = [python_of_others(folder), "-m", "uvicorn", "deployed_app:app", "--uds", str(run / "app.sock")]
    serve += ["--forwarded-allow-ips", options["forwarded_allow_ips"], "--workers", str(options["workers"])]
    text = output_of(f"asgi-accel nginx --mapping {state}/=/download/ --unix {run}/app.sock --listen 127.0.0.1:{port}")
    nginx = Nginx(home, text, home / "site.sock")
    nginx.listens_on = port
    nginx.command = [*as_user(*users.nginx), *nginx.command]
    os.chown(nginx.error_log.parent, users.nginx[0], users.nginx[1])
    with (
        Process(
            [*as_user(*users.app, umask=users.umask), *serve],
            run / "app.sock",
            home / "app.log",
            FILES=str(state),
            PYTHONPATH=modules_for_others(folder),
        ),
        nginx,
        client(port) as site,
    ):
        yield Running(site, run / "app.sock", state)


@needs_root
class TestUsers:
    """The app and nginx as the page's users."""

    @pytest.mark.parametrize("kind", ["systemd", "compose", "kubernetes"])
    def test_file(self, folder: Path, kind: str) -> None:
        """nginx reads what the app has made, and may not change it."""
        with running(folder, users(kind)) as it:
            assert it.site.post("/make").status_code == 200
            response = it.site.get("/made")
            assert (response.status_code, response.content) == (200, CONTENT)
            assert sent_by_nginx(response)
            change = [*as_user(*users(kind).nginx), "sh", "-c", f"echo >> {it.files}/reports/7.txt"]
            assert subprocess.run(change, stderr=subprocess.DEVNULL).returncode != 0

    def test_client(self, folder: Path) -> None:
        """The app knows the client by nginx, not by what the client says."""
        with running(folder, users("systemd")) as it:
            assert it.site.get("/who", headers={"X-Forwarded-For": "1.2.3.4"}).text == "127.0.0.1 by http"

    def test_strangers(self, folder: Path) -> None:
        """Other users of the machine reach neither the app nor the files."""
        with running(folder, users("systemd")) as it:
            it.site.post("/make")
            connect = f"import socket; socket.socket(socket.AF_UNIX).connect({str(it.socket)!r})"
            for command in ([python_of_others(folder), "-c", connect], ["cat", str(it.files / "reports" / "7.txt")]):
                for stranger, status in ((as_user(65534, 65534), False), (as_user(*users("systemd").nginx), True)):
                    result = subprocess.run([*stranger, *command], capture_output=True)
                    assert (result.returncode == 0) == status, result.stderr

    def test_without_the_group(self, folder: Path) -> None:
        """Why nginx's user joins the group: without it, nginx cannot open the socket."""
        it = users("systemd")
        with running(folder, Users(it.app, it.nginx[:2], it.owner, it.mode, it.umask)) as alone:
            assert alone.site.get("/who").status_code == 502


class TestCompose:
    """Two containers, and three."""

    def test_files(self) -> None:
        """The two mount the volume at the same place, nginx read-only, and the configuration names it."""
        for title in ("compose.yaml", "compose.traefik.yaml"):
            compose = composed(title)
            app, nginx = compose["services"]["app"], compose["services"]["nginx"]
            (volume,) = compose["volumes"]
            (place,) = (place for name, _, place in (each.partition(":") for each in app["volumes"]) if name == volume)
            assert f"{volume}:{place}:ro" in nginx["volumes"]
            assert text_line("RUN install")[-1] == place
            assert f'alias "{place}/";' in printed(0)
            options = uvicorn_options(shlex.split(app["command"]))
            assert f"--upstream app:{options['port']}" in blocks(PAGE, "sh")[0]
            assert (options["host"], "ports" in app) == ("0.0.0.0", False)

    def test_configuration(self, folder: Path) -> None:
        """nginx takes what is printed."""
        assert_nginx_takes(folder, printed(0))

    def test_traefik(self) -> None:
        """Only Traefik is reached from outside, and it knows nginx's port."""
        compose = composed("compose.traefik.yaml")
        traefik, nginx = compose["services"]["traefik"], compose["services"]["nginx"]
        assert "ports" not in nginx
        assert traefik["ports"] == yaml_file("compose.yaml")[0]["services"]["nginx"]["ports"]
        (port,) = (value for name, value in nginx["labels"].items() if name.endswith("server.port"))
        assert f"listen {port};" in output_of(blocks(PAGE, "sh")[0].partition(" > ")[0])
        (entry,) = (value for name, value in nginx["labels"].items() if name.endswith("entrypoints"))
        assert f"--entrypoints.{entry}.address=:80" in traefik["command"]


class TestKubernetes:
    """A pod with a sidecar."""

    def test_pod(self) -> None:
        """The parts name each other rightly."""
        pod = yaml_file("site.yaml")[0]["spec"]
        app, nginx = pod["containers"]
        (port,) = nginx["ports"]
        assert f"Point your Service to port {port['containerPort']}." in (ROOT / PAGE).read_text()
        assert nginx["readinessProbe"]["httpGet"]["port"] == port["containerPort"]
        assert f"--listen {port['containerPort']} " in blocks(PAGE, "sh")[1]
        options = uvicorn_options(app["command"])
        assert f"--upstream {options['host']}:{options['port']} " in blocks(PAGE, "sh")[1]
        ((of_app),) = app["volumeMounts"]
        (of_nginx,) = (mount for mount in nginx["volumeMounts"] if mount["name"] == of_app["name"])
        assert of_nginx == {**of_app, "readOnly": True}
        assert f'alias "{of_app["mountPath"]}/";' in printed(1)
        assert {mount["name"] for mount in nginx["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        (configuration,) = (volume for volume in pod["volumes"] if "configMap" in volume)
        assert text_line("kubectl create configmap")[3] == configuration["configMap"]["name"]

    def test_configuration(self, folder: Path) -> None:
        """nginx takes what is printed."""
        assert_nginx_takes(folder, printed(1))


@dataclass
class Place:
    home: Path
    port: int  # the app's

    def configuration(self, listen: int, *more: str) -> str:
        options = shlex.join(more)
        return output_of(
            f"asgi-accel nginx --mapping '{self.home}/files/=/download/' --upstream 127.0.0.1:{self.port} "
            f"--listen 127.0.0.1:{listen} {options}"
        )


@pytest.fixture(scope="module")
def place(folder: Path) -> Iterator[Place]:
    """The app on a port, with a file."""
    need_nginx()
    home = Path(tempfile.mkdtemp(dir=folder))
    home.chmod(0o755)
    (home / "files" / "reports").mkdir(parents=True)
    (home / "files" / "reports" / "7.txt").write_bytes(CONTENT)
    port = free_port()
    serve = [sys.executable, "-m", "uvicorn", "deployed_app:app", "--port", str(port), "--timeout-keep-alive", "75"]
    with Process(serve, port, home / "app.log", FILES=str(home / "files")):
        yield Place(home, port)


@contextlib.contextmanager
def plain_proxy(kind: str, home: Path, to: int) -> Iterator[httpx.Client]:
    """A proxy that passes requests on, and knows no file. Its client has the address 127.0.0.2."""
    port = free_port()
    home = Path(tempfile.mkdtemp(dir=home))
    home.chmod(0o755)
    if kind == "caddy":
        site = f"http://127.0.0.1:{port} {{\n\treverse_proxy 127.0.0.1:{to}\n}}\n"
        server: Process = Caddy(need_caddy("debian"), home / "caddy", site, port)
    else:
        said = "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto https;"
        http = f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{to}; {said} }} }}"
        server = Nginx(home, http, home / "plain.sock")
        server.listens_on = port
    transport = httpx.HTTPTransport(local_address="127.0.0.2")
    base_url = f"http://127.0.0.1:{port}"
    with server, httpx.Client(transport=transport, base_url=base_url, trust_env=False) as browser:
        yield browser


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
class TestPlainProxy:
    """A proxy that does not know the header, in front of nginx, in front of the app."""

    @pytest.fixture
    def browser(self, place: Place, kind: str) -> Iterator[httpx.Client]:
        port = free_port()
        text = place.configuration(port)
        believe, scheme = (block for block in blocks(PAGE, "nginx") if "map " not in block)
        assert text.count("proxy_set_header X-Forwarded-Proto $scheme;") == 1
        text = text.replace("proxy_set_header X-Forwarded-Proto $scheme;", scheme)
        text = text.replace("    # The app decides", f"{believe}\n    # The app decides")
        home = Path(tempfile.mkdtemp(dir=place.home))
        nginx = Nginx(home, text, home / "site.sock")
        nginx.listens_on = port
        with nginx, plain_proxy(kind, place.home, port) as browser:
            yield browser

    def test_file(self, browser: httpx.Client, kind: str) -> None:
        """nginx, in between, sends the file, whole and in part."""
        response = browser.get("/made", headers={"X-Accel-Mapping": "/=/x/"})
        assert (response.status_code, response.content) == (200, CONTENT)
        assert sent_by_nginx(response)
        assert browser.get("/made", headers={"Range": "bytes=2-4"}).content == CONTENT[2:5]

    def test_client(self, browser: httpx.Client, kind: str) -> None:
        """The app knows the client's own address and scheme."""
        said = browser.get("/who", headers={"X-Forwarded-For": "1.2.3.4"}).text
        assert said == ("127.0.0.2 by https" if kind == "nginx" else "127.0.0.2 by http")

    def test_without_nginx_in_between(self, place: Place, kind: str) -> None:
        """Why it has to be there: the plain proxy gives an empty file, or finds none."""
        with plain_proxy(kind, place.home, place.port) as browser:
            response = browser.get("/always/made")
            assert response.status_code == (404 if kind == "nginx" else 200)
            assert CONTENT not in response.content
            assert kind == "nginx" or response.content == b""


class TestLog:
    """Who has sent the file, by nginx's log."""

    def test_counts(self, place: Place) -> None:
        """Each request has its sender, and the page's command counts files and bytes."""
        port = free_port()
        home = Path(tempfile.mkdtemp(dir=place.home))
        home.chmod(0o755)
        (log,) = (block for block in blocks(PAGE, "nginx") if "log_format" in block)
        with Storage() as storage:
            text = place.configuration(port, "--storage", f"/bucket/=http://127.0.0.1:{storage.port}/")
            # Within the server, since the tests' nginx.conf has `access_log off`.
            formats, access_log = log.replace("/var/log/nginx/", f"{home}/").split("access_log ")
            text = text.replace("    # The app decides", f"access_log {access_log}\n    # The app decides")
            nginx = Nginx(home, formats + text, home / "site.sock")
            nginx.listens_on = port
            requests = [
                ("GET", "/made", {}, "nginx", 200, len(CONTENT)),
                ("GET", "/made", {"Range": "bytes=2-4"}, "nginx", 206, 3),
                ("GET", "/stored", {}, "nginx", 200, len(BODY)),
                ("GET", "/other?token=s3cret", {}, "app", 200, OTHER.stat().st_size),
                ("HEAD", "/made", {}, "-", 200, 0),
                ("GET", "/who", {}, "-", 200, len("127.0.0.1 by http")),
                ("GET", "/download/reports/none.txt", {}, "nginx", 404, None),
            ]
            with nginx, client(port) as browser:
                for method, path, headers, _, status, _ in requests:
                    assert browser.request(method, path, headers=headers).status_code == status
                lines = self.lines(home / "files.log", len(requests))
        for line, (_, _, _, sender, status, size) in zip(lines, requests, strict=True):
            assert line.split()[:2] == [sender, str(status)], line
            assert size is None or line.split()[2] == str(size), line
        assert "s3cret" not in "".join(lines)
        assert lines[0].endswith('"GET /download/reports/7.txt"')
        (count,) = (line for block in blocks(PAGE, "text") for line in block.splitlines() if line.startswith("awk"))
        counted = subprocess.check_output(count.replace("/var/log/nginx/", f"{home}/"), shell=True, text=True)
        by_nginx = len(CONTENT) + 3 + len(BODY)
        assert {f"nginx 3 {by_nginx}", f"app 1 {OTHER.stat().st_size}"} < {*counted.splitlines()}

    def lines(self, path: Path, number: int) -> list[str]:
        """nginx writes a line when the client has all of the answer already."""
        deadline = time.monotonic() + DEADLINE
        while len(lines := path.read_text().splitlines()) < number:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return lines
