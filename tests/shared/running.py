"""`asgi-accel run` in the tests: a command with its environment, what it says, and what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import coverage
from servers import DEADLINE, MODULES, ROOT, client

COMMAND = (sys.executable, "-m", "asgi_accel", "run")
SERVERS = {
    "uvicorn": (),
    "workers": ("--", "uvicorn", "--workers", "2", "--uds", "{socket}", "--log-level", "warning", "{app}"),
    "hypercorn": ("--", "hypercorn", "--bind", "unix:{socket}", "{app}"),
    "granian": ("--", "granian", "--interface", "asgi", "--uds", "{socket}", "{app}"),
}


def wait_until(condition: Callable[[], object], what: str = "it") -> None:
    """Wait for a condition, and fail if it does not come true."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what} has not come true"
        time.sleep(0.005)


class Running:
    """The command, from its start to the end that a test or the end of the block gives it."""

    started: ClassVar[list[Running]] = []

    def __init__(
        self, folder: Path, *arguments: str, app: str = "run_app:site", before: Sequence[str] = (), **environment: str
    ) -> None:
        self.home = Path(tempfile.mkdtemp(dir=folder))
        self.temporary = self.home / "temporary"
        self.temporary.mkdir()
        self.files = folder / "run-files"
        self.mark = f"RUN_MARK={self.home.name}"
        options = [argument for argument in arguments if argument not in ("--",)]
        at = arguments.index("--") if "--" in arguments else len(arguments)
        port = () if "--port" in options or "--domain" in options else ("--port", "0")
        self.command = (*before, *COMMAND, *port, *arguments[:at], app, *arguments[at:])
        self.environment = {
            **os.environ,
            "PYTHONPATH": MODULES,
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self.temporary),
            "FILES": str(self.files),
            "RUN_MARK": self.home.name,
            **environment,
        }
        if coverage.Coverage.current() is not None:
            self.environment["COVERAGE_PROCESS_START"] = str(ROOT / "pyproject.toml")
            self.environment["COVERAGE_FILE"] = str(ROOT / ".coverage")

    def start(self, cwd: Path | None = None, terminal: int | None = None) -> Running:
        self.started.append(self)
        with (self.home / "out").open("wb") as out, (self.home / "err").open("wb") as err:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err if terminal is None else terminal,
                env=self.environment,
                cwd=cwd,
            )
        return self

    def wait_for_start(self) -> None:
        wait_until(lambda: self.url or self.process.poll() is not None, "the start")
        assert self.url, self.said

    def __enter__(self) -> Running:
        self.start()
        self.wait_for_start()
        assert self.url is not None
        self.client = client(int(self.url.rpartition(":")[2]), timeout=DEADLINE)
        return self

    def __exit__(self, kind: object, exc: object, trace: object) -> None:
        try:
            self.client.close()
            if self.process.poll() is None:
                self.end()
        finally:
            self.kill()

    def kill(self) -> None:
        """Let nothing of a failed test run on."""
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)

    @property
    def said(self) -> str:
        """All that one sees."""
        return "".join((self.home / name).read_text(errors="replace") for name in ("out", "err"))

    @property
    def url(self) -> str | None:
        found = re.search(r"^https?://\S+$", (self.home / "out").read_text(), re.M)
        return found and found[0]

    def end(self, number: int = signal.SIGINT) -> int:
        """End it by a signal, see that it leaves nothing, and return its exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end, see that it leaves nothing, and return its exit status."""
        status = self.process.wait(DEADLINE)
        self.assert_nothing_left()
        return status

    def assert_nothing_left(self) -> None:
        """No process, no file, no socket."""
        wait_until(lambda: not self.left(), f"the end of {self.left()}")
        assert list(self.temporary.iterdir()) == []

    def opened(self) -> list[str]:
        """What its processes have open, as /proc names it: paths, deleted ones too, and `socket:[inode]`."""
        found = []
        for pid in self.left():
            for place in Path(f"/proc/{pid}/fd").glob("*"):
                with contextlib.suppress(OSError):  # it has been closed meanwhile
                    found.append(os.readlink(place))
        return found

    def ports(self) -> set[int]:
        """The TCP ports that its processes listen on."""
        lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()]
        opened = self.opened()
        # The fields are those of proc_net_tcp.rst in Linux: the local address, the state (0A: listens), the inode.
        return {
            int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in opened
        }

    def left(self) -> list[int]:
        """The processes that this one has started, and they have.

        Each has a mark in its environment, but nginx's, which write their titles over it: they are at home in a folder.
        """
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                marked = self.mark.encode() in (place / "environ").read_bytes().split(b"\0")
                if marked or os.readlink(place / "cwd").startswith(f"{self.temporary}/"):
                    found.append(int(place.name))
            except OSError:  # it has ended meanwhile
                continue
        return found
