"""Whose offer counts: the arguments of the middleware, and the headers of a request."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgi import ask
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

import asgi_accel.offer
from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap
from asgi_accel.mapping import read_pairs

pytestmark = pytest.mark.anyio

SECRET = "s3cret"
TYPE = (b"x-sendfile-type", b"X-Accel-Redirect")
PASSWORD = (b"x-accel-secret", SECRET.encode())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_bytes(b"content")
    return path


def header(text: object) -> tuple[bytes, bytes]:
    return (b"x-accel-mapping", os.fsencode(str(text)))


async def redirected(file: Path, options: dict[str, Any], *headers: tuple[bytes, bytes]) -> bytes | None:
    answer = await ask(AccelMiddleware(FileResponse(file), **options), *headers)
    target = answer.header(b"x-accel-redirect")
    assert answer.status == 200
    assert answer.body == (b"content" if target is None else b"")
    return target


async def show_headers(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(repr(Request(scope).headers.raw))(scope, receive, send)


class TestModes:
    """The table of docs/security.md: which arguments redirect what."""

    async def test_mapping(self, file: Path) -> None:
        """Files under the pairs that both have are redirected, and others are not."""
        mapping = {file.parent: "/files", "/srv": "/srv"}
        options = {"mapping": mapping}
        assert await redirected(file, options, header(PathMap({file.parent: "/files/"}))) == b"/files/a.txt"
        both = PathMap({"/other": "/other", file.parent: "/files"})
        assert await redirected(file, options, header(both)) == b"/files/a.txt"
        for offered in ({file.parent: "/another"}, {"/srv": "/srv"}, {file.parent.parent: "/files"}, {}):
            assert await redirected(file, options, header(PathMap(offered))) is None
        assert await redirected(file, options) is None

    async def test_always(self, file: Path) -> None:
        """Every file under the mapping is redirected, whatever the request says."""
        options = {"mapping": {file.parent: "/files"}, "always": True}
        assert await redirected(file, options) == b"/files/a.txt"
        assert await redirected(file, options, header("/x/=/y/")) == b"/files/a.txt"

    async def test_secret(self, file: Path) -> None:
        """The header counts with the secret."""
        offer = header(PathMap({file.parent: "/files"}))
        assert await redirected(file, {"secret": SECRET}, offer, PASSWORD) == b"/files/a.txt"
        for wrong in (b"", b"other", b"s3cret2", "s3cr\xe9t".encode()):
            assert await redirected(file, {"secret": SECRET}, offer, (b"x-accel-secret", wrong)) is None
        assert await redirected(file, {"secret": SECRET}, offer) is None
        assert await redirected(file, {"secret": SECRET}, PASSWORD) is None

    async def test_secret_and_mapping(self, file: Path) -> None:
        """With both, both are asked for."""
        options = {"secret": SECRET, "mapping": {file.parent: "/files"}}
        offer = header(PathMap({file.parent: "/files"}))
        other = header(PathMap({file.parent: "/other"}))
        assert await redirected(file, options, offer, PASSWORD) == b"/files/a.txt"
        assert await redirected(file, options, offer) is None
        assert await redirected(file, options, other, PASSWORD) is None

    async def test_trust_header(self, file: Path) -> None:
        """The header counts from anyone."""
        offer = header(PathMap({file.parent: "/files"}))
        assert await redirected(file, {"trust_header": True}, offer) == b"/files/a.txt"
        assert await redirected(file, {"trust_header": True}) is None

    @pytest.mark.parametrize("kind", [dict, str, PathMap, list])
    async def test_kinds_of_mapping(self, file: Path, kind: type) -> None:
        """A mapping is a PathMap, a dict, pairs, or text in the header's syntax."""
        pairs = {str(file.parent): "/files"}
        mapping: Any = {dict: pairs, str: str(PathMap(pairs)), PathMap: PathMap(pairs), list: list(pairs.items())}[kind]
        assert await redirected(file, {"mapping": mapping, "always": True}) == b"/files/a.txt"

    async def test_empty_mapping(self, file: Path) -> None:
        """An empty mapping, for instance from an unset environment variable, is allowed and redirects nothing."""
        mappings: list[Any] = ["", {}, PathMap()]
        for mapping in mappings:
            assert await redirected(file, {"mapping": mapping}, header("/x/=/y/")) is None
            assert await redirected(file, {"mapping": mapping, "always": True}) is None


