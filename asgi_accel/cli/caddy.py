"""`asgi-accel caddy`: a site for a Caddyfile, written from the mapping that the app uses."""

from __future__ import annotations

import os
import posixpath
import re

from asgi_accel.cli.values import CONTROL, checked_pairs, checked_upstream
from asgi_accel.mapping import PathMap, percent_encode


def caddy(mapping: PathMap, upstream: str, *, address: str = ":80", secret: str | None = None) -> str:
    """One site for a Caddyfile.

    Args:
        mapping: The map that the app uses.
        upstream: Where the app listens: ``127.0.0.1:8000``, or ``unix:`` and the path of a socket.
        address: The site's: ``example.com``, for which Caddy sees to https, ``:80`` or ``http://localhost:8080``.
        secret: What the app's `secret=` is, if it has one.

    Raises:
        ValueError: A value that a Caddyfile cannot hold, or that cannot work.
    """
    if not re.fullmatch(r"(https?://)?(\*\.)?[A-Za-z0-9.\[\]:_-]+", address):
        raise ValueError(f"the address {address!r} must be a host, a port after a colon, or both, such as example.com")
    # Of several handlers Caddy takes the first, where nginx takes the location with the longest prefix.
    pairs = sorted(checked_pairs(mapping), key=lambda pair: len(pair[1]), reverse=True)
    handlers = "".join(_handler(number, path, prefix) for number, (path, prefix) in enumerate(pairs, 1))
    shared = "" if secret is None else f"\t\theader_up X-Accel-Secret {_literal('the secret', secret)}\n"
    return f"""\
{address} {{
	# The app decides who may have a file. Caddy sets Host and X-Forwarded-* by itself.
	reverse_proxy {_literal("the upstream", checked_upstream(upstream).replace("unix:", "unix/"))} {{
		# What Caddy offers to send: the app's directories, and the URIs below. It replaces what a client sends.
		header_up X-Accel-Mapping {_literal(f"the mapping {str(mapping)!r}", str(mapping))}
		header_up -X-Sendfile-Type
{shared}		# These are for the proxy, in what is no redirect, too.
		header_down -X-Accel-*
{handlers}
		# A redirect to anywhere else.
		@accel header X-Accel-Redirect *
		handle_response @accel {{
			respond 404
		}}
	}}
}}
"""


def _handler(number: int, path: str, prefix: str) -> str:
    plain = posixpath.normpath(prefix)
    if f"{plain}/" != prefix:
        raise ValueError(f"the prefix {prefix!r} holds '//' or '/./', which Caddy takes out of URIs: leave them out")
    uri = percent_encode(os.fsencode(plain))
    return f"""
		@accel{number} header X-Accel-Redirect {_literal("the prefix", f"{uri}/*")}
		handle_response @accel{number} {{
			# `route` keeps what is in it in this order.
			route {{
				# The app's headers, all but those that are for Caddy and those that it says itself.
				copy_response_headers {{
					exclude X-Accel-Redirect X-Accel-Buffering X-Accel-Charset X-Accel-Expires X-Accel-Limit-Rate
					exclude Connection Content-Length Date ETag Keep-Alive Last-Modified Server
				}}
				# The redirect's URI takes the place of the client's. `replace` decodes it once; `rewrite` with the
				# header would not in Caddy 2.6.
				rewrite * /
				uri replace / {{http.reverse_proxy.header.X-Accel-Redirect}}
				uri strip_prefix {_literal("the prefix", uri)}
				# The file is had by GET, whatever brought the client here.
				@other{number} not method GET HEAD
				method @other{number} GET
				file_server {{
					root {_literal(f"the directory {path!r}", path)}
					# Else a URL like /name.txt/, of a file of that name, is redirected and not answered.
					disable_canonical_uris
				}}
			}}
		}}
"""


def _literal(what: str, value: str) -> str:
    """A value in a Caddyfile's backticks, where all stands for itself but they and what is in braces."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds bytes that are no UTF-8: a Caddyfile cannot hold them; rename it") from None
    if CONTROL.search(value) or re.search("[`{}]", value):
        raise ValueError(
            f"{what} holds a control character, a backtick or a brace: Caddy reads a meaning in it; rename it"
        )
    return f"`{value}`"
