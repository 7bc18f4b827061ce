"""`Offer`: whether the proxy in front of the app offers to send files, and which.

Every request header that decides this is read here. What is done with an offer is in `redirecting.py`.
"""

import hmac
import logging
import os
from collections.abc import Mapping
from functools import lru_cache, partial
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import unquote

from starlette.types import Scope

from asgi_accel import log
from asgi_accel.log import logger
from asgi_accel.mapping import PathMap, percent_encode, read_pairs

MAPPING = b"x-accel-mapping"
SECRET = b"x-accel-secret"
SENDFILE_TYPE = b"x-sendfile-type"
RANGES = frozenset((b"range", b"if-range"))
# What a file sender applies to GET and HEAD alone (RFC 9110, sections 13.2.1 and 14.2).
FOR_GET = frozenset((b"range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"))
WATCHED = FOR_GET | {MAPPING, SECRET, SENDFILE_TYPE}
PROXIED = frozenset((b"x-forwarded-for", b"forwarded", b"via"))  # what a request has that came through a proxy
LONGEST = 8192  # bytes of a mapping header, as many as nginx takes in one line (large_client_header_buffers)
MOST_PAIRS = 64  # of a mapping header: many take milliseconds to read, and a client can always send new ones
REDIRECT = b"x-accel-redirect"
SENDFILE = b"x-sendfile"
NEEDS = {REDIRECT: (log.NGINX_NEEDS, log.NGINX_NEEDS_SECRET), SENDFILE: (log.OTHERS_NEED, log.OTHERS_NEED_SECRET)}
NO_MAPPING = "AccelMiddleware has no mapping: give mapping={'/mnt/storage': '/download'}, secret= or trust_header=True"
UNFIT = "secret= is empty, or has spaces around it or a control character: give it as in the proxy's X-Accel-Secret"
Headers = list[tuple[bytes, bytes]]
Names = dict[bytes, bytes]  # of headers that matter, with their values
IN_SCOPE = "asgi_accel"  # the scope's entry with what is offered: one list, which copies of the scope share


class Offered(NamedTuple):
    """What a proxy offers to send, or the reason why it is nothing: a value, not an exception, so that it is cached."""

    mapping: PathMap
    varies: bool = False  # a client could have sent such a header, so caches must know of it
    prefixes: tuple[str, ...] = ()  # how the paths begin that should never reach the app
    reason: str = ""


_nothing = partial(Offered, PathMap(), False, ())  # and the reason


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
    offers = request_or_scope.get(IN_SCOPE)
    return offers[-1].mapping if offers else None


