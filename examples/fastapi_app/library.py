"""The library: users and files in SQLite, what is in the files in a directory beside it."""

import hashlib
import hmac
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date
from mimetypes import guess_type
from pathlib import Path
from typing import BinaryIO

SCHEMA = """
CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, salt BLOB NOT NULL, password BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS files (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL REFERENCES users,
    name TEXT NOT NULL,
    added TEXT NOT NULL,
    stored_as TEXT NOT NULL UNIQUE
);
"""
KINDS = {"application/pdf": "PDF", "video": "Video", "image": "Image", "audio": "Audio", "text": "Text"}


@dataclass(frozen=True)
class File:
    """A file: the name that its owner gave it, and the path where its bytes are, which has nothing of that name."""

    number: int
    owner: str
    name: str
    added: date
    path: Path

    @property
    def media_type(self) -> str:
        """By the name, as the path has none to tell it by. What a browser says of an upload is not asked."""
        kind, encoding = guess_type("/" + self.name)
        return kind if kind and not encoding else "application/octet-stream"

    @property
    def kind(self) -> str:
        return KINDS.get(self.media_type) or KINDS.get(self.media_type.partition("/")[0]) or "File"

    @property
    def size(self) -> int | None:
        """Bytes, or None if the file is missing."""
        try:
            return self.path.stat().st_size
        except OSError:
            return None


class Library:
    """Users and files, in one directory. Each call opens the database for itself, so threads do not share it."""

    def __init__(self, data: Path) -> None:
        self.files = data / "files"
        # nginx's group needs to enter the directory (x); nobody needs to list it but this app.
        self.files.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._database = data / "library.db"
        self._database.touch(mode=0o600)  # the app's alone
        with self._connect() as database:
            database.executescript(SCHEMA)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._database)) as database, database:  # the second commits, or rolls back
            yield database

    def add_user(self, name: str, password: str) -> bool:
        """Add a user; False if there is one of that name."""
        salt = secrets.token_bytes(16)
        with self._connect() as database:
            added = database.execute(
                "INSERT OR IGNORE INTO users VALUES (?, ?, ?)", (name, salt, _hash(password, salt))
            )
            return added.rowcount == 1

    def has_password(self, name: str, password: str) -> bool:
        with self._connect() as database:
            row = database.execute("SELECT salt, password FROM users WHERE name = ?", (name,)).fetchone()
        salt, expected = row or (b"", b"")  # an unknown user takes as long as a wrong password
        return hmac.compare_digest(_hash(password, salt), expected)

    def file(self, number: int) -> File | None:
        if abs(number) >= 2**63:  # more than SQLite takes
            return None
        return next(self._select("WHERE number = ?", number), None)

    def files_of(self, owner: str) -> list[File]:
        return list(self._select("WHERE owner = ? ORDER BY number", owner))

    def file_not_of(self, owner: str) -> int | None:
        """The number of somebody else's file, for the page to show how it is refused. Its name is not told."""
        file = next(self._select("WHERE owner != ? ORDER BY number LIMIT 1", owner), None)
        return file.number if file else None

    def _select(self, where: str, value: object) -> Iterator[File]:
        with self._connect() as database:
            rows = database.execute(
                f"SELECT number, owner, name, added, stored_as FROM files {where}", (value,)
            ).fetchall()
        for number, owner, name, added, stored_as in rows:
            yield File(number, owner, name, date.fromisoformat(added), self.files / stored_as)

    def add(self, owner: str, name: str, content: BinaryIO, added: date | None = None) -> int:
        """Keep a file, and return its number. Both the file and its row are there, or neither."""
        stored = self.files / secrets.token_hex(16)
        part = stored.with_suffix(".part")
        row = (owner, name, (added or date.today()).isoformat(), stored.name)
        try:
            with part.open("xb") as target:
                part.chmod(0o640)  # nginx's workers read it as the group
                shutil.copyfileobj(content, target, 1024 * 1024)
            part.rename(stored)
            with self._connect() as database:
                number = database.execute(
                    "INSERT INTO files (owner, name, added, stored_as) VALUES (?, ?, ?, ?)", row
                ).lastrowid
        except BaseException:
            part.unlink(missing_ok=True)
            stored.unlink(missing_ok=True)
            raise
        assert number is not None
        return number


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)
