"""What wrk and the kernel count: requests, bytes, processor time and memory of a server and its children."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
CONNECTIONS = 16
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = 2  # of load for each row, size and round


class Load(NamedTuple):
    """What wrk and the kernel have counted during one load."""

    requests: int
    bytes: int
    seconds: float
    p50: float  # seconds
    p99: float  # seconds
    errors: int
    processor: float  # seconds, of all of the app's processes
    memory: int  # bytes, the most that the app's processes held

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def bandwidth(self) -> float:
        """Bytes per second."""
        return self.bytes / self.seconds

    @property
    def per_request(self) -> float:
        """Seconds of processor time."""
        return self.processor / self.requests

    @property
    def per_gib(self) -> float:
        """Seconds of processor time."""
        return self.processor / self.bytes * (1 << 30)


def family(pid: int) -> Iterator[int]:
    """A process and its children."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from family(int(child))


def processor_time(pids: list[int]) -> float:
    """Seconds that the processes have computed so far."""
    ticks = 0
    for pid in pids:
        ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_memory(pids: list[int]) -> int:
    """Bytes that the processes held at the most since `reset_peak`, together."""
    lines = (line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def reset_peak(pids: list[int]) -> None:
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def own_memory(pids: list[int]) -> int:
    """Bytes that the processes hold; what several processes share is divided among them (PSS)."""
    lines = (line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def wait_for_rest(pids: list[int]) -> None:
    """Wait until the processes have nothing to do any more: what is left of one load is no part of the next."""
    before, deadline = -1.0, time.monotonic() + 30
    while (now := processor_time(pids)) != before:
        if time.monotonic() > deadline:
            raise RuntimeError("the server does not come to rest")
        before = now
        time.sleep(0.1)


def load(url: str, pids: list[int]) -> Load:
    """Let wrk ask for a URL as often as it can; the processes are the app's."""
    wait_for_rest(pids)
    reset_peak(pids)
    before = processor_time(pids)
    command = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{SECONDS}s"]
    command += ["--latency", "--timeout", "30s", "--script", str(HERE / "wrk.lua"), url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    counted = json.loads(output.splitlines()[-1])
    wait_for_rest(pids)
    return Load(**counted, processor=processor_time(pids) - before, memory=peak_memory(pids))


def median(loads: list[Load]) -> Load:
    columns = zip(*loads, strict=True)
    return Load(*(statistics.median(column) for column in columns))