class TestMistakes:
    """Configuration mistakes fail when the object is made, and say what to give instead."""

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({}, "mapping="),
            ({"always": True}, "mapping="),
            ({"mapping": None, "always": True}, "mapping="),
            ({"mapping": {"/a": "/b"}, "always": True, "secret": SECRET}, "without secret="),
            ({"mapping": {"/a": "/b"}, "always": True, "trust_header": True}, "trust_header="),
            ({"always": True, "secret": SECRET}, "mapping="),
            ({"trust_header": True, "secret": SECRET}, "give one of them"),
            ({"trust_header": True, "mapping": {"/a": "/b"}}, "give one of them"),
            ({"secret": ""}, "secret="),
            ({"secret": " blank"}, "secret="),
            ({"secret": "new\nline"}, "secret="),
            ({"mapping": "/a"}, "'/a'"),
            ({"mapping": {"a": "/b"}}, "'a'"),
            ({"mapping": {"/a": "b"}}, "'b'"),
        ],
    )
    def test_mistake(self, options: dict[str, Any], words: str) -> None:
        """A ValueError names the argument and the remedy."""
        with pytest.raises(ValueError, match=words):
            AccelMiddleware(show_headers, **options)

    def test_secret_is_not_told(self) -> None:
        """The message about a bad secret does not hold it."""
        with pytest.raises(ValueError, match="secret=") as info:
            AccelMiddleware(show_headers, secret="hush\n")
        assert "hush" not in str(info.value)


