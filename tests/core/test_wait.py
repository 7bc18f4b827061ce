"""The wait at its edges: apps that are cancelled, raise, or end while the redirect goes out; servers that fail.

What becomes of a file that is deleted is in test_deleted.py.
"""

from __future__ import annotations

import asyncio
import builtins
import gc
import logging
import math
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from asgi import ask
from servers import DEADLINE
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from asgi_accel import AccelMiddleware

pytestmark = pytest.mark.anyio

TEXT = b"0123456789"
LONG = 600.0  # seconds: the app is done, or cancelled, long before
SHORT = 1e-3  # seconds: the app waits until the redirect has been sent
START, BODY = "http.response.start", "http.response.body"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT)
    return path


def living() -> int:
    """The tasks that there are, trio's system tasks among them."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return trio.lowlevel.current_statistics().tasks_living


@pytest.fixture(autouse=True)
async def nothing_is_left(anyio_backend: str) -> AsyncIterator[None]:
    """Each file that was opened is closed in the end, and each task has ended."""
    before = len(os.listdir("/dev/fd")), living()
    yield
    with anyio.fail_after(10):
        while (len(os.listdir("/dev/fd")), living()) != before:  # noqa: ASYNC110
            await anyio.sleep(0.001)


class Server:
    """The `receive` and `send` of one request, and how they fail."""

    def __init__(self, fails_at: str = "", waits: bool = False) -> None:
        self.messages: list[Message] = []
        self.started = anyio.Event()  # `send` has been called
        self.tried = anyio.Event()  # `send` has been called for all, or has raised
        self.go = anyio.Event()  # it waits for this
        self._fails_at = fails_at
        if not waits:
            self.go.set()

    async def receive(self) -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    async def send(self, message: Message) -> None:
        self.started.set()
        with anyio.fail_after(DEADLINE):  # no deadline further out ends this, since cancelled apps have a shield
            await self.go.wait()
        await anyio.lowlevel.checkpoint()  # a cancelled task does not get further
        if message["type"] == self._fails_at:
            self.tried.set()
            raise OSError("of the server")
        self.messages.append(message)
        if message["type"] == BODY and not message.get("more_body"):
            self.tried.set()

    async def run(self, file: Path, app: Callable[[], Awaitable[None]], hold: float) -> None:
        """Make a request for a file of an app that goes on with `app` when it has sent it."""
        folder = file.parent
        middleware = AccelMiddleware(FileResponse(file, background=BackgroundTask(app)), {folder: "/f"}, hold=hold)
        headers = [(b"x-accel-mapping", os.fsencode(f"{folder}/=/f/"))]
        # From ASGI 2.4 on a server's `send` raises if the client has gone, so `FileResponse` does not look for that.
        asgi = {"version": "3.0", "spec_version": "2.4"}
        scope = {"type": "http", "asgi": asgi, "method": "GET", "path": "/", "headers": headers}
        with anyio.fail_after(DEADLINE):
            await middleware(scope, self.receive, self.send)

    def has_all(self, deleted: bool) -> bool:
        """Whether the client has a whole response, once."""
        types = [message["type"] for message in self.messages]
        body = b"".join(message["body"] for message in self.messages[1:])
        named = b"x-accel-redirect" in dict(self.messages[0]["headers"])
        return types[:2] == [START, BODY] and types.count(START) == 1 and (named, body) == (not deleted, TEXT * deleted)


def raises(kind: type[Exception], text: str) -> AbstractContextManager[Any]:
    return pytest.raises(kind, match=text)


@pytest.mark.parametrize("deleted", [False, True])
class TestCancelled:
    """A cancelled app does not lose its response, and stays cancelled."""

    async def test_during_the_wait(self, file: Path, deleted: bool) -> None:
        """By a scope further out, as `move_on_after` makes one."""
        server = Server()

        async def app() -> None:
            if deleted:
                file.unlink()
            scope.cancel()
            await anyio.sleep_forever()

        with anyio.CancelScope() as scope:
            await server.run(file, app, LONG)
        assert scope.cancelled_caught
        assert server.has_all(deleted)

    async def test_after_a_time(self, file: Path, deleted: bool) -> None:
        """By a deadline."""
        server = Server()

        async def app() -> None:
            if deleted:
                file.unlink()
            await anyio.sleep_forever()

        with anyio.move_on_after(0.02) as scope:
            await server.run(file, app, LONG)
        assert scope.cancelled_caught
        assert server.has_all(deleted)

    async def test_while_it_goes_out(self, file: Path, deleted: bool) -> None:
        """The time was up, and the release is under way, which the app does not outrun."""
        server = Server(waits=True)

        async def app() -> None:
            if deleted:
                file.unlink()
            await server.started.wait()
            scope.cancel()
            server.go.set()
            await anyio.sleep_forever()

        with anyio.CancelScope() as scope:
            await server.run(file, app, SHORT)
        assert scope.cancelled_caught
        assert server.has_all(deleted)

    async def test_after_an_error(self, file: Path, deleted: bool) -> None:
        """The response could not be sent, which is no reason not to be cancelled."""
        server = Server(START)

        async def app() -> None:
            if deleted:
                file.unlink()
            await server.tried.wait()
            await anyio.sleep(0.01)
            scope.cancel()
            await anyio.sleep_forever()

        with anyio.CancelScope() as scope:
            await server.run(file, app, SHORT)
        assert scope.cancelled_caught

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    @pytest.mark.parametrize("waits", [False, True])
    async def test_task(self, file: Path, deleted: bool, waits: bool) -> None:
        """By `asyncio.Task.cancel`, which some servers call, during the wait or while the response goes out."""
        server = Server(waits=waits)
        ready = anyio.Event()

        async def app() -> None:
            if deleted:
                file.unlink()
            if waits:
                await server.started.wait()
            ready.set()
            await anyio.sleep_forever()

        task = asyncio.create_task(server.run(file, app, SHORT if waits else LONG))
        await ready.wait()
        task.cancel()
        server.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert server.has_all(deleted)

    async def test_done_already(self, file: Path, deleted: bool) -> None:
        """An app that is done waits for its response; cancelled then, it leaves that to the task that sends it."""
        server = Server(waits=True)
        ended = anyio.Event()

        async def app() -> None:
            if deleted:
                file.unlink()
            await server.started.wait()
            ended.set()

        async with anyio.create_task_group() as group:
            group.start_soon(server.run, file, app, SHORT)
            await ended.wait()
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        server.go.set()
        with anyio.fail_after(10):
            await server.tried.wait()
        assert server.has_all(deleted)


@pytest.mark.parametrize("deleted", [False, True])
class TestErrors:
    """The first error is the one that is seen, and no error keeps a response back that can go out."""

    @pytest.mark.parametrize("hold", [LONG, SHORT])
    async def test_of_the_app(self, file: Path, deleted: bool, hold: float) -> None:
        """Raised during the wait, or after the response has gone out."""
        server = Server()

        async def app() -> None:
            if deleted:
                file.unlink()
            if hold == SHORT:
                await server.tried.wait()
            raise RuntimeError("of the app")

        with raises(RuntimeError, "of the app"):
            await server.run(file, app, hold)
        assert server.has_all(deleted)

    @pytest.mark.parametrize("fails_at", [START, BODY])
    @pytest.mark.parametrize("hold", [LONG, SHORT])
    @pytest.mark.parametrize("raising", [False, True])
    async def test_of_the_server(self, file: Path, deleted: bool, fails_at: str, hold: float, raising: bool) -> None:
        """A `send` that raises when the app is done is the second error, in the middle of the app the first."""
        server = Server(fails_at)
        before = len(os.listdir("/dev/fd"))

        async def app() -> None:
            if deleted:
                file.unlink()
            if hold == SHORT:
                await server.tried.wait()
                while len(os.listdir("/dev/fd")) > before:  # noqa: ASYNC110 (a file that is sent gets closed first)
                    await anyio.sleep(0.001)
            if raising:
                raise RuntimeError("of the app")

        first = (RuntimeError, "of the app") if raising and hold == LONG else (OSError, "of the server")
        with raises(*first):
            await server.run(file, app, hold)

    @pytest.mark.parametrize("fails_at", ["", START, BODY])
    async def test_while_it_goes_out(self, file: Path, deleted: bool, fails_at: str) -> None:
        """The app raises while the response goes out: that waits for the response, and hides what comes of it."""
        server = Server(fails_at, waits=True)

        async def app() -> None:
            if deleted:
                file.unlink()
            await server.started.wait()
            server.go.set()
            raise RuntimeError("of the app")

        with raises(RuntimeError, "of the app"):
            await server.run(file, app, SHORT)
        assert fails_at or server.has_all(deleted)

    async def test_context(self, file: Path, deleted: bool) -> None:
        """The response that goes out by itself has the context of its request, as a server's log may need it."""
        server, request = Server(), ContextVar("request", default="none")
        seen: list[str] = []

        async def send(message: Message) -> None:
            seen.append(request.get())
            await Server.send(server, message)

        server.send = send  # type: ignore[method-assign]
        request.set("this one")

        async def app() -> None:
            if deleted:
                file.unlink()
            await server.tried.wait()

        await server.run(file, app, SHORT)
        assert set(seen) == {"this one"}

    async def test_client_that_hangs_up(self, file: Path, deleted: bool) -> None:
        """The app notices, and what the server's `send` says then is its business."""
        server = Server(START)

        async def hung_up() -> Message:
            return {"type": "http.disconnect"}

        server.receive = hung_up  # type: ignore[method-assign]

        async def app() -> None:
            if deleted:
                file.unlink()
            assert (await server.receive())["type"] == "http.disconnect"

        with raises(OSError, "of the server"):
            await server.run(file, app, LONG)
        assert server.messages == []


