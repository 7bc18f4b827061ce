"""Instructions of the processor for each kind of request, by valgrind's cachegrind.

They are the same on a busy machine, so that a change of 1 % shows. System calls are not counted.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REQUEST = Path(__file__).with_name("request.py")
FEW, MANY = 300, 1300  # requests: the difference leaves out what the start takes
VALGRIND = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
HOW = f"Each row is the difference between {MANY:,} and {FEW} requests in one process, for one request."

ROWS = (
    "by hand",
    "by hand, middleware",
    "class",
    "class, mapping=",
    "class, mapping=, middleware",
    "FileResponse, middleware",
    "FileResponse, middleware, hold=0",
    "page",
    "page, TrustedHostMiddleware",
    "page, middleware, nothing offered",
    "page, middleware, offered",
)


def count(row: str, times: int, folder: str) -> int:
    """The instructions of a process that makes so many requests."""
    environment = {**os.environ, "PYTHONHASHSEED": "0", "ROWS_FOLDER": folder}
    command = [*VALGRIND, sys.executable, str(REQUEST), row, str(times)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
    found = re.search(r"I\s+refs:\s+([\d,]+)", said)
    assert found is not None, said
    return int(found[1].replace(",", ""))


def figures() -> dict[str, Any]:
    """The instructions of one request of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        return {"rows": {row: (count(row, MANY, folder) - count(row, FEW, folder)) // (MANY - FEW) for row in ROWS}}
