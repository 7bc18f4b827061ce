"""The seam: whatever stands around a `FileResponse`, its file is redirected, or is what it is without the package."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from asgi import Answer, Header, ask
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.datastructures import MutableHeaders
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap, offered

pytestmark = pytest.mark.anyio

TEXT = b"0123456789"
START, BODY = "http.response.start", "http.response.body"
PATHSEND = "http.response.pathsend"
BAD_RANGE = (b"range", b"bytes=99-")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT)
    return path


def target(answer: Answer) -> bytes | None:
    """Where an answer leads, if it is a redirect: headers alone."""
    if answer.header(b"x-accel-redirect") is not None:
        assert answer.header(b"content-length") == b"0"
        assert answer.header(b"content-encoding") is None
        assert answer.body == b""
    return answer.header(b"x-accel-redirect")


Change = Callable[[ASGIApp, Scope, Receive, Send], Awaitable[None]]


def middleware(change: Change) -> Callable[[ASGIApp], ASGIApp]:
    """A middleware from a function."""

    def wrap(app: ASGIApp) -> ASGIApp:
        async def changed(scope: Scope, receive: Receive, send: Send) -> None:
            await change(app, scope, receive, send)

        return changed

    return wrap


@middleware
async def reads_bodies(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Takes every message that is no start for a body, as audit logs do."""
    read = b""

    async def reading(message: Message) -> None:
        nonlocal read
        if message["type"] != START:
            read += message["body"]
        await send(message)

    await app(scope, receive, reading)


