"""`AccelRedirectResponse`: headers alone, which tell the proxy what to send."""

import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from mimetypes import guess_type
from typing import Any
from urllib.parse import quote, urlencode

from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from asgi_accel.mapping import PathMap, StrPath, is_unsafe, percent_encode
from asgi_accel.offer import IN_SCOPE
from asgi_accel.target import add_vary

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
        mapping: The `PathMap` that turns `path` into the internal URI.
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
        mapping: PathMap | None = None,
        query: Query | None = None,
        buffering: bool | None = None,
        limit_rate: int | None = None,
        expires: int | datetime | None = None,
        charset: str | None = None,
        fallback: Callable[[Any, Any, Any], Awaitable[Any]] | None = None,
    ) -> None:
        if status_code != 200:
            raise ValueError(f"status_code={status_code!r}: nginx answers with 200 whatever the app says; leave it out")
        if fallback is not None and not callable(fallback):
            raise ValueError(f"fallback={fallback!r}: give a Response or an ASGI app")
        self.fallback = fallback
        if charset is not None:
            self.charset: str = _token("charset", charset)
        text = os.fspath(path)
        if media_type is None:
            # Only the last component: `guess_type` also reads URLs, and a name could look like one, `data:text/html,x`.
            media_type = guess_type("/" + (filename or text).rpartition("/")[2])[0] or "application/octet-stream"
        super().__init__(None, status_code, headers, media_type or None, background)
        own = {b"content-length": "0", b"x-accel-redirect": _target(text, mapping, query)}
        if filename is not None and "content-disposition" not in self.headers:
            own[b"content-disposition"] = content_disposition(filename, content_disposition_type)
        if buffering is not None:
            if not isinstance(buffering, bool):
                raise ValueError(f"buffering={buffering!r}: give True or False")
            own[b"x-accel-buffering"] = "yes" if buffering else "no"
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
        if self.fallback is not None and IN_SCOPE in scope:
            if not scope[IN_SCOPE]:
                await self.fallback(scope, receive, send)
                if self.background is not None:
                    await self.background()
                return
            if scope[IN_SCOPE][-1].varies:
                self.raw_headers[:] = add_vary(self.raw_headers)
        await super().__call__(scope, receive, send)


def _target(path: str, mapping: PathMap | None, query: Query | None) -> str:
    """The value of `X-Accel-Redirect`."""
    if mapping is not None:
        if not isinstance(mapping, PathMap):
            raise ValueError(f"mapping={mapping!r}: give a PathMap, made once and not for each response")
        if (uri := mapping.uri(path)) is None:
            raise ValueError(f"{path!r} is not covered by {mapping!r}; give a file in one of its directories")
    elif path.startswith("@"):
        if not _VISIBLE.fullmatch(path) or len(path) == 1:
            raise ValueError(f"{path!r}: a named location is '@' and its name, with no spaces or control characters")
        if query is not None:
            raise ValueError(f"query={query!r}: a named location, {path!r}, takes no query; give a path instead")
        return path
    else:
        try:
            raw = os.fsencode(path)
        except UnicodeEncodeError as exc:
            raise ValueError(f"{path!r} cannot be encoded: {exc}") from exc
        if not raw.startswith(b"/") or is_unsafe(raw):
            raise ValueError(f"{path!r}: give a path that starts with '/' (or '@'), without '..' and NUL")
        uri = percent_encode(raw)
    if query is None:
        return uri
    if not isinstance(query, str):
        # Starlette's `QueryParams` is a mapping of names to their last values.
        pairs = query.multi_items() if hasattr(query, "multi_items") else query
        query = urlencode(list(pairs.items() if isinstance(pairs, Mapping) else pairs), doseq=True)
    if not _VISIBLE.fullmatch(query):
        raise ValueError(f"query={query!r} has spaces, control or non-ASCII characters; encode it, or give a dict")
    return f"{uri}?{query}"


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
    fallback = re.sub(r'[^ -~]|["\\%]', "_", filename)
    value = f'{_token("content_disposition_type", type)}; filename="{fallback}"'
    if fallback == filename:
        return value
    name = re.sub("[\ud800-\udfff]", "\ufffd", filename)  # RFC 8187 has no place for bytes that are not UTF-8
    return f"{value}; filename*=UTF-8''{quote(name, safe='!#$&+^`|')}"


def _token(name: str, value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"{name}={value!r} is not a token (RFC 9110, section 5.6.2): give a plain word")
    return value


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
