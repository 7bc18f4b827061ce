"""The processes that `asgi-accel run` starts, and the guard that ends them all, whatever becomes of the command."""

from __future__ import annotations

import contextlib
import math
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(Exception):
    """Somebody has asked the command to end: the number of the signal."""


class Processes:
    """Processes, each in a group of its own, and the folder for their sockets.

    At the end of the block no process and no folder is left. The guard sees to that. It is another process, which holds
    a pipe from this one: the kernel closes the pipe even if this one is killed. Each process tells the guard its group
    before it becomes what it shall be, so there is no moment in which the guard does not know of it.
    """

    def __init__(self, place: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="asgi-accel-", dir=place))
        self.running: dict[str, int] = {}
        self.status: dict[str, int] = {}
        self.watched: dict[int, Callable[[], object]] = {}

    def __enter__(self) -> Processes:
        self._wakes, wakeup = os.pipe()
        for end in (self._wakes, wakeup):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        for number in (*STOPS, signal.SIGCHLD):
            # nohup has SIGHUP ignored, and it stays so.
            if signal.getsignal(number) != signal.SIG_IGN or number != signal.SIGHUP:
                signal.signal(number, lambda *_: None)
        read, self._guards = os.pipe()
        self._guard = os.fork()
        if self._guard == 0:
            os.close(self._guards)
            _guard(read, self.folder)
        os.close(read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._guards)
        while os.waitpid(-1, 0)[0] != self._guard:  # as a container's first process, it has strangers' children, too
            pass

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        output: int | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start a process, with more in its environment. `output` is where its output and errors go, if elsewhere."""

        def join() -> None:
            os.setpgid(0, 0)
            os.write(self._guards, b"%d\n" % os.getpid())

        try:
            process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=cwd,
                env={**os.environ, **environment},
                preexec_fn=join,  # this process has one thread
            )
        except OSError as exc:
            raise ValueError(f"{command[0]!r} cannot be started: {exc.strerror}") from None
        process.returncode = 0  # `look` reaps it
        self.running[name] = process.pid

    def look(self, seconds: float) -> None:
        """Wait for something to happen, at most so long, and see to it.

        Raises:
            Ended: A signal to end has come.
        """
        ready, _, _ = select.select([self._wakes, *self.watched], [], [], seconds)
        numbers = os.read(self._wakes, 100) if self._wakes in ready else b""
        for file in self.watched.keys() & set(ready):
            self.watched[file]()
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                for name in [name for name, pid in self.running.items() if pid == found[0]]:
                    del self.running[name]
                    self.status[name] = os.waitstatus_to_exitcode(found[1])
        for number in numbers:
            if number in STOPS:
                raise Ended(number)

    def wait(self, condition: Callable[[], bool], deadline: float = math.inf, pause: float = 10) -> bool:
        """Wait until it is true, or until then (`time.monotonic`); say whether it is.

        It is looked at whenever something happens here, and after each pause.
        """
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.look(min(left, pause))
        return True

    def tell(self, name: str, number: int) -> None:
        """Send a process a signal, if it is still there."""
        if name in self.running:
            os.kill(self.running[name], number)


def _guard(pipe: int, folder: Path) -> NoReturn:
    """Wait for the end of the command, then end what it has started, and take its folder away."""
    os.setsid()
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    with open(pipe) as lines:
        groups = [int(line) for line in lines]
    deadline = time.monotonic() + 5  # a zombie counts as there, and not every container has somebody to take it away
    while (groups := [group for group in groups if _killed(group)]) and time.monotonic() < deadline:
        time.sleep(0.005)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _killed(group: int) -> bool:
    """Kill a group; say whether there was one."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of zombies
        return False
    return True
