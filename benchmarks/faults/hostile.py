"""Request headers that no honest client sends: random bytes, forged mappings, bad ranges, doubled and overlong ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

CONTROL = bytes([*range(32), 127])


@dataclass
class Hostile:
    """Headers that no honest client sends."""

    choose: random.Random
    files: str
    vault: str

    def headers(self) -> Iterator[tuple[bytes, bytes]]:
        for _ in range(self.choose.randint(1, 5)):
            name = self.choose.choice(
                (
                    *(b"X-Accel-Mapping",) * 5,
                    b"X-Accel-Secret",
                    b"X-Sendfile-Type",
                    b"X-Accel-Redirect",
                    *(b"Range",) * 3,
                    b"If-Range",
                    b"Forwarded",
                    b"X-Forwarded-For",
                    b"Via",
                )
            )
            value = self.value(name)
            for _ in range(self.choose.choice((1, 1, 1, 1, 2, 3))):
                yield name, value

    def value(self, name: bytes) -> bytes:
        kind = self.choose.random()
        if kind < 0.25:
            return self.noise(self.choose.randint(0, 100))
        if kind < 0.3:
            return self.noise(self.choose.randint(5_000, 20_000))
        if kind < 0.35:
            return self.choose.choice((b"a", b'"', b"\\", b",", b"=", b"/x/=/y/,")) * self.choose.randint(1, 9_000)
        likely = self.range() if name in (b"Range", b"If-Range") else self.mapping()
        if name == b"X-Sendfile-Type":
            likely = self.choose.choice((b"X-Accel-Redirect", b"x-accel-redirect", b"X-Sendfile", b""))
        if name == b"X-Accel-Secret":
            likely = self.choose.choice((b"only the proxy knows!", b"only", b"", b"\xff"))
        if kind > 0.85 and likely:  # one byte that is not as it should be
            at = self.choose.randrange(len(likely))
            likely = likely[:at] + self.noise(1) + likely[at + 1 :]
        return likely

    def noise(self, size: int) -> bytes:
        """Random bytes: mostly those that servers let through, or any but those that end a header."""
        refused = b"\r\n" if self.choose.random() < 0.1 else CONTROL
        return self.choose.randbytes(size).translate(None, refused)

    def mapping(self) -> bytes:
        files, vault = self.files, self.vault
        pairs = (
            *[f"{files}/=/download/"] * 4,
            f"{files}/=/vault/",
            f"{vault}/=/vault/",
            f"{files}/file=/vault/file",
            f'"{files}/"="/download/../vault/"',
            f'"{files}/"="/vault/file?"',
            "/=/vault/../",
            "/=/",
            f"{files}/../=/",
            f"^{files}/.*=/vault/file",
            "(.*)=/vault/$1",
            f'"{files}/"="/down\\load/"',
        )
        return ",".join(self.choose.choices(pairs, k=self.choose.choice((1, 1, 1, 2, 3)))).encode()

    def range(self) -> bytes:
        numbers = ("", "0", "1", "10", "500", "999", "1000", "-1", "1_0", "9" * 30, "9" * 5000, "x", " 1", "\xb2")
        count = self.choose.choice((1, 1, 1, 2, 5, 300))
        parts = ["-".join(self.choose.choices(numbers, (5, 5, 5, 5, *[1] * 10), k=2)) for _ in range(count)]
        return (self.choose.choice(("bytes=", "bytes=", "bytes=", "bytes", "lines=", "")) + ",".join(parts)).encode(
            "latin-1"
        )
