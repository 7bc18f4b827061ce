"""The headers of a response at the edges: iterables that are read once, HEAD, and Vary."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgi import Answer, Header, ask
from inner import PATHSEND, Compress
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap

pytestmark = pytest.mark.anyio

TEXT = b"0123456789" * 20
SECRET = "s3cret"
RANGE = (b"range", b"bytes=2-4")
OWN = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"content-security-policy", b"default-src 'self'")]
VARY = b"X-Accel-Mapping"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT)
    return path


@pytest.fixture
def offer(mapping: PathMap) -> list[Header]:
    return [(b"x-accel-mapping", os.fsencode(str(mapping))), (b"x-accel-secret", SECRET.encode())]


def is_redirect(answer: Answer) -> bool:
    return answer.header(b"x-accel-redirect") is not None or answer.header(b"x-sendfile") is not None


def vary(answer: Answer) -> list[bytes]:
    return [value for name, value in answer.headers if name.lower() == b"vary"]


class TestReadOnce:
    """ASGI says that a message's headers are an iterable, and Sanic sends one that can be read only once."""

    @pytest.mark.parametrize("offers", [True, False])
    @pytest.mark.parametrize(
        ("asks", "status", "body"),
        [
            (False, 200, {"type": "http.response.body", "body": b"x"}),
            (True, 200, {"type": "http.response.body", "body": b"x"}),
            (True, 500, {"type": "http.response.body", "body": b"x"}),
            (True, 200, {"type": PATHSEND}),
            (True, 404, {"type": PATHSEND}),
            (True, 200, {"type": PATHSEND, "offset": 3}),
            (False, 200, {"type": PATHSEND}),
        ],
    )
    async def test_all_arrive(
        self, file: Path, mapping: PathMap, offer: list[Header], offers: bool, asks: bool, status: int, body: Message
    ) -> None:
        """Whatever becomes of the response, its own headers reach the client."""
        redirects: list[list[Header]] = [[], [(b"x-accel-redirect", b"/files/a.txt")], [(b"X-Accel-Redirect", b"/no")]]
        options: list[dict[str, Any]] = [{}, {"always": True}, {"secret": SECRET}, {"sendfile_type": "X-Sendfile"}]
        for kind, more, arguments in itertools.product((iter, tuple), redirects, options):

            async def app(scope: Scope, receive: Receive, send: Send, kind: Any = kind, more: Any = more) -> None:
                assert not asks or PATHSEND in scope["extensions"]
                await send({"type": "http.response.start", "status": status, "headers": kind([*OWN, *more])})
                await send({**body, "path": str(file)})

            accel = AccelMiddleware(app, mapping, **arguments)
            answer = await ask(accel, *(offer if offers else []), extensions={PATHSEND: {}})
            starts = [message for message in answer.messages if message["type"] == "http.response.start"]
            assert len(starts) == 1
            assert [header for header in list(starts[0]["headers"]) if header in OWN] == OWN


class TestScopeWithoutHeaders:
    """A scope without `headers` counts as one with none."""

    @pytest.mark.parametrize("kind", ["X-Accel-Redirect", "X-Sendfile"])
    @pytest.mark.parametrize("options", [{}, {"always": True}, {"secret": SECRET}])
    @pytest.mark.parametrize(
        "make",
        [
            lambda file: FileResponse(file),
            lambda file: FileResponse(file, status_code=404),
            lambda file: AccelRedirectResponse("/files/a.txt"),
            lambda file: Compress(FileResponse(file)),
            lambda file: PlainTextResponse(TEXT),
        ],
    )
    async def test_http(
        self, file: Path, mapping: PathMap, kind: str, options: dict[str, Any], make: Callable[[Path], ASGIApp]
    ) -> None:
        """In each mode, and each direction."""
        app = AccelMiddleware(make(file), mapping, sendfile_type=kind, **options)

        async def without(scope: Scope, receive: Receive, send: Send) -> None:
            del scope["headers"]
            await app(scope, receive, send)

        answer = await ask(without)
        sender = app.app.app if isinstance(app.app, Compress) else app.app
        by_file = isinstance(sender, FileResponse) and sender.status_code == 200
        if "always" in options and (by_file or (kind != "X-Sendfile" and isinstance(app.app, AccelRedirectResponse))):
            assert is_redirect(answer)
        else:
            assert not is_redirect(answer)
            assert answer.body == TEXT or answer.header(b"content-encoding") == b"deflate"

    @pytest.mark.parametrize("options", [{"mapping": {"/a": "/b"}}, {"secret": SECRET}, {"trust_header": True}])
    async def test_websocket(self, options: dict[str, Any]) -> None:
        """A websocket's, too."""
        seen: list[Scope] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope)

        await AccelMiddleware(app, **options)({"type": "websocket", "path": "/"}, None, None)
        assert not seen[0].get("headers")


MODES: dict[str, dict[str, Any]] = {
    "mapping": {"mapping": True},
    "trust": {"trust_header": True},
    "always": {"mapping": True, "always": True},
    "secret": {"secret": SECRET},
    "both": {"mapping": True, "secret": SECRET},
}
VARYING = {"mapping", "trust"}


async def answer_in(mode: str, app: ASGIApp, mapping: PathMap, offer: list[Header], **options: Any) -> Answer:
    arguments = dict(MODES[mode])
    if arguments.pop("mapping", False):
        arguments["mapping"] = mapping
    return await ask(AccelMiddleware(app, **arguments), *offer, **options)


