"""The results as tables, as data and as plots: `benchmarks/results.md`, `.json` and two `.svg`."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent
PACKAGES = [
    "starlette", "uvicorn", "httptools", "uvloop", "granian", "gunicorn",
    "flask", "django", "django-sendfile2", "django-downloadview",
]  # fmt: skip
PEERS = ["Flask send_file", "django-sendfile2", "django-downloadview", "Rack::Sendfile"]
LIMIT, BY_HAND, ALONE = "nginx, static", "header by hand", "FileResponse alone"

Loads = dict[str, dict[str, Any]]  # by row and size


def versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    found["Python"] = platform.python_version()
    for name, command in {"nginx": ["nginx", "-v"], "wrk": ["wrk", "-v"], "puma": ["puma", "--version"]}.items():
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


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def small(loads: Loads) -> str:
    """4 KiB: what a request costs."""
    rate = {name: sizes["4KiB"].rate for name, sizes in loads.items()}
    rows = []
    for name, sizes in loads.items():
        load = sizes["4KiB"]
        rows.append(
            [
                name,
                f"{rate[name]:,.0f}",
                f"{rate[name] / rate[BY_HAND]:.2f}",
                f"{rate[name] / rate[ALONE]:.2f}",
                f"{load.p50 * 1000:.2f}",
                f"{load.p99 * 1000:.1f}",
                f"{load.per_request * 1e6:.0f}",
                f"{load.memory / (1 << 20):.0f}",
            ]
        )
    columns = [
        "",
        "requests/s",
        f"of {BY_HAND}",
        f"of {ALONE}",
        "p50, ms",
        "p99, ms",
        "app's CPU, us",
        "MiB",
    ]
    return table(columns, rows)


def large(loads: Loads) -> str:
    """100 MiB: what the bytes cost."""
    rate = {name: sizes["100MiB"].bandwidth for name, sizes in loads.items()}
    processor = {name: sizes["100MiB"].per_gib for name, sizes in loads.items()}
    rows = [
        [
            name,
            f"{rate[name] / (1 << 20):,.0f}",
            f"{rate[name] / rate[LIMIT]:.2f}",
            f"{processor[name]:.4f}",
            f"{processor[name] / processor[ALONE]:.2%}",
            f"{sizes['100MiB'].memory / (1 << 20):.0f}",
        ]
        for name, sizes in loads.items()
    ]
    return table(["", "MiB/s", f"of {LIMIT}", "app's CPU, s per GiB", f"of {ALONE}", "MiB"], rows)


def in_process(added: dict[str, dict[str, float]]) -> str:
    peer = "TrustedHostMiddleware"
    rows = [
        [name, *(f"{by_name[name]:.2f} ({by_name[name] / by_name[peer]:.2f})" for by_name in added.values())]
        for name in next(iter(added.values()))
    ]
    return table(["", *added], rows)


def by_pairs(uri: dict[str, dict[str, float]]) -> str:
    rows = [[f"a path of {length}", *(f"{time:.1f}" for time in times.values())] for length, times in uri.items()]
    return table(["", *next(iter(uri.values()))], rows)


def asked(loads: Loads, added: dict[str, dict[str, float]]) -> str:
    """What the project asks of itself, and what this run gives."""
    rate = {name: sizes["4KiB"].rate for name, sizes in loads.items()}
    cost = {name: sizes["4KiB"].per_request for name, sizes in loads.items()}
    bandwidth = {name: sizes["100MiB"].bandwidth for name, sizes in loads.items()}
    processor = {name: sizes["100MiB"].per_gib for name, sizes in loads.items()}
    redirect, through, file = "AccelRedirectResponse", "AccelRedirectResponse, middleware", "FileResponse, middleware"
    peers = [name for name in PEERS if name in loads]
    of_trusted = {offer: by["AccelMiddleware"] / by["TrustedHostMiddleware"] for offer, by in added.items()}
    goals = [
        (f"{redirect}, of the header by hand", rate[redirect] / rate[BY_HAND], 0.97),
        ("the same through the middleware", rate[through] / rate[BY_HAND], 0.97),
        (f"{file}, of {ALONE}", rate[file] / rate[ALONE], 2.5),
        (f"{file}, of the header by hand", rate[file] / rate[BY_HAND], 0.5),
        ("the same with stat_result", rate["FileResponse with stat_result, middleware"] / rate[BY_HAND], 0.5),
        (f"100 MiB: {file}, of nginx, static", bandwidth[file] / bandwidth[LIMIT], 0.95),
        (f"{through}, requests/s, of the best peer", rate[through] / max(rate[name] for name in peers), 1.0),
        (f"{file}, requests/s, of the best peer", rate[file] / max(rate[name] for name in peers), 1.0),
    ]
    limits = [
        (f"100 MiB: the app's CPU, {file}, of {ALONE}", processor[file] / processor[ALONE], 0.01),
        ("the middleware, nothing offered, of TrustedHostMiddleware", of_trusted["nothing offered"], 1 / 3),
        ("the middleware, offered, of TrustedHostMiddleware", of_trusted["offered"], 2 / 3),
        (f"{through}, CPU per request, of the best peer", cost[through] / min(cost[name] for name in peers), 1.0),
    ]
    rows = [
        [what, f"{value:.3g}", f"at least {goal:.3g}", "yes" if round(value, 2) >= goal else "no"]
        for what, value, goal in goals
    ]
    rows += [
        [what, f"{value:.3g}", f"at most {goal:.3g}", "yes" if round(value, 4) <= goal else "no"]
        for what, value, goal in limits
    ]
    return table(["", "ratio", "asked", "reached"], rows)


def plot(title: str, values: dict[str, float], form: Callable[[float], str]) -> str:
    """A bar for each row, longest first; colours that a light and a dark page both bear."""
    longest = max(values.values())
    parts, top = [], 44
    for name, value in sorted(values.items(), key=lambda item: -item[1]):
        own = "middleware" in name or "AccelRedirect" in name
        width = max(1.0, 400 * value / longest)
        parts.append(
            f'<text x="300" y="{top + 13}" text-anchor="end">{name}</text>'
            f'<rect x="310" y="{top}" width="{width:.1f}" height="17" fill="{"#2f81f7" if own else "#8b949e"}"/>'
            f'<text x="{315 + width:.1f}" y="{top + 13}">{form(value)}</text>'
        )
        top += 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {top + 10}" font-family="sans-serif" font-size="12" '
        f'fill="#768390"><text x="10" y="24" font-size="16">{title}</text>{"".join(parts)}</svg>\n'
    )


def write_report(loads: Loads, in_one_process: dict[str, dict[str, dict[str, float]]], how: str) -> None:
    day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    used = versions()
    data = {
        "date": day,
        "machine": machine(),
        "versions": used,
        "loads": {name: {size: load._asdict() for size, load in sizes.items()} for name, sizes in loads.items()},
        "in process": in_one_process,
    }
    (RESULTS / "results.json").write_text(json.dumps(data, indent=1) + "\n")
    listed = ", ".join(f"{name} {version}" for name, version in used.items())
    text = f"""# What it costs

