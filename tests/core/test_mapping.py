"""PathMap: files to URIs and back."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest

from asgi_accel import PathMap

STORAGE = PathMap({"/mnt/storage": "/download"})
NAMES = {
    b"plain.txt": "plain.txt",
    b"with space.txt": "with%20space.txt",
    b" blanks ": "%20blanks%20",
    b"100%.txt": "100%25.txt",
    b"100%25.txt": "100%2525.txt",
    b"what?.txt": "what%3F.txt",
    b"a#b.txt": "a%23b.txt",
    b"new\nline": "new%0Aline",
    b'"quoted"': "%22quoted%22",
    b"back\\slash": "back%5Cslash",
    b"[a]^`{b}|<c>": "%5Ba%5D%5E%60%7Bb%7D%7C%3Cc%3E",
    "ü€.txt".encode(): "%C3%BC%E2%82%AC.txt",
    b"\xff\xfe": "%FF%FE",
    b"a..b.txt": "a..b.txt",
    b"..hidden": "..hidden",
    b"...": "...",
    b"x" * 255: "x" * 255,
    b"-._~!$&'()*+,;=:@": "-._~!$&'()*+,;=:@",
    b"%2e%2e": "%252e%252e",
    b"\x7f\x80": "%7F%80",
}


class TestUri:
    """From a file to its internal URI."""

    @pytest.mark.parametrize(("name", "encoded"), NAMES.items())
    def test_names_are_bytes(self, name: bytes, encoded: str) -> None:
        """Every byte outside RFC 3986's pchar is percent-encoded, and comes back."""
        path = "/mnt/storage/" + os.fsdecode(name)
        uri = STORAGE.uri(path)
        assert uri == "/download/" + encoded
        assert STORAGE.path(uri) == path

    @pytest.mark.parametrize("directory", ["/mnt/storage", "/mnt/storage/", "/mnt/storage//"])
    @pytest.mark.parametrize("prefix", ["/download", "/download/"])
    def test_trailing_slash(self, directory: str, prefix: str) -> None:
        """Both sides mean the same with and without a trailing slash."""
        mapping = PathMap({directory: prefix})
        assert mapping == STORAGE
        assert mapping.uri("/mnt/storage/a/b.txt") == "/download/a/b.txt"
        assert mapping.path("/download/a/b.txt") == "/mnt/storage/a/b.txt"

    def test_only_slashes_are_trimmed(self) -> None:
        """A slash at the end is all that is taken off either side."""
        assert PathMap({"/mnt/boX": "/dX"}).uri("/mnt/boX/f") == "/dX/f"
        assert PathMap({"/mnt/box": "/dx"}).uri("/mnt/box/f") == "/dx/f"
        assert PathMap({"/mnt/box ": "/d ."}).uri("/mnt/box /f") == "/d%20./f"

    @pytest.mark.parametrize(
        "path",
        [
            "/mnt/storage2/x",
            "/mnt/storage.txt",
            "/mnt/STORAGE/x",
            "/mnt/x",
            "/other/mnt/storage/x",
            "//mnt/storage/x",
            "/mnt/storage",
            "/mnt/storage/",
            "/mnt/storage/folder/",
            "/",
            "",
            "/mnt/storage/../x",
            "/mnt/storage/a/../x",
            "/mnt/storage/..",
            "/mnt/other/../storage/x",
            "/mnt/storage/a\0b",
            "/mnt/storage/\ud800",
            "C:\\mnt\\storage\\x",
        ],
    )
    def test_not_covered(self, path: str) -> None:
        """Whole components count, case counts; a directory, a NUL and a `..` are not covered."""
        assert STORAGE.uri(path) is None

    def test_nothing_is_a_regular_expression(self) -> None:
        """A directory's special characters are its own."""
        mapping = PathMap({"/a.b/(c|d)*": "/x"})
        assert mapping.uri("/a.b/(c|d)*/f") == "/x/f"
        assert mapping.uri("/aab/cc/f") is None
        assert PathMap({".*".join(["/", ""]): "/x"}).uri("/etc/passwd") is None

    def test_longest_wins(self) -> None:
        """The longest matching directory wins, whatever the order."""
        pairs = [("/srv", "/all"), ("/srv/data/deep", "/deep"), ("/srv/data", "/data")]
        for order in (pairs, pairs[::-1]):
            mapping = PathMap(order)
            assert mapping.uri("/srv/x") == "/all/x"
            assert mapping.uri("/srv/data/x") == "/data/x"
            assert mapping.uri("/srv/data/deep/x") == "/deep/x"
            assert mapping.uri("/srv/data/deeper/x") == "/data/deeper/x"

    def test_prefix_is_plain_text(self) -> None:
        """The URI prefix is not percent-encoded, so it gets encoded."""
        mapping = PathMap({"/foo": "/bar%/"})
        assert mapping.uri("/foo/x") == "/bar%25/x"
        assert mapping.path("/bar%25/x") == "/foo/x"
        assert PathMap({"/foo": "/ä b"}).uri("/foo/x") == "/%C3%A4%20b/x"

    def test_roots(self) -> None:
        """The root is a directory and a prefix like others."""
        assert PathMap({"/": "/all"}).uri("/etc/x") == "/all/etc/x"
        assert PathMap({"/": "/all"}).path("/all/etc/x") == "/etc/x"
        assert PathMap({"/srv": "/"}).uri("/srv/x") == "/x"
        assert PathMap({"/srv": "/"}).path("/x") == "/srv/x"
        assert PathMap({"/": "/"}).uri("/x") == "/x"

    def test_kinds_of_path(self) -> None:
        """Paths and keys may be PathLike, and pairs any iterable."""
        mapping = PathMap((path, "/download") for path in [Path("/mnt/storage")])
        assert mapping == STORAGE
        assert mapping.uri(PurePosixPath("/mnt/storage/a")) == "/download/a"
        assert PathMap(STORAGE) == STORAGE

    def test_relative_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A relative path is taken from the working directory, and from one that is gone leads nowhere."""
        mapping = PathMap({tmp_path: "/x"})
        folder = tmp_path / "gone"
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert mapping.uri("a.txt") == "/x/gone/a.txt"
        assert mapping.uri("../a.txt") is None
        folder.rmdir()
        assert mapping.uri("a.txt") is None
        assert mapping.uri(tmp_path / "a.txt") == "/x/a.txt"  # an absolute one needs no working directory

    def test_doubled_slash_within(self) -> None:
        """What a careless join makes of a file's path still leads to the file, and back."""
        assert STORAGE.uri("/mnt/storage//a/./b") == "/download//a/./b"
        assert STORAGE.path("/download//a/./b") == "/mnt/storage//a/./b"

    def test_a_uri_leads_back(self) -> None:
        """A file is not covered if nginx would look for its URI in another directory."""
        shared = PathMap({"/srv/a": "/x", "/srv/b": "/x"})
        assert shared.uri("/srv/a/f") is None
        assert shared.path("/x/f") is None
        nested = PathMap({"/srv/a": "/x", "/srv/b": "/x/y"})
        assert nested.uri("/srv/a/f") == "/x/f"
        assert nested.uri("/srv/b/f") == "/x/y/f"
        assert nested.uri("/srv/a/y/f") is None  # nginx's longest location is that of /srv/b
        assert nested.path("/x/y/f") == "/srv/b/f"
        assert nested.uri("/srv/a/yy/f") == "/x/yy/f"


