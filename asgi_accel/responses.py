"""`AccelRedirectResponse`: headers alone, which tell the proxy what to send."""

import mimetypes
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlencode

from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from asgi_accel.mapping import Pairs, PathMap, StrPath, as_map, is_unsafe, percent_encode
from asgi_accel.offer import IN_SCOPE, innermost, offered
from asgi_accel.target import add_vary

App = Callable[[Any, Any, Any], Awaitable[Any]]
Query = str | Mapping[str, Any] | Iterable[tuple[str, Any]]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_VISIBLE = re.compile(r"[\x21-\x7e]*")


class AccelRedirectResponse(Response):
    """A redirect that tells the proxy which file to send. It has headers only.

    It sets nginx's
    [``X-Accel-*`` headers](https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_ignore_headers). If no proxy
    offers to send files, `AccelMiddleware` sends the file itself.

    Args:
        path: The path in the internal location, as plain text, not percent-encoded: ``/download/100% done?.pdf``. Or a
            named location of nginx, such as ``@s3``. With `mapping`, the path of a file.
        status_code: Must be 200. nginx would drop any other status, and set its own.
        headers: More headers. nginx keeps `Set-Cookie`, `Cache-Control`, `Expires` and those that this class sets. It
            drops all others, unless the internal location brings them back with ``add_header``.
        media_type: The default is guessed from `filename` or `path`, else ``application/octet-stream``. With ``""``
            there is no `Content-Type`, and nginx's `types` decide.
        background: A task to run after the response. It must not delete the file: nginx may not have opened it yet.
        filename: The name under which browsers save the file (`Content-Disposition`, RFC 6266).
        content_disposition_type: ``attachment`` or ``inline``.
        mapping: What turns `path` into the internal URI: a `PathMap`, made once, or what `AccelMiddleware` takes.
        query: What follows ``?`` in the internal URI: text that is already encoded, or a dict or pairs to encode. A
            name may have several values, as in `Request.query_params`.
        buffering: `X-Accel-Buffering`. It has no effect on what nginx sends from an internal location.
        limit_rate: Bytes per second to the client, 0 for no limit (`X-Accel-Limit-Rate`).
        expires: How long a proxy's cache may keep the response, in seconds from now or as a `datetime`
            (`X-Accel-Expires`). nginx never caches a redirect. If an internal location fetches the file and caches it,
            it can read this as ``$upstream_http_x_accel_expires``. For browsers, use `Cache-Control`.
        charset: The character set of the text. nginx must know it from a ``charset`` directive (`X-Accel-Charset`).
        fallback: A `Response`, or another ASGI app, that answers instead if no proxy offers anything. It needs
            `AccelMiddleware`. Use it if your app does not have the file. For an object in a storage, give a redirect
            to its presigned URL. For a thumbnail that nginx makes, give the original.

    Raises:
        ValueError: nginx would refuse or ignore one of the values, or `mapping` does not cover the file.
    """

    def __init__(
        self,
        path: StrPath,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        background: BackgroundTask | None = None,
        *,
        filename: str | None = None,
        content_disposition_type: str = "attachment",
        mapping: Pairs | str | None = None,
        query: Query | None = None,
        buffering: bool | None = None,
        limit_rate: int | None = None,
        expires: int | datetime | None = None,
        charset: str | None = None,
        fallback: App | None = None,
    ) -> None:
        if status_code != 200:
            raise ValueError(f"status_code={status_code!r}: nginx answers with 200 whatever the app says; leave it out")

        if fallback is not None and not callable(fallback):
            raise ValueError(f"fallback={fallback!r}: give a Response or an ASGI app")

        text = os.fspath(path)
        if media_type is None:
            media_type = _guess_type(filename or text)
        if charset is not None:
            self.charset: str = _token("charset", charset)

        super().__init__(None, status_code, headers, media_type or None, background)
        self.fallback: App | None = fallback

        own = {b"content-length": "0", b"x-accel-redirect": _target(text, mapping, query)}
        if filename is not None and "content-disposition" not in self.headers:
            kind = _token("content_disposition_type", content_disposition_type)
            own[b"content-disposition"] = _disposition(filename, kind)
        if buffering is not None:
            own[b"x-accel-buffering"] = _yes_or_no("buffering", buffering)
        if limit_rate is not None:
            own[b"x-accel-limit-rate"] = _number("limit_rate", limit_rate, "bytes per second")
        if expires is not None:
            own[b"x-accel-expires"] = _moment(expires)
        if charset is not None:
            own[b"x-accel-charset"] = charset

        # All at once: `self.headers[...] = ...` for each would take as long as the rest of a response.
        given = [header for header in self.raw_headers if header[0] not in own and header[0] != b"accept-ranges"]
        self.raw_headers[:] = given + [(name, value.encode("latin-1")) for name, value in own.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_websocket = scope["type"] == "websocket"  # refused: no proxy sends a file in place of that
        if self.fallback is None:
            if is_websocket:
                raise RuntimeError("AccelRedirectResponse cannot refuse a websocket: give it fallback=")
            await super().__call__(scope, receive, send)
            return

        request = innermost(scope)
        is_within_middleware = IN_SCOPE in scope
        if is_websocket or (is_within_middleware and offered(scope) is None):
            await self.fallback(scope, receive, send)
            if self.background is not None:
                await self.background()
            return

        if request is not None and request.offer.varies:
            self.raw_headers[:] = add_vary(self.raw_headers)
        await super().__call__(scope, receive, send)


def _guess_type(path: str) -> str:
    """The media type of a file, by its name."""
    name = path.rpartition("/")[2]
    suffix = name[name.rfind(".") :] if "." in name[1:] else ""

    # The type of `a.tar.gz` is that of `a.tar`. Few names are like this.
    if suffix.lower() in mimetypes.encodings_map:
        suffix = f"/{name}"
    return _type_of(suffix)


@lru_cache(maxsize=256)
def _type_of(suffix: str) -> str:
    # With a slash before it: `guess_type` also reads URLs, and a name could look like one, `data:text/html,x`.
    return mimetypes.guess_type(f"/x{suffix}")[0] or "application/octet-stream"


def _target(path: str, mapping: Pairs | str | None, query: Query | None) -> str:
    """The value of `X-Accel-Redirect`."""
    if mapping is not None:
        uri = _uri_of_file(path, as_map(mapping))
    elif path.startswith("@"):
        return _named_location(path, query)
    else:
        uri = _uri(path)

    if query is None:
        return uri
    return f"{uri}?{_query(query)}"


def _uri_of_file(path: str, mapping: PathMap) -> str:
    uri = mapping.uri(path)
    if uri is None:
        raise ValueError(f"{path!r} is not covered by {mapping!r}; give a file in one of its directories")
    return uri


def _named_location(name: str, query: Query | None) -> str:
    if not _VISIBLE.fullmatch(name) or len(name) == 1:
        raise ValueError(f"{name!r}: a named location is '@' and its name, with no spaces or control characters")
    if query is not None:
        raise ValueError(f"query={query!r}: a named location, {name!r}, takes no query; give a path instead")
    return name


def _uri(path: str) -> str:
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError as exc:
        raise ValueError(f"{path!r} cannot be encoded: {exc}") from exc

    if not raw.startswith(b"/") or is_unsafe(raw):
        raise ValueError(f"{path!r}: give a path that starts with '/' (or '@'), without '..' and NUL")
    return percent_encode(raw)


def _query(query: Query) -> str:
    if not isinstance(query, str):
        # Starlette's `QueryParams` is a mapping of names to their last values.
        pairs = query.multi_items() if hasattr(query, "multi_items") else query
        query = urlencode(list(pairs.items() if isinstance(pairs, Mapping) else pairs), doseq=True)

    if not _VISIBLE.fullmatch(query):
        raise ValueError(f"query={query!r} has spaces, control or non-ASCII characters; encode it, or give a dict")
    return query


def content_disposition(filename: str, type: str = "attachment") -> str:  # noqa: A002 (the word of RFC 6266)
    """The value of `Content-Disposition` (RFC 6266) that gives a file its name.

    It has an ASCII ``filename=`` for old clients, and ``filename*=`` (RFC 8187) if the name has other characters.
    Quotes, backslashes and ``%`` become ``_`` in the ASCII name. They could end the quoted text (CVE-2022-36359, and
    the same in django-sendfile2 before 0.7.0), and not all clients read escapes; some browsers decode ``%``.

    Args:
        filename: The name, any text.
        type: ``attachment`` to save the file, ``inline`` to show it.

    Raises:
        ValueError: `type` is not a token (RFC 9110, section 5.6.2).
    """
    return _disposition(filename, _token("type", type))


def _disposition(filename: str, kind: str) -> str:
    fallback = re.sub(r'[^ -~]|["\\%]', "_", filename)
    value = f'{kind}; filename="{fallback}"'
    if fallback == filename:
        return value
    name = re.sub("[\ud800-\udfff]", "\ufffd", filename)  # RFC 8187 has no place for bytes that are not UTF-8
    return f"{value}; filename*=UTF-8''{quote(name, safe='!#$&+^`|')}"


def _token(name: str, value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"{name}={value!r} is not a token (RFC 9110, section 5.6.2): give a plain word")
    return value


def _yes_or_no(name: str, value: bool) -> str:
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: give True or False")
    return "yes" if value else "no"


def _number(name: str, value: int, unit: str) -> str:
    # nginx's parser (ngx_atoi) silently ignores what it cannot read.
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{name}={value!r}: give a whole number of {unit}, 0 or more")
    return str(value)


def _moment(value: int | datetime) -> str:
    if not isinstance(value, datetime):
        return _number("expires", value, "seconds")
    if value.tzinfo is None:
        raise ValueError(f"expires={value!r} has no time zone; give one, as in datetime.now(timezone.utc)")
    return "@" + _number("expires", int(value.timestamp()), "seconds since 1970")
