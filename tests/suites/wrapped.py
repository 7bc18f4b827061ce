"""A pytest plugin that puts `AccelMiddleware` around the app of each of Starlette's test clients.

`ACCEL_OFFER` says what a proxy offers: `nothing`, `other` (a folder without the files), or `all`. With `all` a real
nginx acts on each redirect, and the test gets nginx's answer. `ACCEL_OUTCOMES` is the file for each test's outcome.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from servers import Nginx
from starlette import testclient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_accel import AccelMiddleware

OFFER = os.environ["ACCEL_OFFER"]
MAPPING = {"nothing": {"/": "/_files/"}, "other": {"/nowhere": "/_files/"}, "all": {"/": "/_files/"}}

Raw = list[tuple[bytes, bytes]]


class App(socketserver.ThreadingUnixStreamServer):
    """What nginx takes for the app: it answers with the status and headers that a test's app sent."""

    daemon_threads = True

    def __init__(self, listens_on: Path) -> None:
        self.answers: dict[bytes, tuple[int, Raw]] = {}
        super().__init__(str(listens_on), AppAnswer)


class AppAnswer(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        token = b""
        while line := self.rfile.readline().strip():
            if line.lower().startswith(b"x-answer:"):
                token = line[9:].strip()
        assert isinstance(self.server, App)
        status, headers = self.server.answers[token]
        lines = [b"HTTP/1.1 %d OK" % status, *(name + b": " + value for name, value in headers), b"Connection: close"]
        self.wfile.write(b"\r\n".join(lines) + b"\r\n\r\n")


class Client(http.client.HTTPConnection):
    def __init__(self, listens_on: Path) -> None:
        super().__init__("localhost")
        self.listens_on = listens_on

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.listens_on))


class Proxy:
    """A real nginx, configured as `asgi-accel nginx` prints it, that is asked what it makes of an answer."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        folder = Path(tempfile.mkdtemp(prefix="accel-", dir="/tmp"))
        self._stack.callback(shutil.rmtree, folder)
        self.app = self._stack.enter_context(App(folder / "app.sock"))
        threading.Thread(target=self.app.serve_forever, daemon=True).start()
        self._stack.callback(self.app.shutdown)
        self.listens_on = folder / "nginx.sock"
        command = [sys.executable, "-m", "asgi_accel", "nginx", "--mapping", "/=/_files/"]
        command += ["--unix", str(folder / "app.sock"), "--listen", f"unix:{self.listens_on}"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        self._stack.enter_context(Nginx(folder, printed, self.listens_on))

    def stop(self) -> None:
        self._stack.close()

    def ask(self, scope: Scope, start: Message) -> tuple[int, Raw, bytes]:
        """What a client gets where an app answers its request with these headers."""
        token = str(id(start)).encode()
        self.app.answers[token] = start["status"], list(start["headers"])
        connection = Client(self.listens_on)
        try:
            connection.putrequest(scope["method"], "/", skip_accept_encoding=True)
            for name, value in scope["headers"]:
                if name not in (b"host", b"connection", b"content-length", b"transfer-encoding", b"expect"):
                    connection.putheader(name.decode("latin-1"), value)
            connection.putheader("X-Answer", token)
            connection.putheader("Connection", "close")
            connection.endheaders()
            answer = connection.getresponse()
            headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.getheaders()]
            # Each server adds these, and the test client none.
            headers = [header for header in headers if header[0] not in (b"server", b"date", b"connection")]
            return answer.status, headers, answer.read()
        finally:
            connection.close()
            del self.app.answers[token]


class BehindProxy:
    """An app as a client of nginx sees it."""

    def __init__(self, app: ASGIApp, proxy: Proxy) -> None:
        self.app = app
        self.proxy = proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        client = {"method": scope["method"], "headers": list(scope["headers"])}
        redirect: Message | None = None

        async def act(message: Message) -> None:
            nonlocal redirect
            if message["type"] == "http.response.start":
                message = {**message, "headers": list(message.get("headers", ()))}
                if b"x-accel-redirect" in dict(message["headers"]):
                    redirect = message
                    return
            if redirect is None:
                return await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                status, headers, body = await anyio.to_thread.run_sync(self.proxy.ask, client, redirect)
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, act)


outcomes: dict[str, str] = {}
proxy: Proxy | None = None


def wrap(app: ASGIApp) -> ASGIApp:
    if OFFER == "without":
        return app
    wrapped = AccelMiddleware(app, MAPPING[OFFER], always=OFFER != "nothing")
    return wrapped if proxy is None else BehindProxy(wrapped, proxy)


def pytest_configure() -> None:
    global proxy
    if OFFER == "all":
        proxy = Proxy()
    transport: Any = testclient._TestClientTransport
    unwrapped = transport.__init__

    def init(self: Any, app: ASGIApp, *args: Any, **kwargs: Any) -> None:
        unwrapped(self, wrap(app), *args, **kwargs)

    transport.__init__ = init


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        outcomes[report.nodeid] = report.outcome


def pytest_unconfigure() -> None:
    if proxy is not None:
        proxy.stop()
    Path(os.environ["ACCEL_OUTCOMES"]).write_text(json.dumps(outcomes))
