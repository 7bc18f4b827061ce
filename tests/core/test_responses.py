"""AccelRedirectResponse: the headers that it writes. What nginx makes of them is in test_nginx.py."""

from __future__ import annotations

import email.message
import email.policy
import email.utils
import mimetypes
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from asgi import ask
from fastapi import FastAPI
from starlette.background import BackgroundTask
from starlette.datastructures import MultiDict, QueryParams
from starlette.responses import FileResponse

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap, content_disposition

pytestmark = pytest.mark.anyio

MAPPING = PathMap({"/mnt/storage": "/download"})


def header(name: str, *args: Any, **options: Any) -> str | None:
    return AccelRedirectResponse(*args, **options).headers.get(name)


class TestTarget:
    """Where the redirect goes."""

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("/download/a.txt", "/download/a.txt"),
            ("/download/100% done?.pdf", "/download/100%25%20done%3F.pdf"),
            ("/download/a#b ü\n.txt", "/download/a%23b%20%C3%BC%0A.txt"),
            ("/download/\udcff", "/download/%FF"),
            ("/download/a..b", "/download/a..b"),
            (PurePosixPath("/download/a b"), "/download/a%20b"),
            ("@s3", "@s3"),
            ("/", "/"),
        ],
    )
    def test_path(self, path: str | PurePosixPath, expected: str) -> None:
        """The path is plain text and comes out percent-encoded; a named location is taken as it is."""
        assert header("x-accel-redirect", path) == expected

    def test_mapping(self) -> None:
        """With a mapping, the path is a file's, and cannot be encoded twice."""
        assert header("x-accel-redirect", "/mnt/storage/100%.txt", mapping=MAPPING) == "/download/100%25.txt"
        assert (
            header("x-accel-redirect", Path("/mnt/storage/a b"), mapping=MAPPING, query="x=1") == "/download/a%20b?x=1"
        )
        with pytest.raises(ValueError, match=r"'/etc/passwd' is not covered by .*/mnt/storage"):
            AccelRedirectResponse("/etc/passwd", mapping=MAPPING)

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("a=1&b=%20", "/x?a=1&b=%20"),
            ("", "/x?"),
            ({"a": "1 &", "b": "ü"}, "/x?a=1+%26&b=%C3%BC"),
            ({"a": [1, 2]}, "/x?a=1&a=2"),
            ({"a": ("1", "ü"), "b": 3}, "/x?a=1&a=%C3%BC&b=3"),
            ({"a": []}, "/x?"),
            ({}, "/x?"),
            ([], "/x?"),
            ([("a", "1"), ("b", "2 &"), ("a", 3)], "/x?a=1&b=2+%26&a=3"),
            ((("a", "1"), ("a", "2")), "/x?a=1&a=2"),
            ({"a": "1", "b": "2"}.items(), "/x?a=1&b=2"),
            ((pair for pair in [("a", "1"), ("a", "2")]), "/x?a=1&a=2"),
            (QueryParams("a=1&b=%20&a=2&c="), "/x?a=1&b=+&a=2&c="),
            (MultiDict([("a", "1"), ("a", "2")]), "/x?a=1&a=2"),
            (QueryParams(""), "/x?"),
        ],
    )
    def test_query(self, query: Any, expected: str) -> None:
        """A query is encoded text, or a mapping or pairs to encode; a name may have several values."""
        assert header("x-accel-redirect", "/x", query=query) == expected

    @pytest.mark.parametrize(
        "path",
        ["", "x", "../x", "/..", "/a/../b", "/a/..", "/a\0b", "/\ud800", "http://x/", "@", "@a b", "@a\n", "@ü"],
    )
    def test_refused_path(self, path: str) -> None:
        """A path that nginx would refuse is a ValueError."""
        with pytest.raises(ValueError, match=r"give a path|named location|cannot be encoded") as info:
            AccelRedirectResponse(path)
        assert repr(path) in str(info.value)

    @pytest.mark.parametrize("query", ["a b", "a\r\nX: y", "ü", "\0"])
    def test_refused_query(self, query: str) -> None:
        """A query that would break the header is a ValueError."""
        with pytest.raises(ValueError, match="encode it"):
            AccelRedirectResponse("/x", query=query)

    def test_named_location_with_query(self) -> None:
        """nginx would look for a location of the name `@s3?x=1`."""
        with pytest.raises(ValueError, match="takes no query"):
            AccelRedirectResponse("@s3", query="x=1")


