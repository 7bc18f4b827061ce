"""What both configurations ask of their values: pairs that a proxy can have, and an address that it can reach."""

from __future__ import annotations

import os
import re

from asgi_accel.mapping import PathMap

CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def with_slashes(mapping: PathMap) -> list[tuple[str, str]]:
    """Directories and prefixes, each with its slash at the end."""
    return [(f"{path.rstrip('/')}/", f"{prefix.rstrip('/')}/") for path, prefix in mapping]


def checked_pairs(mapping: PathMap) -> list[tuple[str, str]]:
    """The same, where a proxy can have them all."""
    pairs = with_slashes(mapping)
    for path, _ in pairs:
        if not path.startswith("/"):
            raise ValueError(f"the directory {path!r} has a drive, so it covers nothing: give it from the root")
    if not pairs:
        raise ValueError("the mapping is empty: give one like /mnt/storage/=/download/")
    prefixes = [prefix for _, prefix in pairs]
    for prefix in prefixes:
        if prefix == "/":
            raise ValueError("the prefix / is where nginx asks the app: give the files one like /download/")
        if prefixes.count(prefix) > 1:
            raise ValueError(f"two directories have the prefix {prefix!r}: nginx needs one for each")
    return pairs


def checked_upstream(upstream: str) -> str:
    if upstream.startswith("unix:"):
        path = upstream.removeprefix("unix:")
        if not path.startswith("/") or ":" in path or len(os.fsencode(path)) > 107:  # of sockaddr_un
            raise ValueError(
                f"the socket {path!r} must be an absolute path such as /run/app.sock, of up to 107 bytes with no colon"
            )
        return upstream
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?", upstream, re.ASCII)
    if match is None or not 0 < int(match[2] or 80) < 65536:
        raise ValueError(f"the upstream {upstream!r} must be a host and a port, such as 127.0.0.1:8000")
    return upstream
