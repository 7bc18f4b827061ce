"""Where a file goes: the header that makes the proxy send it, or the reason why the app must send it.

This module knows what nginx, Apache and lighttpd do with such headers. It sends nothing.
"""

import os
import re
from urllib.parse import unquote

from asgi_accel.mapping import PathMap
from asgi_accel.offer import REDIRECT, SENDFILE, Headers

VARY = b"X-Accel-Mapping"
LONGEST_URI = 2048  # bytes

# nginx answers 502 if the response's headers don't fit in `proxy_buffer_size`, 4 KiB by default. What the server and
# nginx's parser need beyond the app's own headers is less than the difference.
LONGEST_HEADERS = 3800

# The app's headers that the proxy replaces. nginx makes `ETag` and `Last-Modified` from the file, Apache and lighttpd
# use the app's. The client would get `Accept-Ranges` twice.
FROM_THE_FILE: dict[bytes, frozenset[bytes]] = {
    REDIRECT: frozenset((b"content-length", b"accept-ranges", b"etag", b"last-modified", REDIRECT)),
    SENDFILE: frozenset((b"content-length", b"accept-ranges", SENDFILE, REDIRECT)),
}

# Apache takes X-Sendfile unchanged, without spaces at its end. lighttpd percent-decodes it, and takes only UTF-8.
PLAIN = re.compile(r"[^\x00-\x1f\x7f%]*[^\x00-\x20\x7f%]")


class LeftToApp(Exception):
    """The app has to send this file; the message says why. It is put together only if somebody reads it."""

    def __str__(self) -> str:
        text, *values = self.args
        return str(text).format(*map(str, values))


def target(
    sendfile_type: bytes, offered: PathMap, path: str, status: int, headers: Headers, names: dict[bytes, bytes]
) -> bytes:
    """The value of the header that makes the proxy send a file.

    Args:
        sendfile_type: The header's name, in lower case.
        offered: What the proxy offers to send.
        path: The file's path.
        status: The status of the response.
        headers: The headers of the response, names in lower case.
        names: The same as a dict.

    Raises:
        LeftToApp: The proxy would send something else, or nothing.
    """
    if status != 200:
        raise LeftToApp("nginx would turn its status, {}, into 200", status)

    if b"content-encoding" in names:
        raise LeftToApp("nginx would drop its Content-Encoding")

    # HTML is what other middlewares change: they add a script or a nonce, and nginx would send the file without it.
    is_html = names.get(b"content-type", b"").lower().startswith(b"text/html")
    if is_html and not names.get(b"content-disposition", b"").lower().startswith(b"attachment"):
        raise LeftToApp("it is HTML that browsers show, which a middleware may change")

    uri = offered.uri(collapse(path))
    if uri is None:
        raise LeftToApp("the proxy's offer, {!r:.200}, does not cover it", offered)

    size = len(uri) + sum([len(name) + len(value) + 4 for name, value in headers])
    if len(uri) > LONGEST_URI or size > LONGEST_HEADERS:
        raise LeftToApp("its URI, {} bytes, or all its headers, {} bytes, could be too long for nginx", len(uri), size)

    if sendfile_type == SENDFILE:
        return _plain(uri)
    return uri.encode("ascii")


def _plain(uri: str) -> bytes:
    """The path as Apache and lighttpd take it."""
    plain = unquote(uri, errors="replace")
    if not PLAIN.fullmatch(plain) or "\ufffd" in plain:
        raise LeftToApp("Apache and lighttpd read such a name differently")
    return plain.encode()


def collapse(path: str) -> str:
    """A path without ``.`` components and repeated slashes: the same file, with or without symlinks.

    A slash at its end stays, since it makes the path that of a directory.
    """
    if "//" not in path and "/." not in path and not path.startswith("./"):
        return path
    if os.path.sep == "\\":  # two slashes begin a server's name
        return path

    parts = path.split("/")
    kept = [part for part in parts if part not in ("", ".")]
    if parts[-1] in ("", "."):
        kept.append("")

    start = "/" if path.startswith("/") else ""
    return start + "/".join(kept)


def add_vary(headers: Headers) -> Headers:
    """The headers with `X-Accel-Mapping` in their one `Vary` (RFC 9110, 12.5.5): another request gets other headers."""
    own = [value for name, value in headers if name.lower() == b"vary"]
    if any(b"*" in value or VARY.lower() in value.lower() for value in own):
        return headers

    others = [header for header in headers if header[0].lower() != b"vary"] if own else headers
    return [*others, (b"vary", b", ".join([*filter(None, own), VARY]))]