class Offer:
    """When to believe a request's `X-Accel-Mapping`; `Offer.of` decides for a request.

    A client can send these headers, too (CVE-2025-61780, CVE-2026-34830, CVE-2026-7381). So a header counts only for
    pairs that the app also has, or with the secret, or if the app says that it trusts everyone.
    """

    def __init__(
        self, mapping: PathMap | None, always: bool, trust: bool, secret: str | None, sendfile_type: str, hold: float
    ) -> None:
        self.sendfile_type: bytes = sendfile_type.lower().encode()
        if self.sendfile_type not in NEEDS:
            raise ValueError(f"sendfile_type={sendfile_type!r}: give X-Accel-Redirect (nginx) or X-Sendfile (Apache)")
        if mapping is None and not trust and secret is None:
            raise ValueError(NO_MAPPING)
        if always and (mapping is None or trust or secret is not None):
            raise ValueError("always=True ignores headers: give it with mapping=, without secret= and trust_header=")
        if trust and (mapping is not None or secret is not None):
            raise ValueError("trust_header=True believes everyone, mapping= and secret= do not: give one of them")
        if trust and self.sendfile_type == SENDFILE:
            raise ValueError("trust_header=True and X-Sendfile let a client name any file: give mapping= or secret=")
        if secret is not None and (not secret or secret != secret.strip() or not secret.isprintable()):
            raise ValueError(UNFIT)  # without the value: a secret has no place in a log
        self.mapping: PathMap = mapping or PathMap()
        self.hold = hold  # seconds that a redirect waits for the app, at most
        self.secret: bytes | None = None if secret is None else secret.encode()
        self._said: set[str] = set()
        # The URIs of the app's redirects to files begin with one of these.
        self.targets: tuple[bytes, ...] = tuple(f"{percent_encode(os.fsencode(p))}/".encode() for _, p in self.mapping)
        self._always = Offered(self.mapping) if always else None
        self._limited = mapping is not None
        # An LRU cache of 16 headers, so that each is read once. A client that sends many cannot make it grow.
        self._read = lru_cache(maxsize=16)(self._read_mapping)
        self._watched = WATCHED | PROXIED  # without PROXIED once the warning has been given

    def of(self, scope: Scope) -> tuple[Offered, Names] | None:
        """What the proxy offers to send, with the request's headers that matter, or None if it offers nothing.

        Takes the secret out of what the app sees.
        """
        # Every request comes through here, so this does no more than it must (benchmarks/overhead.py).
        watched = self._watched
        headers: Names = {}
        repeated: tuple[bytes, ...] = ()
        for name, value in scope.setdefault("headers", []):
            if name in watched:
                if name in headers and name not in repeated:
                    repeated += (name,)
                headers[name] = value
        if self._always is not None:
            return self._always, headers
        if not (headers or logger.isEnabledFor(logging.DEBUG)):
            return None
        found = self._examine(headers, repeated)
        if SECRET in headers:
            self.hide_secret(scope)
        if found.reason:
            logger.debug("no proxy offers to send the files of %.200r: %s", scope["path"], found.reason)
            if proxied := PROXIED & headers.keys():  # empty once the warning has been given
                self._watched = WATCHED
                self._warn_proxy(min(proxied), headers, found.reason)
            return None
        if self.sendfile_type == REDIRECT and scope["path"].startswith(found.prefixes):
            self.warn(log.NO_LOCATION, scope["path"])
        return found, headers

    def warn(self, text: str, *values: object, level: int = logging.WARNING) -> None:
        """Say a thing, once."""
        if text not in self._said:
            self._said.add(text)
            logger.log(level, text, *values)

    def _warn_proxy(self, sign: bytes, headers: Names, reason: str) -> None:
        """Say what the proxy needs to be told, after a header that shows that there is one."""
        without_secret, with_secret = NEEDS[self.sendfile_type]
        text = without_secret if self.secret is None else with_secret
        if MAPPING not in headers and headers.get(SENDFILE_TYPE, b"").lower() == SENDFILE:
            text = log.THRUSTER_NEEDS
        self.warn(text, sign.decode(), reason, str(self.mapping) or "/the/directory/=/prefix/")

    def is_file(self, target: bytes) -> bool:
        """Whether the target of the app's redirect would be a file of the app if nothing were offered.

        Warns if the target is a path.
        """
        uri = target.decode("utf-8", "surrogateescape")
        path = unquote(uri.partition("?")[0])
        if any(directory != "/" and path.startswith(f"{directory}/") for directory, _ in self.mapping):
            self.warn(log.PATH_AS_URI, path)
        return self.mapping.path(uri) is not None

    def hide_secret(self, scope: Scope) -> None:
        """Take the secret, right or wrong, out of what the app sees."""
        if self.secret is not None:
            scope["headers"] = [header for header in scope.get("headers", ()) if header[0] != SECRET]

    def _examine(self, headers: Names, repeated: tuple[bytes, ...]) -> Offered:
        """What a request's headers offer."""
        value = headers.get(MAPPING)
        if value is None:
            return _nothing("the request has no X-Accel-Mapping header")
        for name in repeated:
            if name in (MAPPING, SECRET, SENDFILE_TYPE):
                return _nothing(f"the request has more than one {name.decode()} header")
        kind = headers.get(SENDFILE_TYPE)
        if kind is not None and kind.lower() != self.sendfile_type:
            return _nothing(f"the X-Sendfile-Type header is {kind[:200]!r}, not {self.sendfile_type.decode()}")
        if self.secret is not None and not hmac.compare_digest(headers.get(SECRET, b""), self.secret):
            return _nothing("the request's X-Accel-Secret header is missing or wrong")
        return self._read(value) if len(value) <= LONGEST else _nothing("the X-Accel-Mapping header is over 8 KiB long")

    def _read_mapping(self, value: bytes) -> Offered:
        try:
            pairs = list(islice(read_pairs(os.fsdecode(value)), MOST_PAIRS + 1))
            if len(pairs) > MOST_PAIRS:
                return _nothing(f"the X-Accel-Mapping header has more than {MOST_PAIRS} pairs")
            named = PathMap(pairs)
        except ValueError as exc:
            return _nothing(f"the X-Accel-Mapping header is bad: {exc!s:.400}")
        mapping = self.mapping & named if self._limited else named
        if mapping:
            prefixes = tuple(f"{prefix}/" for _, prefix in mapping if prefix != "/")
            return Offered(mapping, self.secret is None, prefixes)
        if not {(prefix, directory) for directory, prefix in named}.isdisjoint(self.mapping):
            self.warn(log.SWAPPED, value, str(self.mapping))
        return _nothing(f"the X-Accel-Mapping header, {value[:200]!r}, lists no pair that is also in mapping=")
