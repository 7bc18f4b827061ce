"""`asgi-accel caddy`: a site for a Caddyfile, written from the mapping that the app uses."""

import os
import posixpath
import re

from asgi_accel.cli.values import checked_pairs, checked_upstream, fill
from asgi_accel.mapping import PathMap, percent_encode


def caddy(mapping: PathMap, upstream: str, *, address: str = ":80", secret: str | None = None) -> str:
    """One site for a Caddyfile.

    Args:
        mapping: The map that the app uses.
        upstream: Where the app listens: ``127.0.0.1:8000``, or ``unix:`` and the path of a socket.
        address: The site's: ``example.com``, with https by Caddy, ``:80`` or ``http://localhost:8080``.
        secret: What the app's `secret=` is, if it has one.

    Raises:
        ValueError: A value that a Caddyfile cannot hold, or that cannot work.
    """
    if not re.fullmatch(r"(https?://)?(\*\.)?[A-Za-z0-9.\[\]:_-]+", address):
        raise ValueError(f"the address {address!r} must be a host, a port after a colon, or both, such as example.com")
    return f"{address} {{\n{site(mapping, upstream, secret)}}}\n"


def site(mapping: PathMap, upstream: str, secret: str | None, more: str = "") -> str:
    """What stands in a site's braces. `more` are lines for its `reverse_proxy`, each with two tabs before it."""
    # Of several handlers Caddy takes the first, where nginx takes the location with the longest prefix.
    pairs = sorted(checked_pairs(mapping), key=lambda pair: len(pair[1]), reverse=True)
    return fill(
        "caddy.conf",
        upstream=_literal("the upstream", checked_upstream(upstream).replace("unix:", "unix/")),
        mapping=_literal(f"the mapping {str(mapping)!r}", str(mapping)),
        secret="-X-Accel-Secret" if secret is None else f"X-Accel-Secret {_literal('the secret', secret)}",
        more=more,
        handlers="".join(_handler(number, path, prefix) for number, (path, prefix) in enumerate(pairs, 1)),
    )


def _handler(number: int, path: str, prefix: str) -> str:
    plain = posixpath.normpath(prefix)
    if f"{plain}/" != prefix:
        raise ValueError(f"the prefix {prefix!r} holds '//' or '/./', which Caddy takes out of URIs: leave them out")
    uri = percent_encode(os.fsencode(plain))
    return fill(
        "caddy-files.conf",
        number=str(number),
        targets=_literal("the prefix", f"{uri}/*"),
        prefix=_literal("the prefix", uri),
        directory=_literal(f"the directory {path!r}", path),
        warning=fill("caddy-disk.conf") if path == "/" else "",
    )


def _literal(what: str, value: str) -> str:
    """A value in a Caddyfile's backticks, in which only backticks and braces have a meaning."""
    if re.search("[\x00-\x1f\x7f`{}\ud800-\udfff]", value):
        raise ValueError(f"{what} has a backtick, a brace, a control character or bytes that are not UTF-8: rename it")
    return f"`{value}`"