def read_by_dispatch(app: ASGIApp) -> ASGIApp:
    """The idiom for `BaseHTTPMiddleware`: read the body, and answer with a new response."""

    async def dispatch(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response: Any = await call_next(request)
        body = b"".join([part async for part in response.body_iterator])
        return Response(body, response.status_code, dict(response.headers))

    return BaseHTTPMiddleware(app, dispatch)


def buffering(headers: Callable[[list[Header], bytes], list[Header]]) -> Callable[[ASGIApp], ASGIApp]:
    """Middlewares that answer when the app is done, with headers of their own."""

    @middleware
    async def buffer(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await app(scope, receive, keep)
        body = b"".join(message.get("body", b"") for message in messages if message["type"] == BODY)
        await send({**messages[0], "headers": headers(list(messages[0]["headers"]), body)})
        await send({"type": BODY, "body": body})

    return buffer


def with_length(headers: list[Header], body: bytes) -> list[Header]:
    rest = [header for header in headers if header[0] != b"content-length"]
    return [*rest, (b"content-length", str(len(body)).encode())]


BETWEEN: dict[str, Callable[[ASGIApp], ASGIApp]] = {
    "reads bodies": reads_bodies,
    "reads body_iterator": read_by_dispatch,
    "buffers": buffering(lambda headers, body: headers),
    "buffers, own length": buffering(with_length),
    "buffers, no length": buffering(lambda headers, body: [one for one in headers if one[0] != b"content-length"]),
}


class TestBetween:
    """A middleware between the route and `AccelMiddleware`."""

    @pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_redirected(
        self, file: Path, mapping: PathMap, offer: Header, between: Callable[[ASGIApp], ASGIApp], method: str
    ) -> None:
        """It sees an ordinary response, and the proxy sends the file."""
        app = AccelMiddleware(between(FileResponse(file)), mapping)
        answer = await ask(app, offer, method=method)
        assert target(answer) == b"/files/a.txt"
        assert answer.header(b"vary") == b"X-Accel-Mapping"

    @pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
    async def test_deleted(
        self, file: Path, mapping: PathMap, offer: Header, between: Callable[[ASGIApp], ASGIApp]
    ) -> None:
        """A task that runs before the middleware answers loses no file."""
        response = FileResponse(file, background=BackgroundTask(os.unlink, file))
        answer = await ask(AccelMiddleware(between(response), mapping), offer, (b"range", b"bytes=2-4"))
        assert (answer.status, answer.body) == (206, b"234")

    @pytest.mark.parametrize("hold", [0, 0.1])
    @pytest.mark.parametrize("more", [False, True])
    async def test_redirect_is_lost(self, file: Path, mapping: PathMap, offer: Header, hold: float, more: bool) -> None:
        """A new response from the body alone, which is empty: the app sends the file under the new headers."""

        @middleware
        async def anew(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
            async def nothing(message: Message) -> None:
                pass

            await app(scope, receive, nothing)
            headers = [(b"content-type", b"text/x"), (b"x-new", b"1"), (b"content-length", b"0")]
            await send({"type": START, "status": 200, "headers": [*headers, (b"content-encoding", b"br")]})
            if more:
                await send({"type": BODY, "body": b"", "more_body": True})
            await send({"type": BODY})
            await send({"type": "http.response.trailers", "headers": []})  # too late

        app = AccelMiddleware(anew(FileResponse(file, headers={"ETag": '"own"'})), mapping, hold=hold)
        answer = await ask(app, offer)
        assert (answer.status, answer.body) == (200, TEXT)
        assert [message["type"] for message in answer.messages] == [START, BODY]
        assert dict(answer.headers) == {
            b"content-type": b"text/x",
            b"x-new": b"1",
            b"content-length": b"10",
            b"etag": b'"own"',
            b"accept-ranges": b"bytes",
            b"last-modified": answer.header(b"last-modified"),
        }
        assert (await ask(app, offer, (b"range", b"bytes=2-4"))).body == b"234"

    @pytest.mark.parametrize(
        "own",
        [
            PlainTextResponse("its own"),
            PlainTextResponse("", 403),
            Response(status_code=204),
            AccelRedirectResponse("/files/another"),
        ],
    )
    async def test_own_answer(self, file: Path, mapping: PathMap, offer: Header, own: Response) -> None:
        """An answer with a body, another status or another redirect is the middleware's own."""

        @middleware
        async def replace(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
            async def nothing(message: Message) -> None:
                pass

            await app(scope, receive, nothing)
            await own(scope, receive, send)

        before = len(os.listdir("/dev/fd"))
        answer = await ask(AccelMiddleware(replace(FileResponse(file)), mapping), offer)
        vary = [(b"vary", b"X-Accel-Mapping")] if isinstance(own, AccelRedirectResponse) else []
        assert answer.messages == [
            {"type": START, "status": own.status_code, "headers": own.raw_headers + vary},
            {"type": BODY, "body": own.body},
        ]
        assert len(os.listdir("/dev/fd")) == before

    async def test_own_answer_in_parts(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """An answer whose first part is empty is not empty."""
        parts: list[Message] = [
            {"type": START, "status": 200, "headers": []},
            {"type": BODY, "body": b"", "more_body": True},
            {"type": BODY, "body": b"its own", "more_body": True},
            {"type": BODY, "body": b"!"},
        ]

        @middleware
        async def replace(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
            async def nothing(message: Message) -> None:
                pass

            await app(scope, receive, nothing)
            for part in parts:
                await send(part)

        answer = await ask(AccelMiddleware(replace(FileResponse(file)), mapping), offer)
        assert answer.messages == [parts[0], *parts[2:]]

    async def test_answer_without_an_end(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """What a middleware begins and does not end is for the server to judge, as without the package."""

        @middleware
        async def begin(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
            async def nothing(message: Message) -> None:
                pass

            await app(scope, receive, nothing)
            await send({"type": START, "status": 200})

        answer = await ask(AccelMiddleware(begin(FileResponse(file)), mapping), offer)
        assert answer.messages == [{"type": START, "status": 200}]

    async def test_changed_bytes(
        self, file: Path, mapping: PathMap, offer: Header, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One that adds to the bytes is told, once, that the proxy sends the file as it is."""

        @middleware
        async def add(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
            async def adding(message: Message) -> None:
                if message["type"] == BODY:
                    await send({"type": BODY, "body": message["body"] + b"<script>", "more_body": True})
                    await send({"type": BODY})
                    return
                headers = [*message["headers"][:-3], (b"content-length", b"8"), (b"content-encoding", b"x")]
                await send({**message, "headers": headers + message["headers"][-2:]})

            await app(scope, receive, adding)

        app = AccelMiddleware(add(FileResponse(file)), mapping)
        for _ in range(2):
            assert target(await ask(app, offer)) == b"/files/a.txt"
        (record,) = caplog.records
        assert record.levelname == "ERROR"
        assert "sends the file as it is" in record.getMessage()

    @pytest.mark.parametrize("deleted", [False, True])
    async def test_written_into(self, file: Path, mapping: PathMap, offer: Header, deleted: bool) -> None:
        """A middleware that writes into the messages themselves, as Starlette's own do, changes this response alone."""

        @middleware
        async def write(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
            async def writing(message: Message) -> None:
                if message["type"] == START:
                    headers = MutableHeaders(scope=message)
                    headers["Content-Length"] = "7"
                    headers["X-Added"] = "1"
                else:
                    message["body"] = b"written"
                await send(message)

            await app(scope, receive, writing)

        task = BackgroundTask(os.unlink, file) if deleted else None
        answer = await ask(AccelMiddleware(write(FileResponse(file, background=task)), mapping), offer)
        assert answer.header(b"x-added") == b"1"
        assert (target(answer) is None, answer.body) == (deleted, TEXT if deleted else b"")
        file.write_bytes(TEXT)
        plain = await ask(AccelMiddleware(FileResponse(file), mapping), offer)
        assert (target(plain), plain.header(b"x-added")) == (b"/files/a.txt", None)

    async def test_trailers(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """Trailers that a middleware announces follow the redirect."""
        trailers: Message = {"type": "http.response.trailers", "headers": [(b"a", b"b")]}

        @middleware
        async def announce(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
            async def announcing(message: Message) -> None:
                if message["type"] == START:
                    message = {**message, "trailers": True}
                await send(message)

            await app(scope, receive, announcing)
            await send(trailers)

        for hold in (0, 0.1):
            answer = await ask(AccelMiddleware(announce(FileResponse(file)), mapping, hold=hold), offer)
            start, *others = answer.messages
            assert start["trailers"]
            assert others == [{"type": BODY, "body": b""}, trailers]


class TestOnce:
    """A handler runs once, and sees the very request; what its response has to do after it is done as without."""

    @pytest.mark.parametrize("elsewhere", [False, True])
    @pytest.mark.parametrize("nested", [False, True])
    async def test_bad_range(self, file: Path, mapping: PathMap, offer: Header, nested: bool, elsewhere: bool) -> None:
        """A range that cannot be satisfied, of a file that the app sends itself: 416, and no task runs, nor raises."""
        calls: list[str] = []
        name = file.rename(file.with_name("n" * 200)) if elsewhere else file

        async def endpoint(request: Request) -> Response:
            calls.append("handler")
            task = BackgroundTask(calls.append, "task")
            return FileResponse(name, status_code=200, headers={"Content-Encoding": "x"}, background=task)

        app: ASGIApp = Starlette(routes=[Route("/", endpoint)])
        expected = await ask(app, BAD_RANGE)
        assert expected.status == 416
        assert calls == ["handler"]
        for _ in range(1 + nested):
            app = AccelMiddleware(app, mapping)
        answer = await ask(app, offer, BAD_RANGE)
        assert answer.messages == expected.messages
        assert calls == ["handler"] * 2

    async def test_state(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """What a handler marks in the state is marked once."""

        async def endpoint(request: Request) -> Response:
            if getattr(request.state, "seen", False):
                return PlainTextResponse("again", 409)
            request.state.seen = True
            return FileResponse(file, headers={"Content-Encoding": "x"})

        app = AccelMiddleware(Starlette(routes=[Route("/", endpoint)]), mapping)

        async def server(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": {}}, receive, send)

        assert (await ask(server, offer, BAD_RANGE)).status == 416

    async def test_error_page_at_once(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """The error page for a missing file goes out while its task runs."""
        done: list[int] = []
        sent = anyio.Event()

        async def task() -> None:
            with anyio.fail_after(10):
                await sent.wait()
            done.append(1)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await FileResponse(file.with_name("none"), status_code=404)(scope, receive, send)
            except RuntimeError:
                page = PlainTextResponse("sorry", 500, background=BackgroundTask(task))
                await page(scope, receive, send)

        async def noting(scope: Scope, receive: Receive, send: Send) -> None:
            async def note(message: Message) -> None:
                await send(message)
                if message["type"] == BODY:
                    sent.set()

            await AccelMiddleware(app, mapping)(scope, receive, note)

        assert (await ask(noting, offer)).status == 500
        assert done == [1]

    async def test_extensions_are_the_servers(self, mapping: PathMap, offer: Header) -> None:
        """What a server announces, the app sees unchanged; an app that asks for pathsend answers ranges itself."""
        extensions: dict[str, Any] = {"http.response.zerocopysend": {}}

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["extensions"] is extensions
            status = 200 if PATHSEND in scope["extensions"] else 206
            await PlainTextResponse(Request(scope).headers["range"], status)(scope, receive, send)

        answer = await ask(AccelMiddleware(app, mapping), offer, (b"range", b"bytes=1-"), extensions=extensions)
        assert (answer.status, answer.body) == (206, b"bytes=1-")

    async def test_other_senders_of_paths(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """Other file senders, which speak pathsend, are what they are without the package."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": START, "status": 200, "headers": []})
            await send({"type": PATHSEND, "path": str(file)})

        answer = await ask(AccelMiddleware(app, mapping), offer, extensions={PATHSEND: {}})
        assert answer.messages[1] == {"type": PATHSEND, "path": str(file)}


class Custom(FileResponse):
    """A subclass as apps have it, with a `__call__` that goes on to the one of `FileResponse`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers["X-Custom"] = "1"
        await super().__call__(scope, receive, send)


class Reversing(FileResponse):
    """A subclass that changes the bytes."""

    async def _handle_simple(self, send: Send, *options: Any) -> None:
        body = Path(self.path).read_bytes()[::-1]
        await send({"type": START, "status": 200, "headers": self.raw_headers})
        await send({"type": BODY, "body": body})


class Own(FileResponse):
    """A subclass that sends its file itself."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(Path(self.path).read_bytes().decode())(scope, receive, send)


class TestResponses:
    """Whatever kind of `FileResponse` it is."""

    async def test_subclass(self, file: Path, mapping: PathMap, offer: Header) -> None:
        answer = await ask(AccelMiddleware(Custom(file), mapping), offer)
        assert (target(answer), answer.header(b"x-custom")) == (b"/files/a.txt", b"1")

    async def test_response_class(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """FastAPI makes the response from the path that a route returns."""
        app = FastAPI()
        app.add_middleware(AccelMiddleware, mapping=mapping)

        @app.get("/", response_class=FileResponse)
        async def endpoint() -> str:
            return str(file)

        assert target(await ask(app, offer)) == b"/files/a.txt"
        assert (await ask(app)).body == TEXT

    @pytest.mark.parametrize("make", [Reversing, Own])
    async def test_left_to_the_app(
        self, file: Path, mapping: PathMap, offer: Header, make: Callable[[Path], FileResponse]
    ) -> None:
        """One that changes the bytes, or sends them itself, is as without the middleware."""
        expected = await ask(make(file))
        answer = await ask(AccelMiddleware(make(file), mapping), offer)
        assert answer.messages == expected.messages

    async def test_path_is_missing(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """The error is Starlette's."""
        response = FileResponse(file)
        del response.path
        with pytest.raises(AttributeError, match="path"):
            await ask(AccelMiddleware(response, mapping), offer)

    async def test_returned_many_times(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """One instance, with an offer and without, and for two requests at once."""
        response = FileResponse(file)
        headers = list(response.raw_headers)
        app = AccelMiddleware(response, mapping)
        for _ in range(2):
            assert target(await ask(app, offer)) == b"/files/a.txt"
            assert response.raw_headers == headers

        answers: list[Answer] = []

        async def one(*sent: Header) -> None:
            answers.append(await ask(app, *sent))

        async with anyio.create_task_group() as group:
            for sent in ((offer,), (), (offer,), ()):
                group.start_soon(one, *sent)
        assert sorted((target(answer) or b"", answer.body) for answer in answers) == [
            (b"", TEXT),
            (b"", TEXT),
            (b"/files/a.txt", b""),
            (b"/files/a.txt", b""),
        ]

    async def test_two_in_one_request(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """The one that goes out counts, and no file stays open."""
        other = file.with_name("b.txt")
        other.write_bytes(b"other")
        before = len(os.listdir("/dev/fd"))

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def nothing(message: Message) -> None:
                pass

            await FileResponse(file)(scope, receive, nothing)
            await FileResponse(other)(scope, receive, send)
            await FileResponse(file)(scope, receive, nothing)

        assert target(await ask(AccelMiddleware(app, mapping), offer)) == b"/files/b.txt"
        assert len(os.listdir("/dev/fd")) == before

    async def test_another_after_it(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """While a redirect waits, another response of the same request is Starlette's own, and changes nothing."""
        other = file.with_name("b.txt")
        other.write_bytes(b"other")
        read: list[Message] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def keep(message: Message) -> None:
                read.append(message)

            await FileResponse(file)(scope, receive, send)
            await FileResponse(other, background=BackgroundTask(os.unlink, other))(scope, receive, keep)
            file.unlink()

        assert (await ask(AccelMiddleware(app, mapping), offer)).body == TEXT
        assert b"".join(message.get("body", b"") for message in read) == b"other"

    async def test_after_a_page(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """A file's response that comes too late is Starlette's own, and leaves no file open."""
        before = len(os.listdir("/dev/fd"))
        read: list[Message] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def keep(message: Message) -> None:
                read.append(message)

            await PlainTextResponse("page")(scope, receive, send)
            await FileResponse(file)(scope, receive, keep)

        assert (await ask(AccelMiddleware(app, mapping), offer)).body == b"page"
        assert b"".join(message.get("body", b"") for message in read) == TEXT
        assert len(os.listdir("/dev/fd")) == before


class TestNested:
    """Two `AccelMiddleware`."""

    async def test_inner_is_done(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """What comes after the inner one, in the same request, is the outer one's: the app serves the file."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def nothing(message: Message) -> None:
                pass

            await AccelMiddleware(FileResponse(file), mapping, always=True)(scope, receive, nothing)
            assert offered(scope) is None
            await AccelRedirectResponse("/own/a.txt")(scope, receive, send)

        outer = AccelMiddleware(app, {file.parent: "/own"})
        answer = await ask(outer)
        assert (answer.header(b"x-accel-redirect"), answer.body) == (None, TEXT)

    async def test_inner_had_no_file(self, file: Path, mapping: PathMap) -> None:
        """Nor does an inner one that has seen a page stand in the way."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def nothing(message: Message) -> None:
                pass

            await AccelMiddleware(PlainTextResponse("page"), mapping, always=True)(scope, receive, nothing)
            await AccelRedirectResponse("/own/a.txt")(scope, receive, send)

        assert (await ask(AccelMiddleware(app, {file.parent: "/own"}))).body == TEXT

    @pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
    async def test_redirect_of_the_inner_one(
        self, file: Path, mapping: PathMap, between: Callable[[ASGIApp], ASGIApp]
    ) -> None:
        """It is for the inner one's proxy, even if it comes late, and the outer one's map names another file so."""
        elsewhere = file.parent / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "a.txt").write_bytes(b"not this one")
        inner = AccelMiddleware(FileResponse(file), mapping, always=True)
        answer = await ask(AccelMiddleware(between(inner), {elsewhere: "/files"}))
        assert (answer.header(b"x-accel-redirect"), answer.body) == (b"/files/a.txt", b"")

    async def test_innermost_counts(self, file: Path, mapping: PathMap, offer: Header) -> None:
        inner = AccelMiddleware(FileResponse(file), {file.parent: "/inner"}, always=True)
        assert target(await ask(AccelMiddleware(inner, mapping), offer)) == b"/inner/a.txt"

    async def test_sendfile_within(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """One for X-Sendfile has no URIs to offer, and does not hide those of an outer one."""
        seen: list[PathMap | None] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(offered(scope))
            await FileResponse(file)(scope, receive, send)

        inner = AccelMiddleware(app, {file.parent: "/inner"}, always=True, sendfile_type="X-Sendfile")
        answer = await ask(AccelMiddleware(inner, mapping), offer)
        assert seen == [mapping]
        assert answer.header(b"x-sendfile") == b"/inner/a.txt"


class TestScope:
    """What others do with the scope."""

    @pytest.mark.parametrize(
        "change",
        [
            copy.copy,
            copy.deepcopy,
            lambda scope: {**scope},
            lambda scope: (json.dumps(scope, default=str), scope)[1],
            lambda scope: (pickle.dumps(scope), scope)[1],
        ],
        ids=["copy", "deepcopy", "spread", "json", "pickle"],
    )
    async def test_copied_or_logged(
        self, file: Path, mapping: PathMap, offer: Header, change: Callable[[Scope], Scope]
    ) -> None:
        """A copy speaks of the same request, and a log can hold it."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await FileResponse(file)(change(scope), receive, send)

        assert target(await ask(AccelMiddleware(app, mapping), offer)) == b"/files/a.txt"

    @pytest.mark.parametrize(
        "change",
        [
            lambda scope: pickle.loads(pickle.dumps(scope)),
            lambda scope: {name: value for name, value in scope.items() if name != "asgi_accel"},
            lambda scope: {**scope, "asgi_accel": None},
        ],
        ids=["pickled", "rebuilt", "none"],
    )
    async def test_lost(self, file: Path, mapping: PathMap, offer: Header, change: Callable[[Scope], Scope]) -> None:
        """Without the offer in its scope, the app sends the file."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            changed = change(scope)
            assert offered(changed) is None
            await FileResponse(file)(changed, receive, send)

        assert (await ask(AccelMiddleware(app, mapping), offer)).body == TEXT

    async def test_after_the_middleware(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """A response that is sent when the middleware is done, in the same scope, is Starlette's own."""
        answer = Answer()
        await ask(AccelMiddleware(PlainTextResponse("page"), mapping), offer, answer=answer)
        assert offered(answer.scope) is None
        late = Answer()

        async def send(message: Message) -> None:
            late.messages.append(message)

        async def receive() -> Message:
            await anyio.sleep_forever()
            raise AssertionError

        await FileResponse(file)(answer.scope, receive, send)
        assert late.body == TEXT

    async def test_freed(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """A response that was lost is freed with its request, without the garbage collector."""
        refs: list[weakref.ref[Any]] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def nothing(message: Message) -> None:
                pass

            response = FileResponse(file)
            refs.append(weakref.ref(response))
            await response(scope, receive, nothing)

        gc.collect()
        gc.disable()
        try:
            await ask(AccelMiddleware(app, mapping), offer)
            assert refs[0]() is None
        finally:
            gc.enable()


class TestWrapping:
    """`FileResponse.__call__` itself."""

    def test_once(self, mapping: PathMap) -> None:
        """Each further middleware leaves it as it is; its name and signature are those of Starlette's."""
        AccelMiddleware(PlainTextResponse("x"), mapping)
        call = FileResponse.__call__
        AccelMiddleware(PlainTextResponse("x"), mapping)
        assert FileResponse.__call__ is call
        assert call.__qualname__ == "FileResponse.__call__"

    async def test_patched_by_others(
        self, file: Path, mapping: PathMap, offer: Header, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Somebody else's patch, before or after, is called as well."""
        calls: list[str] = []
        for name in ("before", "after"):
            earlier = FileResponse.__call__

            async def patched(
                self: FileResponse, scope: Scope, receive: Receive, send: Send, name: str = name, earlier: Any = earlier
            ) -> None:
                calls.append(name)
                await earlier(self, scope, receive, send)

            monkeypatch.setattr(FileResponse, "__call__", patched)
            app = AccelMiddleware(FileResponse(file), mapping)
            assert target(await ask(app, offer)) == b"/files/a.txt"
            assert (await ask(app)).body == TEXT
        assert set(calls) == {"before", "after"}

    async def test_websocket(self, file: Path, mapping: PathMap) -> None:
        """A file that refuses a websocket is sent by the app: no proxy offers anything for that."""
        answers: list[list[Message]] = []
        errors: list[str] = []
        for app in (FileResponse(file), AccelMiddleware(FileResponse(file), mapping, always=True)):
            sent: list[Message] = []

            async def send(message: Message, sent: list[Message] = sent) -> None:
                sent.append(message)

            async def receive() -> Message:
                await anyio.sleep_forever()
                raise AssertionError

            scope = {"type": "websocket", "path": "/", "headers": [], "extensions": {"websocket.http.response": {}}}
            try:
                await app(scope, receive, send)
            except KeyError as exc:  # Starlette 0.47 looks for the method
                errors.append(repr(exc))
            answers.append(sent)

        assert answers[0] == answers[1]
        assert errors or b"".join(message.get("body", b"") for message in answers[1]) == TEXT
        assert len(errors) in (0, 2)
