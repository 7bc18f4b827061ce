"""`asgi-accel run`: one command that puts a real proxy in front of an app."""

import argparse
import json
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

from asgi_accel.cli.app import Found, load, told
from asgi_accel.cli.caddy import site
from asgi_accel.cli.group import Group
from asgi_accel.cli.lines import Lines
from asgi_accel.cli.nginx import app_location, internal_locations, shared
from asgi_accel.cli.values import fill, plain
from asgi_accel.mapping import PathMap

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
    # A wheel's Caddy is beside Python; on Debian only root's PATH has nginx.
    path = f"{sysconfig.get_path('scripts')}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
    proxy, binary = _proxy(given.proxy, given.domain, path)
    place = tempfile.gettempdir() if PLACE.fullmatch(tempfile.gettempdir()) else "/tmp"  # noqa: S108
    host = given.host or ("127.0.0.1" if given.domain in (None, "localhost") else "")
    given.host = f"[{host}]" if ":" in host else host
    if given.print:
        found = told(load(given.app, factory=given.factory), given.app, given.mapping)
        sys.stdout.buffer.write(_configuration(given, proxy, f"{place}/asgi-accel/app.sock", found))
        return 0
    command = _command(given)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    given.port, *_ = [_free_port((host, port), family) for port in ((443, 80) if given.domain else (given.port,))]
    lines, group, status, grace = Lines(proxy), Group(place), 0, 1
    os.environ.update(PATH=path, FORWARDED_ALLOW_IPS="*")  # only the proxy comes in by the socket: uvicorn believes it
    try:
        _begin(given, proxy, binary, lines)
        _start(given, [proxy, binary, *OPTIONS[proxy].split()], command, group, lines)
        group.until(lambda: _connects((host, given.port), family), 10, f"{proxy} does not answer")
        grace = given.timeout_graceful_shutdown
        sys.stdout.write(f"https://{given.domain}\n" if given.domain else f"http://{given.host}:{given.port}\n")
        sys.stdout.flush()
        group.until(lambda: False, float("inf"))
    except (ValueError, OSError) as exc:
        lines.say("error", str(exc))
        status = 1
    except KeyboardInterrupt:
        pass
    try:
        _stop(group, proxy, grace, lines)
    except KeyboardInterrupt:
        status = 130  # as shells have it of what Ctrl-C has ended
    group.close()
    lines.end()
    return status


def _start(given: argparse.Namespace, proxy: list[str], command: list[str], group: Group, lines: Lines) -> None:
    """Start the app and, when it listens, the proxy."""
    answer, app_socket = group.folder / "answer", f"{group.folder}/app.sock"

    def listens() -> bool:
        return answer.exists() and (answer.read_text().startswith('{"error"') or _connects(app_socket))

    os.environ["ASGI_ACCEL_RUN"] = json.dumps({**vars(given), "answer": str(answer)})
    values = {"{app}": "asgi_accel.cli.inside:app", "{socket}": app_socket}
    group.start("the app", [re.sub("{app}|{socket}", lambda name: values[name[0]], part) for part in command])
    late = f"{given.app} has not started within {given.timeout} seconds: --timeout gives it more"
    group.until(listens, given.timeout, late)
    about = json.loads(answer.read_text())
    if "error" in about:
        sys.stderr.write(about["traceback"])
        raise ValueError(about["error"])
    found = Found(PathMap.parse(about["mapping"]), about["secret"])
    (group.folder / f"{proxy[0]}.conf").write_bytes(_configuration(given, proxy[0], app_socket, found))
    os.chdir(group.folder)
    if not given.domain:  # Caddy's certificates have to outlast the command, and nothing else that it keeps
        os.environ.update(HOME=str(group.folder), XDG_DATA_HOME="", XDG_CONFIG_HOME="")
    group.start(proxy[0], proxy[1:], lines.follow(group.folder / "log", found.mapping))


def _stop(group: Group, proxy: str, grace: int, lines: Lines) -> None:
    """End the proxy, which accepts nothing new from now on, then the app. What is still there then, the guard ends."""
    group.tell(proxy, QUITS[proxy])
    # By then all that it has accepted is with the app, which finishes it, and closes its websockets.
    if not group.wait(lambda: proxy not in group.running.values(), 0.5):
        lines.say("run", f"running requests have {grace} seconds to finish; Ctrl-C ends them at once")
    group.tell("the app", signal.SIGTERM)
    group.wait(lambda: not group.running, grace)