class TestVary:
    """A redirect that would be a file or a fallback without the offer says that it is one because of the offer."""

    @pytest.mark.parametrize("method", ["GET", "POST"])
    @pytest.mark.parametrize("mode", MODES)
    async def test_file(self, file: Path, mapping: PathMap, offer: list[Header], mode: str, method: str) -> None:
        """A file's redirect, in the modes in which a client could have sent the header; with a secret none could."""
        answer = await answer_in(mode, FileResponse(file), mapping, offer, method=method)
        assert is_redirect(answer)
        assert vary(answer) == ([VARY] if mode in VARYING else [])

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize(
        "make",
        [
            lambda: AccelRedirectResponse("/files/a.txt"),
            lambda: AccelRedirectResponse("/files/a b.txt", query="x=1"),
            lambda: Response(headers={"X-Accel-Redirect": "/files/a.txt"}),
            lambda: Response(headers={"X-ACCEL-REDIRECT": "/%66iles/a.txt"}),
            lambda: PlainTextResponse("body", headers={"X-Accel-Redirect": "/files/a.txt"}),
            lambda: FileResponse(__file__, headers={"X-Accel-Redirect": "/files/a.txt"}),
        ],
    )
    async def test_own_redirect(
        self, mapping: PathMap, offer: list[Header], mode: str, method: str, make: Callable[[], Response]
    ) -> None:
        """The app's own redirect, by class or by hand; with `trust_header` alone it is one without the offer, too."""
        answer = await answer_in(mode, make(), mapping, offer, method=method)
        assert is_redirect(answer)
        own_target = mode == "trust" and isinstance(make(), FileResponse)  # without the offer it is a file
        assert vary(answer) == ([VARY] if mode == "mapping" or own_target else [])

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("to", ["/files/a.txt", "/elsewhere", "@named"])
    async def test_fallback(self, mapping: PathMap, offer: list[Header], mode: str, to: str) -> None:
        """One that has a fallback, wherever it goes; the response can be sent again."""
        response = AccelRedirectResponse(to, fallback=PlainTextResponse("fallback"), headers={"Vary": "Cookie"})
        for _ in range(2):
            answer = await answer_in(mode, response, mapping, offer)
            assert vary(answer) == ([b"Cookie, " + VARY] if mode in VARYING else [b"Cookie"])

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize(
        "make",
        [
            lambda file: AccelRedirectResponse("/elsewhere"),
            lambda file: AccelRedirectResponse("/filesystem/a.txt"),
            lambda file: AccelRedirectResponse("@named"),
            lambda file: Response(headers={"X-Accel-Redirect": "/\xff"}),  # bytes that are not UTF-8
            lambda file: Response(headers={"X-Accel-Redirect": "files/a.txt"}),
            lambda file: PlainTextResponse("a page"),
            lambda file: PlainTextResponse("a page", headers={"Content-Location": "/files/a.txt"}),  # as long a name
            lambda file: FileResponse(file, status_code=404),
            lambda file: FileResponse(__file__),
        ],
    )
    async def test_the_same_without_the_offer(
        self, file: Path, mapping: PathMap, offer: list[Header], mode: str, make: Callable[[Path], Response]
    ) -> None:
        """What is the same without the offer has none."""
        assert vary(await answer_in(mode, make(file), mapping, offer)) == []

    @pytest.mark.parametrize("make", [FileResponse, lambda file: AccelRedirectResponse("/files/a.txt")])
    async def test_nothing_offered(self, file: Path, mapping: PathMap, make: Callable[[Path], Response]) -> None:
        """Nor has what the app sends itself."""
        assert vary(await ask(AccelMiddleware(make(file), mapping))) == []

    @pytest.mark.parametrize(
        ("own", "expected"),
        [
            ([], [VARY]),
            ([b"Cookie"], [b"Cookie, " + VARY]),
            ([b"Cookie, Origin"], [b"Cookie, Origin, " + VARY]),
            ([b"Cookie", b"Origin", b"Accept"], [b"Cookie, Origin, Accept, " + VARY]),
            ([b"*"], [b"*"]),
            ([b" * "], [b" * "]),
            ([b"Cookie", b"*"], [b"Cookie", b"*"]),
            ([b"Cookie, *"], [b"Cookie, *"]),
            ([VARY], [VARY]),
            ([b"Cookie,x-accel-mapping"], [b"Cookie,x-accel-mapping"]),
            ([b"Cookie", b"X-ACCEL-MAPPING , Origin"], [b"Cookie", b"X-ACCEL-MAPPING , Origin"]),
            ([b""], [VARY]),
            ([b"", b"Cookie"], [b"Cookie, " + VARY]),
        ],
    )
    @pytest.mark.parametrize("name", [b"vary", b"Vary"])
    @pytest.mark.parametrize("by_path", [True, False])
    async def test_joined(
        self,
        file: Path,
        mapping: PathMap,
        offer: list[Header],
        own: list[bytes],
        expected: list[bytes],
        name: bytes,
        by_path: bool,
    ) -> None:
        """It joins the app's own in one line, unless that says it, or `*`, already."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = FileResponse(file) if by_path else AccelRedirectResponse("/files/a.txt")
            response.raw_headers += [(name, value) for value in own]
            await response(scope, receive, send)

        answer = await ask(AccelMiddleware(app, mapping), *offer)
        assert is_redirect(answer)
        assert vary(answer) == expected

    async def test_apache_and_lighttpd(self, file: Path, mapping: PathMap, offer: list[Header]) -> None:
        """X-Sendfile goes out by the same offer."""
        app = AccelMiddleware(FileResponse(file), mapping, sendfile_type="X-Sendfile")
        answer = await ask(app, *offer)
        assert is_redirect(answer)
        assert vary(answer) == [VARY]
