"""`Offer`: whether the proxy in front of the app offers to send files, and which. All request headers are read here."""

from __future__ import annotations

import hmac
import logging
import os
from functools import lru_cache

from starlette.types import Scope

from asgi_accel.mapping import PathMap

logger = logging.getLogger("asgi_accel")
_is_logged = logger.isEnabledFor

MAPPING = b"x-accel-mapping"
SECRET = b"x-accel-secret"
SENDFILE_TYPE = b"x-sendfile-type"
RANGES = frozenset((b"range", b"if-range"))
# What a file sender heeds on GET and HEAD alone (RFC 9110, sections 13.2.1 and 14.2).
FOR_GET = frozenset((b"range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"))
WATCHED = FOR_GET | {MAPPING, SECRET, SENDFILE_TYPE}
PROXIED = frozenset((b"x-forwarded-for", b"forwarded", b"via"))  # what a request has that came through a proxy
LONGEST = 8192  # bytes of a mapping header, as many as nginx takes in one line (large_client_header_buffers)


class Offer:
    """The terms on which a request's `X-Accel-Mapping` is believed; `Offer.of` applies them to a request.

    A client can send these headers as well as a proxy can, and has (CVE-2025-61780, CVE-2026-34830, CVE-2026-7381). So
    a header counts only for pairs that the app has too, or with the secret, or where the app says that it trusts all.
    """

    def __init__(
        self, mapping: PathMap | None, always: bool, trust_header: bool, secret: str | None, sendfile_type: str
    ) -> None:
        if sendfile_type.lower() not in ("x-accel-redirect", "x-sendfile"):
            raise ValueError(f"sendfile_type={sendfile_type!r}: give X-Accel-Redirect (nginx) or X-Sendfile (Apache)")
        if mapping is None and not trust_header and secret is None:
            raise ValueError(
                "AccelMiddleware has no mapping: give mapping={'/mnt/storage': '/download'}, or say whose "
                "X-Accel-Mapping header counts, with secret= (the proxy's only) or trust_header=True (anyone's)"
            )
        if always and (mapping is None or trust_header or secret is not None):
            raise ValueError("always=True looks at no header: give it with mapping=, without secret= and trust_header=")
        if trust_header and (mapping is not None or secret is not None):
            raise ValueError(
                "trust_header=True believes any mapping from anyone, and mapping= or secret= do not: give one of them"
            )
        if secret is not None and (not secret or secret != secret.strip() or not secret.isprintable()):
            # The value is left out of the message: a secret has no place in a log.
            raise ValueError(
                "secret= is empty, or has a control character or blanks around it, so that no header can carry it; "
                "give it as in the proxy's X-Accel-Secret"
            )
        self.mapping = mapping or PathMap()
        self._limited = mapping is not None
        self.always = always
        self.sendfile_type = sendfile_type.lower().encode()
        self.secret = None if secret is None else secret.encode()
        # What a header means is worked out once for each value. A client that sends many values pushes others out of
        # the cache, but cannot make it grow.
        self._read = lru_cache(maxsize=16)(self._read_mapping)
        self._watched = WATCHED | PROXIED  # without PROXIED once the warning has been given

    def of(self, scope: Scope) -> tuple[PathMap, dict[bytes, bytes]] | None:
        """What the proxy offers to send, with the request's headers that matter, or None where it offers nothing.

        Takes the secret out of what the app sees.
        """
        # Each request comes by here, so nothing more is done than must be (benchmarks/overhead.py).
        watched = self._watched
        headers: dict[bytes, bytes] = {}
        repeated: tuple[bytes, ...] = ()
        for name, value in scope["headers"]:
            if name in watched:
                if name in headers:
                    repeated += (name,)
                headers[name] = value
        if not (headers or self.always or _is_logged(logging.DEBUG)):
            return None
        if self.always:
            return self.mapping, headers
        offered = self._examine(headers, repeated)
        if SECRET in headers:
            self.hide_secret(scope)
        if not isinstance(offered, str):
            return offered, headers
        logger.debug("nothing is offered to send %.200r: %s", scope["path"], offered)
        proxied = PROXIED & headers.keys()  # none any more once the warning has been given
        if proxied:
            self._watched = WATCHED
            self._warn_of_proxy(min(proxied), offered)
        return None

    def hide_secret(self, scope: Scope) -> None:
        """Take the secret, right or wrong, out of what the app sees."""
        if self.secret is not None:
            scope["headers"] = [header for header in scope["headers"] if header[0] != SECRET]

    def _examine(self, headers: dict[bytes, bytes], repeated: tuple[bytes, ...]) -> PathMap | str:
        """The map that a request's headers offer, or the reason why they offer nothing."""
        if MAPPING not in headers:
            return "it has no X-Accel-Mapping header"
        for name in repeated:
            if name in (MAPPING, SECRET, SENDFILE_TYPE):
                return f"its {name.decode()} header was sent more than once"
        if SENDFILE_TYPE in headers and headers[SENDFILE_TYPE].lower() != self.sendfile_type:
            return f"its X-Sendfile-Type header is {headers[SENDFILE_TYPE][:200]!r}, not {self.sendfile_type.decode()}"
        if self.secret is not None and not hmac.compare_digest(headers.get(SECRET, b""), self.secret):
            return "its X-Accel-Secret header is missing or wrong"
        value = headers[MAPPING]
        if len(value) > LONGEST:
            return f"its X-Accel-Mapping header is longer than {LONGEST} bytes"
        return self._read(value)

    def _read_mapping(self, value: bytes) -> PathMap | str:
        try:
            offered = PathMap.parse(os.fsdecode(value))
        except ValueError as exc:
            return f"its X-Accel-Mapping header is bad: {exc!s:.400}"
        if self._limited:
            offered &= self.mapping
        return offered or f"its X-Accel-Mapping header, {value[:200]!r}, has no pair that counts here"

    def _warn_of_proxy(self, name: bytes, reason: str) -> None:
        logger.warning(
            "a request came through a proxy (it has %s), but the app serves its files itself: %s. "
            "If that proxy is to send them, its location needs: proxy_set_header X-Accel-Mapping %.1000r;%s",
            name.decode(),
            reason,
            str(self.mapping) or "/the/directory/=/prefix/",
            "" if self.secret is None else " proxy_set_header X-Accel-Secret '...';",
        )
