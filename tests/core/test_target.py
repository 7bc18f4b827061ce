"""`collapse`: a path is asked of the mapping without what changes nothing."""

from __future__ import annotations

import ntpath
import os
from unittest import mock

import pytest

from asgi_accel.target import collapse


@pytest.mark.parametrize(
    ("path", "collapsed"),
    [
        ("/a/b", "/a/b"),
        ("//a///b", "/a/b"),
        ("/./a/././b", "/a/b"),
        ("./a", "a"),
        (".//./a", "a"),
        ("/a/.b/..c/d.", "/a/.b/..c/d."),
        ("/a/./../b", "/a/../b"),  # with symlinks, `..` cannot be resolved as text
        ("/a//", "/a/"),  # no file: a slash at its end stays
        ("/a/.", "/a/"),
    ],
)
def test_collapse(path: str, collapsed: str) -> None:
    """The same file by a path without `.` and repeated slashes."""
    assert collapse(path) == collapsed


def test_windows() -> None:
    """There two slashes begin a server's name, so that paths stay as they are."""
    with mock.patch.object(os, "path", ntpath):
        assert collapse("//server/share//a") == "//server/share//a"
