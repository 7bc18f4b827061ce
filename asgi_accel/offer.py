"""Whose offer counts: every request header is read here.

A proxy *offers* to send files by the request's `X-Accel-Mapping` header. `Trust` decides for each request whether that
header counts, and `Offer` is what it offers. What becomes of the app's files is in `redirecting.py`.
"""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from starlette.types import Scope

from asgi_accel import log
from asgi_accel.log import logger
from asgi_accel.mapping import PathMap, percent_encode, read_pairs

if TYPE_CHECKING:
    from asgi_accel.redirecting import Redirecting

MAPPING = b"x-accel-mapping"
SECRET = b"x-accel-secret"
SENDFILE_TYPE = b"x-sendfile-type"
DECIDING = frozenset((MAPPING, SECRET, SENDFILE_TYPE))

# What a request has that came through a proxy.
PROXIED = frozenset((b"x-forwarded-for", b"forwarded", b"via"))

# What a proxy applies to GET and HEAD, and the app to no other method (RFC 9110, sections 13.2.1 and 14.2).
FOR_GET = frozenset((b"range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"))

REDIRECT = b"x-accel-redirect"
SENDFILE = b"x-sendfile"

LONGEST = 8192  # bytes of a mapping header, as many as nginx takes in one line (large_client_header_buffers)
MOST_PAIRS = 64  # of a mapping header: many take milliseconds to read, and a client can always send new ones

NO_MAPPING = "AccelMiddleware has no mapping: give mapping={'/mnt/storage': '/download'}, secret= or trust_header=True"
UNFIT = "secret= is empty, or has spaces around it or a control character: give it as in the proxy's X-Accel-Secret"

Header = tuple[bytes, bytes]
Headers = list[Header]

# The entry of the scope that holds the requests of all `AccelMiddleware` around the app, the innermost last. Copies of
# the scope share the list.
IN_SCOPE = "asgi_accel"


class Offer(NamedTuple):
    """What a proxy offers to send for a request."""

    mapping: PathMap
    varies: bool = False  # a client could have sent such a header, so caches must know of it
    prefixes: tuple[str, ...] = ()  # how the paths begin that should never reach the app


class Refusal(NamedTuple):
    """Why a request offers nothing: a value, not an exception, so that it can be cached."""

    reason: str
    advice: str  # one of log.py, for a request that came through a proxy


def offered(request_or_scope: Mapping[str, Any]) -> PathMap | None:
    """What the proxy offers to send for this request. The app needs an `AccelMiddleware`.

    Use it to choose between two responses: for instance, a list of files for nginx's mod_zip if there is a proxy, or a
    ZIP from Python if there is none. Because of caches, give such a response ``Cache-Control: private``, or
    ``Vary: X-Accel-Mapping``.

    Args:
        request_or_scope: A Starlette or FastAPI `Request`, or an ASGI scope.

    Returns:
        The `PathMap` of what is offered, or None if nothing is offered. With ``sendfile_type="X-Sendfile"`` it is
            always None, because such a proxy has no internal locations.
    """
    for request in reversed(request_or_scope.get(IN_SCOPE) or ()):
        if _is_active(request) and request.trust.sendfile_type == REDIRECT:
            mapping: PathMap = request.offer.mapping
            return mapping
    return None


def innermost(scope: Mapping[str, Any]) -> Redirecting | None:
    """The request of the innermost `AccelMiddleware` that has an offer, or None."""
    requests: list[Redirecting | None] = scope.get(IN_SCOPE) or []
    for request in reversed(requests):
        if _is_active(request):
            return request
    return None


def _is_active(request: Redirecting | None) -> bool:
    """Whether the app is not done yet. Pickled, a request is None."""
    return request is not None and not request.is_done


