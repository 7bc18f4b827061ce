"""`fallback=` and `offered()`: what an app answers for which it has no file, where no proxy offers to send it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgi import Answer, Header, ask
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap, offered

pytestmark = pytest.mark.anyio

MAPPING = PathMap({"/bucket": "/bucket"})  # there is no such directory: the app has nothing but a storage
SECRET = "s3cret"
SIGNED = "/bucket/a?signature=x"
Wrap = Callable[[ASGIApp], ASGIApp]


def offer(mapping: PathMap = MAPPING) -> list[Header]:
    return [(b"x-accel-mapping", os.fsencode(str(mapping))), (b"x-accel-secret", SECRET.encode())]


def redirect(**options: Any) -> AccelRedirectResponse:
    options.setdefault("fallback", PlainTextResponse("fallback", 203, headers={"X-Own": "1"}))
    return AccelRedirectResponse("/bucket/a", query="signature=x", **options)


def is_redirect(answer: Answer) -> bool:
    """Whether an answer is headers alone, target and all; if not, nothing of the target is in it."""
    if answer.header(b"x-accel-redirect") is None:
        assert b"signature" not in repr(answer.messages).encode()
        return False
    assert (answer.header(b"x-accel-redirect"), answer.body) == (SIGNED.encode(), b"")
    return True


storing = AccelMiddleware(redirect(fallback=PlainTextResponse("fallback")), MAPPING)


class PassOn(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


def copies(app: ASGIApp) -> ASGIApp:
    async def copying(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "headers": [*scope["headers"]]}, receive, send)

    return copying


def mounted(app: ASGIApp) -> ASGIApp:
    return Starlette(routes=[Mount("/a", Starlette(routes=[Mount("/b", app)]))])


WRAPS: dict[str, Wrap] = {"plain": lambda app: app, "copies": copies, "mounted": mounted, "base": PassOn}
MODES: dict[str, dict[str, Any]] = {
    "mapping": {"mapping": MAPPING},
    "secret": {"secret": SECRET},
    "both": {"mapping": MAPPING, "secret": SECRET},
    "trust": {"trust_header": True},
}


class TestFallback:
    """What answers in place of the redirect, and when."""

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("inner", WRAPS)
    async def test_answers(self, mode: str, inner: str) -> None:
        """It answers where no proxy offers anything, whatever stands between it and AccelMiddleware."""
        app = AccelMiddleware(WRAPS[inner](redirect()), **MODES[mode])
        answer = await ask(app, path="/a/b/c")
        assert not is_redirect(answer)
        assert (answer.status, answer.body, answer.header(b"x-own")) == (203, b"fallback", b"1")
        assert is_redirect(await ask(app, *offer(), path="/a/b/c"))

    async def test_always(self) -> None:
        """With `always=True` there is a proxy in front of each request."""
        assert is_redirect(await ask(AccelMiddleware(redirect(), MAPPING, always=True)))

    async def test_without_the_middleware(self) -> None:
        """Where AccelMiddleware is not around the app, the redirect goes out, as ever."""
        assert is_redirect(await ask(redirect()))
        assert is_redirect(await ask(redirect(), *offer()))

    @pytest.mark.parametrize("offers", [True, False])
    async def test_apache_and_lighttpd(self, offers: bool) -> None:
        """Such a proxy knows no internal URIs, so the fallback answers whatever it offers."""
        app = AccelMiddleware(redirect(), MAPPING, sendfile_type="X-Sendfile")
        assert not is_redirect(await ask(app, *(offer() if offers else [])))

    @pytest.mark.parametrize(
        ("make", "status", "body"),
        [
            (lambda file: RedirectResponse("https://storage.example/a?x=1"), 307, b""),
            (lambda file: StreamingResponse(iter(["one ", "two"])), 200, b"one two"),
            (lambda file: FileResponse(file), 200, b"0123456789"),
        ],
    )
    async def test_kinds(self, tmp_path: Path, make: Callable[[Path], Response], status: int, body: bytes) -> None:
        """It is a Response of any kind, or an ASGI app that makes one when it is needed."""
        file = tmp_path / "a.txt"
        file.write_bytes(b"0123456789")
        made: list[Response] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            made.append(make(file))
            await made[0](scope, receive, send)

        for fallback in (make(file), app):
            answer = await ask(AccelMiddleware(redirect(fallback=fallback), MAPPING))
            assert (answer.status, answer.body) == (status, body)
            assert len(made) == (fallback is app)
        made.clear()
        assert is_redirect(await ask(AccelMiddleware(redirect(fallback=app), MAPPING), *offer()))
        assert not made

    async def test_another_redirect(self, tmp_path: Path) -> None:
        """It may be a redirect itself, of a file that the mapping has."""
        (tmp_path / "a.txt").write_bytes(b"0123456789")
        mapping = PathMap({tmp_path: "/files"})
        response = redirect(fallback=AccelRedirectResponse("/files/a.txt"))
        assert (await ask(AccelMiddleware(response, mapping))).body == b"0123456789"

    async def test_range_and_head(self, tmp_path: Path) -> None:
        """A file that answers obeys a range, and a HEAD has its headers alone."""
        file = tmp_path / "a.txt"
        file.write_bytes(b"0123456789")

        def app() -> AccelMiddleware:
            return AccelMiddleware(redirect(fallback=FileResponse(file)), MAPPING)

        answer = await ask(app(), (b"range", b"bytes=2-4"))
        assert (answer.status, answer.body) == (206, b"234")
        answer = await ask(app(), method="HEAD")
        assert (answer.status, answer.body, answer.header(b"content-length")) == (200, b"", b"10")
        assert is_redirect(await ask(app(), *offer(), method="HEAD"))

    @pytest.mark.parametrize("offers", [True, False])
    async def test_background(self, offers: bool) -> None:
        """`background` runs once in both cases, after the response."""
        notes: list[str] = []

        class Fallback(PlainTextResponse):
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                await super().__call__(scope, receive, send)
                notes.append("fallback")

        fallback = Fallback("fallback", background=BackgroundTask(notes.append, "fallback's task"))
        app = AccelMiddleware(redirect(fallback=fallback, background=BackgroundTask(notes.append, "task")), MAPPING)
        await ask(app, *(offer() if offers else []))
        assert notes == (["task"] if offers else ["fallback's task", "fallback", "task"])

    async def test_error(self) -> None:
        """An error of the fallback's goes on to the server, and `background` does not run."""
        notes: list[str] = []

        async def fallback(scope: Scope, receive: Receive, send: Send) -> None:
            raise LookupError("as intended")

        app = AccelMiddleware(redirect(fallback=fallback, background=BackgroundTask(notes.append, "task")), MAPPING)
        with pytest.raises(LookupError, match="as intended"):
            await ask(app)
        assert not notes

    @pytest.mark.parametrize(
        ("outer", "inner", "redirects"),
        [
            ({"mapping": MAPPING}, {"mapping": {"/other": "/other"}}, True),
            ({"mapping": {"/other": "/other"}}, {"mapping": MAPPING}, True),
            ({"mapping": MAPPING}, {"mapping": MAPPING}, True),
            ({"mapping": MAPPING}, {"secret": "another"}, True),
            ({"mapping": {"/other": "/other"}}, {"mapping": {"/more": "/more"}}, False),
        ],
    )
    @pytest.mark.parametrize("between", WRAPS)
    async def test_two_middlewares(
        self, outer: dict[str, Any], inner: dict[str, Any], redirects: bool, between: str
    ) -> None:
        """One offer is enough: an inner middleware without one does not hide the outer's."""
        app = AccelMiddleware(WRAPS[between](AccelMiddleware(redirect(), **inner)), **outer)
        assert is_redirect(await ask(app, *offer(), path="/a/b/c")) == redirects
        assert not is_redirect(await ask(app, path="/a/b/c"))

    async def test_route(self) -> None:
        """In a whole app, with the middleware where it belongs."""

        async def endpoint(request: Request) -> Response:
            return redirect()

        app = Starlette(routes=[Mount("/a", routes=[Route("/b", endpoint)])], middleware=[Middleware(PassOn)])
        app.add_middleware(AccelMiddleware, mapping=MAPPING)
        assert (await ask(app, path="/a/b")).body == b"fallback"
        assert is_redirect(await ask(app, *offer(), path="/a/b"))

    async def test_one_offered_pair_is_enough(self) -> None:
        """The proxy that offers something is there, so the redirect is its, wherever it goes."""
        mapping = PathMap({"/bucket": "/bucket", "/more": "/more"})
        assert is_redirect(await ask(AccelMiddleware(redirect(), mapping), *offer(PathMap({"/more": "/more"}))))

    @pytest.mark.parametrize("fallback", ["/a", b"x", 404, {"a": 1}])
    def test_mistake(self, fallback: Any) -> None:
        """A value that is not an app is a ValueError that says what to give."""
        with pytest.raises(ValueError, match=r"fallback=.*give a Response or an ASGI app") as info:
            AccelRedirectResponse("/a", fallback=fallback)
        assert repr(fallback) in str(info.value)