class TestPath:
    """From an internal URI back to the file."""

    @pytest.mark.parametrize(
        "uri",
        [
            "/downloads/x",
            "/DOWNLOAD/x",
            "/x",
            "/download",
            "/download/",
            "/download/folder/",
            "download/x",
            "@named",
            "",
            "/download/../x",
            "/download/%2e%2e/x",
            "/download/%2E./x",
            "/download/a%00b",
            "/download/100% a",
            "/download/%zz",
            "/download/%",
            "/download/\ud800",
            "http://x/download/x",
        ],
    )
    def test_not_covered(self, uri: str) -> None:
        """What nginx refuses, or what is outside, is no file."""
        assert STORAGE.path(uri) is None

    def test_relative_uri_at_the_root(self) -> None:
        """A relative URI is no file, even where the whole site is the internal location."""
        mapping = PathMap({"/srv": "/"})
        assert mapping.path("x") is None
        assert mapping.path("x/y") is None

    def test_query_is_no_name(self) -> None:
        """What follows `?` is the query, as in nginx."""
        assert STORAGE.path("/download/a?b=../c&d=%zz") == "/mnt/storage/a"

    def test_unescaped(self) -> None:
        """Bytes that someone did not escape are themselves, as in nginx; `+` is no blank."""
        assert STORAGE.path("/download/ä b+c") == "/mnt/storage/ä b+c"
        assert STORAGE.path("/download/" + os.fsdecode(b"\xff")) == "/mnt/storage/" + os.fsdecode(b"\xff")


