"""How a file sender is told from the rest of the app, and that nobody else trips over it."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi import Answer, Header, ask
from behind_nginx import sent_by_nginx, url
from inner import COPIES, LOSSY, PATHSEND, SCOPE, ChangeScope, assert_plain
from servers import Site
from starlette.requests import Request
from starlette.responses import FileResponse, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap

pytestmark = pytest.mark.anyio

TEXT = b"0123456789" * 20
ZEROCOPYSEND = "http.response.zerocopysend"
TRAILERS = "http.response.trailers"
RANGE = (b"range", b"bytes=2-4")
RANGES = [None, RANGE, (b"range", b"bytes=-3"), (b"range", b"bytes=999-")]
REDIRECTED = {"copy_scope", "log_json", "look_up", "compiled"}  # those that leave the app's extensions alone
# What a server says of pathsend: nothing, that it knows it, or as in asgiref's pull request 538 and uvicorn's draft.
SERVERS: list[dict[str, Any] | None] = [None, {PATHSEND: {}}, {PATHSEND: {"ranges": True}}]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT)
    return path


def is_redirect(answer: Answer) -> bool:
    return answer.header(b"x-accel-redirect") is not None


def delivered(answer: Answer) -> tuple[int, list[Header], bytes]:
    """What the client gets from a server that knows pathsend as it has announced it."""
    body = b""
    for message in answer.messages[1:]:
        if message["type"] == PATHSEND:
            assert PATHSEND in answer.scope["extensions"]
            body += Path(message["path"]).read_bytes()
        else:
            body += message.get("body", b"")
    return answer.status, answer.headers, body


class TestOrder:
    """`FileResponse.__call__` does what asgi_accel/pathsend.py says, in that order."""

    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
    @pytest.mark.parametrize("wanted", [[], [RANGE]])
    async def test_file_response(self, file: Path, method: str, wanted: list[Header]) -> None:
        """It asks for pathsend with `in`, then reads the request's headers, then starts its response."""
        notes: list[str] = []

        class Noting(dict[str, Any]):
            def __contains__(self, name: object) -> bool:
                notes.extend(["asks"] if name == PATHSEND else [])
                return super().__contains__(name)

            def __getitem__(self, name: str) -> Any:
                notes.extend(["reads headers"] if name == "headers" else [])
                return super().__getitem__(name)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def noting(message: Message) -> None:
                notes.append(message["type"])
                await send(message)

            await FileResponse(file)(Noting({**scope, "extensions": Noting()}), receive, noting)

        await ask(app, *wanted, method=method)
        assert list(dict.fromkeys(notes)) == ["asks", "reads headers", "http.response.start", "http.response.body"]

    async def test_through_the_middleware(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """So a range, which would keep it from asking or from sending a path, is no reason not to redirect."""
        for name, value in ((b"range", b"bytes=2-4"), (b"range", b"bytes=0-1,4-5"), (b"range", b"nonsense")):
            assert is_redirect(await ask(AccelMiddleware(FileResponse(file), mapping), offer, (name, value)))


@pytest.mark.parametrize("wanted", RANGES)
class TestInner:
    """What another middleware between the file sender and AccelMiddleware does to the scope."""

    @pytest.mark.parametrize("name", SCOPE)
    async def test_same_file(
        self, file: Path, mapping: PathMap, offer: Header, name: str, wanted: Header | None
    ) -> None:
        """The client gets the file as without AccelMiddleware, whether the proxy offers to send it or not.

        Whoever takes pathsend out, or copies the extensions, takes the question back, so a HEAD is as without, too.
        """
        app = ChangeScope(FileResponse(file, headers={"X-Own": "1"}), SCOPE[name])
        headers = [] if wanted is None else [wanted]
        methods = ["GET", "POST"] if name in REDIRECTED else ["GET", "POST", "HEAD"]
        for server, method in itertools.product(SERVERS, methods):
            # A condition on a POST is the app's, and behind a copy of the scope the file sender sees its range still.
            left = name not in REDIRECTED or (wanted is not None and (method == "POST" or name == "copy_scope"))
            expected = delivered(await ask(app, *headers, method=method, extensions=copy.deepcopy(server)))
            for sent in (headers, [offer, *headers]):
                extensions = copy.deepcopy(server)
                answer = await ask(AccelMiddleware(app, mapping), *sent, method=method, extensions=extensions)
                if is_redirect(answer):
                    assert offer in sent
                    assert not left
                else:
                    assert left or offer not in sent
                    assert delivered(answer) == expected

    @pytest.mark.parametrize("name", [*SCOPE, *LOSSY])
    def test_through_nginx(self, site: Site, name: str, wanted: Header | None) -> None:
        """The client gets the same bytes from nginx, where it offers to send files and where it does not."""
        (site.files / "inner.txt").write_bytes(TEXT)
        headers = {} if wanted is None else {"Range": wanted[1].decode()}
        expected = site.direct.get(url(f"inner-alone/{name}", "file", b"inner.txt"), headers=headers)
        for client in (site.offers, site.silent):
            response = client.get(url(f"inner/{name}", "file", b"inner.txt"), headers=headers)
            assert response.status_code == expected.status_code
            by_nginx = sent_by_nginx(response) or response.status_code == 416
            assert by_nginx or self.comparable(response) == self.comparable(expected)
            assert response.status_code == 416 or response.content == expected.content
        if name in REDIRECTED - {"copy_scope"} and wanted in (None, RANGE):
            assert sent_by_nginx(site.offers.get(url(f"inner/{name}", "file", b"inner.txt"), headers=headers))

    def comparable(self, response: httpx.Response) -> list[tuple[str, str]]:
        """All headers but those of the connection."""
        of_the_server = {"server", "date", "connection"}
        return sorted((name, value) for name, value in response.headers.items() if name not in of_the_server)


class TestExtensions:
    """What the app sees of the server's extensions while something is offered."""

    @pytest.mark.parametrize("name", COPIES)
    @pytest.mark.parametrize("asks", [False, True])
    async def test_copies(self, file: Path, mapping: PathMap, offer: Header, name: str, asks: bool) -> None:
        """A copy is a plain dict with what is in the original, and whoever makes one sees the request's Range."""
        seen: list[Any] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert not asks or PATHSEND in scope["extensions"]
            made = COPIES[name](scope["extensions"])
            seen.extend([type(made), made, RANGE in scope["headers"]])
            await FileResponse(file)({**scope, "extensions": made}, receive, send)

        answer = await ask(AccelMiddleware(app, mapping), offer, RANGE, extensions={TRAILERS: {}})
        assert seen == [dict, {TRAILERS: {}, PATHSEND: {}}, True]
        assert (answer.status, answer.body) == (206, b"234")

    async def test_is_a_dict(self, mapping: PathMap, offer: Header) -> None:
        """All else that a dict can do works and changes nothing."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            extensions = scope["extensions"]
            plain: dict[str, Any] = {TRAILERS: {}, PATHSEND: {}}
            assert extensions == plain
            assert plain == extensions
            assert (len(extensions), bool(extensions), repr(extensions)) == (2, True, repr(plain))
            assert isinstance(extensions, dict)
            assert list(extensions) == list(reversed(list(reversed(extensions)))) == list(plain)
            assert sorted(extensions) == sorted(plain)
            assert (extensions.get("none"), extensions.get("none", 1), "none" in extensions) == (None, 1, False)
            assert extensions.setdefault(PATHSEND, 1) == {}
            with pytest.raises(KeyError):
                extensions["none"]
            extensions["own"] = {"x": 1}
            extensions |= {"more": {}}
            extensions.update(most={})
            assert {*extensions} - {*plain} == {"own", "more", "most"}
            assert PATHSEND in scope["extensions"]
            await StreamingResponse(iter(["x"]))(scope, receive, send)

        server: dict[str, Any] = {TRAILERS: {}}
        answer = await ask(AccelMiddleware(app, mapping), offer, extensions=server)
        assert answer.body == b"x"
        assert answer.scope["extensions"] is server
        assert server == {TRAILERS: {}}

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_square_brackets(self, mapping: PathMap, offer: Header, method: str) -> None:
        """`[]` is no question: the response starts at once, and an endpoint of its own sees the range."""
        answers: list[Answer] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["extensions"][PATHSEND] == {}
            assert Request(scope).headers["range"] == "bytes=2-4"
            await send({"type": "http.response.start", "status": 206, "headers": [(b"etag", b"x")]})
            assert len(answers[0].messages) == 1
            await send({"type": "http.response.body", "body": b""})

        async def note(scope: Scope, receive: Receive, send: Send) -> None:
            answers.append(Answer())

            async def noting(message: Message) -> None:
                answers[0].messages.append(message)
                await send(message)

            await AccelMiddleware(app, mapping)(scope, receive, noting)

        answer = await ask(note, offer, RANGE, method=method)
        assert (answer.status, answer.header(b"etag")) == (206, b"x")

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_message_of_another_kind(self, mapping: PathMap, offer: Header, method: str) -> None:
        """A message that nobody knows, between a file sender's start and its body, takes nothing away."""
        messages: list[Message] = [
            {"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]},
            {"type": "http.response.another"},
            {"type": "http.response.body", "body": b""},
        ]

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert PATHSEND in scope["extensions"]
            for message in messages:
                await send(message)

        assert (await ask(AccelMiddleware(app, mapping), offer, method=method)).messages == messages

    @pytest.mark.parametrize("wanted", RANGES)
    @pytest.mark.parametrize("copies", [False, True])
    async def test_changed_headers(self, mapping: PathMap, offer: Header, wanted: Header | None, copies: bool) -> None:
        """A header that a middleware takes out after the question stays out, and what it puts in stays in."""
        name = b"x-remote-user"
        seen: list[list[Header]] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert PATHSEND in scope["extensions"]
            scope["headers"] = [header for header in scope["headers"] if header[0] != name] + [(name, b"user")]
            if copies:
                scope["extensions"] = {**scope["extensions"]}
            await send({"type": "http.response.start", "status": 200, "headers": []})
            seen.append(scope["headers"])
            await send({"type": "http.response.body", "body": b""})

        ranges = [] if wanted is None else [wanted]
        answer = await ask(AccelMiddleware(app, mapping), (name, b"admin"), offer, *ranges)
        for headers in (seen[0], answer.scope["headers"]):
            assert sorted(headers) == sorted([(b"host", b"localhost"), offer, *ranges, (name, b"user")])

    @pytest.mark.parametrize("question", [lambda ext: PATHSEND in ext, lambda ext: ext.get(PATHSEND) is not None])
    async def test_plain_headers(
        self, file: Path, mapping: PathMap, offer: Header, question: Callable[[Any], bool]
    ) -> None:
        """The request's headers are a plain list of plain tuples at all times, also while Range is hidden."""
        sent = [(b"host", b"localhost"), offer, RANGE, (b"if-range", b'"x"')]
        seen: list[list[Header]] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            def look() -> None:
                assert_plain(scope)
                seen.append(list(scope["headers"]))

            look()
            assert question(scope["extensions"])
            look()
            copied = {**scope}
            await send({"type": "http.response.start", "status": 200, "headers": []})
            look()
            assert copied["headers"] == sent
            await send({"type": PATHSEND, "path": str(file)})
            look()

        answer = await ask(AccelMiddleware(app, mapping), *sent[1:])
        assert is_redirect(answer)
        assert seen == [sent, sent[:2], sent, sent]
        assert answer.scope["headers"] == sent

    async def test_zerocopysend(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """A sender that prefers zerocopysend (ServeStatic, baize) does not see it while something is offered."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            extensions = scope["extensions"]
            assert (ZEROCOPYSEND in extensions) == (ZEROCOPYSEND in dict(extensions)) == (ZEROCOPYSEND in [*extensions])
            if ZEROCOPYSEND in extensions:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                with file.open("rb") as opened:
                    await send({"type": ZEROCOPYSEND, "file": opened.fileno()})
            else:
                await FileResponse(file)(scope, receive, send)

        server: dict[str, Any] = {ZEROCOPYSEND: {}, PATHSEND: {}}
        answer = await ask(AccelMiddleware(app, mapping), offer, extensions=server)
        assert is_redirect(answer)
        assert answer.scope["extensions"] == {ZEROCOPYSEND: {}, PATHSEND: {}}
        answer = await ask(AccelMiddleware(app, mapping), extensions=server)
        assert answer.messages[1]["type"] == ZEROCOPYSEND

    async def test_announced_with_more(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """The app sees `{}`, whatever the server says of its own pathsend."""
        server = {PATHSEND: {"ranges": True}}
        seen: list[Any] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            extensions = scope["extensions"]
            seen.extend([extensions[PATHSEND], dict(extensions)[PATHSEND], extensions.get(PATHSEND)])
            await FileResponse(file)(scope, receive, send)

        assert is_redirect(await ask(AccelMiddleware(app, mapping), offer, extensions=server))
        assert seen == [{}, {}, {}]
        assert server == {PATHSEND: {"ranges": True}}


def sender(message: Message, *, asks: bool = True) -> ASGIApp:
    """An app that sends one pathsend message."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert not asks or PATHSEND in scope["extensions"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
        await send({"type": PATHSEND, **message})

    return app


class TestParts:
    """A pathsend message with `offset` or `count` is a part of a file."""

    @pytest.mark.parametrize(
        ("part", "expected"),
        [
            ({"offset": 5}, TEXT[5:]),
            ({"count": 7}, TEXT[:7]),
            ({"offset": 3, "count": 4}, TEXT[3:7]),
            ({"offset": 3, "count": None}, TEXT[3:]),
            ({"offset": None, "count": 4}, TEXT[:4]),
            ({"offset": 0, "count": 0}, b""),
            ({"offset": 195, "count": 50}, TEXT[195:]),
            ({"offset": 0, "count": len(TEXT)}, TEXT),
        ],
    )
    @pytest.mark.parametrize("extensions", SERVERS)
    @pytest.mark.parametrize("asks", [True, False])
    async def test_never_redirected(
        self,
        file: Path,
        mapping: PathMap,
        offer: Header,
        part: dict[str, Any],
        expected: bytes,
        extensions: dict[str, Any] | None,
        asks: bool,
    ) -> None:
        """That part alone is sent, by the app."""
        app = sender({"path": str(file), **part}, asks=asks)
        answer = await ask(AccelMiddleware(app, mapping), offer, extensions=extensions)
        assert delivered(answer) == (200, [(b"x-own", b"1")], expected)
        assert answer.messages[-1] == {"type": "http.response.body", "body": b""}

    async def test_larger_than_a_chunk(self, file: Path, mapping: PathMap, offer: Header) -> None:
        """Nor does it end where a chunk does."""
        file.write_bytes(os.urandom(200_000))
        app = sender({"path": str(file), "offset": 1000, "count": 150_000})
        answer = await ask(AccelMiddleware(app, mapping), offer)
        assert answer.body == file.read_bytes()[1000:151_000]

    @pytest.mark.parametrize("whole", [{}, {"offset": 0}, {"offset": None, "count": None}])
    async def test_whole(self, file: Path, mapping: PathMap, offer: Header, whole: dict[str, Any]) -> None:
        """The whole file, named in the same way, is redirected."""
        assert is_redirect(await ask(AccelMiddleware(sender({"path": str(file), **whole}), mapping), offer))


class TestServersOwn:
    """A server that knows pathsend itself, in both directions."""

    @pytest.mark.parametrize("extensions", SERVERS)
    async def test_after_the_start(
        self, file: Path, mapping: PathMap, offer: Header, extensions: dict[str, Any] | None
    ) -> None:
        """A path that comes after the start has gone out is sent, by the server if it can and else by the app."""
        app = sender({"path": str(file)}, asks=False)
        answer = await ask(AccelMiddleware(app, mapping), offer, extensions=extensions)
        assert delivered(answer) == (200, [(b"x-own", b"1")], TEXT)
        assert (answer.messages[1]["type"] == PATHSEND) == (extensions is not None)

    @pytest.mark.parametrize("extensions", SERVERS)
    @pytest.mark.parametrize("wanted", [None, RANGE])
    async def test_both_directions(
        self, file: Path, mapping: PathMap, offer: Header, extensions: dict[str, Any] | None, wanted: Header | None
    ) -> None:
        """What is left to the app, and what a redirect stands for, goes out as without the middleware."""
        headers = [] if wanted is None else [wanted]
        expected = await ask(FileResponse(file), *headers, extensions=extensions)
        for app, sent in (
            (AccelMiddleware(FileResponse(file), {"/elsewhere": "/x"}, always=True), headers),
            (AccelMiddleware(FileResponse(file), mapping), headers),
            (AccelMiddleware(FileResponse(file, headers={"Content-Encoding": "x"}), mapping), [offer, *headers]),
            (AccelMiddleware(AccelRedirectResponse("/files/a.txt"), mapping), headers),
        ):
            answer = await ask(app, *sent, extensions=extensions)
            assert answer.status == expected.status
            assert answer.messages[1:] == expected.messages[1:]

    def test_granian(self, site: Site) -> None:
        """Granian, which has pathsend: what is left to the app, and what a redirect stands for, ranges and all."""
        (site.files / "inner.txt").write_bytes(TEXT)
        for wanted, expected in ((None, TEXT), ("bytes=2-4", b"234")):
            headers = {} if wanted is None else {"Range": wanted}
            for mode in ("elsewhere", "mapping", "inner/pop", "inner/extensions_by_dict", "inner/drop"):
                response = site.offers.get(url(f"granian/{mode}", "file", b"inner.txt"), headers=headers)
                assert response.content == expected
                assert sent_by_nginx(response) == (mode == "mapping")
            response = site.offers.get(url("granian/mapping", "404", b"inner.txt"), headers=headers)
            plain = site.offers.get(url("granian/plain", "404", b"inner.txt"), headers=headers)
            assert (response.status_code, response.content) == (plain.status_code, plain.content)
            response = site.offers.get(url("granian/mapping", "redirect", b"inner.txt"), headers=headers)
            assert (response.content, sent_by_nginx(response)) == (expected, True)
