"""Windows, simulated: `ntpath` in place of `os.path`. People develop there, and the app sends its files itself."""

from __future__ import annotations

import contextlib
import ntpath
import os
from collections.abc import Iterator
from pathlib import PureWindowsPath
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_accel import AccelRedirectResponse, PathMap


@contextlib.contextmanager
def windows() -> Iterator[None]:
    """Take Windows's `os.path`, the only thing by which `PathMap` knows the system, and a folder to be in."""
    with mock.patch.object(os, "path", ntpath), mock.patch.object(os, "getcwdb", return_value=rb"C:\files\here"):
        yield


def on_windows(pairs: dict[str, str]) -> PathMap:
    with windows():
        return PathMap(pairs)


FILES = on_windows({r"C:\files": "/download"})


def uri(path: str, mapping: PathMap = FILES) -> str | None:
    with windows():
        return mapping.uri(path)


def path(uri: str, mapping: PathMap = FILES) -> str | None:
    with windows():
        return mapping.path(uri)


class TestBothDirections:
    """The same app works there: a file has its URI, and the URI its file."""

    @pytest.mark.parametrize(
        ("file", "internal"),
        [
            (r"C:\files\a.txt", "/download/a.txt"),
            (r"C:\files\sub\a b.txt", "/download/sub/a%20b.txt"),
            (r"C:\files\100% ä.pdf", "/download/100%25%20%C3%A4.pdf"),
            (r"C:\files\.hidden", "/download/.hidden"),
            (r"C:\files\console.txt", "/download/console.txt"),
            (r"C:\files\com10.txt", "/download/com10.txt"),
            (r"C:\files\a.nul", "/download/a.nul"),
        ],
    )
    def test_pair(self, file: str, internal: str) -> None:
        assert uri(file) == internal
        assert path(internal) == file

    def test_slashes(self) -> None:
        """Python takes both, and so does the map."""
        assert uri("C:/files/sub/a.txt") == uri(r"C:\files/sub\a.txt") == "/download/sub/a.txt"
        for directory in ("C:/files", "C:/files/", "C:\\files\\"):
            assert path("/download/a.txt", on_windows({directory: "/download/"})) == r"C:\files\a.txt"

    def test_whole_drive(self) -> None:
        drive = on_windows({"D:\\": "/d"})
        assert uri(r"D:\a.txt", drive) == "/d/a.txt"
        assert path("/d/a.txt", drive) == r"D:\a.txt"
        assert uri(r"C:\a.txt", drive) is None

    def test_drive_letter(self) -> None:
        """Its case does not count."""
        assert uri(r"c:\files\a.txt") == "/download/a.txt"
        assert uri(r"C:\files\a.txt", on_windows({r"c:\files": "/download"})) == "/download/a.txt"
        with pytest.raises(ValueError, match="twice"):
            on_windows({r"C:\files": "/a", r"c:\files": "/b"})

    def test_case_of_names(self) -> None:
        """It counts: a file of another case is sent by the app, which is safe."""
        assert uri(r"C:\Files\a.txt") is None
        assert path("/Download/a.txt") is None

    def test_relative(self) -> None:
        """From the working directory, C:\\files\\here; not from another drive's."""
        assert uri("a.txt") == "/download/here/a.txt"
        assert uri(r"sub\a.txt") == "/download/here/sub/a.txt"
        assert uri(r"\files\a.txt") in (None, "/download/a.txt")
        assert uri("D:a.txt") is None

    @pytest.mark.parametrize("file", [r"C:\filesystem\a.txt", r"C:\a.txt", r"D:\files\a.txt", r"\\host\files\a.txt"])
    def test_not_covered(self, file: str) -> None:
        assert uri(file) is None

    def test_header(self) -> None:
        """The map writes itself in the syntax of the header, and reads that."""
        with windows():
            again = PathMap.parse(str(FILES))
            assert again == FILES
            assert (again & FILES).uri(r"C:\files\a.txt") == "/download/a.txt"
            assert list(again) == [(r"C:\files", "/download")]

    def test_network_share(self) -> None:
        share = on_windows({r"\\host\share": "/share"})
        assert path("/share/a.txt", share) in (None, r"\\host\share\a.txt")

    def test_response(self) -> None:
        with windows():
            response = AccelRedirectResponse(r"C:\files\a b.txt", mapping=FILES)
        assert response.headers["x-accel-redirect"] == "/download/a%20b.txt"


