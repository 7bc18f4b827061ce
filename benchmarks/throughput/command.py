"""`asgi-accel run` with nginx and with Caddy, beside nginx and uvicorn set up by hand: speed, start, memory."""

from __future__ import annotations

import http.client
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import HERE, ROUNDS, SECONDS, Load, family, load, median, own_memory
from servers import DEADLINE, Process, free_port
from ways import APP_CORES, ROWS, SIZES, Stage

PROXIES = ("nginx", "caddy")
STARTS = 7
SCRIPTS = Path(sysconfig.get_path("scripts"))


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


class Command(Process):
    """`asgi-accel run` with one of the proxies."""

    def __init__(self, folder: Path, proxy: str, app: str, environment: dict[str, str]) -> None:
        self.port = free_port()
        command = [str(SCRIPTS / "asgi-accel"), "run", "--proxy", proxy, "--port", str(self.port), app]
        super().__init__(command, self.port, folder / f"run-{proxy}.log", **environment)
        self.proxy = proxy

    @property
    def app(self) -> list[int]:
        """The app's processes."""
        pids = list(family(self.process.pid))
        servers = [pid for pid in pids if b"uvicorn" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        if not servers:
            raise RuntimeError(f"no uvicorn among the processes of {self.command}")
        return servers

    @property
    def proxies(self) -> list[int]:
        """The proxy's processes."""
        return [pid for pid in family(self.process.pid) if name_of(pid) == self.proxy]

    def pin(self) -> None:
        """Give the app the core that it has elsewhere; everything else stays on the one that it was started on."""
        for pid in self.app:
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), APP_CORES)

    def check(self) -> None:
        """See that the proxy has sent every file."""
        lines = self.log.read_text().splitlines()
        if not [line for line in lines if line.startswith(self.proxy)] or [
            line for line in lines if line.startswith(("app", "error"))
        ]:
            raise RuntimeError(f"files were not sent by {self.proxy}: {lines[:20]}")


def sending(folder: Path) -> tuple[dict[str, dict[str, Load]], dict[str, dict[str, int]]]:
    """The medians for each set-up and size; and bytes of memory, after that, without the app."""
    stage = Stage(folder, ["plain", "accel"])
    alone, by_hand = (
        next(row for row in ROWS if row.name == f"FileResponse{end}") for end in (" alone", ", middleware")
    )
    with stage.start():
        commands = [Command(folder, proxy, "asgi_app:accel", stage.environment) for proxy in PROXIES]
        with commands[0], commands[1]:
            targets = {}
            for name, row in {"behind nginx, without asgi-accel": alone, "nginx and uvicorn by hand": by_hand}.items():
                stage.check(row)
                targets[name] = (stage.url(row, ""), [stage.pids[row.server]])
            for command in commands:
                command.pin()
                name = f"asgi-accel run, {command.proxy.replace('caddy', 'Caddy')}"
                targets[name] = (f"http://127.0.0.1:{command.port}/file/", command.app)
            loads: dict[tuple[str, str], list[Load]] = {(name, size): [] for name in targets for size in SIZES}
            for number in range(ROUNDS):
                for name, size in loads:
                    loads[name, size].append(load(targets[name][0] + size, targets[name][1]))
                sys.stderr.write(f"asgi-accel run: round {number + 1} of {ROUNDS}\n")
            memory = {"nginx and uvicorn by hand": {"the proxy": own_memory(list(family(stage.nginx)))}}
            for name, command in zip(list(targets)[2:], commands, strict=True):
                command.check()
                others = [pid for pid in family(command.process.pid) if pid not in command.app + command.proxies]
                memory[name] = {"the proxy": own_memory(command.proxies), "the command": own_memory(others)}
    return {name: {size: median(loads[name, size]) for size in SIZES} for name in targets}, memory


def first_answer(command: list[str], port: int, environment: dict[str, str]) -> float:
    """Seconds from the start of a command to the app's first answer."""
    start = time.monotonic()
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=HERE, env={**os.environ, **environment}, **quiet)
    try:
        while time.monotonic() < start + DEADLINE:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            try:
                connection.request("GET", "/json")
                if connection.getresponse().status == 200:
                    return time.monotonic() - start
            except OSError:
                time.sleep(0.002)
            finally:
                connection.close()
        raise RuntimeError(f"{command} gave no answer")
    finally:
        process.terminate()
        process.wait(DEADLINE)


def starting(folder: Path) -> dict[str, float]:
    """Seconds to the first answer: medians."""
    commands = {"uvicorn": [str(SCRIPTS / "uvicorn")]}
    commands |= {
        f"asgi-accel run, {proxy}": [str(SCRIPTS / "asgi-accel"), "run", "--proxy", proxy] for proxy in PROXIES
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(STARTS if ROUNDS > 1 else 1):
        for name, command in commands.items():
            port = free_port()
            whole = [*command, "--port", str(port), "asgi_app:accel"]
            times[name].append(first_answer(whole, port, {"FILES": str(folder)}))
    return {name.replace("caddy", "Caddy"): statistics.median(values) for name, values in times.items()}


def figures() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        loads, memory = sending(Path(name))
        sent = {name: {size: load._asdict() for size, load in sizes.items()} for name, sizes in loads.items()}
        return {"loads": sent, "start": starting(Path(name)), "memory": memory}


HOW = f"""The same app, with `FileResponse` and the middleware, behind three proxies: the nginx of the tables above, and
what `asgi-accel run` starts. The app has one core, everything else the other. `asgi-accel run` also writes a line for
each request. The rows took turns in {ROUNDS} rounds of {SECONDS} seconds; figures are medians."""
