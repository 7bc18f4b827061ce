"""What `asgi-accel run` prints of the requests: a line for each, which says who sent the body, and a sum at the end."""

import json
import os
import re
import sys
import threading
from pathlib import Path

from asgi_accel.cli.values import printable
from asgi_accel.mapping import PathMap

COLOURS = {"app": 33, "run": 36, "error": 31}  # the proxy's is green


class Lines:
    """Prints lines on the standard error: the command's own, and those that the proxy writes into a pipe."""

    mapping: PathMap = PathMap()

    def __init__(self, proxy: str) -> None:
        self.proxy: str = proxy
        self._sent = {proxy: [0, 0], "app": [0, 0]}  # responses and bytes
        self._coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ

    def follow(self, name: Path, mapping: PathMap) -> int:
        """Print what the proxy writes into a pipe, and return the end to write to.

        It has a name, since nginx opens its log again, which somebody else's standard output does not allow.
        """
        self.mapping = mapping
        os.mkfifo(name)
        read, self._write = os.open(name, os.O_RDONLY | os.O_NONBLOCK), os.open(name, os.O_WRONLY)
        os.set_blocking(read, True)
        self._reader = threading.Thread(target=self._read, args=(read,), daemon=True)
        self._reader.start()
        return self._write

    def _read(self, pipe: int) -> None:
        rest = b""
        with open(pipe, "rb", 0) as source:
            while data := source.read(65536):
                *lines, rest = (rest + data).split(b"\n")
                # All in one piece: there can be thousands in a second.
                sys.stderr.write("".join(self._shown(line.decode(errors="replace")) for line in lines))

    def _shown(self, line: str) -> str:
        try:
            entry = json.loads(line)
        except ValueError:  # nginx's own words, up to where it repeats the request
            return self._line("error", re.sub(r"\?[^ \"]*", "", line.partition(", client:")[0]))
        if "redirect" not in entry:  # Caddy's own
            return self._line("error", f"{entry.get('logger')}: {entry.get('msg')} {entry.get('error', '')}")
        uri, target = (text.partition("?")[0] for text in (entry["request"]["uri"], entry["redirect"] or ""))
        # What the app has not answered has no `upstream`: None of Caddy's, - of nginx's.
        sender = self.proxy if target or entry["upstream"] in ("", "-", None) else "app"
        self._sent[sender][0] += 1
        self._sent[sender][1] += entry["size"]
        text = f"{entry['status']} {entry['size']:>13,} B  {entry['request']['method']} {uri}"
        shown = self._line(sender, f"{text} -> {target}" if target else text)
        if target and entry["status"] == 403:
            advice = "it runs as you, who need r on the file, and x on each directory above it"
            shown += self._line("error", f"{self.proxy} may not read {self.mapping.path(target)!r}: {advice}")
        return shown

    def _line(self, who: str, text: str) -> str:
        text = printable(text)
        return f"\x1b[{COLOURS.get(who, 32)}m{who:5}\x1b[0m {text}\n" if self._coloured else f"{who:5} {text}\n"

    def say(self, who: str, text: str) -> None:
        sys.stderr.write(self._line(who, text))

    def end(self) -> None:
        """Say who has sent how much, if there has been a proxy."""
        if self.mapping:
            os.close(self._write)
            self._reader.join(1)
            both = (f"{who} {responses:,} ({size:,} B)" for who, (responses, size) in self._sent.items())
            self.say("run", f"responses sent by {', by '.join(both)}")