class TestText:
    """The syntax of the X-Accel-Mapping header."""

    @pytest.mark.parametrize(
        ("text", "pairs"),
        [
            ("", {}),
            (" \t", {}),
            ("/mnt/a/=/a/", {"/mnt/a": "/a"}),
            ("/mnt/a/=/a/, /mnt/b/=/b/", {"/mnt/a": "/a", "/mnt/b": "/b"}),
            ("/mnt/a=/a,/mnt/b=/b", {"/mnt/a": "/a", "/mnt/b": "/b"}),
            (" /mnt/a = /a\t,\t/mnt/b=/b ", {"/mnt/a": "/a", "/mnt/b": "/b"}),
            ('"/mnt/a,b/"=/x/', {"/mnt/a,b": "/x"}),
            ('"/mnt/a=b/"="/x y/"', {"/mnt/a=b": "/x y"}),
            ('"/mnt/a=b"="/x y"', {"/mnt/a=b": "/x y"}),
            (r'"/mnt/\"a\\b\c/"=/x', {'/mnt/"a\\bc': "/x"}),
            ('"/new\\\nline"=/x', {"/new\nline": "/x"}),
            ("/mnt/ä/=/ä/", {"/mnt/ä": "/ä"}),
            ("/mnt/a\\b=/x", {"/mnt/a\\b": "/x"}),
            ("/=/", {"/": "/"}),
            ("/a;=/b;/c", {"/a;": "/b;/c"}),
        ],
    )
    def test_parse(self, text: str, pairs: dict[str, str]) -> None:
        """Pairs with commas between them; quoted where a value needs it."""
        assert PathMap.parse(text) == PathMap(pairs)
        assert dict(PathMap.parse(text)) == pairs

    @pytest.mark.parametrize(
        "text",
        [
            "X",
            "/a",
            "/a=",
            "=/a",
            "=",
            ",",
            "/a=/b,",
            ",/a=/b",
            "/a=/b,,/c=/d",
            "/a=/b=/c",
            "/a /b=/c",
            "/a=/b /c",
            '"/a=/b',
            '/a"=/b',
            '"/a"b=/c',
            '"/a\\"=/b',
            "/a=/b\n",
            "/a\x00=/b",
            '"' * 8191,
            '"\\' * 4096,
            "/a=/b," * 2000,
        ],
    )
    def test_malformed(self, text: str) -> None:
        """Anything else is a ValueError that shows the text and where it went wrong."""
        with pytest.raises(ValueError, match=r"malformed at character|twice") as info:
            PathMap.parse(text)
        assert repr(text)[:20] in str(info.value) or "'/a'='/b'" in str(info.value)

    @pytest.mark.parametrize(
        "pairs",
        [
            {},
            {"/": "/"},
            {"/mnt/a": "/a", "/mnt/b": "/b"},
            {"/a,b": "/c=d", '/q"\\': '/"\\', "/blank s": "/tab\u00a0"},
            {"/new\nline\x01": "/x"},
            {os.fsdecode(b"/\xff\xfe"): os.fsdecode(b"/\xfd")},
            {"/ü": "/%"},
        ],
    )
    def test_round_trip(self, pairs: dict[str, str]) -> None:
        """What str() writes, parse() reads."""
        mapping = PathMap(pairs)
        assert PathMap.parse(str(mapping)) == mapping
        assert eval(repr(mapping)) == mapping

    def test_str(self) -> None:
        """Both sides get a trailing slash, the order stays, and what needs no quotes has none."""
        pairs = {"/mnt/b": "/b", "/mnt/a,c": "/a"}
        assert str(PathMap(pairs)) == '/mnt/b/=/b/, "/mnt/a,c/"=/a/'