class TestOffered:
    """`offered()`: what the proxy in front of a request offers."""

    async def show(
        self, app_options: dict[str, Any] | None, *headers: Header, wrap: Wrap = WRAPS["plain"]
    ) -> list[Any]:
        seen: list[Any] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert offered(Request(scope)) == offered(scope)
            seen.append(offered(Request(scope)))
            await PlainTextResponse("x")(scope, receive, send)

        wrapped = wrap(app)
        await ask(wrapped if app_options is None else AccelMiddleware(wrapped, **app_options), *headers, path="/a/b/c")
        return seen

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("inner", WRAPS)
    async def test_modes(self, mode: str, inner: str) -> None:
        """By the middleware's terms: the pairs that both have, or those of a header that counts."""
        assert await self.show(MODES[mode], wrap=WRAPS[inner]) == [None]
        assert await self.show(MODES[mode], *offer(), wrap=WRAPS[inner]) == [MAPPING]
        more = PathMap({"/bucket": "/bucket", "/etc": "/etc"})
        allowed = more if mode in ("secret", "trust") else MAPPING
        assert await self.show(MODES[mode], *offer(more), wrap=WRAPS[inner]) == [allowed]

    async def test_not_believed(self) -> None:
        """Nothing by a header that does not count."""
        assert await self.show({"mapping": MAPPING}, *offer(PathMap({"/x": "/y"}))) == [None]
        assert await self.show({"secret": SECRET}, offer()[0]) == [None]
        assert await self.show(None, *offer()) == [None]

    async def test_always(self) -> None:
        """With `always=True`, the whole mapping."""
        assert await self.show({"mapping": MAPPING, "always": True}) == [MAPPING]

    @pytest.mark.parametrize("always", [True, False])
    async def test_apache_and_lighttpd(self, always: bool) -> None:
        """Such a proxy knows no internal URIs."""
        options = {"mapping": MAPPING, "always": always, "sendfile_type": "X-Sendfile"}
        assert await self.show(options, *offer()) == [None]

    async def test_uri(self) -> None:
        """It makes the URIs for a manifest."""
        (found,) = await self.show({"mapping": MAPPING}, *offer())
        assert found.uri("/bucket/a b") == "/bucket/a%20b"

    async def test_request_by_request(self) -> None:
        """One request's offer is not another's, even in one scope that a server uses again."""
        seen: list[Any] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(offered(scope))
            await PlainTextResponse("x")(scope, receive, send)

        accel = AccelMiddleware(app, MAPPING)
        for headers in (offer(), [], offer()):
            await ask(accel, *headers)
        assert seen == [MAPPING, None, MAPPING]

    async def test_websocket(self) -> None:
        """A websocket has no response to send a file by."""
        seen: list[Any] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(offered(scope))

        async def receive() -> Message:
            raise NotImplementedError

        scope: dict[str, Any] = {"type": "websocket", "path": "/", "headers": offer()}
        await AccelMiddleware(app, MAPPING)(scope, receive, None)
        assert seen == [None]


class TestWebsocket:
    """A response that refuses a websocket (ASGI's extension ``websocket.http.response``)."""

    async def deny(self, response: AccelRedirectResponse) -> list[Message]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            raise AssertionError

        scope = {"type": "websocket", "path": "/", "headers": [], "extensions": {"websocket.http.response": {}}}
        await AccelMiddleware(response, {"/a": "/a"}, always=True)(scope, receive, send)
        return sent

    async def test_fallback(self) -> None:
        """The fallback refuses it, and the task runs: no proxy sends a file in its place."""
        ran: list[int] = []
        task = BackgroundTask(ran.append, 1)
        sent = await self.deny(AccelRedirectResponse("/a/x", fallback=PlainTextResponse("no", 403), background=task))
        assert [message["type"] for message in sent] == [
            "websocket.http.response.start",
            "websocket.http.response.body",
        ]
        assert (sent[0]["status"], sent[1]["body"]) == (403, b"no")
        assert ran == [1]

    async def test_no_fallback(self) -> None:
        """Without one it is an error that says so, and the internal URI stays internal."""
        with pytest.raises(RuntimeError, match="give it fallback="):
            await self.deny(AccelRedirectResponse("/a/x"))
