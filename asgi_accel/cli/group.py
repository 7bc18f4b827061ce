"""The processes that `asgi-accel run` starts: one group, and a guard that ends it, whatever becomes of the command."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Group:
    """A process group, and a folder for its sockets. `close` ends all of it; so does the guard, if this one is killed.

    The guard is a process that waits for the end of a pipe from this one, which the kernel closes in any case.
    A signal to stop is a KeyboardInterrupt of `wait`, and of nothing else: it cannot be lost within other code.
    """

    def __init__(self, place: str) -> None:
        self.folder: Path = Path(tempfile.mkdtemp(prefix="asgi-accel-", dir=place))
        self.running: dict[int, str] = {}  # by their process ids
        self.ended: dict[str, int] = {}
        self._stops: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup has it ignored
                signal.signal(number, lambda number, _: self._stops.append(number))
        read, self._pipe = os.pipe()
        self._guard = os.fork()
        if self._guard == 0:  # pragma: no cover - it kills itself, too
            os.close(self._pipe)
            os.setpgid(0, 0)
            os.read(read, 1)
            shutil.rmtree(self.folder, ignore_errors=True)
            os.killpg(0, signal.SIGKILL)
        os.close(read)
        os.setpgid(self._guard, 0)  # as the guard does: now it is there, whichever comes first

    def start(self, name: str, command: list[str], output: int = 0) -> None:
        """Start a process. `output` takes what it prints, if not the command's own."""
        files = [(os.POSIX_SPAWN_DUP2, output or number, number) for number in (1, 2)]
        null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        options: dict[str, Any] = {"file_actions": [null, *files], "setpgroup": self._guard}
        options["setsigdef"] = [signal.SIGPIPE]  # which Python ignores
        self.running[os.posix_spawnp(command[0], command, os.environ, **options)] = name

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until it is true, or until then; say whether it is."""
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            if self._stops:
                raise KeyboardInterrupt(self._stops.pop())
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:  # as a container's first process, strangers, too
                if name := self.running.pop(ended[0], None):
                    self.ended[name] = os.waitstatus_to_exitcode(ended[1])
            time.sleep(0.01)
        return condition()

    def until(self, condition: Callable[[], bool], seconds: float, late: str = "") -> None:
        """Wait for it while all run.

        Raises:
            ValueError: One has ended, or it is too late.
        """
        if not self.wait(lambda: condition() or bool(self.ended), seconds):
            raise ValueError(late)
        for name, code in self.ended.items() if not condition() else ():
            raise ValueError(f"{name} has ended, {f'by signal {-code}' if code < 0 else f'with exit status {code}'}")

    def tell(self, name: str, number: int) -> None:
        """Send a process a signal, if it still runs."""
        for pid in [pid for pid, running in self.running.items() if running == name]:
            os.kill(pid, number)

    def close(self) -> None:
        os.close(self._pipe)
        for pid in (self._guard, *self.running):
            os.waitpid(pid, 0)