Written by `make bench` on {day}, on {machine()}, with {listed}.

{how}

## A file of 4 KiB

{table_note}

{small(loads)}

## A file of 100 MiB

{large(loads)}

## In process, without a server

Microseconds that a middleware adds to a response that is no file, and that as a share of what Starlette's
`TrustedHostMiddleware` adds:

{in_process(in_one_process["added"])}

Microseconds that `PathMap.uri` takes:

{by_pairs(in_one_process["uri"])}

## What was asked for

{asked(loads, in_one_process["added"])}

{reasons}
"""
    (RESULTS / "results.md").write_text(text)
    rates = {name: sizes["4KiB"].rate for name, sizes in loads.items()}
    (RESULTS / "requests.svg").write_text(plot("4 KiB: requests per second", rates, lambda value: f"{value:,.0f}"))
    processor = {name: sizes["100MiB"].per_gib for name, sizes in loads.items() if name != LIMIT}
    (RESULTS / "processor.svg").write_text(
        plot("100 MiB: the app's CPU seconds per GiB", processor, lambda value: f"{value:.3f}")
    )


table_note = """\
The app's CPU time is that of its processes alone, without nginx; the memory is the most they held. "The least" is a
middleware that puts a file's path into the header, and does nothing else that `AccelMiddleware` does."""

# What the figures above say of those that are not reached.
reasons = """Why some are not:

- `FileResponse` looks at the file in another thread, more than a third of the app's time for such a request;
  `stat_result=` avoids that, and nothing else does without changes to Starlette.
- The row "the least" is the same response with a middleware that does nothing but put the path into a header. Between
  it and `AccelMiddleware` is, first of all, the file that is kept open until the app is done, because a background task
  may delete it before nginx opens it ([measured](faults.md)): `open`, `fstat`,
  `stat` and `close`, about half of the difference. The rest is the percent-encoded URI and the look whether a redirect
  is safe.
- In process, "the least" is a coroutine, a look for one header of the request and a look for one of the response, which
  alone are a third of what `TrustedHostMiddleware` takes. `AccelMiddleware` looks for all headers that matter, in the
  one method that reads them, and takes names in any case; where files are offered, it makes the app's view of the
  extensions and its `send`.
- Puma spreads its work over threads and does the file's `stat` in place; `AccelRedirectResponse` does none at all."""
