"""Does the app still answer while it sends large files? The times of a small JSON route during downloads.

Nothing is pinned to a core: the app, the proxy and the clients share the machine. The clients are those of
`downloads.py`, which leave nearly all of it to the servers.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from command import PROXIES, Command
from measuring import HERE, ROUNDS, family, processor_time
from servers import UVICORN, asgi_server
from ways import Stage

CLIENTS = 16
SIZE = 1 << 30  # bytes
SECONDS = 2.0  # for each set-up, rate and round
WARMING = 0.5  # seconds
PROBES, PAUSE = 4, 0.02  # visitors of the small route, and the seconds that each waits after an answer


class Target(NamedTuple):
    """A set-up: where it answers, the app's processes, and the one that has started the proxy."""

    port: int
    prefix: str
    app: list[int]
    above: int | None

    def processor_times(self) -> dict[str, float]:
        others = [] if self.above is None else [pid for pid in family(self.above) if pid not in self.app]
        return {"app": processor_time(self.app), "proxy": processor_time(others)}


def ask(target: Target, until: float, times: list[float]) -> None:
    """Ask for the small route again and again, as a visitor does: the next time after the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=60)
    with contextlib.closing(connection):
        connection.connect()
        while (start := time.perf_counter()) < until:
            connection.request("GET", f"{target.prefix}/json")
            response = connection.getresponse()
            if response.status != 200 or response.read() != b'{"answer":42}':
                raise RuntimeError(f"the small route answered {response.status}")
            times.append(time.perf_counter() - start)
            time.sleep(PAUSE)


def measure(target: Target, rate: int | None) -> dict[str, Any]:
    """The small route's times, while each client takes so many bytes per second; 0 is all it gets, None no client."""
    times: list[float] = []
    arguments = [target.port, f"{target.prefix}/file/1GiB", CLIENTS if rate is not None else 0, rate or 0]
    command = [sys.executable, str(HERE / "downloads.py"), *map(str, arguments), str(WARMING), str(SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as clients:
        assert clients.stdout is not None
        if clients.stdout.readline() != "warm\n":
            raise RuntimeError("the downloads ended")
        before = target.processor_times()
        until = time.perf_counter() + SECONDS
        probes = [threading.Thread(target=ask, args=(target, until, times)) for _ in range(PROBES)]
        for probe in probes:
            probe.start()
        taken, computed = map(float, clients.stdout.readline().split())
    spent = {name: seconds - before[name] for name, seconds in target.processor_times().items()}
    for probe in probes:
        probe.join()
    return {"times": times, "bytes": taken, "processor": {**spent, "clients": computed}}


@contextlib.contextmanager
def targets(folder: Path) -> Any:
    """All set-ups, running."""
    stage = Stage(folder, ["plain", "accel"], pin=False)
    with stage.start(), contextlib.ExitStack() as stack:
        with (stage.files / "1GiB").open("wb") as file:
            file.truncate(SIZE)
        alone = asgi_server(folder, *UVICORN, app="asgi_app:plain", name="alone", tcp=True, **stage.environment)
        pid = stack.enter_context(alone).process.pid
        assert isinstance(alone.listens_on, int)
        found = {"uvicorn alone": Target(alone.listens_on, "", [pid], None)}
        by_hand = Target(stage.port, "/accel", [stage.pids["accel"]], stage.nginx)
        found["with the middleware, behind nginx"] = by_hand
        for proxy in PROXIES:
            command = stack.enter_context(Command(folder, proxy, "asgi_app:accel", stage.environment))
            assert isinstance(command, Command)
            found[f"asgi-accel run, {proxy.replace('caddy', 'Caddy')}"] = Target(
                command.port, "", command.app, command.process.pid
            )
        yield found


def figures() -> dict[str, Any]:
    """For each rate and set-up: what the clients ask for and get, and the small route's times."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, targets(Path(name)) as found:
        most = statistics.median(measure(found["uvicorn alone"], 0)["bytes"] / SECONDS for _ in range(3))
        each = {share: round(share * most / CLIENTS / 1e6) * 1_000_000 for share in (0.75, 1.5)}
        rates: dict[str, int | None] = {"no download": None, "it can hold": each[0.75], "it cannot hold": each[1.5]}
        rates["all that they get"] = 0
        parts: dict[tuple[str, str], list[dict[str, Any]]] = {(rate, name): [] for rate in rates for name in found}
        for number in range(ROUNDS):
            for rate, name in parts:
                parts[rate, name].append(measure(found[name], rates[rate]))
            sys.stderr.write(f"does the app still answer: round {number + 1} of {ROUNDS}\n")
    rows = []
    for (rate, name), measured in parts.items():
        cuts = [statistics.quantiles(one["times"], n=100, method="inclusive") for one in measured]
        asked = rates[rate]
        row: dict[str, Any] = {"load": rate, "name": name, "asked": asked and asked * CLIENTS}
        row |= {"answers": sum(len(one["times"]) for one in measured)}
        row |= {"p50": statistics.median(cut[49] for cut in cuts), "p99": statistics.median(cut[98] for cut in cuts)}
        row["got"] = statistics.median(one["bytes"] / SECONDS for one in measured)
        row["processor"] = {
            who: statistics.median(one["processor"][who] / SECONDS for one in measured)
            for who in measured[0]["processor"]
        }
        rows.append(row)
    return {"cores": os.cpu_count(), "alone": most, "rows": rows}


HOW = f"""{CLIENTS} clients download a file of 1 GiB, while {PROBES} visitors ask for a small JSON route of the same
app. Each visitor asks again {1000 * PAUSE:.0f} ms after its answer. The times are those of the JSON route. The app (one
process), the proxy and the clients share all of the machine's cores. The clients only take bytes from the kernel, and
throw them away. The file is sparse, so no disk is measured. The rows took turns in {ROUNDS} rounds of {SECONDS:.0f}
seconds; figures are medians of the rounds."""
