"""Where a file goes: the header that makes the proxy send it, or the reason why the app must send it.

This module knows what nginx, Apache and lighttpd do with such headers. It sends nothing.
"""

import re
from urllib.parse import unquote

from asgi_accel.mapping import PathMap
from asgi_accel.offer import REDIRECT, SENDFILE, Headers, Names

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
        return str(self.args[0]).format(*map(str, self.args[1:]))


def target(sendfile_type: bytes, offered: PathMap, path: str, status: int, headers: Headers, names: Names) -> bytes:
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
        raise LeftToApp(f"nginx would turn its status, {status}, into 200")
    if b"content-encoding" in names:
        raise LeftToApp("nginx would drop its Content-Encoding")
    if (uri := offered.uri(path)) is None:
        raise LeftToApp("the proxy's offer, {!r:.200}, does not cover it", offered)
    size = len(uri) + sum([len(name) + len(value) + 4 for name, value in headers])
    if len(uri) > LONGEST_URI or size > LONGEST_HEADERS:
        raise LeftToApp(f"its URI, {len(uri)} bytes, or all its headers, {size} bytes, could be too long for nginx")
    if sendfile_type == SENDFILE:
        plain = unquote(uri, errors="replace")
        if not PLAIN.fullmatch(plain) or "\ufffd" in plain:
            raise LeftToApp("Apache and lighttpd read such a name differently")
        return plain.encode()
    return uri.encode("ascii")


def add_vary(headers: Headers) -> Headers:
    """The headers with `X-Accel-Mapping` in their one `Vary` (RFC 9110, 12.5.5): another request gets other headers."""
    own = [value for name, value in headers if name.lower() == b"vary"]
    if any(b"*" in value or VARY.lower() in value.lower() for value in own):
        return headers
    others = [header for header in headers if header[0].lower() != b"vary"] if own else headers
    return [*others, (b"vary", b", ".join([*filter(None, own), VARY]))]