class TestHeaders:
    """The other headers."""

    @pytest.mark.parametrize(
        ("options", "name", "expected"),
        [
            ({"buffering": True}, "x-accel-buffering", "yes"),
            ({"buffering": False}, "x-accel-buffering", "no"),
            ({"limit_rate": 0}, "x-accel-limit-rate", "0"),
            ({"limit_rate": 1_000_000}, "x-accel-limit-rate", "1000000"),
            ({"expires": 0}, "x-accel-expires", "0"),
            ({"expires": 3600}, "x-accel-expires", "3600"),
            ({"expires": datetime(2030, 1, 1, tzinfo=timezone.utc)}, "x-accel-expires", "@1893456000"),
            (
                {"expires": datetime(2030, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))},
                "x-accel-expires",
                "@1893456000",
            ),
            ({"charset": "koi8-r"}, "x-accel-charset", "koi8-r"),
            ({"charset": "koi8-r"}, "content-type", "text/plain; charset=koi8-r"),
            ({}, "content-type", "text/plain; charset=utf-8"),
            ({"media_type": "video/mp4"}, "content-type", "video/mp4"),
            ({"media_type": ""}, "content-type", None),
            ({"media_type": "", "filename": "x.pdf"}, "content-type", None),
            ({"media_type": "", "headers": {"Content-Type": "a/b"}}, "content-type", "a/b"),
            ({"filename": "x.pdf"}, "content-type", "application/pdf"),
            ({"filename": "unknown"}, "content-type", "application/octet-stream"),
            ({"filename": "data:text/html,x.png"}, "content-type", "image/png"),
            ({"filename": "//[x.png"}, "content-type", "image/png"),
            ({"filename": "data:,x.png"}, "content-type", "image/png"),
            ({"filename": ".png"}, "content-type", "application/octet-stream"),
            ({"headers": {"Set-Cookie": "a=1"}}, "set-cookie", "a=1"),
            ({"headers": {"Cache-Control": "private"}}, "cache-control", "private"),
            ({"headers": {"Content-Type": "a/b"}}, "content-type", "a/b"),
            ({"headers": {"Content-Length": "5"}}, "content-length", "0"),
            ({"headers": {"X-Accel-Redirect": "/other"}}, "x-accel-redirect", "/a.txt"),
            ({"headers": {"Accept-Ranges": "bytes"}}, "accept-ranges", None),
            ({"headers": {"X-Own": "1"}}, "x-own", "1"),
        ],
    )
    def test_header(self, options: dict[str, Any], name: str, expected: str | None) -> None:
        """Each option is written in the form that nginx's parser takes."""
        assert header(name, "/a.txt", **options) == expected

    def test_nothing_more(self) -> None:
        """Without options there is no more than the redirect needs."""
        response = AccelRedirectResponse("/a.bin")
        assert response.body == b""
        assert dict(response.headers) == {
            "content-length": "0",
            "content-type": "application/octet-stream",
            "x-accel-redirect": "/a.bin",
        }

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"status_code": 204}, "status_code=204"),
            ({"status_code": 206}, "status_code=206"),
            ({"limit_rate": -1}, "limit_rate=-1.*bytes per second, 0 or more$"),
            ({"limit_rate": 1.5}, "limit_rate=1.5"),
            ({"limit_rate": True}, "limit_rate=True"),
            ({"limit_rate": 2**63}, "limit_rate="),
            ({"expires": -1}, "expires=-1: .*of seconds, 0 or more$"),
            ({"expires": True}, "expires=True"),
            ({"expires": "off"}, "expires='off'"),
            ({"expires": datetime(2030, 1, 1)}, "time zone"),
            ({"expires": datetime(1960, 1, 1, tzinfo=timezone.utc)}, "^expires=.*since 1970, 0 or more$"),
            ({"charset": "a b"}, "charset='a b'"),
            ({"buffering": "no"}, "buffering='no'.*True or False"),
            ({"mapping": {"a": "/"}}, "the directory is not absolute"),
            ({"charset": ""}, "charset=''"),
            ({"charset": "x\r\n"}, "charset="),
            ({"filename": "a", "content_disposition_type": "x;y"}, "content_disposition_type='x;y'"),
            ({"filename": "a", "content_disposition_type": ""}, "content_disposition_type=''"),
        ],
    )
    def test_bad_value(self, options: dict[str, Any], words: str) -> None:
        """What nginx would drop or ignore is a ValueError that names the value."""
        with pytest.raises(ValueError, match=words):
            AccelRedirectResponse("/a.txt", **options)

    @pytest.mark.parametrize(
        "name",
        ["a.mp4", "a.b.TXT", "a", ".txt", "a.", "a.unknown", "a.tar.gz", "a.txt.GZ", "a.tgz", "a.b/c.gz", "x:a.txt"],
    )
    def test_type(self, name: str) -> None:
        """The type is the one that Python guesses for the whole name."""
        expected = mimetypes.guess_type(f"/{name}")[0] or "application/octet-stream"
        for response in (AccelRedirectResponse(f"/{name}"), AccelRedirectResponse("/x.pdf", filename=name)):
            assert response.headers["content-type"].removesuffix("; charset=utf-8") == expected

    @pytest.mark.parametrize("name", ["a.mp4", "a.txt", "a", "a.unknown"])
    async def test_type_of_what_the_app_sends(self, tmp_path: Path, name: str) -> None:
        """With an empty `media_type`, a file that the app sends has the type that its name says, once."""
        (tmp_path / name).write_bytes(b"x")
        expected = await ask(FileResponse(tmp_path / name))
        answer = await ask(
            AccelMiddleware(AccelRedirectResponse(f"/files/{name}", media_type=""), {tmp_path: "/files"})
        )
        types = [[value for key, value in one.headers if key == b"content-type"] for one in (answer, expected)]
        assert (answer.body, types[0]) == (b"x", types[1])

    async def test_response(self) -> None:
        """It is a Starlette response: cookies can be set, and the background task runs."""
        ran: list[int] = []
        response = AccelRedirectResponse("/a.txt", background=BackgroundTask(ran.append, 1))
        response.set_cookie("a", "1")
        answer = await ask(response)
        assert (answer.status, answer.body) == (200, b"")
        assert answer.header(b"set-cookie")
        assert ran == [1]


