"""What tests with a real nginx share: names, URLs of the app in apps.py, and how one sees who has sent a file."""

from __future__ import annotations

import os
import re
from pathlib import Path

import httpx

TEXT = b"0123456789" * 100
MODES = ["mapping", "always", "secret", "both", "trust"]
NAMES = [
    b"plain.txt",
    b"with space.txt",
    b"100%.txt",
    b"100%25.txt",
    b"what?.txt",
    b"a#b.txt",
    b"new\nline.txt",
    b"tab\t.txt",
    b'it\'s "quoted".txt',
    b"back\\slash.txt",
    b"semi;colon&amp=,+:@!$()*~.txt",
    "übersicht €.txt".encode(),
    b"\xff\xfe\x80invalid.txt",
    b"x" * 200,
    b"a..b.txt",
    b"..hidden",
    b"...",
    b" leading.txt",
    b"trailing ",
    b"%2e%2e",
    b"%00",
]
# What the app says, and what the client gets of it.
VARY = [
    ("X-Accel-Mapping", None),
    ("x-accel-mapping", None),
    ("X-Accel-Mapping, Origin", "Origin"),
    ("X-Accel-Mapping,Origin", "Origin"),
    ("Origin, X-Accel-Mapping, Cookie", "Origin, Cookie"),
    ("Origin, X-Accel-Mapping", "Origin"),
    ("Origin , X-Accel-Mapping , Cookie", "Origin , Cookie"),
    ("Origin, Cookie", "Origin, Cookie"),
    ("Origin, X-Accel-Mapping-Too", "Origin, X-Accel-Mapping-Too"),
    ("Not-X-Accel-Mapping", "Not-X-Accel-Mapping"),
]


def url(mode: str, route: str, path: bytes | Path, **query: str) -> httpx.URL:
    return httpx.URL(f"/{mode}/{route}", params={"hex": os.fsencode(path).hex(), **query})


def sent_by_nginx(response: httpx.Response) -> bool:
    """nginx's ETag is the time and the size in hexadecimal; Starlette's is an MD5."""
    return re.fullmatch(r'"[0-9a-f]+-[0-9a-f]+"', response.headers.get("etag", "")) is not None


def assert_clean(response: httpx.Response) -> None:
    """Nothing that the app tells nginx reaches the client, and nothing comes twice."""
    names = [name.lower() for name, _ in response.headers.multi_items()]
    assert not [name for name in names if name.startswith(("x-accel", "x-sendfile"))]
    assert names.count("accept-ranges") == (response.status_code == 200)  # nginx leaves it out of a 206
    assert names.count("content-length") == 1