class TestGuest:
    """trio as a guest of asyncio: both are there, and the wait is trio's."""

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    @pytest.mark.parametrize("hold", [LONG, SHORT])
    async def test_guest(self, file: Path, hold: float) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        server = Server()

        async def app() -> None:
            if hold == SHORT:
                await server.tried.wait()

        async def guest() -> None:
            server.__init__()  # type: ignore[misc]
            await server.run(file, app, hold)

        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=done.set_result,
        )
        (await done).unwrap()
        assert server.has_all(False)


class TestOnce:
    """Each response goes out once."""

    @pytest.mark.parametrize("deleted", [False, True])
    async def test_time_is_up_as_the_app_ends(self, file: Path, deleted: bool) -> None:
        """Whichever comes first, and however many turns of the event loop lie between them."""
        for number in range(100):
            file.write_bytes(TEXT)
            server = Server()

            async def app(turns: int = number % 10) -> None:
                if deleted:
                    file.unlink()
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()

            await server.run(file, app, 1e-9)
            assert server.has_all(deleted)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            assert server.has_all(deleted)

    @pytest.mark.parametrize("deleted", [False, True])
    async def test_app_that_ends_while_it_goes_out(self, file: Path, deleted: bool) -> None:
        """The app is not done before its response has gone out."""
        server = Server(waits=True)

        async def app() -> None:
            if deleted:
                file.unlink()
            await server.started.wait()
            server.go.set()

        await server.run(file, app, SHORT)
        assert server.has_all(deleted)


