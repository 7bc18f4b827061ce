"""The processes that `asgi-accel run` starts, and the guard that ends them all, whatever becomes of the command."""

from __future__ import annotations

import math
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from asgi_accel.cli.accesslog import AccessLog

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Processes:
    """Processes, each in a group of its own, and a folder for their sockets. `close` ends and removes them all.

    So does the guard, if this process is killed. The guard is a process that holds a pipe from this one, which the
    kernel closes in any case. A process tells the guard its group before it becomes what it shall be: there is no
    moment in which the guard does not know of it.

    Each signal to stop is a KeyboardInterrupt of `wait`, and of nothing else: it cannot be lost within other code.
    """

    def __init__(self, place: str, proxy: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="asgi-accel-", dir=place))
        self.running: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        self._stops: list[int] = []
        read, self._pipe = os.pipe()
        before = [signal.signal(number, signal.SIG_IGN) for number in STOPS]
        self._guard = os.fork()
        if self._guard == 0:  # pragma: no cover - what measures begins with the next function
            os.close(self._pipe)
            _guard(read, self.folder)
        os.close(read)
        self.log = AccessLog(proxy, self.folder)
        for number, handler in zip(STOPS, before, strict=True):
            if number != signal.SIGHUP or handler != signal.SIG_IGN:  # nohup has it ignored
                signal.signal(number, lambda number, _: self._stops.append(number))

    def start(
        self, name: str, command: list[str], more: dict[str, str], output: int | None = None, cwd: Path | None = None
    ) -> None:
        """Start a process, with more in its environment. `output` takes what it prints, if not the command's own."""

        def join() -> None:  # pragma: no cover - this process becomes another
            os.setpgid(0, 0)
            os.write(self._pipe, b"%d\n" % os.getpid())

        environment, nothing = {**os.environ, **more}, subprocess.DEVNULL
        try:
            process = subprocess.Popen(  # noqa: S603
                command, stdin=nothing, stdout=output, stderr=output, cwd=cwd, env=environment, preexec_fn=join
            )
        except OSError as exc:
            raise ValueError(f"{command[0]!r} cannot be started: {exc.strerror}") from None
        process.returncode = 0  # `wait` reaps it
        self.running[name] = process.pid

    def wait(self, condition: Callable[[], bool], deadline: float) -> bool:
        """Wait until it is true, or until then; say whether it is. Meanwhile print what the proxy logs."""
        while not condition():
            if time.monotonic() > deadline:
                return False
            if self._stops:
                raise KeyboardInterrupt(self._stops.pop())
            if select.select([self.log.pipe], [], [], 0.1 if deadline == math.inf else 0.01)[0]:
                self.log.read()
            with suppress(ChildProcessError):
                while (ended := os.waitpid(-1, os.WNOHANG))[0]:  # as a container's first process, strangers, too
                    for name in [name for name, pid in self.running.items() if pid == ended[0]]:
                        del self.running[name]
                        self.ended[name] = os.waitstatus_to_exitcode(ended[1])
        return True

    def tell(self, name: str, number: int) -> None:
        """Send a process a signal, if it still runs."""
        if name in self.running:
            os.kill(self.running[name], number)

    def close(self) -> None:
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)
        os.close(self._pipe)
        with suppress(ChildProcessError):
            while os.wait()[0] != self._guard:
                pass


def _guard(pipe: int, folder: Path) -> NoReturn:
    """Wait for the end of the command, then end what it has started, and take its folder away."""
    os.setsid()
    with open(pipe) as lines:
        groups = [int(line) for line in lines]
    deadline = time.monotonic() + 5  # a zombie counts as there, and not every container has somebody who reaps it
    while groups and time.monotonic() < deadline:
        for group in groups.copy():
            try:
                os.killpg(group, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # the latter is macOS's word for zombies
                groups.remove(group)
        time.sleep(0.002)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)
