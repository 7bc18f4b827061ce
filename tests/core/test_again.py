"""Asking again: a response that was lost between the route and AccelMiddleware comes from a second call of the app."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from asgi import Answer, Header, ask
from behind_nginx import url
from inner import LOSSY, PATHSEND, SCRIPT, Compress, Drop, Inject
from servers import DEADLINE, Site
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap

pytestmark = pytest.mark.anyio

TEXT = b"0123456789" * 20
RANGE = (b"range", b"bytes=2-4")
BAD_RANGES = [(b"range", b"bytes=999-"), (b"range", b"nonsense"), (b"range", b"bytes=5-2")]
REMEDY = "Make AccelMiddleware the first app.add_middleware() line."


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.html"
    path.write_bytes(TEXT)
    return path


class Counted:
    """An app that counts its calls."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        await self.app(scope, receive, send)


async def drop_all(scope: Scope, receive: Receive, send: Send) -> None:
    """A file sender of which nothing comes while there is pathsend."""
    if PATHSEND not in scope.get("extensions", {}):
        await PlainTextResponse("without")(scope, receive, send)


class PassOn(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


async def still_there() -> Message:
    """A `receive` that has nothing new to say, and does not wait."""
    return {"type": "http.request", "body": b"", "more_body": False}


def all_of(answer: Answer) -> tuple[int, list[Header], bytes]:
    return answer.status, answer.headers, answer.body


def is_redirect(answer: Answer) -> bool:
    return answer.header(b"x-accel-redirect") is not None


async def answer_has_come(answer: Answer) -> None:
    with anyio.fail_after(20):
        while not answer.messages:  # noqa: ASYNC110 (nobody sets an event)
            await asyncio.sleep(0.001)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


class TestLost:
    """What is asked again, and what the client gets."""

    @pytest.mark.parametrize("name", LOSSY)
    @pytest.mark.parametrize("status", [200, 404])
    @pytest.mark.parametrize("wanted", [[], [RANGE], [(b"content-length", b"0")], *([wrong] for wrong in BAD_RANGES)])
    async def test_same_as_without(
        self, file: Path, mapping: PathMap, offer: Header, name: str, status: int, wanted: list[Header]
    ) -> None:
        """A middleware that does not know pathsend gets the bytes that it would get without AccelMiddleware."""

        def app() -> Counted:
            return Counted(LOSSY[name](FileResponse(file, status_code=status, headers={"X-Own": "1"})))

        expected = await ask(app(), *wanted)
        for headers, calls in ((wanted, 1), ([offer, *wanted], 2)):
            counted = app()
            answer = await ask(AccelMiddleware(counted, mapping), *headers)
            assert all_of(answer) == all_of(expected)
            assert counted.calls == calls

    @pytest.mark.parametrize("name", LOSSY)
    async def test_head(self, file: Path, mapping: PathMap, offer: Header, name: str) -> None:
        """A HEAD of a file is not lost: it has the headers of the GET, but for the ETag."""
        expected = await ask(LOSSY[name](FileResponse(file)), method="HEAD")
        counted = Counted(LOSSY[name](FileResponse(file)))
        answer = await ask(AccelMiddleware(counted, mapping), offer, RANGE, method="HEAD")
        assert answer.headers == [header for header in expected.headers if header[0] != b"etag"]
        assert counted.calls == 1

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("hold", [0, 0.1])
    async def test_nothing_at_all(self, mapping: PathMap, offer: Header, method: str, hold: float) -> None:
        """Nothing at all has come: GET and HEAD are asked again."""
        counted = Counted(drop_all)
        answer = await ask(AccelMiddleware(counted, mapping, hold=hold), offer, method=method)
        assert (answer.body, counted.calls) == (b"without", 2)

    async def test_heard_of_it_in_a_copy(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """It may have heard of pathsend in a copy of the extensions."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await drop_all({**scope, "extensions": dict(scope["extensions"])}, receive, send)

        assert (await ask(AccelMiddleware(app, mapping), offer)).body == b"without"

    @pytest.mark.parametrize("debug", [False, True])
    @pytest.mark.parametrize("lossy", [Compress, Drop, drop_all])
    @pytest.mark.parametrize("place", ["outside", "first", "twice"])
    async def test_base_http_middleware(
        self, file: Path, mapping: PathMap, offer: Header, lossy: Any, debug: bool, place: str
    ) -> None:
        """BaseHTTPMiddleware makes an error of it, "No response returned.", and ServerErrorMiddleware a 500 of that."""

        async def endpoint(request: Request) -> Response:
            return FileResponse(file)

        def app(accel: list[Middleware]) -> Starlette:
            routes = [Route("/", endpoint if lossy is not drop_all else _Endpoint())]
            inner = [Middleware(lossy)] if lossy is not drop_all else []
            return Starlette(debug, routes, middleware=[*accel, Middleware(PassOn), *inner])

        expected = await ask(app([]))
        answer = Answer()
        wrapped: ASGIApp
        if place == "first":
            wrapped = app([Middleware(AccelMiddleware, mapping=mapping)])
        else:
            wrapped = AccelMiddleware(app([]) if place == "outside" else PassOn(app([])), mapping)
        await ask(wrapped, offer, answer=answer)
        assert all_of(answer) == all_of(expected)
        assert len(answer.messages) == len(expected.messages)

    @pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
    @pytest.mark.parametrize("name", LOSSY)
    @pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Starlette 0.47 on trio, by itself
    async def test_inside_of_others(
        self, file: Path, mapping: PathMap, offer: Header, name: str, spec_version: str, anyio_backend: str
    ) -> None:
        """Others may stand outside, whose `receive` is a machine of its own, and the file sender listen to it."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["asgi"] = {"version": "3.0", "spec_version": spec_version}
            await PassOn(PassOn(AccelMiddleware(PassOn(LOSSY[name](FileResponse(file))), mapping)))(
                scope, receive, send
            )

        expected = await ask(LOSSY[name](FileResponse(file)))
        with anyio.fail_after(20):
            answer = await ask(app, offer)
        assert all_of(answer) == all_of(expected)

    async def test_file_that_has_grown(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """A smaller Content-Length is a file that has grown since: nginx sends the whole, and is right."""
        counted = Counted(FileResponse(file, stat_result=file.stat()))
        with file.open("ab") as opened:
            opened.write(b"more")
        assert is_redirect(await ask(AccelMiddleware(counted, mapping), offer))
        assert counted.calls == 1

    @pytest.mark.parametrize("value", [b"", b"many", b"-1", b"1e9", "²".encode(), b"+900"])
    async def test_no_number(self, file: Path, mapping: PathMap, offer: Header, value: bytes) -> None:
        """A Content-Length that is no number says nothing."""
        response = FileResponse(file, headers={"Content-Length": value.decode("latin-1")})
        assert is_redirect(await ask(AccelMiddleware(response, mapping), offer))

    async def test_pipe(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """A pipe has no size."""
        found = file.stat()
        file.unlink()
        os.mkfifo(file)
        assert is_redirect(await ask(AccelMiddleware(FileResponse(file, stat_result=found), mapping), offer))

    async def test_without_a_look(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """With `hold=0` the file's size is not known: the redirect goes out."""
        counted = Counted(Inject(FileResponse(file)))
        assert is_redirect(await ask(AccelMiddleware(counted, mapping, hold=0), offer))
        assert counted.calls == 1

    async def test_body_and_length(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """Where nobody may be asked again, no body goes out under a length that is not its own."""
        app = AccelMiddleware(Inject(FileResponse(file, status_code=404)), mapping)
        answer = await ask(app, offer, method="POST")
        assert (answer.body, answer.header(b"content-length")) == (TEXT, b"200")

    @pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="/proc tells which files are open")
    async def test_leaves_nothing_open(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """The file that has been looked at is closed before the app is asked again."""
        seen: list[bool] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            opened = [os.readlink(place) for place in Path("/proc/self/fd").iterdir() if place.exists()]
            seen.append(str(file) in opened)
            await Inject(FileResponse(file))(scope, receive, send)

        await ask(AccelMiddleware(app, mapping), offer)
        assert seen == [False, False]

    async def test_real_page(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """The script is in the page, once."""
        answer = await ask(AccelMiddleware(Inject(FileResponse(file)), mapping), offer)
        assert answer.body == TEXT + SCRIPT
        assert answer.header(b"content-length") == b"%d" % len(answer.body)


class _Endpoint:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await drop_all(scope, receive, send)


class TestRefused:
    """A range of a GET left to the app that the app refuses."""

    @pytest.mark.parametrize("wanted", BAD_RANGES)
    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize("hold", [0, 0.1])
    async def test_same_as_without(
        self, file: Path, offer: Header, wanted: Header, first: bool, hold: float, caplog: pytest.LogCaptureFixture
    ) -> None:
        """400 and 416 have the headers of other middlewares, and none of the file's own; nothing is wrong with them."""
        calls: list[int] = []

        async def endpoint(request: Request) -> Response:
            calls.append(1)
            return FileResponse(file, headers={"Cache-Control": "max-age=60", "Vary": "Cookie"})

        def app(*accel: Middleware) -> Starlette:
            others = [Middleware(CORSMiddleware, allow_origins=["https://other.example"]), Middleware(GZipMiddleware)]
            return Starlette(
                routes=[Route("/", endpoint)], middleware=[*accel, *others] if first else [*others, *accel]
            )

        headers = [offer, wanted, (b"origin", b"https://other.example"), (b"accept-encoding", b"gzip")]
        expected = await ask(app(), *headers[1:])
        assert expected.status in (400, 416)
        assert expected.header(b"access-control-allow-origin")
        elsewhere = {file.parent: "/other", "/x": "/y"}
        accel = Middleware(AccelMiddleware, mapping=elsewhere, hold=hold)
        offers = (offer[0], b"/x/=/y/")
        calls.clear()
        assert all_of(await ask(app(accel), offers, *headers[1:], receive=still_there)) == all_of(expected)
        assert len(calls) == 2
        assert not errors(caplog)

    @pytest.mark.parametrize("status", [400, 416])
    async def test_status_of_its_own(self, file: Path, mapping: PathMap, offer: Header, status: int) -> None:
        """A file with such a status is no refusal: it goes out, whatever range was asked for."""
        counted = Counted(FileResponse(file, status_code=status))
        answer = await ask(AccelMiddleware(counted, mapping), offer, RANGE)
        expected = await ask(FileResponse(file, status_code=status), RANGE)  # Starlette 0.47 sends the range
        assert (all_of(answer), counted.calls) == (all_of(expected), 1)

    async def test_get_with_a_body(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """A GET with a body is refused all the same."""
        counted = Counted(FileResponse(file, headers={"Content-Encoding": "x"}))
        answer = await ask(AccelMiddleware(counted, mapping), offer, BAD_RANGES[0], (b"content-length", b"1"))
        assert (answer.status, counted.calls) == (416, 1)

    async def test_task_that_raises(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """The error of a background task goes on to the server, and the app is not asked after it."""

        def task() -> None:
            raise LookupError("as intended")

        counted = Counted(FileResponse(file, headers={"Content-Encoding": "x"}, background=BackgroundTask(task)))
        with pytest.raises(LookupError, match="as intended"):
            await ask(AccelMiddleware(counted, mapping), offer, (b"range", b"bytes=999-"))
        assert counted.calls == 1

    async def test_cancelled(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """A cancelled app is not called again."""
        begun = asyncio.Event()

        async def task() -> None:
            begun.set()
            await asyncio.sleep(60)

        counted = Counted(FileResponse(file, headers={"Content-Encoding": "x"}, background=BackgroundTask(task)))
        running = asyncio.create_task(ask(AccelMiddleware(counted, mapping), offer, (b"range", b"bytes=999-")))
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert counted.calls == 1


class TestNever:
    """What is not asked again."""

    @pytest.mark.parametrize(
        ("method", "headers"),
        [
            ("POST", []),
            ("PUT", []),
            ("DELETE", []),
            ("GET", [(b"content-length", b"5")]),
            ("GET", [(b"transfer-encoding", b"chunked")]),
            ("HEAD", [(b"content-length", b"0"), (b"content-length", b"1")]),
        ],
    )
    async def test_method_or_body(
        self, mapping: PathMap, offer: Header, method: str, headers: list[Header], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Another method, or a body: the log says what happened, and that nothing could be done."""
        counted = Counted(drop_all)
        answer = await ask(AccelMiddleware(counted, mapping), offer, *headers, method=method, receive=still_there)
        assert (answer.messages, counted.calls) == ([], 1)
        assert len(errors(caplog)) == 1
        assert errors(caplog)[0].endswith(f"{REMEDY} The app cannot be asked again.")

    async def test_long_error_page(self, mapping: PathMap, offer: Header) -> None:
        """Of an error page that is held, each part costs the same: 40,000 took 13 seconds."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert PATHSEND in scope["extensions"]
            await send({"type": "http.response.start", "status": 500, "headers": []})
            for number in range(40_000):
                await send({"type": "http.response.body", "body": b"%d" % (number % 10), "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        began = time.process_time()
        answer = await ask(AccelMiddleware(app, mapping), offer)
        assert answer.body == b"0123456789" * 4_000
        assert time.process_time() - began < 3

    @pytest.mark.parametrize("error", [RuntimeError("No response returned."), TypeError("a dict is no list")])
    @pytest.mark.parametrize("hold", [0, 0.001, 60])
    async def test_task_that_raises_it(
        self, file: Path, mapping: PathMap, offer: Header, error: Exception, hold: float
    ) -> None:
        """A background task may raise the same: the redirect has come, and nothing is lost."""
        answer = Answer()

        async def task() -> None:
            if hold == 0.001:
                await answer_has_come(answer)
            raise error

        counted = Counted(FileResponse(file, background=BackgroundTask(task)))
        with pytest.raises(type(error)):
            await ask(AccelMiddleware(counted, mapping, hold=hold), offer, answer=answer)
        assert (len(answer.messages), is_redirect(answer), counted.calls) == (2, True, 1)

    @pytest.mark.parametrize("method", ["POST", "GET"])
    async def test_post_that_is_longer(self, file: Path, mapping: PathMap, offer: Header, method: str) -> None:
        """A POST whose length was raised is redirected, as a GET with a body is."""
        counted = Counted(Inject(FileResponse(file)))
        answer = await ask(AccelMiddleware(counted, mapping), offer, (b"content-length", b"1"), method=method)
        assert is_redirect(answer)
        assert counted.calls == 1

    @pytest.mark.parametrize("first", [[], [{"type": "http.request", "body": b"", "more_body": False}]])
    @pytest.mark.parametrize("lossy", [drop_all, None])
    async def test_client_has_gone(
        self,
        file: Path,
        mapping: PathMap,
        offer: Header,
        first: list[Message],
        lossy: ASGIApp | None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A client that has gone: who gives up then is right to send nothing."""
        messages = list(first)

        async def receive() -> Message:
            return messages.pop() if messages else {"type": "http.disconnect"}

        counted = Counted(lossy or Inject(FileResponse(file)))
        answer = await ask(AccelMiddleware(counted, mapping), offer, receive=receive)
        assert counted.calls == 1
        assert not any(message.get("body") for message in answer.messages)
        assert not errors(caplog)

    @pytest.mark.parametrize(
        "error",
        [LookupError("as intended"), RuntimeError("as intended"), RuntimeError(), ValueError("No response returned.")],
    )
    async def test_another_error(
        self, mapping: PathMap, offer: Header, error: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        """After another error the app has failed, and the server says so."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert PATHSEND in scope["extensions"]
            raise error

        counted = Counted(app)
        with pytest.raises(type(error)) as info:
            await ask(AccelMiddleware(counted, mapping), offer)
        assert info.value is error
        assert counted.calls == 1
        assert not errors(caplog)

    @pytest.mark.parametrize("whole", [True, False])
    async def test_error_page(self, mapping: PathMap, offer: Header, whole: bool) -> None:
        """The page of such an error goes out, and the error goes on to the server."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert PATHSEND in scope["extensions"]
            page = PlainTextResponse("sorry", 500) if whole else StreamingResponse(iter(["so", "rry"]), 500)
            await page(scope, receive, send)
            raise RuntimeError("as intended")

        counted, answer = Counted(app), Answer()
        with pytest.raises(RuntimeError, match="as intended"):
            await ask(AccelMiddleware(counted, mapping), offer, answer=answer)
        assert (answer.status, answer.body, counted.calls) == (500, b"sorry", 1)

    @pytest.mark.parametrize("status", [499, 501, 503])
    async def test_no_other_status_is_held(self, mapping: PathMap, offer: Header, status: int) -> None:
        """No other page waits for the app's end."""
        seen: list[int] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert PATHSEND in scope["extensions"]
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            seen.append(len(answer.messages))
            await send({"type": "http.response.body"})

        answer = Answer()
        await ask(AccelMiddleware(app, mapping), offer, answer=answer)
        assert (seen, answer.status) == ([2], status)

    async def test_more_than_a_path(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """What an app sends after a file is dropped, as servers drop it."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await FileResponse(file)(scope, receive, send)
            await send({"type": "http.response.body", "body": b"more"})

        answer = await ask(AccelMiddleware(app, mapping), offer)
        assert is_redirect(answer)
        assert (len(answer.messages), answer.body) == (2, b"")

    async def test_error_after_the_response(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """Nor is an error a loss whose response has gone out."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert PATHSEND in scope["extensions"]
            await StreamingResponse(iter(["x"]))(scope, receive, send)
            raise RuntimeError("No response returned.")

        counted, answer = Counted(app), Answer()
        with pytest.raises(RuntimeError, match=r"No response returned\."):
            await ask(AccelMiddleware(counted, mapping), offer, answer=answer)
        assert (answer.body, counted.calls) == (b"x", 1)

    @pytest.mark.parametrize("raises", [False, True])
    async def test_third_time(self, mapping: PathMap, offer: Header, raises: bool) -> None:
        """What is lost again is lost."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert (PATHSEND in scope["extensions"]) == (counted.calls == 1)
            if raises:
                raise RuntimeError("No response returned.")

        counted, answer = Counted(app), Answer()
        if raises:
            with pytest.raises(RuntimeError, match=r"No response returned\."):
                await ask(AccelMiddleware(counted, mapping), offer, answer=answer)
        else:
            await ask(AccelMiddleware(counted, mapping), offer, answer=answer)
        assert (answer.messages, counted.calls) == ([], 2)

    async def test_has_not_asked(self, mapping: PathMap, offer: Header, caplog: pytest.LogCaptureFixture) -> None:
        """An app that sends nothing, and has not heard of pathsend, has lost nothing to it."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            return None

        counted = Counted(app)
        assert (await ask(AccelMiddleware(counted, mapping), offer)).messages == []
        assert counted.calls == 1
        assert not errors(caplog)

    @pytest.mark.parametrize(
        "make",
        [
            lambda file: FileResponse(file),
            lambda file: FileResponse(file, status_code=404),
            lambda file: PlainTextResponse("x"),
            lambda file: PlainTextResponse("x", 500),
            lambda file: PlainTextResponse("", 500),
            lambda file: Response(status_code=204),
            lambda file: Response(status_code=304, headers={"Content-Length": "200"}),
            lambda file: StreamingResponse(iter(["x"])),
            lambda file: StreamingResponse(iter(["x"]), headers={"Content-Length": "1"}),
            lambda file: StreamingResponse(iter([]), 500),
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("asks", [True, False])
    async def test_nothing_lost(
        self,
        file: Path,
        mapping: PathMap,
        offer: Header,
        make: Callable[[Path], Response],
        method: str,
        asks: bool,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A response that has come through is the one."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert not asks or PATHSEND in scope["extensions"]
            await make(file)(scope, receive, send)

        counted = Counted(app)
        answer = await ask(AccelMiddleware(counted, mapping), offer, method=method)
        assert answer.status == make(file).status_code
        assert counted.calls == 1
        assert not errors(caplog)


def test_granian(site: Site) -> None:
    """Granian, whose `receive` takes a moment, and says that the client has gone if somebody does not wait for it."""
    (site.files / "again.txt").write_bytes(TEXT)
    for _ in range(20):
        for name in LOSSY:
            expected = site.direct.get(url(f"inner-alone/{name}", "file", b"again.txt"))
            response = site.offers.get(url(f"granian/inner/{name}", "file", b"again.txt"))
            assert (response.status_code, response.content) == (200, expected.content)
        response = site.offers.get(url("granian/mapping", "encoded", b"again.txt"), headers={"Range": "bytes=999-"})
        assert response.status_code == 416


@pytest.mark.parametrize("server", ["app", "granian"])
def test_real_client_that_hangs_up(site: Site, server: str) -> None:
    """What uvicorn and Granian say of a client that has gone is understood: the app is called once."""
    notes = site.files / f"hung-up-{server}"
    request = f"GET /gives-up/{notes.name} HTTP/1.1\r\nHost: x\r\nX-Accel-Mapping: {site.files}/=/download/\r\n\r\n"

    def wait_for(line: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while line not in (notes.read_text() if notes.exists() else ""):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(site.folder / f"{server}.sock"))
        connection.sendall(request.encode())
        wait_for("called")
    wait_for("returned")
    assert notes.read_text() == "called True\nreturned\n"


class TestSecondCall:
    """How the app is called the second time."""

    async def test_after_the_first(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """It begins when the first has returned, with its background tasks."""
        notes: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            notes.append("begins")
            task = BackgroundTask(notes.append, "task")
            await Inject(FileResponse(file, background=task))(scope, receive, send)
            notes.append("ends")

        await ask(AccelMiddleware(app, mapping), offer)
        assert notes == ["begins", "task", "ends"] * 2

    async def test_scope(self, mapping: PathMap, offer: Header) -> None:
        """The scope is as it was, but for pathsend, whatever has been noted in it."""
        seen: list[dict[str, Any]] = []

        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            scope["headers"].append((b"x-own", b"1"))
            Request(scope).state.own = 1
            del scope["client"]
            await drop_all(scope, receive, send)

        inside = Starlette(routes=[Route("/c/{d}", _App(endpoint))])
        app = Starlette(routes=[Mount("/a/{b}", inside)])

        async def noting(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append({**scope, "headers": list(scope["headers"]), "extensions": dict(scope["extensions"])})
            await app(scope, receive, send)

        extensions: dict[str, Any] = {"http.response.trailers": {}, "http.response.zerocopysend": {}}
        answer = await ask(AccelMiddleware(noting, mapping), offer, RANGE, path="/a/b/c/d", extensions=extensions)
        assert answer.body == b"without"
        assert answer.scope["headers"].count(RANGE) == 1  # after the second call, too
        first, second = seen
        assert (first.pop("extensions"), second.pop("extensions")) == (
            {"http.response.trailers": {}, PATHSEND: {}},
            {"http.response.trailers": {}, "http.response.zerocopysend": {}},
        )
        assert second == first

    async def test_behind_a_mount(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """AccelMiddleware itself may be within a Mount, and what it wraps routed by the rest of the path."""

        async def endpoint(request: Request) -> Response:
            seen.append((request.path_params, request.scope["root_path"], request.url.path))
            return FileResponse(file)

        seen: list[Any] = []
        middleware = [Middleware(AccelMiddleware, mapping=mapping), Middleware(Compress)]
        inside = Starlette(routes=[Mount("/b/{c}", routes=[Route("/d", endpoint)])], middleware=middleware)
        app = Starlette(routes=[Mount("/a/{x}", inside)])
        answer = await ask(app, offer, path="/a/1/b/2/d")
        assert answer.header(b"content-encoding") == b"deflate"
        assert seen == [({"x": "1", "c": "2"}, "/a/1/b/2", "/a/1/b/2/d")] * 2

    @pytest.mark.parametrize("reads", [0, 1, 2])
    async def test_receive(self, mapping: PathMap, offer: Header, reads: int) -> None:
        """Its `receive` begins with an empty body, however much the first has read, and goes on with the server's."""
        first: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]
        hung_up = False

        async def receive() -> Message:
            if first:
                return first.pop()
            if not hung_up:
                await asyncio.sleep(0 if counted.calls == 1 and reads == 2 else 60)
                return {"type": "http.response.nothing"}
            return {"type": "http.disconnect"}

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal hung_up
            if PATHSEND in scope["extensions"]:
                for _ in range(reads):
                    await receive()
                return
            assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
            hung_up = True
            assert await receive() == {"type": "http.disconnect"}
            await PlainTextResponse("without")(scope, receive, send)

        counted = Counted(app)
        assert (await ask(AccelMiddleware(counted, mapping), offer, receive=receive)).body == b"without"

    @pytest.mark.parametrize("extensions", [None, {PATHSEND: {}}])
    async def test_extensions(self, mapping: PathMap, offer: Header, extensions: dict[str, Any] | None) -> None:
        """It has no pathsend, not even the server's own; the server's dict is as it was."""
        counted = Counted(drop_all)
        before = None if extensions is None else dict(extensions)
        answer = await ask(AccelMiddleware(counted, mapping), offer, extensions=extensions)
        assert (answer.body, counted.calls) == (b"without", 2)
        assert extensions == before
        assert answer.scope["extensions"] == (before or {})

    @pytest.mark.parametrize("by_path", [False, True])
    async def test_redirect(self, file: Path, mapping: PathMap, offer: Header, by_path: bool) -> None:
        """A redirect that the second call makes says that it varies, as one that the first makes."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if PATHSEND not in scope["extensions"]:
                await AccelRedirectResponse("/files/a.html")(scope, receive, send)

        own_target = Compress(FileResponse(file, headers={"X-Accel-Redirect": "/files/a.html"}))
        answer = await ask(AccelMiddleware(own_target if by_path else app, mapping), offer)
        assert is_redirect(answer)
        assert b"X-Accel-Mapping" in (answer.header(b"vary") or b"")

    async def test_nothing_is_remembered(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """A file is redirected after a hundred losses: a client must not be able to turn the redirects off."""
        app = AccelMiddleware(_by_path({"/": FileResponse(file), "/lost": drop_all}), mapping)
        for _ in range(100):
            await ask(app, offer, path="/lost")
        assert is_redirect(await ask(app, offer))


class _App:
    """An endpoint that is an ASGI app."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def _by_path(apps: dict[str, ASGIApp]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await apps[scope["path"]](scope, receive, send)

    return app


class TestLog:
    """What the log says of it."""

    @pytest.mark.parametrize("lossy", [drop_all, *LOSSY.values()])
    async def test_once(
        self, file: Path, mapping: PathMap, offer: Header, lossy: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One error, with the remedy, for however many requests; its line is one line."""
        app = AccelMiddleware(lossy if lossy is drop_all else lossy(FileResponse(file)), mapping)
        for _ in range(3):
            await ask(app, offer, path="/x\r\nERROR forged" + "y" * 999)
        (message,) = errors(caplog)
        assert message.startswith("the file response to '/x\\r\\nERROR forged")
        assert message.endswith(f"{REMEDY} The app is asked again.")
        assert message.isprintable()
        assert len(message) < 600
        assert [record.levelno for record in caplog.records] == [logging.ERROR]

    async def test_remedy(self, file: Path, mapping: PathMap, offer: Header, caplog: pytest.LogCaptureFixture) -> None:
        """What it says helps: with AccelMiddleware as the first such line the file is redirected, and nothing said."""

        async def endpoint(request: Request) -> Response:
            return FileResponse(file)

        app = Starlette(routes=[Route("/", endpoint)])
        app.add_middleware(AccelMiddleware, mapping=mapping)
        app.add_middleware(Compress)
        app.add_middleware(PassOn)
        answer = await ask(app, offer)
        assert is_redirect(answer)
        assert not caplog.records
