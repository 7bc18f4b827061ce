"""What one sees of the requests: a line for each, which says who has sent the body, and a sum at the end."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from asgi_accel.mapping import PathMap

COLOURS = {"nginx": 32, "caddy": 32, "app": 33, "run": 36, "error": 31}
REMEDIES = {
    "403": "may not read {}: it runs as you, who need r on the file, and x on each directory above it",
    "404": "has no file {}, to which the app has redirected",
}


class AccessLog:
    """Reads what the proxy writes into a pipe, and prints it on the standard error."""

    def __init__(self, proxy: str, folder: Path) -> None:
        self.proxy = proxy
        self.mapping = PathMap()
        # A pipe with a name: nginx opens its log anew, which somebody else's standard output does not allow.
        os.mkfifo(folder / "log")
        self.pipe = os.open(folder / "log", os.O_RDWR | os.O_NONBLOCK)
        self.writer = os.open(folder / "log", os.O_WRONLY)
        self._rest = b""
        self._sums: Counter[tuple[str, str]] = Counter()

    def read(self) -> None:
        """Print what there is by now."""
        try:
            while True:
                *lines, self._rest = (self._rest + os.read(self.pipe, 65536)).split(b"\n")
                for line in lines:
                    self._line(line.decode(errors="replace"))
        except BlockingIOError:
            return

    def _line(self, line: str) -> None:
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:  # nginx's own words, up to where it repeats the request
            return self.say("error", re.sub(r"\?[^ \"]*", "", line.partition(", client:")[0]))
        if "redirect" not in entry:  # Caddy's own
            return self.say("error", f"{entry.get('logger')}: {entry.get('msg')} {entry.get('error', '')}")
        entry |= entry.pop("request", {})
        uri, target = (str(entry[key] or "").partition("?")[0] for key in ("uri", "redirect"))
        # What the app has not answered has no `upstream`: None of Caddy's, - of nginx's.
        sender = self.proxy if target or entry["upstream"] in ("", "-", None) else "app"
        status, size = str(entry["status"]), int(entry["size"])
        self._sums.update({(sender, "files"): 1, (sender, "bytes"): size})
        self.say(sender, f"{status} {size:>13,} B  {entry['method']} {uri}" + (f" -> {target}" if target else ""))
        if target and status in REMEDIES:
            self.say("error", f"{self.proxy} {REMEDIES[status].format(repr(self.mapping.path(target)))}")

    def say(self, who: str, text: str) -> None:
        text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
        coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        sys.stderr.write(f"\x1b[{COLOURS[who]}m{who:5}\x1b[0m {text}\n" if coloured else f"{who:5} {text}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Print the rest and, if there has been a proxy, who has sent how much."""
        self.read()
        if self.mapping:
            both = [(who, self._sums[who, "files"], self._sums[who, "bytes"]) for who in (self.proxy, "app")]
            self.say("run", "; ".join(f"{who} has sent {files:,} responses, {size:,} B" for who, files, size in both))
