"""What the middleware adds to a response that is no file, driven in process without a server.

    .venv/bin/python benchmarks/overhead.py

Prints, for each middleware, the median of what it adds to one request in microseconds, and that as a share of what
Starlette's `TrustedHostMiddleware` adds in the same run. The rounds are interleaved, so that drift hits all alike.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Coroutine
from typing import Any

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_accel import AccelMiddleware

CALLS = 5_000
ROUNDS = 41

# As nginx sends them: first what the configuration sets, then what the browser sent.
PROXY_HEADERS = [
    (b"host", b"www.example"),
    (b"connection", b"close"),
    (b"x-forwarded-for", b"192.0.2.1"),
    (b"x-forwarded-proto", b"https"),
]
OFFER = [(b"x-accel-mapping", b"/mnt/storage/=/download/")]
BROWSER_HEADERS = [
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"en-US,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"cookie", b"session=2f0d6a1c9b"),
]
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-length", b"5"), (b"content-type", b"text/plain; charset=utf-8")],
}
BODY = {"type": "http.response.body", "body": b"hello"}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    await send(BODY)


async def receive() -> Message:
    return {"type": "http.request"}


async def send(message: Message) -> None:
    pass


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("the app waits for something, so its time means nothing")


def measure(target: ASGIApp, headers: list[tuple[bytes, bytes]]) -> float:
    """Seconds that one request takes."""
    scope = {"type": "http", "method": "GET", "path": "/", "asgi": {"version": "3.0", "spec_version": "2.4"}}
    start = time.perf_counter()
    for _ in range(CALLS):
        run(target({**scope, "headers": headers.copy()}, receive, send))  # type: ignore[arg-type]
    return (time.perf_counter() - start) / CALLS


def main() -> None:
    trusted = TrustedHostMiddleware(app, ["*.example"])
    accel = AccelMiddleware(app, {"/mnt/storage": "/download"})
    plain = PROXY_HEADERS + BROWSER_HEADERS
    offered = PROXY_HEADERS + OFFER + BROWSER_HEADERS
    candidates: dict[str, tuple[ASGIApp, list[tuple[bytes, bytes]]]] = {
        "no middleware": (app, plain),
        "TrustedHostMiddleware": (trusted, plain),
        "AccelMiddleware": (accel, plain),
        "no middleware, offered": (app, offered),
        "TrustedHostMiddleware, offered": (trusted, offered),
        "AccelMiddleware, offered": (accel, offered),
    }
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(ROUNDS):
        for name, (target, headers) in candidates.items():
            times[name].append(measure(target, headers))
    median = {name: statistics.median(values) * 1e6 for name, values in times.items()}
    for offer in ("", ", offered"):
        base = median[f"no middleware{offer}"]
        peer = median[f"TrustedHostMiddleware{offer}"] - base
        own = median[f"AccelMiddleware{offer}"] - base
        sys.stdout.write(
            f"{'offered' if offer else 'nothing offered'}: TrustedHostMiddleware adds {peer:.2f} us, "
            f"AccelMiddleware {own:.2f} us: {own / peer:.2f} of it\n"
        )


if __name__ == "__main__":
    main()
