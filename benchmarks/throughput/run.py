"""Measures all that is in `benchmarks/results.md`, or some of it, and writes the results anew.

    make bench                              # everything
    make bench ONLY="ways answering"        # these parts; the others stay as they are, each with its own date
    make bench ROUNDS=1                     # a quick try; its figures mean little

The parts: `ways` (each way to send a file, with the peers), `command` (`asgi-accel run`), `answering` (a small route
while large files are sent), `zip` (many files as one ZIP), `instructions` (in process, counted by valgrind; `make
instructions` is this part alone).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import answering
import command
import ways
import zips
from instructions import counting
from report import read_results, stamp, write_report

PARTS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "ways": (ways.figures, ways.HOW),
    "command": (command.figures, command.HOW),
    "answering": (answering.figures, answering.HOW),
    "zip": (zips.figures, zips.HOW),
    "instructions": (counting.figures, counting.HOW),
}


def main(only: list[str]) -> None:
    wrong = [name for name in only if name not in PARTS]
    if wrong:
        raise SystemExit(f"no such part: {wrong[0]!r}. There are: {', '.join(PARTS)}")
    results: dict[str, Any] = read_results() if only else {}
    for name in only or PARTS:
        measure, how = PARTS[name]
        results[name] = {**stamp(), "how": how, **measure()}
    write_report(results)


if __name__ == "__main__":
    main(sys.argv[1:])
