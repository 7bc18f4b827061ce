"""`PathMap`: which directory of the app is which internal location of the proxy.

How a path becomes a URI, how a URI becomes a path, and the syntax of the `X-Accel-Mapping` header live here. Whose
header counts is in `offer.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PureWindowsPath
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

StrPath = str | os.PathLike[str]
Pairs = Mapping[Any, str] | Iterable[tuple[StrPath, str]]  # a Mapping's keys are invariant: `StrPath` would refuse Path

# Characters that a path may have unescaped: RFC 3986 section 3.3, `pchar` and `/`. The unreserved ones are not listed:
# `quote` never escapes them.
_PATH_CHARACTERS = "/:@!$&'()*+,;="
_NEEDS_NO_ESCAPE = re.compile(rb"[/:@!$&'()*+,;=\w.~-]*", re.ASCII)
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# A value of the header has no character that the syntax uses, or is an RFC 9110 quoted-string (5.6.4).
_PLAIN = r'[^\x00-\x20\x7f",=]+'
_QUOTED = r'"[^"\\\x00]*(?:\\[^\x00][^"\\\x00]*)*"'
SYNTAX = 'give /directory/=/prefix/, and "quotes" around a value with a comma, an equals sign, a quote or a space'
_PAIR = re.compile(rf"[ \t]*({_PLAIN}|{_QUOTED})[ \t]*=[ \t]*({_PLAIN}|{_QUOTED})[ \t]*(,|\Z)", re.DOTALL)

# Names for which Windows opens something else than a file of that name: devices, streams, names that it shortens.
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_ODD = rb"[^/]*[\x00-\x1f\"*:<>?|\\][^/]*|[^/]*[. ]|"
_ODD += rb"(con|prn|aux|nul|con(in|out)\$|(com|lpt)(\d|\xc2[\xb9\xb2\xb3])) *(\.[^/]*)?"
_NOT_ON_WINDOWS = re.compile(rb"(.*/)?(" + _ODD + rb")(/.*)?", re.IGNORECASE | re.DOTALL)


def percent_encode(path: bytes) -> str:
    """Percent-encode every byte that RFC 3986 (section 3.3) doesn't allow in a path."""
    if _NEEDS_NO_ESCAPE.fullmatch(path):  # as most names do
        return path.decode("ascii")
    return quote_from_bytes(path, _PATH_CHARACTERS)


def is_unsafe(path: bytes) -> bool:
    """Whether a decoded path holds a ``..`` component or a NUL, which nginx refuses (``ngx_http_parse_unsafe_uri``)."""
    return b"\0" in path or (b".." in path and b".." in path.split(b"/"))


def decode_uri(uri: str) -> bytes | None:
    """The path in a URI, or None if nginx would refuse the URI, or read it in another way than this package does."""
    path = uri.partition("?")[0]
    try:
        raw = unquote_to_bytes(path.encode("utf-8", "surrogateescape"))  # as header values are decoded
    except UnicodeEncodeError:
        return None
    return None if not path.startswith("/") or _BROKEN_ESCAPE.search(path) or is_unsafe(raw) else raw


def read_pairs(text: str) -> Iterator[tuple[str, str]]:
    """The pairs of an `X-Accel-Mapping` header, one by one; `PathMap.parse` says the syntax.

    Raises:
        ValueError: The text is malformed.
    """
    position, more = 0, bool(text.strip(" \t"))
    while more:
        match = _PAIR.match(text, position)
        if match is None:
            raise ValueError(f"{text!r} is malformed at character {position}: {SYNTAX}")
        yield _read_value(match[1]), _read_value(match[2])
        position, more = match.end(), match[3] == ","


def _read_value(text: str) -> str:
    if not text.startswith('"'):
        return text

    # A value has no NUL, so that one can stand for a backslash while the others go. This takes microseconds.
    return text[1:-1].replace("\\\\", "\0").replace("\\", "").replace("\0", "\\")


def _write_value(text: str) -> str:
    return text if re.fullmatch(_PLAIN, text) else '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _on_windows() -> bool:
    return os.path.sep == "\\"