class TestMistakes:
    """Bad pairs are refused, by name and with the remedy."""

    @pytest.mark.parametrize(
        ("pairs", "words"),
        [
            ({"relative": "/x"}, "'relative'='/x' .* not absolute"),
            ({"": "/x"}, "''='/x' .* not absolute"),
            ({"./a": "/x"}, "not absolute"),
            ({"C:\\data": "/x"}, "not absolute"),
            ({"/a/../b": "/x"}, r"'/a/\.\./b'='/x' .*'\.\.' component"),
            ({"/a\0b": "/x"}, "NUL"),
            ({"/a": "x"}, "'/a'='x' .* starts with one '/'"),
            ({"/a": ""}, "starts with one '/'"),
            ({"/a": "//x"}, "starts with one '/'"),
            ({"/a": "@x"}, "starts with one '/'"),
            ({"/a": "http://x/"}, "starts with one '/'"),
            ({"/a": 1}, "starts with one '/'"),
            ({"/a": "/x/../y"}, "'..' component"),
            ({"/a": "/.."}, "'..' component"),
            ({"/a": "/x?y"}, r"'\?'"),
            ({"/a": "/x#y"}, "'#'"),
            ({"/a": "/x\ny"}, "control character"),
            ({"/a": "/x\x7f"}, "control character"),
            ({"/a": "/x\0"}, "NUL|control character"),
            ({"/a": "/\ud800"}, "surrogates"),
            ([("/a", "/x"), ("/a/", "/y")], "'/a/'='/y' .* twice"),
            ([("/a", "/x"), ("/a", "/x")], "twice"),
            ([("/a",)], "not a pair"),
            (["/a=/x"], "'/a=/x' is not a pair"),
            ({1: "/x"}, "1='/x' is not a pair"),
            ("/a=/x", r"PathMap\.parse"),
            (PurePosixPath("/a"), r"'/a'\) is not pairs: give \{'/mnt/a': '/a'\}, "),
        ],
    )
    def test_bad_pair(self, pairs: Any, words: str) -> None:
        """A ValueError names the pair and what is wrong."""
        with pytest.raises(ValueError, match=words):
            PathMap(pairs)

    @pytest.mark.parametrize(
        ("directory", "prefix", "remedy"),
        [
            ("data", "/x", "give it from the root, as in '/mnt/storage'"),
            ("/a/../b", "/x", "give the path that it stands for"),
            ("/a", "x", "starts with one '/', as in '/download'"),
            ("/a", "/x?y", "give a plain path"),
            ("/taken/", "/x", "leave one of the two"),
        ],
    )
    def test_pair_and_remedy(self, directory: str, prefix: str, remedy: str) -> None:
        """Among good pairs, the message shows the bad one alone and ends with what to do."""
        with pytest.raises(ValueError, match="not a pair of a directory") as info:
            PathMap([("/taken", "/good"), (directory, prefix)])
        message = str(info.value)
        assert message.startswith(f"{directory!r}={prefix!r} ")
        assert message.endswith(remedy)
        assert "/good" not in message

    def test_dots_within_names_are_fine(self) -> None:
        """Only a whole component of `..` is refused."""
        assert PathMap({"/a..b/..c": "/d..e"}).uri("/a..b/..c/x") == "/d..e/x"

    def test_windows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a development machine with another kind of path, nothing is covered and nothing fails."""
        for path in (PureWindowsPath("C:/data"), PureWindowsPath("//server/share")):
            mapping = PathMap({path: "/x", "/mnt/a": "/a"})
            assert mapping.uri(path / "a.txt") is None
            assert mapping.path("/x/a.txt") is None
            assert mapping.path("/x/..\\..\\a.txt") is None
            assert mapping.uri("/mnt/a/b") == "/a/b"
            assert len(mapping) == 2
        with pytest.raises(ValueError, match="not absolute"):
            PathMap({PureWindowsPath("data"): "/x"})
        monkeypatch.setattr(os.path, "isabs", lambda path: True)  # as Windows says of C:\data
        assert PathMap({"C:\\data": "/x"}).uri("C:\\data\\a.txt") is None

    def test_production_map_on_windows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A map for production loads on Windows, whose `isabs` wants a drive, and covers nothing of that machine."""
        monkeypatch.setattr(os.path, "isabs", lambda path: False)  # as Windows says of /mnt/a
        monkeypatch.setattr(os, "getcwdb", lambda: b"C:\\project")
        mapping = PathMap({"/": "/x", "/mnt/a": "/a"})
        assert mapping.uri("a.txt") is None
        assert mapping.uri("C:\\project\\a.txt") is None


class TestMap:
    """A PathMap is a value."""

    def test_equality(self) -> None:
        """Maps with the same pairs are equal, whatever their order."""
        one, other = PathMap([("/a", "/x"), ("/b", "/y")]), PathMap([("/b", "/y"), ("/a", "/x")])
        assert one == other
        assert hash(one) == hash(other)
        assert one != PathMap({"/a": "/x"})
        assert one != {"/a": "/x", "/b": "/y"}

    def test_empty(self) -> None:
        """An empty map covers nothing."""
        assert not PathMap()
        assert PathMap({"/a": "/x"})
        assert len(PathMap({})) == 0
        assert str(PathMap([])) == ""
        assert PathMap().uri("/a") is None
        assert PathMap().path("/a") is None

    def test_common_pairs(self) -> None:
        """`&` gives the pairs that both have."""
        one = PathMap({"/a": "/x", "/b": "/y", "/c": "/z"})
        other = PathMap({"/c/": "/z/", "/a": "/other", "/b/": "/y"})
        assert one & other == PathMap({"/b": "/y", "/c": "/z"})
        assert not one & PathMap()

    def test_pairs_of_one_side(self) -> None:
        """What one side alone names covers no file and no URI, nor does a shorter prefix take its place."""
        one = PathMap({"/a": "/files", "/b": "/files/b"})
        for both in (one & PathMap({"/a": "/files"}), PathMap({"/a": "/files"}) & one):
            assert (both.uri("/a/f"), both.path("/files/f")) == ("/files/f", "/a/f")
            assert (both.uri("/a/b/f"), both.uri("/b/f"), both.path("/files/b/f")) == (None, None, None)
