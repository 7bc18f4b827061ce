"""What one sees of the requests: a line for each, which says who has sent the body, and a sum at the end."""

from __future__ import annotations

import json
import os
import pwd
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from asgi_accel.mapping import PathMap

COLOURS = {"nginx": "32", "caddy": "32", "app": "33", "run": "36", "error": "31"}


class AccessLog:
    """Reads what the proxy writes into a pipe, and prints it on the standard error."""

    def __init__(self, proxy: str, folder: Path) -> None:
        self.proxy = proxy
        self.mapping = PathMap()
        # nginx opens its log by name, which the standard error of somebody else does not allow.
        os.mkfifo(folder / "log")
        self.pipe = os.open(folder / "log", os.O_RDWR | os.O_NONBLOCK)
        self.writer = os.open(folder / "log", os.O_WRONLY)
        self._rest = b""
        self._files: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._colours = sys.stderr.isatty() and "NO_COLOR" not in os.environ

    def read(self) -> None:
        """Print what there is by now."""
        while True:
            try:
                self._rest += os.read(self.pipe, 65536)
            except BlockingIOError:
                return
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                self._line(line.decode(errors="backslashreplace"))

    def _line(self, line: str) -> None:
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            return self._error(line)
        if "redirect" in entry:
            self._request({**entry, **entry.get("request", {})})
        else:  # Caddy's own words
            self._error(" ".join(str(entry.get(key, "")) for key in ("msg", "error")))

    def _request(self, entry: dict[str, Any]) -> None:
        # What has not reached the app has an empty `upstream`: None of Caddy's, - of nginx's.
        method, uri, target, upstream = (
            str(entry[key] or "").partition("?")[0] for key in ("method", "uri", "redirect", "upstream")
        )
        sender = "app" if upstream.strip("-") and not target else self.proxy
        status, size = str(entry["status"]), int(entry["size"])
        self._files[sender] += 1
        self._bytes[sender] += size
        self.say(sender, f"{status} {size:>13,} B  {method} {uri}" + (f" -> {target}" if target else ""))
        if target and status == "403":
            user = pwd.getpwuid(os.geteuid()).pw_name
            self.say(
                "error", f"{self.proxy} may not read {self.mapping.path(target)!r}: it runs as {user}, who must be "
            )
        elif target and status == "404":
            self.say("error", f"{self.proxy} has no file {self.mapping.path(target)!r}, to which the app redirected")

    def _error(self, line: str) -> None:
        """What the proxy complains of, without what repeats the request."""
        self.say("error", re.sub(r"\?[^ \"]*", "", line.partition(", client:")[0]))

    def say(self, who: str, text: str) -> None:
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        shown = f"\x1b[{COLOURS[who]}m{who:5}\x1b[0m" if self._colours else f"{who:5}"
        sys.stderr.write(f"{shown} {text}\n")
        sys.stderr.flush()

    def sum(self) -> str:
        """Who has sent how much so far."""
        return ", ".join(f"{who} has sent {self._files[who]:,} ({self._bytes[who]:,} B)" for who in (self.proxy, "app"))
