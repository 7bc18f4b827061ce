"""What the log warns of: each once, with the remedy, and without false alarms."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgi import Header, ask
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap

pytestmark = pytest.mark.anyio

MAPPING = PathMap({"/mnt/storage": "/download"})
SWAPPED = PathMap({"/download": "/mnt/storage"})
SECRET = "s3cret"
FORWARDED = (b"x-forwarded-for", b"192.0.2.1")
PASSWORD = (b"x-accel-secret", SECRET.encode())
THRUSTER = (b"x-sendfile-type", b"X-Sendfile")
PAGE = PlainTextResponse("x")


def header(mapping: object) -> Header:
    return (b"x-accel-mapping", os.fsencode(str(mapping)))


@pytest.fixture(autouse=True)
def no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="asgi_accel")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged; a test that ends with this has seen that there is no more."""
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}
    messages = [record.getMessage() for record in caplog.records]
    assert all(message.isprintable() and len(message) < 1500 for message in messages)
    return messages


class TestNoOffer:
    """A request came through a proxy that offers nothing: the advice is for the proxy that can follow it."""

    @pytest.mark.parametrize(
        ("options", "headers", "words"),
        [
            ({}, [], ["location needs: proxy_set_header X-Accel-Mapping '/mnt/storage/=/download/';"]),
            ({"secret": SECRET}, [], ["proxy_set_header X-Accel-Mapping", "proxy_set_header X-Accel-Secret '...';"]),
            ({"sendfile_type": "X-Sendfile"}, [], ["RequestHeader (Apache)", "setenv.set-request-header (lighttpd)"]),
            ({"sendfile_type": "X-Sendfile", "secret": SECRET}, [], ["RequestHeader (Apache)", "X-Accel-Secret with"]),
            ({}, [THRUSTER], ["Thruster", "always=True, sendfile_type='X-Sendfile'"]),
            ({"sendfile_type": "X-Sendfile"}, [THRUSTER], ["Thruster", "always=True, sendfile_type='X-Sendfile'"]),
            ({"secret": SECRET}, [(b"x-sendfile-type", b"x-sendfile")], ["Thruster"]),
        ],
    )
    async def test_advice(
        self, options: dict[str, Any], headers: list[Header], words: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        """nginx has a directive, Apache and lighttpd have theirs, Thruster can set no header."""
        app = AccelMiddleware(PAGE, MAPPING, **options)
        for _ in range(3):
            await ask(app, FORWARDED, *headers)
        (message,) = warnings(caplog)
        assert all(word in message for word in words)
        assert ("proxy_set_header" in message) == ("proxy_set_header" in words[0])
        assert ("Thruster" in message) == bool(headers)
        assert SECRET not in message

    async def test_not_thruster(self, caplog: pytest.LogCaptureFixture) -> None:
        """Whoever sends a mapping is not Thruster."""
        await ask(AccelMiddleware(PAGE, MAPPING), FORWARDED, THRUSTER, header(MAPPING))
        (message,) = warnings(caplog)
        assert "Thruster" not in message
        assert "the X-Sendfile-Type header is b'X-Sendfile', not x-accel-redirect" in message

    async def test_thruster_itself(self, caplog: pytest.LogCaptureFixture) -> None:
        """What the line says to do helps."""
        app = AccelMiddleware(FileResponse(__file__), "/=/", always=True, sendfile_type="X-Sendfile")
        answer = await ask(app, FORWARDED, THRUSTER)
        assert answer.header(b"x-sendfile") == os.fsencode(__file__)
        assert not warnings(caplog)


class TestEachCause:
    """A cause does not use up the warning of another, and each says the line that is missing."""

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            ("X-Accel-Redirect", 'proxy_set_header X-Sendfile-Type "";'),
            ("X-Sendfile", "unset X-Sendfile-Type with RequestHeader"),
        ],
    )
    async def test_forged_type(self, kind: str, words: str, caplog: pytest.LogCaptureFixture) -> None:
        """A client's X-Sendfile-Type, through a proxy that does not clear it."""
        app = AccelMiddleware(PAGE, MAPPING, sendfile_type=kind)
        forged = (b"x-sendfile-type", b"X-Other")
        for _ in range(2):
            await ask(app, FORWARDED, header(MAPPING), forged)
        await ask(app, FORWARDED, header(MAPPING), header(MAPPING))
        await ask(app, FORWARDED)
        of_type, twice, missing = warnings(caplog)
        assert words in of_type
        assert "more than one x-accel-mapping header" in twice
        assert "in place of what the client sent" in twice
        assert "has no X-Accel-Mapping header" in missing