class Trust:
    """When to believe a request's `X-Accel-Mapping`, by the arguments of `AccelMiddleware`.

    A client can send these headers, too (CVE-2025-61780, CVE-2026-34830, CVE-2026-7381). So a header counts only for
    pairs that the app also has, or with the secret, or if the app says that it trusts everyone.
    """

    def __init__(
        self,
        mapping: PathMap | None,
        *,
        always: bool,
        trust_header: bool,
        secret: str | None,
        sendfile_type: str,
    ) -> None:
        self.sendfile_type: bytes = sendfile_type.lower().encode()
        if self.sendfile_type not in (REDIRECT, SENDFILE):
            raise ValueError(f"sendfile_type={sendfile_type!r}: give X-Accel-Redirect (nginx) or X-Sendfile (Apache)")

        if mapping is None and not trust_header and secret is None:
            raise ValueError(NO_MAPPING)

        if always and (mapping is None or trust_header or secret is not None):
            raise ValueError("always=True ignores headers: give it with mapping=, without secret= and trust_header=")

        if trust_header and (mapping is not None or secret is not None):
            raise ValueError("trust_header=True believes everyone, mapping= and secret= do not: give one of them")

        if trust_header and self.sendfile_type == SENDFILE:
            raise ValueError("trust_header=True and X-Sendfile let a client name any file: give mapping= or secret=")

        if secret is not None and (not secret or secret != secret.strip() or not secret.isprintable()):
            raise ValueError(UNFIT)  # without the value: a secret has no place in a log

        self.mapping: PathMap = PathMap() if mapping is None else mapping
        self.secret: bytes | None = None if secret is None else secret.encode()
        self._is_limited = mapping is not None
        self._always = Offer(self.mapping) if always else None

        # A redirect to a file of the app begins with one of these.
        self._targets = tuple(f"{percent_encode(os.fsencode(prefix))}/".encode() for _, prefix in self.mapping)

        # What the last 16 kinds of headers offer: each is read once, and a client that sends many fills no memory.
        self._read = lru_cache(maxsize=16)(self._examine)
        self._said: set[str] = set()

    def offer(self, scope: Scope) -> Offer | None:
        """What the proxy offers to send for a request, or None. Takes the secret out of what the app sees."""
        # Every request comes through here, so this does no more than it must (benchmarks/instructions).
        all_headers = scope.setdefault("headers", [])
        if self._always is not None:
            return self._always

        deciding = tuple([(name, value) for name, value in all_headers if name in DECIDING])
        if self.secret is not None and deciding:
            self.hide_secret(scope)

        found = self._read(deciding)
        if isinstance(found, Refusal):
            self._tell(found, scope)
            return None

        if self.sendfile_type == REDIRECT and scope["path"].startswith(found.prefixes):
            self.warn(log.NO_LOCATION, scope["path"])
        return found

    def hide_secret(self, scope: Scope) -> None:
        """Take the secret, right or wrong, out of what the app sees."""
        if self.secret is not None:
            scope["headers"] = [header for header in scope.get("headers", ()) if header[0] != SECRET]

    def is_file(self, target: bytes) -> bool:
        """Whether the target of the app's redirect would be a file of the app if nothing were offered.

        Warns if the target is a path.
        """
        if target.startswith(self._targets):
            return True

        uri = target.decode("utf-8", "surrogateescape")
        path = unquote(uri.partition("?")[0])
        if any(directory != "/" and path.startswith(f"{directory}/") for directory, _ in self.mapping):
            self.warn(log.PATH_AS_URI, path)
        return self.mapping.path(uri) is not None

    def warn(self, text: str, *values: object, level: int = logging.WARNING) -> None:
        """Say a thing, once."""
        if text not in self._said:
            self._said.add(text)
            logger.log(level, text, *values)

    def _examine(self, deciding: tuple[Header, ...]) -> Offer | Refusal:
        """What a request offers, by those of its headers that decide it."""
        headers = dict(deciding)
        if MAPPING not in headers:
            is_thruster = headers.get(SENDFILE_TYPE, b"").lower() == SENDFILE
            return self._refuse("the request has no X-Accel-Mapping header", log.THRUSTER if is_thruster else "")

        if len(headers) < len(deciding):
            names = [name for name, _ in deciding]  # perhaps thousands
            twice = next(name for name in headers if names.count(name) > 1)
            return self._refuse(f"the request has more than one {twice.decode()} header", log.SENT_ONCE)

        kind = headers.get(SENDFILE_TYPE)
        if kind is not None and kind.lower() != self.sendfile_type:
            reason = f"the X-Sendfile-Type header is {kind[:200]!r}, not {self.sendfile_type.decode()}"
            return self._refuse(reason, log.CLEAR_TYPE[self.sendfile_type])

        if self.secret is not None and not hmac.compare_digest(headers.get(SECRET, b""), self.secret):
            return self._refuse("the request's X-Accel-Secret header is missing or wrong")

        value = headers[MAPPING]
        if len(value) > LONGEST:
            return self._refuse("the X-Accel-Mapping header is over 8 KiB long")
        return self._read_mapping(value)

    def _read_mapping(self, value: bytes) -> Offer | Refusal:
        """What an `X-Accel-Mapping` header offers."""
        try:
            pairs = list(islice(read_pairs(os.fsdecode(value)), MOST_PAIRS + 1))
            if len(pairs) > MOST_PAIRS:
                return self._refuse(f"the X-Accel-Mapping header has more than {MOST_PAIRS} pairs")
            named = PathMap(pairs)
        except ValueError as exc:
            return self._refuse(f"the X-Accel-Mapping header is bad: {exc!s:.400}")

        mapping = self.mapping & named if self._is_limited else named
        if mapping:
            prefixes = tuple(f"{prefix}/" for _, prefix in mapping if prefix != "/")
            return Offer(mapping, self.secret is None, prefixes)

        swapped = {(prefix, directory) for directory, prefix in named}
        if not swapped.isdisjoint(self.mapping):
            self.warn(log.SWAPPED, value, str(self.mapping))
        return self._refuse(f"the X-Accel-Mapping header, {value[:200]!r}, lists no pair that is also in mapping=")

    def _refuse(self, reason: str, advice: str = "") -> Refusal:
        """Why nothing is offered. Without an advice of its own, the header with the mapping is missing or wrong."""
        needs = log.NEEDS if self.secret is None else log.NEEDS_SECRET
        return Refusal(reason, advice or needs[self.sendfile_type])

    def _tell(self, refusal: Refusal, scope: Scope) -> None:
        """Say why nothing is offered; with what to do about it if the request came through a proxy."""
        # Each request comes by here if a proxy offers nothing, so this looks for nothing that it has said.
        if refusal.advice in self._said and not logger.isEnabledFor(logging.DEBUG):
            return

        logger.debug("no proxy offers to send the files of %.200r: %s", scope["path"], refusal.reason)
        signs = PROXIED.intersection([name for name, _ in scope["headers"]])
        if signs and refusal.advice not in self._said:
            self._said.add(refusal.advice)
            shown = str(self.mapping) or "/the/directory/=/prefix/"
            logger.warning(log.NO_OFFER + refusal.advice, min(signs).decode(), refusal.reason, shown)
