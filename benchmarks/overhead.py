"""What the package's parts take in process: the middleware for pages and for files, a response, and `PathMap.uri`.

    .venv/bin/python benchmarks/overhead.py

The rounds of all candidates are interleaved, so that drift hits all alike; the figures are medians.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap

CALLS = 5_000
ROUNDS = 41
HOW = f"In one process, in {ROUNDS} rounds of {CALLS:,} calls; figures are medians."

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


class Least:
    """What no middleware with this task can do without: look at the request's headers, and at those of the response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for name, _ in scope["headers"]:
            if name == b"x-accel-mapping":
                break

        def respond(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                for name, _ in message["headers"]:
                    if name == b"x-accel-redirect":
                        break
            return send(message)

        await self.app(scope, receive, respond)


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


def middlewares() -> dict[str, dict[str, float]]:
    """Microseconds that each middleware adds to a request, where the proxy offers nothing and where it offers."""
    candidates: dict[str, ASGIApp] = {
        "no middleware": app,
        "TrustedHostMiddleware": TrustedHostMiddleware(app, ["*.example"]),
        "GZipMiddleware": GZipMiddleware(app),
        "the least": Least(app),
        "AccelMiddleware": AccelMiddleware(app, {"/mnt/storage": "/download"}),
    }
    requests = {
        "nothing offered": PROXY_HEADERS + BROWSER_HEADERS,
        "offered": PROXY_HEADERS + OFFER + BROWSER_HEADERS,
    }
    times: dict[tuple[str, str], list[float]] = {(offer, name): [] for offer in requests for name in candidates}
    for _ in range(ROUNDS):
        for offer, name in times:
            times[offer, name].append(measure(candidates[name], requests[offer]))
    median = {key: statistics.median(values) * 1e6 for key, values in times.items()}
    return {
        offer: {
            name: median[offer, name] - median[offer, "no middleware"] for name in candidates if name != "no middleware"
        }
        for offer in requests
    }


class LeastForFiles:
    """The least that hands a file over: its path becomes a header, whatever the request says and the file is called."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"] = {"http.response.pathsend": {}}
        start: Message = {}

        async def redirect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
            headers += [(b"content-length", b"0"), (b"x-accel-redirect", message["path"].encode())]
            await send({**start, "headers": headers})
            await send({"type": "http.response.body", "body": b""})

        await self.app(scope, receive, redirect)


def files() -> dict[str, float]:
    """Microseconds that a `FileResponse` with `stat_result` takes through Starlette's router, its file offered."""
    path = os.path.abspath(__file__)
    stat_result = os.stat(path)

    async def endpoint(request: Request) -> Response:
        return FileResponse(path, stat_result=stat_result)

    routed = Starlette(routes=[Route("/", endpoint)])
    mapping = {os.path.dirname(path): "/download"}
    offer = [(b"x-accel-mapping", os.fsencode(str(PathMap(mapping))))]
    candidates: dict[str, ASGIApp] = {
        "the least": LeastForFiles(routed),
        "AccelMiddleware": AccelMiddleware(routed, mapping),
        "AccelMiddleware, hold=0": AccelMiddleware(routed, mapping, hold=0),
    }
    headers = PROXY_HEADERS + offer + BROWSER_HEADERS

    async def measure_files(target: ASGIApp) -> float:
        asgi = {"version": "3.0", "spec_version": "2.4"}
        scope = {"type": "http", "asgi": asgi, "method": "GET", "path": "/", "root_path": "", "query_string": b""}
        start = time.perf_counter()
        for _ in range(CALLS // 5):
            await target({**scope, "headers": headers.copy()}, receive, send)
        return (time.perf_counter() - start) / (CALLS // 5)

    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(ROUNDS):
        for name, target in candidates.items():
            times[name].append(asyncio.run(measure_files(target)))
    return {name: statistics.median(values) * 1e6 for name, values in times.items()}


def responses() -> dict[str, float]:
    """Microseconds that it takes to make a response: by hand, and as `AccelRedirectResponse`."""
    makers: dict[str, Callable[[], Response]] = {
        "a Response with the header by hand": lambda: Response(
            headers={"X-Accel-Redirect": "/download/a.bin"}, media_type="application/octet-stream"
        ),
        "AccelRedirectResponse": lambda: AccelRedirectResponse("/download/a.bin"),
    }
    times: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(ROUNDS):
        for name, make in makers.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                make()
            times[name].append((time.perf_counter() - start) / CALLS * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


def uris() -> dict[str, dict[str, float]]:
    """Microseconds that `PathMap.uri` takes, by the number of pairs and the length of the path in bytes."""
    paths = {length: "/mnt/storage-0/" + "folder/" * (length // 7 - 2) for length in (40, 80, 160, 320)}
    maps = {pairs: PathMap({f"/mnt/storage-{n}": f"/download-{n}" for n in range(pairs)}) for pairs in (1, 10, 100)}
    times: dict[tuple[int, int], list[float]] = {(pairs, length): [] for pairs in maps for length in paths}
    for _ in range(ROUNDS):
        for pairs, length in times:
            uri, path = maps[pairs].uri, paths[length] + "a.txt"
            start = time.perf_counter()
            for _ in range(CALLS):
                uri(path)
            times[pairs, length].append((time.perf_counter() - start) / CALLS * 1e6)
    return {
        f"{length} bytes": {f"pairs: {pairs}": statistics.median(times[pairs, length]) for pairs in maps}
        for length in paths
    }


def figures() -> dict[str, Any]:
    return {"added": middlewares(), "uri": uris(), "files": files(), "responses": responses()}


def main() -> None:
    for offer, added in middlewares().items():
        for name, microseconds in added.items():
            share = microseconds / added["TrustedHostMiddleware"]
            sys.stdout.write(f"{offer}: {name} adds {microseconds:.2f} us, {share:.2f} of TrustedHostMiddleware\n")
    taken = files()
    for name, microseconds in taken.items():
        share = microseconds / taken["the least"]
        sys.stdout.write(f"a file through the router, {name}: {microseconds:.1f} us, {share:.2f} of the least\n")
    for name, microseconds in responses().items():
        sys.stdout.write(f"{name}: {microseconds:.2f} us\n")
    for length, by_pairs in uris().items():
        line = ", ".join(f"{pairs}: {microseconds:.2f} us" for pairs, microseconds in by_pairs.items())
        sys.stdout.write(f"PathMap.uri, a path of {length}: {line}\n")


if __name__ == "__main__":
    main()
