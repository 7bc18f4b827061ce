"""Properties that hold for every name, every map and every header; hypothesis looks for one for which they don't."""

from __future__ import annotations

import email.message
import email.utils
import os
from pathlib import Path

import anyio
import pytest
from asgi import ask
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from names import names
from starlette.responses import FileResponse

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap

CONTROL = {*range(32), 127}

paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: "/" + os.fsdecode(b"/".join(parts)))
prefixes = (
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="?#"), max_size=12)
    .map(lambda text: "/" + text)
    .filter(lambda prefix: not prefix.startswith("//") and ".." not in prefix.split("/"))
)
pairs = st.dictionaries(paths | st.just("/"), prefixes, max_size=6)


def as_map(directories: dict[str, str]) -> PathMap:
    assume(len({directory.rstrip("/") for directory in directories}) == len(directories))
    return PathMap(directories)


class TestMaps:
    """PathMap."""

    @given(pairs)
    def test_text(self, directories: dict[str, str]) -> None:
        """What str() writes, parse() reads."""
        mapping = as_map(directories)
        assert PathMap.parse(str(mapping)) == mapping

    @given(st.text())
    def test_any_text(self, text: str) -> None:
        """Any text at all is a map or a ValueError."""
        try:
            mapping = PathMap.parse(text)
        except ValueError:
            return
        assert PathMap.parse(str(mapping)) == mapping

    @given(pairs, paths, st.data())
    def test_there_and_back(self, directories: dict[str, str], below: str, data: st.DataObject) -> None:
        """The URI of a covered file leads back to it, and is one that a header can carry."""
        mapping = as_map(directories)
        base = data.draw(st.sampled_from(["", *directories]))
        path = base.rstrip("/") + below
        uri = mapping.uri(path)
        if uri is not None:
            assert mapping.path(uri) == path
            assert uri.isascii()
            assert uri.isprintable()
            assert not set(uri) & set(' ?#"<>\\')

    @given(st.text())
    def test_any_uri(self, uri: str) -> None:
        """Any URI at all is a path below a directory, without `..`, or nothing."""
        path = PathMap({"/mnt/storage": "/"}).path(uri)
        assert path is None or (path.startswith("/mnt/storage/") and ".." not in path.split("/"))


class TestDispositions:
    """Content-Disposition."""

    @given(st.text(st.characters()))
    def test_any_name(self, name: str) -> None:
        """Any text as a name gives one ASCII line, from which the standard library reads the name back."""
        value = AccelRedirectResponse("/x", filename=name).headers["content-disposition"]
        assert value.isascii()
        assert value.isprintable()
        message = email.message.Message()
        message["Content-Disposition"] = value
        parameters = message.get_params([], "content-disposition")[1:]
        (first, fallback), *full = parameters
        assert first == "filename"
        assert not set(fallback) & set('"\\%')
        readable = "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in name)
        if full:
            ((key, encoded),) = full
            assert (key, email.utils.collapse_rfc2231_value(encoded)) == ("filename", readable)
        else:
            assert fallback == name


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("properties") / "a.txt"
    path.write_bytes(b"0123456789")
    return path


class TestHeaders:
    """What a client sends."""

    @given(st.data(), st.sampled_from(["GET", "HEAD", "POST"]), st.sampled_from(["mapping", "secret", "both", "trust"]))
    @settings(max_examples=400)
    def test_any_headers(self, file: Path, data: st.DataObject, method: str, mode: str) -> None:
        """No exception, no error page but the app's own for a range, no redirect outside the pairs."""
        offer = os.fsencode(f"{file.parent}/=/files/")
        name = st.sampled_from(
            [b"x-accel-mapping", b"x-accel-secret", b"x-sendfile-type", b"range", b"if-range", b"x-forwarded-for"]
        )
        good = [offer, b"secret", b"X-Accel-Redirect", b"bytes=0-3", b"bytes=-5", b"bytes=50-", b"/=/x"]
        headers = data.draw(st.lists(st.tuples(name, st.binary(max_size=80) | st.sampled_from(good)), max_size=6))
        options = {
            "mapping": {"mapping": {file.parent: "/files"}},
            "secret": {"secret": "secret"},
            "both": {"mapping": {file.parent: "/files"}, "secret": "secret"},
            "trust": {"trust_header": True},
        }[mode]
        app = AccelMiddleware(FileResponse(file), **options)  # type: ignore[arg-type]

        async def request() -> tuple[int, bytes | None]:
            answer = await ask(app, *headers, method=method)
            return answer.status, answer.header(b"x-accel-redirect")

        status, target = anyio.run(request)
        if target is not None:
            assert status == 200
            assert mode == "trust" or dict(headers).get(b"x-accel-mapping")
            assert mode == "trust" or mode == "mapping" or (b"x-accel-secret", b"secret") in headers
            assert mode not in ("mapping", "both") or target == b"/files/a.txt"
        assert status in (200, 206) or (status in (400, 416) and b"range" in dict(headers))