def _proxy(wanted: str | None, domain: str | None, path: str) -> tuple[str, str]:
    """The proxy, and where it is."""
    nginx, caddy = (shutil.which(name, path=path) for name in ("nginx", "caddy"))
    if nginx and wanted != "caddy" and not domain:
        return "nginx", nginx
    if wanted == "nginx":
        raise ValueError("--proxy nginx: install it (apt-get install nginx-light), or leave out --domain (Caddy's)")
    if caddy is None:
        raise ValueError("there is neither nginx nor Caddy: pip install 'asgi-accel[run]'")
    return "caddy", caddy


def _command(given: argparse.Namespace) -> list[str]:
    """What starts the app."""
    uvicorn = [sys.executable, *UVICORN.split(), str(given.timeout_graceful_shutdown)]
    command = [*(given.server or uvicorn), *["--reload"] * given.reload]
    if not all(name in " ".join(command) for name in ("{app}", "{socket}")):
        raise ValueError(f"the command {command} needs {{socket}}, to listen on, and {{app}} in place of {given.app}")
    return command


def _begin(given: argparse.Namespace, proxy: str, binary: str, lines: Lines) -> None:
    """Say what one should know beforehand."""
    version = subprocess.check_output([binary, "version"], text=True).split()[0] if proxy == "caddy" else ""  # noqa: S603
    if re.match(r"v?2\.[0-7]\b", version):  # no log_append, no persist_config
        raise ValueError(f"Caddy {version} ({binary}) is older than 2.8: pip install 'asgi-accel[run]' has a newer one")
    lines.say("run", f"{given.app} behind {f'{proxy} {version}'.strip()} ({binary}); Ctrl-C ends it")
    if os.geteuid() == 0:
        lines.say("run", "the app and the proxy run as root, like this command, which needs no root")
    if given.domain not in (None, "localhost"):
        lines.say("run", f"{given.domain} must lead here (DNS), and ports 80 and 443 must be open to the internet")


def _configuration(given: argparse.Namespace, proxy: str, app_socket: str, found: Found) -> bytes:
    """The whole configuration: what the other commands print, and what only a whole one has around it."""
    upstream, networks = f"unix:{app_socket}", given.forwarded_allow_ips
    values = {"grace": str(given.timeout_graceful_shutdown)}
    if proxy == "caddy":
        trusted = f"\t\ttrusted_proxies static {' '.join(networks)}\n\t\ttrusted_proxies_strict\n"
        values |= {"trusted": trusted if networks else "", "address": given.domain or f"http://:{given.port}"}
        values |= {"bind": f"\tbind {given.host}\n" if given.host else ""}
        values |= {"site": site(found.mapping, upstream, found.secret, fill("caddy-client.conf"))}
    else:
        types = sorted(mimetypes.MimeTypes().types_map[True].items())  # those that Python has of itself
        values |= {"types": "".join(f"    {kind} {suffix[1:]};\n" for suffix, kind in types)}
        values |= {"trusted": "".join(f"set_real_ip_from {network};\n" for network in networks)}
        # nginx runs as the app: what that may read, nginx can send.
        values |= {"user": "" if os.geteuid() else "user root;\n", "locations": internal_locations(found.mapping)}
        values |= {"app": app_location("accel", found.mapping, found.secret, proto="$accel_proto")}
        values |= {"shared": shared("accel", upstream), "listen": plain("--host", f"{given.host}:{given.port}")}
    return os.fsencode(fill(f"{proxy}-run.conf", **values))


def _free_port(address: tuple[str, int], family: int) -> int:
    """See that nobody listens there, since Caddy would share the port, and say nothing. 0 becomes one that is free."""
    try:
        with socket.create_server(address, family=family) as listener:
            return int(listener.getsockname()[1])
    except OSError as exc:
        where = f"{address[0] or 'all addresses'}, port {address[1]}"
        raise ValueError(f"cannot listen on {where}: {exc.strerror}; give another --port") from None


def _connects(address: tuple[str, int] | str, family: int = socket.AF_UNIX) -> bool:
    with socket.socket(family) as connection:
        return connection.connect_ex(address) == 0