class TestHold:
    """The argument."""

    @pytest.mark.parametrize("hold", [-1, -1e-9, -math.inf, math.inf, math.nan, True, False, "0.1", None, 1j, b"1"])
    def test_bad_value(self, hold: Any) -> None:
        """A value that is not a number of seconds is an error that shows it."""
        with pytest.raises(ValueError, match="number of seconds, 0 or more") as raised:
            AccelMiddleware(PlainTextResponse("x"), {"/a": "/b"}, hold=hold)
        assert f"hold={hold!r}:" in str(raised.value)

    @pytest.mark.parametrize("hold", [0, 0.0, -0.0])
    async def test_at_once(self, file: Path, hold: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """With 0 the redirect goes out before the app is done, and no file is touched."""
        found = file.stat()
        touched: list[Any] = []
        seen: list[int] = []
        server = Server()
        for module, name in ((os, "open"), (os, "stat"), (os, "lstat"), (os, "fstat"), (os, "dup"), (builtins, "open")):
            monkeypatch.setattr(module, name, touched.append)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await FileResponse(file, stat_result=found)(scope, receive, send)
            seen.append(len(server.messages))

        folder = file.parent
        headers = [(b"x-accel-mapping", os.fsencode(f"{folder}/=/f/"))]
        scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
        try:
            await AccelMiddleware(app, {folder: "/f"}, hold=hold)(scope, server.receive, server.send)
        finally:
            monkeypatch.undo()
        assert seen == [2]
        assert server.has_all(False)
        assert touched == []


class TestMemory:
    """A finished request is freed at once, not when the garbage collector comes by."""

    @pytest.mark.parametrize("hold", [0, LONG, SHORT])
    @pytest.mark.parametrize("make", [FileResponse, lambda path: Response("x")], ids=["file", "page"])
    async def test_no_cycle(self, file: Path, hold: float, make: Callable[[Path], Response]) -> None:
        """Neither the wait and the response nor the scope and the extensions hold each other."""
        refs: list[weakref.ref[Any]] = []
        server = Server()

        class Part:
            """Something of the request, which can be watched."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = make(file)
            scope["part"] = part = Part()
            refs.extend((weakref.ref(response), weakref.ref(part)))
            await response(scope, receive, send)
            if hold == SHORT:
                await server.tried.wait()

        middleware = AccelMiddleware(app, {file.parent: "/f"}, hold=hold)
        offer = (b"x-accel-mapping", os.fsencode(f"{file.parent}/=/f/"))

        def new_scope() -> Scope:
            return {"type": "http", "method": "GET", "path": "/", "headers": [offer, (b"range", b"bytes=0-1")]}

        gc.collect()
        gc.disable()
        try:
            await middleware(new_scope(), server.receive, server.send)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            assert [ref() for ref in refs] == [None, None]
        finally:
            gc.enable()
        assert server.messages[0]["status"] == 200


class TestOwnerOnly:
    """A file that nginx's workers, who are somebody else, may not read."""

    @pytest.mark.parametrize("mode", [0o600, 0o700, 0o611, 0o640, 0o604, 0o644])
    async def test_warning(self, file: Path, mode: int, caplog: pytest.LogCaptureFixture) -> None:
        """It is redirected, and the log says once which file it is, whose, and what to do."""
        file.chmod(mode)
        offer = (b"x-accel-mapping", os.fsencode(f"{file.parent}/=/f/"))
        app = AccelMiddleware(FileResponse(file), {file.parent: "/f"})
        for _ in range(3):
            assert (await ask(app, offer)).header(b"x-accel-redirect") == b"/f/a.txt"
        messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(messages) == (mode & 0o044 == 0)
        for message in messages:
            for words in (repr(str(file)), f"user {os.getuid()}", f"mode {mode:04o}", "os.chmod(path, 0o640)", "403"):
                assert words in message

    async def test_no_warning(self, file: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Not for a file that the app sends, and not where files are not looked at."""
        file.chmod(0o600)
        offer = (b"x-accel-mapping", os.fsencode(f"{file.parent}/=/f/"))
        deleted = FileResponse(file, background=BackgroundTask(file.unlink))
        mapping = {file.parent: "/f"}
        await ask(AccelMiddleware(FileResponse(file), mapping, hold=0), offer)
        await ask(AccelMiddleware(FileResponse(file, status_code=404), mapping), offer)
        assert (await ask(AccelMiddleware(deleted, mapping), offer)).body == TEXT
        assert not [record for record in caplog.records if record.levelno == logging.WARNING]
