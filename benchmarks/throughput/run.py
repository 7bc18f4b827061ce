"""Every way to send a file, in one run on one machine: asgi-accel, nginx alone, a header by hand, and the peers.

    make bench

Starts nginx with one worker, each server with one process, and wrk with 16 connections. The servers have one core,
nginx and wrk the other. The rows take turns, in several rounds, so that drift hits all alike; what is written is the
median.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import overhead
from report import write_report
from servers import GRANIAN, UVICORN, Nginx, Process, asgi_server, free_port

HERE = Path(__file__).parent
SIZES = {"4KiB": 4 << 10, "100MiB": 100 << 20}
CONNECTIONS = 16
ROUNDS = 5
SECONDS = 2  # of load for each row, size and round
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


class Load(NamedTuple):
    """What wrk and the kernel have counted during one load."""

    requests: int
    bytes: int
    seconds: float
    p50: float  # seconds
    p99: float  # seconds
    errors: int
    processor: float  # seconds, of all of the app's processes
    memory: int  # bytes, the most that the app's processes held

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def bandwidth(self) -> float:
        """Bytes per second."""
        return self.bytes / self.seconds

    @property
    def per_request(self) -> float:
        """Seconds of processor time."""
        return self.processor / self.requests

    @property
    def per_gib(self) -> float:
        """Seconds of processor time."""
        return self.processor / self.bytes * (1 << 30)


def family(pid: int) -> Iterator[int]:
    """A process and its children."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from family(int(child))


def processor_time(pids: list[int]) -> float:
    """Seconds that the processes have computed so far."""
    ticks = 0
    for pid in pids:
        ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_memory(pids: list[int]) -> int:
    """Bytes that the processes held at the most since `reset_peak`, together."""
    lines = (line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def reset_peak(pids: list[int]) -> None:
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def wait_for_rest(pids: list[int]) -> None:
    """Wait until the processes have nothing to do any more: what is left of one load is no part of the next."""
    before, deadline = -1.0, time.monotonic() + 30
    while (now := processor_time(pids)) != before:
        if time.monotonic() > deadline:
            raise RuntimeError("the server does not come to rest")
        before = now
        time.sleep(0.1)


class Stage:
    """nginx, all the servers behind it, and wrk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = folder / "files"
        self.pids: dict[str, int] = {}
        self.port = free_port()
        self.granian_port = 0

    @contextlib.contextmanager
    def start(self) -> Iterator[None]:
        self.files.mkdir()
        for name, size in SIZES.items():
            (self.files / name).write_bytes(os.urandom(1 << 10) * (size >> 10))
        os.sched_setaffinity(0, APP_CORES)
        with contextlib.ExitStack() as stack:
            for name, server in self.servers().items():
                stack.enter_context(server)
                self.pids[name] = server.process.pid
            os.sched_setaffinity(0, NGINX_CORES)
            stack.enter_context(Nginx(self.folder, self.configuration(), self.folder / "nginx.sock", connections=1024))
            yield

    def servers(self) -> dict[str, Process]:
        environment = {
            "FILES": str(self.files),
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent.parent)]),
        }
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
        pids = list(family(self.pids[row.server])) if row.server else []
        wait_for_rest(pids)
        reset_peak(pids)
        before = processor_time(pids)
        command = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{SECONDS}s"]
        command += ["--latency", "--timeout", "30s", "--script", str(HERE / "wrk.lua"), self.url(row, size)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        counted = json.loads(output.splitlines()[-1])
        wait_for_rest(pids)
        return Load(**counted, processor=processor_time(pids) - before, memory=peak_memory(pids))


def median(loads: list[Load]) -> Load:
    columns = zip(*loads, strict=True)
    return Load(*(statistics.median(column) for column in columns))


def run() -> dict[str, dict[str, Load]]:
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
    return {row.name: {size: median(loads[row.name, size]) for size in SIZES} for row in rows}


HOW = f"""One nginx with one worker, each server with one process (gunicorn with four threads, Puma with five), and wrk
with {CONNECTIONS} connections, all on one machine: the servers on one core, nginx and wrk on the other. Connections
between nginx and the servers are kept alive. The rows took turns in {ROUNDS} rounds of {SECONDS} seconds; figures are
medians."""


if __name__ == "__main__":
    in_process = overhead.figures()
    write_report(run(), in_process, HOW)
