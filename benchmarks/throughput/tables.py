"""The results as tables, and as plots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from measuring import Load

LIMIT, BY_HAND, ALONE = "nginx, static", "header by hand", "FileResponse alone"
RUN_BY_HAND, ALONE_NAME = "nginx and uvicorn by hand", "uvicorn alone"

Loads = dict[str, dict[str, Load]]  # by row and size


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


def run_sends(loads: Loads) -> str:
    """`asgi-accel run`: requests of 4 KiB, and the bytes of 100 MiB."""
    by_hand = loads[RUN_BY_HAND]
    rows = [
        [
            name,
            f"{small.rate:,.0f}",
            f"{small.rate / by_hand['4KiB'].rate:.2f}",
            f"{small.p50 * 1000:.2f}",
            f"{small.p99 * 1000:.1f}",
            f"{large.bandwidth / (1 << 20):,.0f}",
            f"{large.bandwidth / by_hand['100MiB'].bandwidth:.2f}",
        ]
        for name, sizes in loads.items()
        for small, large in [(sizes["4KiB"], sizes["100MiB"])]
    ]
    columns = ["", "4 KiB: requests/s", "of by hand", "p50, ms", "p99, ms", "100 MiB: MiB/s", "of by hand"]
    return table(columns, rows)


def run_starts(start: dict[str, float]) -> str:
    rows = [[name, f"{seconds:.2f}", f"{seconds - start['uvicorn']:+.2f}"] for name, seconds in start.items()]
    return table(["", "seconds", "more than uvicorn"], rows)


def run_memory(memory: dict[str, dict[str, int]]) -> str:
    parts = ("the proxy", "the command")
    rows = [
        [
            name,
            *(f"{by[part] / (1 << 20):.0f}" if part in by else "" for part in parts),
            f"{sum(by.values()) / (1 << 20):.0f}",
        ]
        for name, by in memory.items()
    ]
    return table(["", *parts, "together, MiB"], rows)


def zips(rows: dict[str, dict[str, float]]) -> str:
    shown = [[name, *(f"{row[key]:.2f}" for key in ("first", "whole", "processor"))] for name, row in rows.items()]
    return table(["", "first byte, s", "all of it, s", "app's CPU, s"], shown)


def answers(part: dict[str, Any]) -> str:
    rows = []
    for row in part["rows"]:
        asked = {None: "nothing", 0: "no limit"}.get(row["asked"]) or f"{row['asked'] / 1e6:,.0f} MB/s"
        spent = [
            f"{row['processor'][who]:.0%}" if row["name"] != ALONE_NAME or who == "app" else ""
            for who in ("app", "proxy")
        ]
        got = f"{row['got'] / 1e6:,.0f} MB/s" if row["asked"] is not None else ""
        rows.append([asked, row["name"], got, f"{row['p50'] * 1000:.1f}", f"{row['p99'] * 1000:.1f}", *spent])
    columns = ["the clients ask for", "", "they get", "median, ms", "99th percentile, ms", "app's CPU", "proxy's CPU"]
    return table(columns, rows)


def instructions(counted: dict[str, int]) -> str:
    """The instructions of each kind of request, and what they are of the kind that it is compared with."""
    hand, page = counted["by hand"], counted["page"]
    peer = counted["page, TrustedHostMiddleware"] - page
    rows = []
    for name, number in counted.items():
        ratio = f"{number / hand:.2f} of by hand"
        if name == "page":
            ratio = ""
        elif name.startswith("page,"):
            ratio = f"{(number - page) / peer:.2f} of TrustedHostMiddleware"
        rows.append([name, f"{number:,}", ratio])
    return table(["", "instructions", ""], rows)


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
