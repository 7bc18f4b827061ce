"""`asgi-accel run`: one command that puts a real proxy in front of an app."""

from __future__ import annotations

import argparse
import ipaddress
import json
import math
import os
import re
import signal
import socket
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from asgi_accel.cli.accesslog import AccessLog
from asgi_accel.cli.app import Found
from asgi_accel.cli.guard import Ended, Processes
from asgi_accel.cli.inside import NAME, asked
from asgi_accel.cli.whole import Caddy, Nginx, Site
from asgi_accel.mapping import PathMap

UVICORN = (
    *(sys.executable, "-m", "uvicorn", "{app}", "--uds", "{socket}", "--no-access-log", "--log-level", "warning"),
    *("--timeout-graceful-shutdown", "{grace}"),
)
SHORT = re.compile(r"[\w./ +-]{1,70}", re.ASCII)  # a unix socket's path has at most 107 bytes (macOS: 103)
APP, LOOK = "the app", "the look at the app"


class Failure(Exception):
    """It cannot go on: the exit status is 1."""


def run(given: argparse.Namespace) -> int:
    """Run the app behind the proxy until somebody ends it, and return the exit status.

    Raises:
        ValueError: What was given cannot work. Nothing has been started.
    """
    proxy = _proxy(given)
    site = _site(given)
    if given.print:
        found = asked(given.app, given.factory, given.mapping)
        sys.stdout.buffer.write(os.fsencode(proxy.text(Path(_place(), "asgi-accel", "app.sock"), found, site)))
        return 0
    command, status, ready = _command(given), 0, False
    site = _free(site)
    with Processes(_place()) as processes:
        log = AccessLog(proxy.name, processes.folder)
        processes.watched[log.pipe] = log.read
        try:
            log.say("run", f"{given.app} behind {proxy.binary}; Ctrl-C ends it")
            for note in _notes(given, command):
                log.say("run", note)
            _start(given, command, proxy, site, processes, log)
            ready = True
            sys.stdout.write(f"{site.url}\n")
            sys.stdout.flush()
            _until(processes, lambda: False)
        except Failure as exc:
            log.say("error", str(exc))
            status = 1
        except Ended:
            pass
        try:
            _stop(processes, proxy, given.timeout_graceful_shutdown if ready else 1, log)
        except Ended as exc:
            status = status or 128 + int(exc.args[0])
        log.read()
    if ready:
        log.say("run", log.sum())
    return status


def _start(
    given: argparse.Namespace,
    command: list[str],
    proxy: Nginx | Caddy,
    site: Site,
    processes: Processes,
    log: AccessLog,
) -> None:
    """Start the app, and then the proxy.

    The app's mapping is read in a process that ends, while the app starts: neither waits for the other.
    """
    folder = processes.folder
    answer, app_socket = folder / "answer.json", folder / "app.sock"
    about = {name: getattr(given, name) for name in ("app", "factory", "mapping", "verbose")} | {"answer": str(answer)}
    wrapped = given.mapping is not None or given.verbose or "--reload" in command
    app = f"asgi_accel.cli.inside:{'create' if given.factory else 'app'}" if wrapped else given.app
    values = {"{app}": app, "{socket}": str(app_socket), "{grace}": str(given.timeout_graceful_shutdown)}
    command = [re.sub(r"\{(app|socket|grace)\}", lambda match: values[match[0]], part) for part in command]
    # Only the proxy comes in by the socket, so uvicorn may believe what it says of the client.
    path = f"{sysconfig.get_path('scripts')}:{os.environ.get('PATH', os.defpath)}"
    more = {"FORWARDED_ALLOW_IPS": "*", NAME: json.dumps(about), "PATH": path}
    processes.start(APP, command, more)
    quiet = os.open(os.devnull, os.O_WRONLY)
    processes.start(LOOK, [sys.executable, "-m", "asgi_accel.cli.inside"], more, output=quiet)
    os.close(quiet)
    late = f"{given.app} has not started within {given.timeout} seconds: --timeout gives it more"
    deadline = time.monotonic() + given.timeout
    _until(processes, lambda: LOOK in processes.status, deadline, late)
    told = (
        json.loads(answer.read_text()) if answer.exists() else {"error": "the import has ended Python", "traceback": ""}
    )
    if "error" in told:
        if told["traceback"] and not processes.wait(lambda: APP in processes.status, time.monotonic() + 2):
            sys.stderr.write(told["traceback"])  # else the server has shown it
        raise Failure(told["error"])
    _until(processes, lambda: _connects(socket.AF_UNIX, str(app_socket)), deadline, late, 0.01)
    found = Found(PathMap.parse(told["mapping"]), told["secret"])
    (folder / proxy.file).write_bytes(os.fsencode(proxy.text(app_socket, found, site)))
    log.mapping = found.mapping
    processes.start(proxy.name, proxy.command(folder), proxy.environment(folder, site), output=log.writer, cwd=folder)
    late = f"{proxy.name} has not started within {given.timeout} seconds"
    _until(processes, lambda: _connects(*site.answers), deadline, late, 0.005)


