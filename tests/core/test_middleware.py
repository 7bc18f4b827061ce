"""What the middleware does to a response, message by message; what nginx makes of it is in test_nginx.py."""

from __future__ import annotations

import builtins
import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgi import Answer, Header, ask
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap

pytestmark = pytest.mark.anyio

TEXT = b"0123456789"
PATHSEND = "http.response.pathsend"
RANGE = (b"range", b"bytes=2-4")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT)
    return path


def is_redirect(answer: Answer, to: bytes = b"/files/a.txt") -> bool:
    """Whether an answer is headers alone, and nothing of the app's own about the file."""
    if answer.header(b"x-accel-redirect") is None:
        return False
    assert [value for name, value in answer.headers if name == b"x-accel-redirect"] == [to]
    assert answer.header(b"content-length") == b"0"
    for name in (b"etag", b"last-modified", b"accept-ranges"):
        assert answer.header(name) is None
    assert answer.messages[1:] == [{"type": "http.response.body", "body": b""}]
    return True


class TestFiles:
    """Files going out while the proxy offers to send them."""

    async def test_redirected(self, file: Path, mapping: PathMap, offer: tuple[bytes, bytes]) -> None:
        """A file becomes headers alone; its own headers stay, those from the file go."""
        response = FileResponse(file, headers={"X-Own": "1", "Cache-Control": "private"}, filename="name.txt")
        answer = await ask(AccelMiddleware(response, mapping), offer)
        assert is_redirect(answer)
        assert answer.header(b"x-own") == b"1"
        assert answer.header(b"cache-control") == b"private"
        assert answer.header(b"content-disposition") == b'attachment; filename="name.txt"'
        assert answer.header(b"content-type") == b"text/plain; charset=utf-8"

    async def test_background_task_runs(self, file: Path, mapping: PathMap, offer: tuple[bytes, bytes]) -> None:
        """The response's background task runs after it, redirected or not."""
        for headers in ([offer], []):
            ran: list[int] = []
            response = FileResponse(file, background=BackgroundTask(ran.append, 1))
            await ask(AccelMiddleware(response, mapping), *headers)
            assert ran == [1]

    async def test_background_task_that_deletes_a_file_left_to_the_app(
        self, file: Path, mapping: PathMap, offer: tuple[bytes, bytes]
    ) -> None:
        """A file that the app sends is sent whole before its task deletes it."""
        response = FileResponse(file, status_code=404, background=BackgroundTask(os.unlink, file))
        answer = await ask(AccelMiddleware(response, mapping), offer)
        assert (answer.status, answer.body) == (404, TEXT)
        assert not file.exists()

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_own_target(self, file: Path, mapping: PathMap, offer: tuple[bytes, bytes], method: str) -> None:
        """A file response with a target of its own keeps it, and its body is not sent."""
        response = FileResponse(file, status_code=404, headers={"X-Accel-Redirect": "/own/%20"})
        answer = await ask(AccelMiddleware(response, mapping), offer, method=method)
        assert is_redirect(answer, b"/own/%20")

    async def test_head(self, file: Path, mapping: PathMap, offer: tuple[bytes, bytes]) -> None:
        """HEAD is redirected, too: the proxy answers with the headers of its GET."""
        assert is_redirect(await ask(AccelMiddleware(FileResponse(file), mapping), offer, RANGE, method="HEAD"))

    async def test_longest_headers(self, file: Path, mapping: PathMap, offer: tuple[bytes, bytes]) -> None:
        """Headers of 3,800 bytes as HTTP/1.1 writes them, with the URI, are redirected, those that are longer not."""
        headers = FileResponse(file, headers={"X-Own": ""}).raw_headers
        size = sum(len(b"%s: %s\r\n" % header) for header in headers) + len("/files/a.txt")
        for length, expected in ((3799, True), (3800, True), (3801, False)):
            response = FileResponse(file, headers={"X-Own": "x" * (length - size)})
            assert is_redirect(await ask(AccelMiddleware(response, mapping), offer)) == expected

    @pytest.mark.parametrize(
        "make",
        [
            lambda file: FileResponse(file, status_code=404),
            lambda file: FileResponse(file, status_code=206),
            lambda file: FileResponse(file, headers={"Content-Encoding": "gzip"}),
            lambda file: FileResponse(file.parent / ("n" * 200), filename="h" * 3500),
            lambda file: FileResponse(Path(__file__)),
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
    @pytest.mark.parametrize("wanted", [(), (RANGE,), (RANGE, (b"if-range", b'"no"')), ((b"range", b"bytes=999999-"),)])
    async def test_left_to_the_app(
        self,
        file: Path,
        mapping: PathMap,
        offer: tuple[bytes, bytes],
        make: Callable[[Path], FileResponse],
        method: str,
        wanted: tuple[tuple[bytes, bytes], ...],
    ) -> None:
        """A response that cannot be redirected safely is what it is without the middleware."""
        (file.parent / ("n" * 200)).write_bytes(TEXT)
        expected = await ask(make(file), *wanted, method=method)
        answer = await ask(AccelMiddleware(make(file), mapping), offer, *wanted, method=method)
        assert answer.messages == expected.messages

    @pytest.mark.parametrize(
        "name", [b"range", b"if-none-match", b"if-match", b"if-modified-since", b"if-unmodified-since"]
    )
    async def test_post_with_a_condition(
        self, file: Path, mapping: PathMap, offer: tuple[bytes, bytes], name: bytes
    ) -> None:
        """A range or a condition counts for GET, which nginx would make of any method."""
        condition = (name, b"bytes=0-1")
        assert is_redirect(await ask(AccelMiddleware(FileResponse(file), mapping), offer, condition))
        assert is_redirect(await ask(AccelMiddleware(FileResponse(file), mapping), offer, method="POST"))
        answer = await ask(AccelMiddleware(FileResponse(file), mapping), offer, condition, method="POST")
        expected = await ask(FileResponse(file), condition, method="POST")  # Starlette 0.47 sends a range
        assert (answer.status, answer.headers, answer.body) == (expected.status, expected.headers, expected.body)

    async def test_server_with_pathsend(self, file: Path, mapping: PathMap, offer: tuple[bytes, bytes]) -> None:
        """What is left to the app goes to the server by its own pathsend; a range does not."""
        app = AccelMiddleware(FileResponse(file, status_code=404), mapping)
        answer = await ask(app, offer, extensions={PATHSEND: {}})
        assert answer.messages[1:] == [{"type": PATHSEND, "path": str(file)}]
        elsewhere = AccelMiddleware(FileResponse(Path(__file__)), mapping)
        answer = await ask(elsewhere, offer, RANGE, extensions={PATHSEND: {}})
        assert (answer.status, answer.body) == (206, Path(__file__).read_bytes()[2:5])

    async def test_long_uri(self, tmp_path: Path, mapping: PathMap, offer: tuple[bytes, bytes]) -> None:
        """A URI of 2 KiB is redirected, one that is longer is not."""
        folder = tmp_path.joinpath(*["d" * 200] * 9)
        folder.mkdir(parents=True)
        uri = f"{mapping.uri(folder / 'x')}"
        for length, expected in ((2048, True), (2049, False)):
            path = folder / ("x" * (length - len(uri) + 1))
            path.write_bytes(TEXT)
            answer = await ask(AccelMiddleware(FileResponse(path), mapping), offer)
            assert (answer.header(b"x-accel-redirect") is not None) == expected
            assert answer.body == (b"" if expected else TEXT)

    async def test_relative_path(
        self, file: Path, mapping: PathMap, offer: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A relative path is taken from the working directory."""
        monkeypatch.chdir(file.parent)
        assert is_redirect(await ask(AccelMiddleware(FileResponse("a.txt"), mapping), offer))

    async def test_static_files_below_a_link(self, tmp_path: Path) -> None:
        """docs/responses.md: `StaticFiles` resolves links, so map what is above them, or what they stand for."""
        real = tmp_path / "releases" / "7" / "static"
        real.mkdir(parents=True)
        (real / "a.txt").write_bytes(TEXT)
        (tmp_path / "current").symlink_to("releases/7")
        link = tmp_path / "current" / "static"
        targets = {
            link: None,
            tmp_path: b"/files/releases/7/static/a.txt",
            Path(os.path.realpath(link)): b"/files/a.txt",
        }
        for directory, target in targets.items():
            app = AccelMiddleware(StaticFiles(directory=link), {directory: "/files"}, always=True)
            answer = await ask(app, path="/a.txt")
            assert (answer.header(b"x-accel-redirect"), answer.body) == (target, b"" if target else TEXT)

    @pytest.mark.parametrize("hold", [0, 0.1])
    @pytest.mark.parametrize("name", ["none", "a.txt/below"])
    async def test_missing_file(
        self, file: Path, mapping: PathMap, offer: tuple[bytes, bytes], hold: float, name: str
    ) -> None:
        """A file that the app does not see is the proxy's: perhaps only the proxy has it, and if not, it says 404."""
        app = AccelMiddleware(FileResponse(file.parent / name), mapping, hold=hold)
        assert is_redirect(await ask(app, offer), f"/files/{name}".encode())

    @pytest.mark.parametrize("hold", [0, 0.1])
    async def test_no_regular_file(self, tmp_path: Path, mapping: PathMap, offer: Header, hold: float) -> None:
        """A directory is the app's error, as without the middleware: nginx would answer with its internal URI."""
        (tmp_path / "folder").mkdir()
        with pytest.raises(RuntimeError, match="is not a file"):
            await ask(AccelMiddleware(FileResponse(tmp_path / "folder"), mapping, hold=hold), offer)

    async def test_no_descriptor(
        self, file: Path, mapping: PathMap, offer: Header, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If no file can be opened any more, the error is the app's, and its task does not delete the file."""

        def none_left(*arguments: object) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        response = FileResponse(file, background=BackgroundTask(os.unlink, file))
        app = AccelMiddleware(response, mapping)
        monkeypatch.setattr(os, "open", none_left)
        monkeypatch.setattr(builtins, "open", none_left)
        with pytest.raises(OSError, match="Too many open files"):
            await ask(app, offer)
        monkeypatch.undo()
        assert file.exists()

    @pytest.mark.parametrize(
        ("path", "target"),
        [
            ("./a.txt", b"/files/a.txt"),
            (".//a.txt", b"/files/a.txt"),
            ("././sub/../a.txt", None),
            ("sub/./b.txt", b"/files/sub/b.txt"),
            ("{}/./a.txt", b"/files/a.txt"),
            ("{}//sub///b.txt", b"/files/sub/b.txt"),
            ("/.//{}/a.txt", b"/files/a.txt"),
            ("{}/sub/../a.txt", None),
            ("{}/.hidden", b"/files/.hidden"),
        ],
    )
    async def test_dots_and_slashes(
        self,
        file: Path,
        mapping: PathMap,
        offer: Header,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        path: str,
        target: bytes | None,
    ) -> None:
        """`.` and repeated slashes change nothing; with `..` the app sends the file, and the log says so, once."""
        (file.parent / "sub").mkdir()
        for name in ("sub/b.txt", ".hidden"):
            (file.parent / name).write_bytes(TEXT)
        monkeypatch.chdir(file.parent)
        app = AccelMiddleware(FileResponse(path.format(file.parent)), mapping)
        for _ in range(2):
            answer = await ask(app, offer)
            assert (answer.header(b"x-accel-redirect"), answer.body) == (target, TEXT if target is None else b"")
        assert len(caplog.records) == (target is None)
        assert all("has a '..'" in record.message for record in caplog.records)

    async def test_path_likes(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """The path is what `os.fspath` says, whatever the object's text is."""
        with os.scandir(file.parent) as entries:
            (entry,) = entries
        assert is_redirect(await ask(AccelMiddleware(FileResponse(entry), mapping), offer))

    @pytest.mark.parametrize("kind", ["text/html", "Text/HTML; charset=utf-8"])
    async def test_html(self, file: Path, mapping: PathMap, offer: Header, kind: str) -> None:
        """HTML that browsers show is the app's: middlewares change it. HTML that they save is not changed."""
        shown = FileResponse(file, media_type=kind)
        assert (await ask(AccelMiddleware(shown, mapping), offer)).body == TEXT
        shown = FileResponse(file, media_type=kind, filename="a.html", content_disposition_type="inline")
        assert (await ask(AccelMiddleware(shown, mapping), offer)).body == TEXT
        saved = FileResponse(file, media_type=kind, filename="a.html")
        assert is_redirect(await ask(AccelMiddleware(saved, mapping), offer))

    async def test_file_that_is_gone(self, file: Path, mapping: PathMap, offer: tuple[bytes, bytes]) -> None:
        """A file that the app has to send, and that is no longer there, is the same error as without the middleware."""
        found = file.stat()
        file.unlink()
        with pytest.raises(FileNotFoundError):
            await ask(AccelMiddleware(FileResponse(file, status_code=404, stat_result=found), mapping), offer)

    async def test_names_in_any_case(self, file: Path, mapping: PathMap, offer: tuple[bytes, bytes]) -> None:
        """Header names that an app did not write in lower case are known all the same."""
        response = FileResponse(file)
        response.raw_headers += [(b"ETag", b'"x"'), (b"Content-Length", b"10")]
        assert is_redirect(await ask(AccelMiddleware(response, mapping), offer))


class TestOthers:
    """Responses that are no files pass untouched and undelayed."""

    async def test_start_is_not_held_back(self, mapping: PathMap, offer: tuple[bytes, bytes]) -> None:
        """The headers of an event stream go out before its first event, behind BaseHTTPMiddleware, too."""
        order: list[str] = []

        async def body() -> Any:
            order.append("event")
            yield b"data: 1\n\n"

        async def stream(scope: Scope, receive: Receive, send: Send) -> None:
            await StreamingResponse(body(), media_type="text/event-stream")(scope, receive, send)

        async def note(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
            async def noted(message: Message) -> None:
                order.append(message["type"])
                await send(message)

            await app(scope, receive, noted)

        accel = AccelMiddleware(stream, mapping)

        async def outside(scope: Scope, receive: Receive, send: Send) -> None:
            await note(accel, scope, receive, send)

        await ask(outside, offer)
        assert order[:2] == ["http.response.start", "event"]

    async def test_other_messages_pass(self, mapping: PathMap, offer: tuple[bytes, bytes]) -> None:
        """Messages that the middleware does not know go through."""
        messages: list[Message] = [
            {"type": "http.response.debug", "info": {}},
            {"type": "http.response.start", "status": 200, "headers": [], "trailers": True},
            {"type": "http.response.body", "body": b"x"},
            {"type": "http.response.trailers", "headers": []},
        ]

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for message in messages:
                await send(message)

        assert (await ask(AccelMiddleware(app, mapping), offer)).messages == messages

    async def test_app_that_empties_its_scope(self, mapping: PathMap) -> None:
        """What an app takes out of its scope is not needed for its response."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            whole = dict(scope)
            scope.clear()
            await PlainTextResponse("a page")(whole, receive, send)

        assert (await ask(AccelMiddleware(app, mapping))).body == b"a page"

    async def test_message_before_a_file(self, file: Path, mapping: PathMap, offer: tuple[bytes, bytes]) -> None:
        """What comes before the start of a file's response is not its start: the file is redirected all the same."""
        hint: Message = {"type": "http.response.early_hint", "links": []}

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def after_hint(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await send(hint)
                await send(message)

            await FileResponse(file)(scope, receive, after_hint)

        first, start, _ = (await ask(AccelMiddleware(app, mapping), offer)).messages
        assert (first, start["status"]) == (hint, 200)
        assert (b"x-accel-redirect", b"/files/a.txt") in start["headers"]

    async def test_file_that_only_nginx_has(self, file: Path, mapping: PathMap, offer: tuple[bytes, bytes]) -> None:
        """What the app cannot open is redirected at once."""
        found = file.stat()
        file.unlink()
        assert is_redirect(await ask(AccelMiddleware(FileResponse(file, stat_result=found), mapping), offer))

    async def test_behind_base_http_middleware(self, file: Path, mapping: PathMap, offer: tuple[bytes, bytes]) -> None:
        """BaseHTTPMiddleware between the middleware and the endpoint can set headers of its own."""

        async def dispatch(request: Request, call_next: RequestResponseEndpoint) -> Response:
            assert request.headers["range"] == "bytes=2-4"
            response = await call_next(request)
            response.headers["X-Passed"] = "1"
            return response

        async def endpoint(request: Request) -> Response:
            assert request.headers["range"] == "bytes=2-4"
            return FileResponse(file)

        app = Starlette(routes=[Route("/", endpoint)])
        answer = await ask(AccelMiddleware(BaseHTTPMiddleware(app, dispatch), mapping), offer, RANGE)
        assert is_redirect(answer)
        assert answer.header(b"x-passed") == b"1"

    async def test_raising_app(self, mapping: PathMap, offer: tuple[bytes, bytes]) -> None:
        """An app that raises still raises."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise LookupError("as intended")

        for headers in ([offer], []):
            with pytest.raises(LookupError, match="as intended"):
                await ask(AccelMiddleware(app, mapping), *headers)

    @pytest.mark.parametrize("kind", ["websocket", "lifespan"])
    async def test_other_scopes(self, mapping: PathMap, offer: tuple[bytes, bytes], kind: str) -> None:
        """Websockets and lifespan get the very scope, receive and send of the server."""
        seen: list[Any] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.extend((scope, receive, send))

        async def receive() -> Message:
            raise NotImplementedError

        async def send(message: Message) -> None:
            raise NotImplementedError

        scope: dict[str, Any] = {"type": kind, "asgi": {"version": "3.0"}}
        if kind == "websocket":
            scope |= {"path": "/", "headers": [offer, RANGE]}
        before = dict(scope)
        for options in ({"mapping": mapping}, {"mapping": mapping, "always": True}, {"trust_header": True}):
            seen.clear()
            await AccelMiddleware(app, **options)(scope, receive, send)
            assert all(a is b for a, b in zip(seen, (scope, receive, send), strict=True))
            assert scope == before


class TestRedirectsWithoutProxy:
    """Redirects coming out where nothing was offered."""

    async def test_file_is_sent(self, file: Path, mapping: PathMap) -> None:
        """A redirect is answered with the file and the redirect's own headers, and no X-Accel header is left."""
        response = AccelRedirectResponse(
            file, mapping=mapping, buffering=True, limit_rate=1, expires=1, charset="utf-8", headers={"X-Own": "1"}
        )
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        answer = await ask(AccelMiddleware(response, mapping))
        assert (answer.status, answer.body) == (200, TEXT)
        names = [name for name, _ in answer.headers]
        assert not [name for name in names if name.startswith(b"x-accel")]
        assert names.count(b"set-cookie") == 2
        assert answer.header(b"x-own") == b"1"
        assert answer.header(b"content-length") == b"10"
        assert answer.header(b"content-type") == b"text/plain; charset=utf-8"
        assert answer.header(b"etag")
        assert answer.header(b"accept-ranges") == b"bytes"

    async def test_range_and_head(self, file: Path, mapping: PathMap) -> None:
        """Ranges and HEAD work."""
        app = AccelMiddleware(AccelRedirectResponse("/files/a.txt"), mapping)
        answer = await ask(app, RANGE)
        assert (answer.status, answer.body, answer.header(b"content-range")) == (206, b"234", b"bytes 2-4/10")
        answer = await ask(app, method="HEAD")
        assert (answer.status, answer.body, answer.header(b"content-length")) == (200, b"", b"10")

    @pytest.mark.parametrize("wanted", [None, b"bytes=2-4", b"bytes=0-1,4-5"])
    async def test_file_response_with_a_target(self, file: Path, mapping: PathMap, wanted: bytes | None) -> None:
        """A file response with a target is answered with the target's file, whatever it sends itself."""
        (file.parent / "b.txt").write_bytes(b"abcdefghij")
        response = FileResponse(file, headers={"X-Accel-Redirect": "/files/b.txt"}, media_type="text/csv")
        headers = [] if wanted is None else [(b"range", wanted)]
        answer = await ask(AccelMiddleware(response, mapping), *headers)
        if wanted == b"bytes=0-1,4-5":
            boundary = answer.body.splitlines()[0]
            assert answer.body.count(boundary) == 3
            assert b"multipart" not in answer.body  # a part has the type of the file
            assert b"ab" in answer.body
            assert b"ef" in answer.body
        else:
            assert answer.body == (b"abcdefghij" if wanted is None else b"cde")
            assert answer.header(b"content-type") == b"text/csv; charset=utf-8"
            assert answer.header(b"content-length") == str(len(answer.body)).encode()

    async def test_own_body_is_dropped(self, file: Path, mapping: PathMap) -> None:
        """Whatever a redirect has of a body, status or header case, the file comes, once."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            headers = [(b"X-Accel-Redirect", b"/files/a.txt?x=1"), (b"Content-Length", b"3"), (b"Content-Range", b"x")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": b"no", "more_body": True})
            await send({"type": "http.response.body", "body": b"!"})

        answer = await ask(AccelMiddleware(app, mapping))
        assert (answer.status, answer.body) == (200, TEXT)
        assert answer.header(b"content-length") == b"10"
        assert answer.header(b"content-range") is None

    @pytest.mark.parametrize("name", ["none.txt", "folder", "a.txt/below"])
    async def test_no_such_file(self, file: Path, mapping: PathMap, name: str) -> None:
        """A redirect to no file is a 404."""
        (file.parent / "folder").mkdir()
        answer = await ask(AccelMiddleware(AccelRedirectResponse(f"/files/{name}"), mapping))
        assert (answer.status, answer.body) == (404, b"Not Found")
        assert answer.header(b"x-accel-redirect") is None

    @pytest.mark.parametrize("to", ["/elsewhere/a.txt", "@named", "/files/../a.txt", "/files/100% a", "\x80"])
    async def test_outside_the_mapping(
        self, file: Path, mapping: PathMap, to: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A redirect that the mapping does not have goes out as it is, with a warning, once."""
        response = Response("body", headers={"X-Accel-Redirect": to})
        app = AccelMiddleware(response, mapping)
        for _ in range(2):
            answer = await ask(app)
            assert answer.headers == response.raw_headers
            assert answer.body == b"body"
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert repr(os.fsdecode(to.encode("latin-1"))) in warnings[0].getMessage()

    async def test_warning_is_one_short_line(
        self, file: Path, mapping: PathMap, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What goes to the log has no newline and no end of its own choosing (CVE-2025-27111)."""
        app = AccelMiddleware(Response(headers={"X-Accel-Redirect": "/x\r\nERROR forged " + "x" * 9999}), mapping)
        await ask(app)
        message = caplog.records[0].getMessage()
        assert "\n" not in message
        assert "\r" not in message
        assert len(message) < 500

    async def test_passes_where_something_is_offered(
        self, file: Path, mapping: PathMap, offer: tuple[bytes, bytes]
    ) -> None:
        """With a proxy, a redirect is the proxy's, wherever it goes."""
        for to in ("/files/a.txt", "/elsewhere", "@named"):
            response = AccelRedirectResponse(to)
            answer = await ask(AccelMiddleware(response, mapping), offer)
            vary = [(b"vary", b"X-Accel-Mapping")] if to == "/files/a.txt" else []
            assert answer.headers == response.raw_headers + vary

    async def test_server_with_pathsend(self, file: Path, mapping: PathMap) -> None:
        """The file goes out by the server's own pathsend."""
        app = AccelMiddleware(AccelRedirectResponse("/files/a.txt"), mapping)
        answer = await ask(app, extensions={PATHSEND: {}})
        assert answer.messages[1:] == [{"type": PATHSEND, "path": str(file)}]

    async def test_start_without_headers(self, mapping: PathMap) -> None:
        """A response may have no headers at all."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"x"})

        assert (await ask(AccelMiddleware(app, mapping))).body == b"x"


class TestLog:
    """The logger `asgi_accel` tells each decision with its reason."""

    @pytest.mark.parametrize(
        ("make", "offered", "words"),
        [
            (lambda file: FileResponse(file), True, "is redirected to"),
            (lambda file: FileResponse(file, status_code=404), True, "its status, 404"),
            (lambda file: FileResponse(file, headers={"Content-Encoding": "br"}), True, "Content-Encoding"),
            (lambda file: FileResponse(__file__), True, "/=/files/', does not cover it"),
            (lambda file: FileResponse(file, filename="x" * 4000), True, "too long for nginx"),
            (lambda file: FileResponse(file), False, "the request has no X-Accel-Mapping header"),
            (lambda file: AccelRedirectResponse("/files/a.txt"), False, "looks for the file"),
            (lambda file: AccelRedirectResponse("/files/none"), False, "there is no file"),
        ],
    )
    async def test_reason(
        self,
        file: Path,
        mapping: PathMap,
        offer: tuple[bytes, bytes],
        caplog: pytest.LogCaptureFixture,
        make: Callable[[Path], Response],
        offered: bool,
        words: str,
    ) -> None:
        """One debug line says why."""
        caplog.set_level(logging.DEBUG, logger="asgi_accel")
        await ask(AccelMiddleware(make(file), mapping), *([offer] if offered else []))
        assert words in caplog.text
        assert {record.levelno for record in caplog.records} == {logging.DEBUG}
