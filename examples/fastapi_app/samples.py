"""What a new library holds: two users, and files for each. Not for copying."""

import os
import re
import struct
from datetime import date
from io import BytesIO
from pathlib import Path

from library import Library

SAMPLES = Path(__file__).resolve().parent / "files"
GIB = 2**30
HOLE = 64 * 2**20  # bytes
USERS = {"alice": "wonderland", "bob": "builder"}
FILES = [
    ("alice", "report.pdf", "Annual report.pdf", date(2026, 9, 30)),
    ("alice", "overview.txt", "Übersicht 100 % für März.txt", date(2026, 10, 14)),
    ("bob", "invoice.pdf", "Invoice 2026-118.pdf", date(2026, 10, 2)),
    ("bob", "notes.txt", "Notes.txt", date(2026, 10, 9)),
]


def add_to(library: Library) -> None:
    """Add the users that are not there yet, each with their files."""
    new = [user for user, password in USERS.items() if library.add_user(user, password)]
    if "alice" in new:
        path = _add_empty(library, "alice", "Sunrise.mp4", date(2026, 6, 21))
        _write_with_hole(path, (SAMPLES / "clip.mp4").read_bytes())
    for owner, sample, name, added in FILES:
        if owner in new:
            with (SAMPLES / sample).open("rb") as content:
                library.add(owner, name, content, added)
    if "alice" in new:
        os.truncate(_add_empty(library, "alice", "Backup of the old laptop.img", date(2026, 11, 2)), GIB)


def _add_empty(library: Library, owner: str, name: str, added: date) -> Path:
    file = library.file(library.add(owner, name, BytesIO(), added))
    assert file is not None
    return file.path


def _write_with_hole(path: Path, video: bytes) -> None:
    """Write a small video as a large one, as videos are, so that a browser must ask for the part it seeks to.

    A hole in the middle of the file takes no room on the disk. An MP4's index, at its end, has the place of each chunk
    in tables named `stco`: those behind the hole move.
    """
    content = bytearray(video)
    tables = [found.end() + 4 for found in re.finditer(b"stco", video)]
    middle = struct.unpack_from(">I", video, tables[0] + 4 + 4 * (struct.unpack_from(">I", video, tables[0])[0] // 2))[
        0
    ]
    for table in tables:
        (count,) = struct.unpack_from(">I", video, table)
        for entry in range(table + 4, table + 4 + 4 * count, 4):
            (place,) = struct.unpack_from(">I", video, entry)
            struct.pack_into(">I", content, entry, place + HOLE * (place >= middle))
    data = video.index(b"mdat") - 4
    struct.pack_into(">I", content, data, struct.unpack_from(">I", video, data)[0] + HOLE)
    with path.open("r+b") as file:
        file.write(content[:middle])
        file.seek(HOLE, os.SEEK_CUR)
        file.write(content[middle:])