def _until(
    processes: Processes, condition: Callable[[], bool], deadline: float = math.inf, late: str = "", pause: float = 10
) -> None:
    """Wait for something while the app and the proxy run.

    Raises:
        Failure: One of them has ended, or it is too late.
    """
    if not processes.wait(lambda: bool(processes.status.keys() - {LOOK}) or condition(), deadline, pause):
        raise Failure(late)
    for name, status in processes.status.items():
        if name != LOOK:
            how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
            raise Failure(f"{name} has ended ({how})")


def _stop(processes: Processes, proxy: Nginx | Caddy, grace: int, log: AccessLog) -> None:
    """End the proxy, which accepts nothing new from now on, then the app. What is still there then, the guard ends."""
    deadline = time.monotonic() + grace + 1
    processes.tell(LOOK, signal.SIGKILL)
    processes.tell(proxy.name, proxy.quits)
    # By then all that it has accepted is with the app, which finishes it, and closes its websockets.
    processes.wait(lambda: proxy.name not in processes.running, time.monotonic() + 0.5)
    processes.tell(APP, signal.SIGTERM)
    if not processes.wait(lambda: not processes.running, time.monotonic() + 0.5):
        log.say("run", f"what is in progress has {grace} seconds to finish; Ctrl-C ends it at once")
        processes.wait(lambda: not processes.running, deadline)


def _proxy(given: argparse.Namespace) -> Nginx | Caddy:
    if given.domain and given.proxy == "nginx":
        raise ValueError("nginx gets no certificates: leave --proxy nginx out, or --domain")
    if given.proxy == "caddy" or given.domain:
        return Caddy()
    try:
        return Nginx()
    except ValueError:
        if given.proxy == "nginx":
            raise
        return Caddy()


def _site(given: argparse.Namespace) -> Site:
    """What was given of where the proxy listens."""
    host = f"[{given.host}]" if ":" in (given.host or "") else given.host
    trusted = [part.strip() for part in given.forwarded_allow_ips.split(",") if part.strip()]
    for part in trusted:
        ipaddress.ip_network(part)  # a ValueError, if it is none
    public = given.domain and given.domain != "localhost"
    return Site(
        host or ("" if public else "127.0.0.1"),
        [80, 443] if given.domain else [given.port],
        given.domain,
        given.timeout_graceful_shutdown,
        trusted,
    )


def _free(site: Site) -> Site:
    """See that nobody listens there: Caddy would share the port, and say nothing. Port 0 becomes one that is free."""
    ports: list[int] = []
    for port in site.ports:
        try:
            found = socket.getaddrinfo(site.host.strip("[]") or "0.0.0.0", port, type=socket.SOCK_STREAM)  # noqa: S104
            for family, _, _, _, address in found:
                with socket.socket(family) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((address[0], port, *address[2:]))
                    port = probe.getsockname()[1]
        except OSError as exc:
            raise ValueError(f"cannot listen on {site.host or 'all addresses'}, port {port}: {exc.strerror}") from None
        ports.append(port)
    return replace(site, ports=ports, answers=(family, (address[0], port, *address[2:])))


def _notes(given: argparse.Namespace, command: list[str]) -> Iterator[str]:
    """What one should know beforehand."""
    if os.geteuid() == 0:
        yield "it runs as root, and so do the app and the proxy: it need not, any user will do"
    for server in ("hypercorn", "granian"):
        if any(server in part for part in command):
            yield f"{server} knows no client address on a unix socket: the app has it in X-Forwarded-For alone"
    if given.domain and given.domain != "localhost":
        yield f"{given.domain} must lead to this machine (DNS), and its ports 80 and 443 must be open to the internet"


def _command(given: argparse.Namespace) -> list[str]:
    """What starts the app."""
    if given.command:
        if not any("{socket}" in part for part in given.command):
            raise ValueError(
                f"{' '.join(given.command)!r} has no {{socket}}, the unix socket where the app must listen"
            )
        return list(given.command)
    if find_spec("uvicorn") is None:
        raise ValueError("there is no uvicorn: pip install 'asgi-accel[run]', or give another server behind --")
    return [*UVICORN, *["--factory"] * given.factory, *["--reload"] * given.reload]


def _connects(family: int, address: Any) -> bool:
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0


def _place() -> str:
    """Where the folder is made: its path must be short for a unix socket, and of what both configurations can hold."""
    place = tempfile.gettempdir()
    return place if SHORT.fullmatch(place) else "/tmp"  # noqa: S108
