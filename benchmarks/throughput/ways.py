"""Every way to send a file, side by side: asgi-accel, nginx alone, a header by hand, and the peers.

nginx has one worker, each server one process, and wrk 16 connections. The servers have one core, nginx and wrk the
other. The rows take turns, in several rounds, so that drift hits all alike; what is kept is the median.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from measuring import CONNECTIONS, HERE, ROUNDS, SECONDS, Load, family, load, median
from servers import GRANIAN, UVICORN, Nginx, Process, asgi_server, free_port

SIZES = {"4KiB": 4 << 10, "100MiB": 100 << 20}
APP_CORES, NGINX_CORES = {0}, {1}


class Row(NamedTuple):
    """One way to send a file: the server that is asked, the path, and whether nginx offers to send its files."""

    name: str
    server: str
    path: str
    offered: bool = False
    by_nginx: bool = True


ROWS = [
    Row("nginx, static", "", "/static/"),
    Row("nginx, static with auth_request", "plain", "/auth/"),
    Row("header by hand", "plain", "/by-hand/"),
    Row("AccelRedirectResponse", "plain", "/redirect/"),
    Row("AccelRedirectResponse, middleware", "accel", "/redirect/", offered=True),
    Row("AccelRedirectResponse, mapping=, middleware", "accel", "/mapped/", offered=True),
    Row("FileResponse, middleware", "accel", "/file/", offered=True),
    Row("FileResponse with stat_result, middleware", "accel", "/file-with-stat/", offered=True),
    Row("FileResponse with stat_result, the least", "least", "/file-with-stat/"),
    Row("StaticFiles, middleware", "accel", "/static/", offered=True),
    Row("FileResponse alone", "plain", "/file/", by_nginx=False),
    Row("Granian alone, pathsend", "granian", "/file/", by_nginx=False),
    Row("Flask send_file", "flask", "/send-file/", by_nginx=False),
    Row("django-sendfile2", "django", "/sendfile/"),
    Row("django-downloadview", "django", "/downloadview/"),
    Row("Rack::Sendfile", "rack", "/rack/", offered=True),
]

HTTP = """
sendfile on;
tcp_nopush on;
keepalive_requests 1000000;
proxy_max_temp_file_size 0;  # or the disk is busy with what one row has left when the next is measured
proxy_http_version 1.1;
proxy_set_header Connection "";
proxy_set_header Host $host;
server {
    listen unix:$folder/nginx.sock;
    listen 127.0.0.1:$port;
    location /static/ { alias $files/; }
    location /auth/ { auth_request /ask; alias $files/; }
    location = /ask { internal; proxy_pass http://plain/ask; proxy_pass_request_body off; }
    location /download/ { internal; alias $files/; }
$locations
}
"""


class Stage:
    """nginx, and the servers behind it: all, or `only` some (nginx needs `plain`).

    `pin` gives the servers a core, and one worker of nginx the other. Else nginx has a worker for each core.
    """

    def __init__(self, folder: Path, only: Collection[str] = (), *, pin: bool = True) -> None:
        self.folder = folder
        self.only = only
        self.workers = "1" if pin else "auto"
        self.cores = (APP_CORES, NGINX_CORES) if pin else (os.sched_getaffinity(0),) * 2
        self.files = folder / "files"
        self.pids: dict[str, int] = {}
        self.port = free_port()
        self.granian_port = 0

    @contextlib.contextmanager
    def start(self) -> Iterator[None]:
        self.files.mkdir()
        for name, size in SIZES.items():
            (self.files / name).write_bytes(os.urandom(1 << 10) * (size >> 10))
        before = os.sched_getaffinity(0)
        with contextlib.ExitStack() as stack:
            stack.callback(os.sched_setaffinity, 0, before)
            os.sched_setaffinity(0, self.cores[0])
            for name, server in self.servers().items():
                if name in self.only or not self.only:
                    stack.enter_context(server)
                    self.pids[name] = server.process.pid
            os.sched_setaffinity(0, self.cores[1])
            listens_on = self.folder / "nginx.sock"
            nginx = Nginx(self.folder, self.configuration(), listens_on, connections=1024, workers=self.workers)
            self.nginx = stack.enter_context(nginx).process.pid
            yield

    @property
    def environment(self) -> dict[str, str]:
        """What the apps need."""
        return {"FILES": str(self.files), "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent.parent)])}

    def servers(self) -> dict[str, Process]:
        environment = self.environment
        granian = asgi_server(self.folder, *GRANIAN, app="asgi_app:plain", name="granian", tcp=True, **environment)
        assert isinstance(granian.listens_on, int)
        self.granian_port = granian.listens_on
        gunicorn = (sys.executable, "-m", "gunicorn", "--workers", "1", "--threads", "4", "--keep-alive", "75")
        puma = shutil.which("puma")
        commands = {
            "flask": (*gunicorn, "--bind", f"unix:{self.folder}/flask.sock", "flask_app:app"),
            "django": (*gunicorn, "--bind", f"unix:{self.folder}/django.sock", "django_app:application"),
            "rack": (str(puma), "-b", f"unix://{self.folder}/rack.sock", "-t", "5:5", str(HERE / "rack_app.ru")),
        }
        if puma is None:
            del commands["rack"]
        others = {
            name: Process(command, self.folder / f"{name}.sock", self.folder / f"{name}.log", **environment)
            for name, command in commands.items()
        }
        asgi = {
            name: asgi_server(self.folder, *UVICORN, app=f"asgi_app:{name}", name=name, tcp=False, **environment)
            for name in ("plain", "accel", "least")
        }
        return {**asgi, "granian": granian, **others}

    def configuration(self) -> str:
        """Each row's server under a prefix with its name, with a mapping header where nginx offers."""
        servers = sorted({row.server for row in ROWS if row.server in self.pids} - {"granian"})
        upstreams = "".join(
            f"upstream {name} {{ server unix:{self.folder}/{name}.sock; keepalive 32; }}\n" for name in servers
        )
        locations = ""
        for name in servers:
            locations += f"    location /{name}/ {{ proxy_pass http://{name}/; "
            if any(row.offered for row in ROWS if row.server == name):
                locations += (
                    f'proxy_set_header Host $host; proxy_set_header Connection ""; '
                    f'proxy_set_header X-Accel-Mapping "{self.files}/=/download/"; '
                )
            locations += "}\n"
        http = HTTP.replace("$folder", str(self.folder)).replace("$files", str(self.files))
        return upstreams + http.replace("$port", str(self.port)).replace("$locations", locations)

    def url(self, row: Row, size: str) -> str:
        if row.server == "granian":
            return f"http://127.0.0.1:{self.granian_port}{row.path}{size}"
        prefix = "" if row.path == "/auth/" or not row.server else f"/{row.server}"
        return f"http://127.0.0.1:{self.port}{prefix}{row.path}{size}"

    def check(self, row: Row) -> None:
        """See that a row does what it says before it is measured."""
        response = httpx.get(self.url(row, "4KiB"), trust_env=False)
        if response.status_code != 200 or response.content != (self.files / "4KiB").read_bytes():
            raise RuntimeError(f"{row.name} answers {response.status_code}, {len(response.content)} bytes")
        etag = f'"{int((self.files / "4KiB").stat().st_mtime):x}-{SIZES["4KiB"]:x}"'
        if (response.headers.get("etag") == etag) != row.by_nginx:
            raise RuntimeError(f"{row.name} was {'not ' * row.by_nginx}sent by nginx: {response.headers}")

    def load(self, row: Row, size: str) -> Load:
        return load(self.url(row, size), list(family(self.pids[row.server])) if row.server else [])


def figures() -> dict[str, Any]:
    """The medians for each row and size."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        Path(name).chmod(0o755)
        stage = Stage(Path(name))
        with stage.start():
            rows = [row for row in ROWS if not row.server or row.server in stage.pids]
            for row in rows:
                stage.check(row)
            loads: dict[tuple[str, str], list[Load]] = {(row.name, size): [] for row in rows for size in SIZES}
            for number in range(ROUNDS):
                for row in rows:
                    for size in SIZES:
                        loads[row.name, size].append(stage.load(row, size))
                sys.stderr.write(f"round {number + 1} of {ROUNDS}\n")
    medians = {row.name: {size: median(loads[row.name, size])._asdict() for size in SIZES} for row in rows}
    return {"loads": medians}


HOW = f"""One nginx with one worker, each server with one process (gunicorn with four threads, Puma with five), and wrk
with {CONNECTIONS} connections, all on one machine: the servers on one core, nginx and wrk on the other. Connections
between nginx and the servers are kept alive. The rows took turns in {ROUNDS} rounds of {SECONDS} seconds; figures are
medians."""