class TestDisposition:
    """The name to save the file under."""

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("report.pdf", 'attachment; filename="report.pdf"'),
            ("a b;c=d,e.pdf", 'attachment; filename="a b;c=d,e.pdf"'),
            ("", 'attachment; filename=""'),
            ("it's.pdf", 'attachment; filename="it\'s.pdf"'),
            ('a"b.pdf', "attachment; filename=\"a_b.pdf\"; filename*=UTF-8''a%22b.pdf"),
            ("a\\b.pdf", "attachment; filename=\"a_b.pdf\"; filename*=UTF-8''a%5Cb.pdf"),
            ("100%.pdf", "attachment; filename=\"100_.pdf\"; filename*=UTF-8''100%25.pdf"),
            ("Übersicht.pdf", "attachment; filename=\"_bersicht.pdf\"; filename*=UTF-8''%C3%9Cbersicht.pdf"),
            ("a\r\nX: y", "attachment; filename=\"a__X: y\"; filename*=UTF-8''a%0D%0AX%3A%20y"),
            ("\x7f\0", "attachment; filename=\"__\"; filename*=UTF-8''%7F%00"),
            ("\udcff.pdf", "attachment; filename=\"_.pdf\"; filename*=UTF-8''%EF%BF%BD.pdf"),
            (
                "ü'()*/!#$&+^`|~",
                "attachment; filename=\"_'()*/!#$&+^`|~\"; filename*=UTF-8''%C3%BC%27%28%29%2A%2F!#$&+^`|~",
            ),
        ],
    )
    def test_header(self, name: str, expected: str) -> None:
        """RFC 6266: an ASCII name, and where it differs the name in UTF-8."""
        assert header("content-disposition", "/x", filename=name) == expected

    @pytest.mark.parametrize(
        "name",
        [
            "plain.txt",
            "a b.txt",
            "x;y=z.txt",
            "a, b",
            'quo"te',
            "100% Ü€😀.pdf",
            "back\\slash",
            "a;filename=b",
            "'",
            "ü" * 100,
        ],
    )
    def test_read_back(self, name: str) -> None:
        """A parser that is not ours reads the name back."""
        message = email.message.EmailMessage(policy=email.policy.HTTP)
        message["Content-Disposition"] = header("content-disposition", "/x", filename=name) or ""
        fallback, encoded = 'filename="', "filename*="
        value = str(header("content-disposition", "/x", filename=name))
        if encoded in value:
            message.replace_header(
                "Content-Disposition", value[: value.index(fallback)] + value[value.index(encoded) :]
            )
        assert message.get_filename() == name

    @pytest.mark.parametrize(
        "name",
        [
            "",
            " ",
            'x"; filename="evil.exe',
            "x\\",
            'x\\"; evil=1',
            "a\r\nSet-Cookie: a=1",
            "a\n\nb",
            "\0\x1f\x7f\x85\u2028",
            "%22; filename=evil.exe",
            "x'; filename*=UTF-8''evil.exe",
            "\udcff\ud800.pdf",
            "ü" * 2000,
        ],
    )
    def test_cannot_break_out(self, name: str) -> None:
        """Whatever the name, a client sees one line with a type and a name, and no parameter more."""
        value = str(header("content-disposition", "/x", filename=name))
        assert value.isascii()
        assert value.isprintable()
        message = email.message.Message()  # the old parser: it gives `filename*`, decoded, next to `filename`
        message["Content-Disposition"] = value
        (disposition, _), (first, plain), *more = message.get_params([], "content-disposition")
        assert (disposition, first) == ("attachment", "filename")
        assert not set(plain) & set('"\\%\r\n')
        whole = name.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half a surrogate pair is no text
        if more:
            assert [(key, email.utils.collapse_rfc2231_value(text)) for key, text in more] == [("filename", whole)]
        else:
            assert plain == name

    @pytest.mark.parametrize("kind", ["attachment", "inline", "form-data"])
    @pytest.mark.parametrize("name", ["report.pdf", "ü.pdf", 'a"b'])
    def test_for_other_responses(self, name: str, kind: str) -> None:
        """`content_disposition` writes the same header for a response of any class."""
        expected = header("content-disposition", "/x", filename=name, content_disposition_type=kind)
        assert content_disposition(name, kind) == expected
        assert content_disposition(name) == header("content-disposition", "/x", filename=name)
        with pytest.raises(ValueError, match=r"='a b'.*give a plain word"):
            content_disposition(name, "a b")

    def test_inline(self) -> None:
        """Shown in the browser, and still with a name."""
        value = header("content-disposition", "/x", filename="a.pdf", content_disposition_type="inline")
        assert value == 'inline; filename="a.pdf"'

    def test_none(self) -> None:
        """Without a name there is no header, as in FileResponse, and one that the app sets wins."""
        assert header("content-disposition", "/x") is None
        own = {"Content-Disposition": "inline"}
        assert header("content-disposition", "/x", filename="a.pdf", headers=own) == "inline"


class TestFastAPI:
    """As a `response_class`, where the route returns the path alone."""

    async def test_route(self) -> None:
        """A str or a Path, with headers from a dependency's response."""
        app = FastAPI()

        @app.get("/text", response_class=AccelRedirectResponse)
        def text() -> str:
            return "/download/100%.txt"

        @app.get("/path", response_class=AccelRedirectResponse)
        async def path() -> Path:
            return Path("/download/a b.txt")

        answer = await ask(app, path="/text")
        assert answer.header(b"x-accel-redirect") == b"/download/100%25.txt"
        assert (answer.status, answer.body, answer.header(b"content-length")) == (200, b"", b"0")
        assert (await ask(app, path="/path")).header(b"x-accel-redirect") == b"/download/a%20b.txt"
        assert set(app.openapi()["paths"]) == {"/text", "/path"}