def _with_slashes(path: bytes) -> bytes:
    """A path as the map compares it. On Windows `\\` is a slash, too, and the case of a drive letter does not count."""
    path = path.replace(b"\\", b"/") if _on_windows() else path
    return path[:1].upper() + path[1:] if path[1:2] == b":" and _on_windows() else path


def _native(path: bytes) -> str:
    """The text of a path as the system writes it."""
    return path.decode("utf-8", "surrogateescape").replace("/", "\\") if _on_windows() else os.fsdecode(path)


def _is_file_name(path: bytes) -> bool:
    """Whether each component of a path is the name of what the system opens for it: always so, except on Windows."""
    return not (_on_windows() and _NOT_ON_WINDOWS.fullmatch(path[2:] if path[1:2] == b":" else path))


class _Heads:
    """Heads of paths, and what to put in their place: None if two pairs differ, so that the head leads nowhere."""

    def __init__(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None:
        values: dict[bytes, bytes | None] = {}
        for head, value in pairs:
            values[head] = value if values.setdefault(head, value) == value else None

        # The longest first. A slash ends each, so that it stands for whole components.
        heads = sorted(values, key=len, reverse=True)
        self._ordered = [(head + b"/", len(head), values[head]) for head in heads]

    def replace(self, path: bytes) -> bytes | None:
        """Replace the longest head of `path`, in whole components, that is here; None if none is."""
        for head, length, value in self._ordered:
            if path.startswith(head):
                return None if value is None else value + path[length:]
        return None


class PathMap:
    """Pairs of a directory, as the app sees it, and the URI prefix of the proxy's internal location for it.

    A slash at the end of either side makes no difference. ``/mnt/a`` covers ``/mnt/a/b``, but not ``/mnt/ab`` or
    ``/mnt/A/b``. There are no patterns. If several directories match, the longest wins, whatever the order (in Rack and
    Symfony, the first wins). A file is covered only if its URI leads back to it: if two directories share a prefix, or
    one prefix is within another, nginx could send another file.

    On Windows a directory has a drive, ``C:\\files``. The case of the drive's letter does not count.

    Args:
        pairs: A dict of directories (`str` or `PathLike`, absolute) and their URI prefixes (plain text, not
            percent-encoded), or any iterable of such pairs. An empty one covers nothing.

    Raises:
        ValueError: A directory is not absolute, has a ``..`` component, or is there twice. Or a URI prefix does not
            start with one ``/``, or has a ``..`` component, ``?``, ``#`` or a control character.
    """

    __slots__ = ("_directories", "_named", "_pairs", "_prefixes")

    def __init__(self, pairs: Pairs = ()) -> None:
        if isinstance(pairs, str | os.PathLike):
            raise ValueError(f"{pairs!r} is not pairs: give {{'/mnt/a': '/a'}}, or text to PathMap.parse()")
        self._pairs: dict[bytes, bytes] = {}
        for pair in pairs.items() if isinstance(pairs, Mapping) else pairs:
            try:
                directory, prefix = pair
                self._add(directory, prefix)
            except (TypeError, ValueError) as exc:
                shown = "=".join(map(repr, pair)) if isinstance(pair, tuple) else repr(pair)
                raise ValueError(f"{shown} is not a pair of a directory and a URI prefix: {exc}") from exc
        self._index(frozenset(self._pairs.items()))

    def _add(self, directory: StrPath, prefix: str) -> None:
        raw = os.fsencode(directory)
        for_windows = isinstance(directory, PureWindowsPath) and directory.is_absolute()
        if not (raw.startswith(b"/") or os.path.isabs(raw) or for_windows):
            raise ValueError("the directory is not absolute; give it from the root, as in '/mnt/storage'")
        raw = _with_slashes(raw)
        if is_unsafe(raw):
            raise ValueError("the directory has a '..' component or a NUL; give the path that it stands for")
        if not isinstance(prefix, str) or not prefix.startswith("/") or prefix.startswith("//"):
            raise ValueError("the URI prefix must be text that starts with one '/', as in '/download'")
        uri = os.fsencode(prefix)
        if is_unsafe(uri) or _CONTROL.search(prefix) or "?" in prefix or "#" in prefix:
            raise ValueError("the URI prefix has a '..' component, '?', '#' or a control character; give a plain path")
        key = raw.rstrip(b"/")
        if key in self._pairs:
            raise ValueError("the directory is there twice; leave one of the two")
        self._pairs[key] = uri.rstrip(b"/")

    def _index(self, named: frozenset[tuple[bytes, bytes]]) -> None:
        """Prepare the look-ups. `named` has more pairs than the map if another side names some: they cover nothing.

        A directory with a drive is no directory of this system, except on Windows.
        """
        here = [pair for pair in named if pair[0][:1] in (b"", b"/") or _on_windows()]
        self._named = named
        self._prefixes = _Heads((path, uri if self._pairs.get(path) == uri else None) for path, uri in here)
        self._directories = _Heads((uri, path) for path, uri in here)

    @classmethod
    def parse(cls, text: str) -> PathMap:
        """Read the syntax of the `X-Accel-Mapping` header: ``/mnt/a/=/a/, "/mnt/b,c/"=/b/``.

        Args:
            text: Pairs with commas between them. A value with a comma, an equals sign, a quote, a space or a control
                character needs quotes (an RFC 9110 quoted-string, section 5.6.4). An empty text is an empty map.

        Raises:
            ValueError: The text is malformed, or one of its pairs is bad.
        """
        return cls(list(read_pairs(text)))

    def uri(self, path: StrPath) -> str | None:
        """Return the percent-encoded internal URI of a file, or None if no pair covers it.

        A path with a ``..`` component is not covered: with symlinks, ``..`` cannot be resolved as text.

        Args:
            path: The file's path. A relative path starts at the working directory.
        """
        try:
            raw = os.fsencode(path)
            if not raw.startswith(b"/"):
                raw = os.path.join(os.getcwdb(), raw)
        except (UnicodeEncodeError, FileNotFoundError):  # no such name can exist; no working directory
            return None

        if _on_windows():
            raw = _with_slashes(raw)
            if not _is_file_name(raw):
                return None
        if raw.endswith(b"/") or is_unsafe(raw):
            return None

        uri = self._prefixes.replace(raw)
        if uri is None or self._directories.replace(uri) != raw:
            return None
        return percent_encode(uri)

    def path(self, uri: str) -> str | None:
        """Return the path of the file that a percent-encoded internal URI leads to, or None if no pair covers it.

        Args:
            uri: The URI as in `X-Accel-Redirect`. A query after ``?`` is ignored.
        """
        raw = decode_uri(uri)
        path = None if raw is None or raw.endswith(b"/") else self._directories.replace(raw)
        # The file's own URI may be another one, if a longer directory has a pair of its own: nginx serves both.
        return _native(path) if path and self._prefixes.replace(path) is not None and _is_file_name(path) else None

    def __and__(self, other: PathMap) -> PathMap:
        """The pairs that both maps have.

        The result remembers the other pairs: it does not cover a file that one of them covers, nor a URI that one of
        them leads to, since the two sides do not agree on those.
        """
        both = PathMap()
        both._pairs = {path: uri for path, uri in self._pairs.items() if other._pairs.get(path) == uri}
        both._index(self._named | other._named)
        return both

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for directory, prefix in self._pairs.items():
            yield _native(directory) or "/", os.fsdecode(prefix) or "/"

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        return self._pairs == other._pairs if isinstance(other, PathMap) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._pairs.items()))

    def __str__(self) -> str:
        pairs = ((os.fsdecode(path + b"/"), os.fsdecode(uri + b"/")) for path, uri in self._pairs.items())
        return ", ".join(f"{_write_value(path)}={_write_value(uri)}" for path, uri in pairs)

    def __repr__(self) -> str:
        return f"PathMap.parse({str(self)!r})"


def as_map(mapping: Pairs | str) -> PathMap:
    """The map that a `mapping=` stands for: a `PathMap`, what makes one, or the text that `PathMap.parse` reads.

    Raises:
        ValueError: A pair is bad, or the text is malformed.
    """
    if isinstance(mapping, PathMap):
        return mapping
    if isinstance(mapping, str):
        return PathMap.parse(mapping)
    return PathMap(mapping)
