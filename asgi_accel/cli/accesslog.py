"""What one sees of the requests: a line for each, which says who has sent the body, and a sum at the end."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

from asgi_accel.mapping import PathMap

COLOURS = {"nginx": 32, "caddy": 32, "app": 33, "run": 36, "error": 31}
REMEDIES = {
    "403": "may not read {!r}: it runs as you, who need r on the file, and x on each directory above it",
    "404": "has no file {!r}, to which the app has redirected",
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
        self._responses: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ

    def read(self) -> None:
        """Print what there is by now."""
        while True:
            try:
                *lines, self._rest = (self._rest + os.read(self.pipe, 65536)).split(b"\n")
            except BlockingIOError:
                return
            # All in one piece: there can be thousands in a second.
            sys.stderr.write("".join(self._shown(line.decode(errors="replace")) for line in lines))

    def _shown(self, line: str) -> str:
        try:
            entry = json.loads(line)
        except ValueError:  # nginx's own words, up to where it repeats the request
            return self._line("error", re.sub(r"\?[^ \"]*", "", line.partition(", client:")[0]))
        if "redirect" not in entry:  # Caddy's own
            return self._line("error", f"{entry.get('logger')}: {entry.get('msg')} {entry.get('error', '')}")
        asked, status, size = entry.get("request", entry), str(entry["status"]), int(entry["size"])
        uri, target = asked["uri"].partition("?")[0], (entry["redirect"] or "").partition("?")[0]
        # What the app has not answered has no `upstream`: None of Caddy's, - of nginx's.
        sender = self.proxy if target or entry["upstream"] in ("", "-", None) else "app"
        self._responses[sender] += 1
        self._bytes[sender] += size
        arrow = f" -> {target}" if target else ""
        shown = self._line(sender, f"{status} {size:>13,} B  {asked['method']} {uri}{arrow}")
        if target and status in REMEDIES:
            shown += self._line("error", f"{self.proxy} {REMEDIES[status].format(self.mapping.path(target))}")
        return shown

    def _line(self, who: str, text: str) -> str:
        if not text.isprintable():
            text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
        return f"\x1b[{COLOURS[who]}m{who:5}\x1b[0m {text}\n" if self._coloured else f"{who:5} {text}\n"

    def say(self, who: str, text: str) -> None:
        sys.stderr.write(self._line(who, text))

    def end(self) -> None:
        """Print the rest and, if there has been a proxy, who has sent how much."""
        self.read()
        if self.mapping:
            both = (f"{who} {self._responses[who]:,} ({self._bytes[who]:,} B)" for who in (self.proxy, "app"))
            self.say("run", f"responses sent by {', by '.join(both)}")