# Names that Windows opens as something else: what leads out, drives, devices, streams, and names that it shortens.
NO_FILES = [
    r"..",
    r"..\secret.txt",
    r"sub\..\..\secret.txt",
    r"sub/..\../secret.txt",
    r"sub\a.txt",
    r"\secret.txt",
    r"\\host\share\a.txt",
    r"\\?\C:\secret.txt",
    "C:",
    r"C:\secret.txt",
    "C:secret.txt",
    "D:/secret.txt",
    "a.txt:stream",
    "a.txt::$DATA",
    ":stream",
    "CON",
    "con",
    "nul",
    "nul.txt",
    "NUL.tar.gz",
    "aux.c",
    "prn",
    "com1",
    "COM9.log",
    "lpt1.txt",
    "com¹",
    "LPT³.txt",
    "CONIN$",
    "conout$",
    "nul ",
    "nul .txt",
    "a.txt.",
    "a.txt ",
    "a.txt. .",
    "...",
    ".. ",
    " /a.txt",
    "sub./a.txt",
    "nul/a.txt",
    "aux.d/a.txt",
    "a*.txt",
    "a?.txt",
    'a".txt',
    "a<b>.txt",
    "a|b.txt",
    "a\n.txt",
]


def escaped(name: str) -> str:
    return "".join(f"%{byte:02X}" if byte not in b"/" else "/" for byte in name.encode())


class TestNoWayOut:
    """A URI leads to a file of its directory, or to none."""

    @pytest.mark.parametrize("name", NO_FILES)
    @pytest.mark.parametrize("folder", ["", "sub/"])
    def test_no_file(self, name: str, folder: str) -> None:
        assert path(f"/download/{folder}{escaped(name)}") is None

    @pytest.mark.parametrize("name", [name for name in NO_FILES if "\\" not in name])
    def test_no_uri(self, name: str) -> None:
        """Such a path is not handed over, either."""
        assert uri(f"C:\\files\\{name}") is None

    def test_issue(self) -> None:
        assert path("/download/sub%5C..%5C..%5Csecret.txt") is None
        assert path("/download/sub\\..\\..\\secret.txt") is None

    def test_no_unicode(self) -> None:
        """Names are text there: bytes that are no UTF-8 are no name."""
        assert path("/download/%FF.txt") in (None, "C:\\files\\\udcff.txt")

    @given(
        st.lists(st.sampled_from([*NO_FILES, "a", "sub", ".", "/", "\\", "%", ":", " ", "..", "com1", "é"]), max_size=6)
    )
    def test_any(self, parts: list[str]) -> None:
        found = path("/download/" + escaped("".join(parts)))
        if found is None:
            return
        normal = PureWindowsPath(ntpath.normpath(found))
        assert normal.parts[:2] == ("C:\\", "files")
        assert not is_reserved(found)
        assert ".." not in PureWindowsPath(found).parts
        assert path(uri(found) or "") == found

    def test_elsewhere(self) -> None:
        """On Linux and macOS these are names like others, and a directory with a drive is none."""
        mapping = PathMap({"/files": "/download"})
        assert mapping.path("/download/sub%5C..%5Cnul.txt") == "/files/sub\\..\\nul.txt"
        assert mapping.uri("/files/a.txt:b") == "/download/a.txt:b"
        assert PathMap({PureWindowsPath(r"C:\files"): "/download"}).path("/download/a.txt") is None


def is_reserved(path: str) -> bool:
    """Python's own word on it, of 3.13 or before."""
    asked = getattr(ntpath, "isreserved", None)
    return bool(asked(path)) if asked else any(PureWindowsPath(part).is_reserved() for part in path.split("\\"))
