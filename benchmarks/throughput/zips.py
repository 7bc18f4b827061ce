"""Many files as one ZIP: written to disk and sent by nginx, and streamed by the app (docs/recipes/zip.md)."""

from __future__ import annotations

import http.client
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import ROUNDS, processor_time, wait_for_rest
from ways import Stage

FILES, SIZE = 64, 16 << 20  # bytes: 1 GiB together
WAYS = {"written": "written to disk, sent by nginx", "streamed": "streamed by Python"}


def download(stage: Stage, way: str) -> dict[str, float]:
    """One ZIP: the seconds until its first byte, until its end, and of the app's CPU time."""
    app = [stage.pids["accel"]]
    before, start = processor_time(app), time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", stage.port, timeout=120)
    connection.request("GET", f"/accel/zip/{way}")
    response = connection.getresponse()
    size = len(response.read(1))
    first = time.perf_counter() - start
    while part := response.read(1 << 20):
        size += len(part)
    whole = time.perf_counter() - start
    by_nginx = "-" in response.headers.get("etag", "")
    if response.status != 200 or size < FILES * SIZE or by_nginx != (way == "written"):
        raise RuntimeError(f"{way}: {response.status}, {size} bytes, {response.headers}")
    connection.close()
    wait_for_rest(app)
    return {"first": first, "whole": whole, "processor": processor_time(app) - before}


def figures() -> dict[str, Any]:
    """Medians of each way."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        stage = Stage(Path(name), ["plain", "accel"])
        with stage.start():
            for number in range(FILES):
                (stage.files / f"{number}.photo").write_bytes(os.urandom(SIZE))
            measured: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for number in range(ROUNDS):
                for way, downloads in measured.items():
                    downloads.append(download(stage, way))
                sys.stderr.write(f"zip: round {number + 1} of {ROUNDS}\n")
    return {
        "rows": {
            WAYS[way]: {key: statistics.median(one[key] for one in downloads) for key in downloads[0]}
            for way, downloads in measured.items()
        }
    }


HOW = f"""One client asks for a ZIP of {FILES} files of {SIZE >> 20} MiB, not compressed. The files are in memory. The
app has one core; nginx and the client have the other. The rows took turns in {ROUNDS} rounds; figures are medians."""