class TestStrictness:
    """A header that is not quite right offers nothing, and no request fails by one."""

    BAD = (
        b"",
        b"=",
        b"/x",
        b"/x=",
        b"relative=/x",
        b'"/unfinished',
        b"/a=/b/,",
        b"/a=/b /c",
        b"\xff\xfe",
        b"/a=/b\x00",
        b"/a=/../b",
        b"/a=/b, /a=/c",
        b"(a+)+$=/x",
        b'"' * 8000,
        b"/a=/b," * 5000,
        b"/" * 9000 + b"=/x",
    )

    @pytest.mark.parametrize("value", BAD)
    @pytest.mark.parametrize(
        "options",
        [{"mapping": "/srv=/srv"}, {"trust_header": True}, {"secret": SECRET}, {"mapping": "", "secret": SECRET}],
    )
    async def test_bad_value(self, file: Path, options: dict[str, Any], value: bytes) -> None:
        """A malformed or huge mapping is answered as if it were absent."""
        assert await redirected(file, options, (b"x-accel-mapping", value), PASSWORD) is None

    async def test_sent_twice(self, file: Path) -> None:
        """A header that came twice offers nothing, even where both are the same."""
        offer = header(PathMap({file.parent: "/files"}))
        for headers in ([offer, offer], [offer, PASSWORD, PASSWORD], [offer, TYPE, TYPE], [header("/x/=/y/"), offer]):
            assert await redirected(file, {"secret": SECRET}, PASSWORD, *headers) is None
            assert await redirected(file, {"trust_header": True}, PASSWORD, *headers) is None or len(headers) == 3
        cookies = [(b"cookie", b"a=1"), (b"cookie", b"b=2")]
        assert await redirected(file, {"trust_header": True}, offer, *cookies) == b"/files/a.txt"

    async def test_sendfile_type(self, file: Path) -> None:
        """X-Sendfile-Type, where it is there, must ask for X-Accel-Redirect."""
        offer = header(PathMap({file.parent: "/files"}))
        for value, expected in (
            (b"X-Accel-Redirect", True),
            (b"x-accel-redirect", True),
            (b"X-Sendfile", False),
            (b"X-Lighttpd-Send-File", False),
            (b"", False),
        ):
            target = await redirected(file, {"trust_header": True}, offer, (b"x-sendfile-type", value))
            assert (target is not None) == expected

    async def test_longest_value(self, file: Path) -> None:
        """A mapping of 8 KiB is read, a longer one is not."""
        offer = os.fsencode(str(PathMap({file.parent: "/files"})))
        for length, expected in ((8192, True), (8193, False)):
            value = offer + b" " * (length - len(offer))
            target = await redirected(file, {"trust_header": True}, (b"x-accel-mapping", value))
            assert (target is not None) == expected

    @pytest.mark.parametrize("options", [{"mapping": True}, {"trust_header": True}, {"secret": SECRET}])
    async def test_most_pairs(self, file: Path, options: dict[str, Any]) -> None:
        """A header with 64 pairs is read, one with more counts as absent, wherever the app's own pair stands in it."""
        own = {file.parent: "/files"}
        options = {**options, "mapping": own} if "mapping" in options else options
        for count, expected in ((64, b"/files/a.txt"), (65, None)):
            others = {Path(f"/other/{number}"): f"/other/{number}" for number in range(1, count)}
            for pairs in (own | others, others | own):
                assert await redirected(file, options, header(PathMap(pairs)), PASSWORD) == expected

    async def test_no_more_are_read(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The time that a header takes is bounded: no pair after the 65th is looked at, and no map is made of them."""
        read: list[tuple[str, str]] = []
        made: list[int] = []

        def reading(text: str) -> Iterator[tuple[str, str]]:
            for pair in read_pairs(text):
                read.append(pair)
                yield pair

        class Counting(PathMap):
            def __init__(self, pairs: Any = ()) -> None:
                made.append(len(pairs))
                super().__init__(pairs)

        monkeypatch.setattr(asgi_accel.offer, "read_pairs", reading)
        monkeypatch.setattr(asgi_accel.offer, "PathMap", Counting)
        value = ",".join(f"/{number}=/x" for number in range(900)) + ',"malformed'
        assert len(value) < 8192
        assert await redirected(file, {"trust_header": True}, header(value)) is None
        assert len(read) == 65
        assert max(made) == 0

    async def test_cache_does_not_grow(self, file: Path) -> None:
        """A client that sends ever new values fills no memory."""
        middleware = AccelMiddleware(FileResponse(file), trust_header=True)
        for number in range(100):
            await ask(middleware, header(f"/a{number}/=/b/"))
        info = middleware._trust._read.cache_info()
        assert info.currsize == info.maxsize == 16

    async def test_worked_out_once(self, file: Path) -> None:
        """What a header means is worked out once for each value, good or bad."""
        middleware = AccelMiddleware(FileResponse(file), trust_header=True)
        for value in ("/a/=/b/", "malformed"):
            for _ in range(3):
                await ask(middleware, header(value))
        assert middleware._trust._read.cache_info().misses == 2


class TestSecret:
    """The secret does not reach the app, whether it is right or not."""

    @pytest.mark.parametrize("options", [{"secret": SECRET}, {"secret": SECRET, "mapping": "/a=/b"}])
    @pytest.mark.parametrize("value", [SECRET.encode(), b"wrong"])
    @pytest.mark.parametrize("offer", [[], [header("/a/=/b/")]])
    async def test_hidden(self, options: dict[str, Any], value: bytes, offer: list[tuple[bytes, bytes]]) -> None:
        """Neither from a request that offers nor from one that does not."""
        answer = await ask(AccelMiddleware(show_headers, **options), *offer, (b"x-accel-secret", value))
        assert b"x-accel-secret" not in answer.body
        assert b"localhost" in answer.body

    async def test_hidden_from_websockets(self) -> None:
        """Nor from a websocket."""
        seen: list[Any] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.extend(scope["headers"])

        scope = {"type": "websocket", "path": "/", "headers": [(b"host", b"x"), PASSWORD]}
        await AccelMiddleware(app, secret=SECRET)(scope, None, None)
        assert seen == [(b"host", b"x")]


class TestWarning:
    """A forgotten proxy_set_header is told, once."""

    @pytest.mark.parametrize("name", [b"x-forwarded-for", b"forwarded", b"via"])
    async def test_warning(self, file: Path, name: bytes, caplog: pytest.LogCaptureFixture) -> None:
        """A request through a proxy without an offer is a warning with the line to add."""
        middleware = AccelMiddleware(FileResponse(file), {"/mnt/storage": "/download"})
        await ask(middleware)
        assert not caplog.records
        for _ in range(3):
            await ask(middleware, (name, b"192.0.2.1"))
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "proxy_set_header X-Accel-Mapping '/mnt/storage/=/download/';" in caplog.text
        assert name.decode() in caplog.text

    async def test_no_warning(self, file: Path, caplog: pytest.LogCaptureFixture) -> None:
        """A proxy that offers is no reason to warn, nor is one where nothing is looked at."""
        offer = header(PathMap({file.parent: "/files"}))
        forwarded = (b"x-forwarded-for", b"192.0.2.1")
        await ask(AccelMiddleware(FileResponse(file), {file.parent: "/files"}), offer, forwarded)
        await ask(AccelMiddleware(FileResponse(file), {file.parent: "/files"}, always=True), forwarded)
        assert not caplog.records

    @pytest.mark.parametrize("options", [{"mapping": {"/a": "/b"}}, {"secret": SECRET}, {"trust_header": True}])
    async def test_no_warning_for_websockets(self, options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
        """A websocket's location needs no offer, and mostly has none."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            return None

        scope = {"type": "websocket", "path": "/", "headers": [(b"x-forwarded-for", b"192.0.2.1"), PASSWORD]}
        await AccelMiddleware(app, **options)(scope, None, None)
        assert not caplog.records

    async def test_warning_with_secret(self, file: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Where the secret is asked for, the lines have a place for it, and do not tell it."""
        middleware = AccelMiddleware(FileResponse(file), secret=SECRET)
        offer = header(PathMap({file.parent: "/files"}))
        for _ in range(2):
            await ask(middleware, (b"via", b"1.1 proxy"), offer)
        assert len(caplog.records) == 1
        assert "proxy_set_header X-Accel-Secret" in caplog.text
        assert SECRET not in caplog.text

    async def test_one_short_line(self, file: Path, caplog: pytest.LogCaptureFixture) -> None:
        """What a client sends does not break the log's line or fill it (CVE-2025-27111)."""
        caplog.set_level(logging.DEBUG, logger="asgi_accel")
        middleware = AccelMiddleware(FileResponse(file), {"/mnt/storage": "/download"})
        for value in (
            b"/x\r\nERROR forged" + b"y" * 5000,
            b'"\r\n\x1b[31m"=/x',
            b"/ok=/ok" + b"\n" * 3000,
            b"/ok=/ok" + b" " * 3000,
        ):
            for headers in ([], [(b"x-sendfile-type", b"a\r\nb" * 999)]):
                await ask(middleware, (b"x-accel-mapping", value), (b"forwarded", b"for=x"), *headers, path="/\n" * 999)
        assert caplog.records
        for record in caplog.records:
            message = record.getMessage()
            assert message.isprintable()
            assert len(message) < 1000


@pytest.mark.parametrize("name", [b"via", b"range", b"x-accel-mapping"])
async def test_many_lines_of_one_header(name: bytes) -> None:
    """A client can send thousands of lines, and each costs the same: 20,000 blocked the event loop for a second."""
    lines = [(bytes(bytearray(name)), b"") for _ in range(20_000)]  # as from a server: each has a name of its own
    began = time.process_time()
    for _ in range(5):
        app = AccelMiddleware(
            PlainTextResponse("x"), {"/files": "/files"}
        )  # one warns of Via once, and then ignores it
        assert (await ask(app, *lines)).body == b"x"
    assert time.process_time() - began < 1.5


class TestMapping:
    """What `mapping=` takes, here and in `AccelRedirectResponse`."""

    @pytest.mark.parametrize(
        "make",
        [
            lambda pairs: dict(pairs),
            lambda pairs: list(pairs),
            lambda pairs: PathMap(pairs),
            lambda pairs: str(PathMap(pairs)),
            lambda pairs: dict(pairs).items(),
        ],
        ids=["dict", "list", "PathMap", "text", "items"],
    )
    async def test_kinds(self, file: Path, make: Any) -> None:
        mapping = make([(file.parent, "/files")])
        for _ in range(2):
            answer = await ask(AccelMiddleware(FileResponse(file), mapping, always=True))
            assert answer.header(b"x-accel-redirect") == b"/files/a.txt"
            assert AccelRedirectResponse(file, mapping=mapping).headers["x-accel-redirect"] == "/files/a.txt"

    async def test_generator(self, file: Path) -> None:
        """One works however often the app is built: the command builds it once more."""
        app = Starlette(routes=[Route("/", lambda request: FileResponse(file))])
        app.add_middleware(AccelMiddleware, mapping=(pair for pair in [(file.parent, "/files")]), always=True)
        for _ in range(2):
            answer = await ask(app.build_middleware_stack())
            assert answer.header(b"x-accel-redirect") == b"/files/a.txt"