class TestSwapped:
    """The two sides of a pair are swapped."""

    @pytest.mark.parametrize("options", [{}, {"secret": SECRET}])
    async def test_warning(self, options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
        """The line has both, the proxy's and how it has to be; it needs no X-Forwarded-For."""
        app = AccelMiddleware(PAGE, MAPPING, **options)
        for value in (SWAPPED, SWAPPED, f"/x/=/y/, {SWAPPED}"):
            await ask(app, header(value), PASSWORD)
        (message,) = warnings(caplog)
        assert "the two sides are swapped in the proxy's X-Accel-Mapping, b'/download/=/mnt/storage/'" in message
        assert "the directory comes first, as in '/mnt/storage/=/download/'" in message

    @pytest.mark.parametrize(
        ("mapping", "value"),
        [
            (MAPPING, MAPPING),
            (MAPPING, f"{MAPPING}, {SWAPPED}"),
            (MAPPING, "/download/=/other/"),
            (MAPPING, "/x/=/y/"),
            (PathMap({"/srv": "/srv"}), "/srv/=/srv/"),
            (PathMap({"/srv": "/srv"}), "/x/=/srv/"),
            (PathMap(), SWAPPED),
        ],
    )
    async def test_no_false_alarm(self, mapping: PathMap, value: object, caplog: pytest.LogCaptureFixture) -> None:
        """A pair that is the app's, or somebody else's, is not swapped."""
        await ask(AccelMiddleware(PAGE, mapping), header(value))
        assert not warnings(caplog)


class TestNoLocation:
    """The proxy asks the app for what it has offered to send: it has no location for that prefix."""

    @pytest.mark.parametrize("options", [{"mapping": MAPPING}, {"secret": SECRET}, {"trust_header": True}])
    async def test_warning(self, options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
        """The line has the path, and what prints a location."""
        app = AccelMiddleware(PAGE, **options)
        for name in ("a.txt", "b.txt\r\nERROR forged"):
            await ask(app, header(MAPPING), PASSWORD, path=f"/download/{name}")
        (message,) = warnings(caplog)
        assert message.startswith("the proxy asks the app for '/download/a.txt', under a prefix of its X-Accel-Mapping")
        assert "no location for that prefix" in message
        assert "asgi-accel nginx" in message

    @pytest.mark.parametrize(
        ("options", "offered", "path"),
        [
            ({"mapping": MAPPING}, None, "/download/a.txt"),
            ({"mapping": MAPPING}, "/x/=/download/", "/download/a.txt"),
            ({"mapping": MAPPING}, MAPPING, "/downloads/a.txt"),
            ({"mapping": MAPPING}, MAPPING, "/download"),
            ({"mapping": MAPPING}, MAPPING, "/api/download/a.txt"),
            ({"mapping": "/=/"}, "/=/", "/download/a.txt"),
            ({"mapping": MAPPING, "always": True}, None, "/download/a.txt"),
            ({"secret": SECRET}, None, "/download/a.txt"),
            ({"mapping": MAPPING, "sendfile_type": "X-Sendfile"}, MAPPING, "/download/a.txt"),
        ],
    )
    async def test_no_false_alarm(
        self, options: dict[str, Any], offered: object, path: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Without an offer the path may be a route of the app; Apache's and lighttpd's side is a directory."""
        await ask(
            AccelMiddleware(PAGE, **options), *([] if offered is None else [header(offered), PASSWORD]), path=path
        )
        assert not warnings(caplog)


class TestOwnRedirects:
    """Redirects that the app makes itself."""

    @pytest.mark.parametrize("options", [{}, {"always": True}, {"secret": SECRET}])
    @pytest.mark.parametrize("make", [AccelRedirectResponse, lambda to: Response(headers={"X-Accel-Redirect": to})])
    async def test_path_as_uri(
        self, options: dict[str, Any], make: Callable[[str], Response], caplog: pytest.LogCaptureFixture
    ) -> None:
        """A redirect goes to the proxy whose target is a path: somebody forgot `mapping=`."""
        app = AccelMiddleware(self.endpoint, MAPPING, **options)
        for path in ("/mnt/storage/a.txt", "/mnt/storage/b.txt"):
            self.response = make(path)
            answer = await ask(app, header(MAPPING), PASSWORD)
            assert answer.header(b"x-accel-redirect") == path.encode()
        (message,) = warnings(caplog)
        assert message == (
            "a redirect goes to '/mnt/storage/a.txt', which is a path, not a URI: "
            "give AccelRedirectResponse(path, mapping=...)"
        )

    async def endpoint(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.response(scope, receive, send)

    @pytest.mark.parametrize(
        ("mapping", "to"),
        [
            (MAPPING, "/download/a.txt"),
            (MAPPING, "/thumbnails/a.txt"),
            (MAPPING, "/mnt/storage2/a.txt"),
            (MAPPING, "/mnt/a.txt"),
            (MAPPING, "@s3"),
            (PathMap({"/": "/disk"}), "/thumbnails/a.txt"),
            (PathMap({"/srv": "/srv"}), "/srv/a.txt"),
            (PathMap({"/srv": "/files", "/files": "/srv"}), "/srv/a.txt"),
        ],
    )
    async def test_no_false_alarm(self, mapping: PathMap, to: str, caplog: pytest.LogCaptureFixture) -> None:
        """Other targets may well have a location: thumbnails, a storage."""
        answer = await ask(AccelMiddleware(AccelRedirectResponse(to), mapping), header(mapping))
        assert answer.header(b"x-accel-redirect") == to.encode()
        assert not warnings(caplog)

    @pytest.mark.parametrize(
        "to",
        ["/download/100% a", "/download/../a", "/download/%2e%2e/a", "/a%00b", "download/a", "", "\x80", "http://x/"],
    )
    async def test_malformed(self, to: str, caplog: pytest.LogCaptureFixture) -> None:
        """A URI that nginx would refuse is called malformed, not "no pair for it", and its query is not shown."""
        app = AccelMiddleware(Response(headers={"X-Accel-Redirect": to + "?signature=x"}), MAPPING)
        for _ in range(2):
            await ask(app)
        (message,) = warnings(caplog)
        assert "its URI is malformed. Percent-encode it, from '/' on, without '..'" in message
        assert repr(os.fsdecode(to.encode("latin-1"))) in message
        assert "signature" not in message

    @pytest.mark.parametrize("to", ["/thumbnails/a%20b", "@s3", "/mnt/storage/a.txt"])
    async def test_no_pair(self, to: str, caplog: pytest.LogCaptureFixture) -> None:
        """One that is well-formed has no pair."""
        await ask(AccelMiddleware(Response(headers={"X-Accel-Redirect": to}), MAPPING))
        (message,) = warnings(caplog)
        assert "no proxy offers to send it, and mapping= has no pair for it" in message

    async def test_both(self, caplog: pytest.LogCaptureFixture) -> None:
        """The one does not use up the other."""
        app = AccelMiddleware(self.endpoint, MAPPING)
        for to in ("/100% a", "/other", "/100% b", "/another"):
            self.response = Response(headers={"X-Accel-Redirect": to})
            await ask(app)
        malformed, no_pair = warnings(caplog)
        assert "'/100% a' goes out as it is: its URI is malformed" in malformed
        assert "'/other' goes out as it is: no proxy offers" in no_pair


class TestOwnerOnly:
    """A redirect goes to a file that only its owner may read: nginx's workers are somebody else."""

    @pytest.mark.parametrize("mode", [0o600, 0o700, 0o400, 0o611])
    @pytest.mark.parametrize("kind", ["X-Accel-Redirect", "X-Sendfile"])
    async def test_warning(self, tmp_path: Path, mode: int, kind: str, caplog: pytest.LogCaptureFixture) -> None:
        """The line has the file, whose it is, its mode, and what to do."""
        file = tmp_path / "a.txt"
        file.write_bytes(b"x")
        file.chmod(mode)
        app = AccelMiddleware(FileResponse(file), {tmp_path: "/files"}, always=True, sendfile_type=kind)
        for _ in range(3):
            await ask(app)
        (message,) = warnings(caplog)
        assert f"(user {os.getuid()}, mode {mode:04o})" in message
        assert repr(str(file))[:100] in message
        assert "a 403" in message
        assert "run its workers as the owner" in message
        assert "os.chmod(path, 0o640)" in message

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o440])
    async def test_others_may(self, tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture) -> None:
        """nginx's workers may be in the group."""
        file = tmp_path / "a.txt"
        file.write_bytes(b"x")
        file.chmod(mode)
        await ask(AccelMiddleware(FileResponse(file), {tmp_path: "/files"}, always=True))
        assert not warnings(caplog)

    @pytest.mark.parametrize(
        ("options", "response"),
        [
            ({"always": True}, {"status_code": 404}),
            ({"always": True, "hold": 0}, {}),
            ({"always": True}, {"background": True}),
            ({}, {}),
        ],
        ids=["left to the app", "not looked at", "deleted", "nothing offered"],
    )
    async def test_no_false_alarm(
        self, tmp_path: Path, options: dict[str, Any], response: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Only of what nginx is told to open, and only if the file was looked at."""
        file = tmp_path / "a.txt"
        file.write_bytes(b"x")
        file.chmod(0o600)
        if "background" in response:
            response = {"background": BackgroundTask(os.unlink, file)}
        answer = await ask(AccelMiddleware(FileResponse(file, **response), {tmp_path: "/files"}, **options))
        assert (answer.header(b"x-accel-redirect") is None) == ("hold" not in options)
        assert not warnings(caplog)


async def test_each_app_has_its_own_log(caplog: pytest.LogCaptureFixture) -> None:
    """What one middleware has said, another says, too."""
    for _ in range(2):
        await ask(AccelMiddleware(PAGE, MAPPING), FORWARDED)
    assert len(warnings(caplog)) == 2


async def test_all_of_them(caplog: pytest.LogCaptureFixture) -> None:
    """One warning does not use up another of the same request."""
    app = AccelMiddleware(AccelRedirectResponse("/mnt/storage/a"), MAPPING)
    await ask(app, FORWARDED, header(SWAPPED))
    await ask(app, header(MAPPING), path="/download/a")
    assert [message.split(",")[0] for message in warnings(caplog)] == [
        "the two sides are swapped in the proxy's X-Accel-Mapping",
        "a request came through a proxy (it has x-forwarded-for)",
        "a redirect to '/mnt/storage/a' goes out as it is: no proxy offers to send it",
        "the proxy asks the app for '/download/a'",
        "a redirect goes to '/mnt/storage/a'",
    ]
