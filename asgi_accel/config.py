"""The proxy's configuration, written from the mapping that the app uses, so that the two cannot differ."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence

from asgi_accel.mapping import PathMap, percent_encode

# What nginx drops of a redirect, and browsers look for.
BROUGHT_BACK = (
    "Access-Control-Allow-Origin",
    "Access-Control-Allow-Credentials",
    "Access-Control-Expose-Headers",
    "Vary",
    "Content-Language",
    "Link",
    "Content-Security-Policy",
    "Cross-Origin-Resource-Policy",
    "Referrer-Policy",
    "X-Content-Type-Options",
    "X-Frame-Options",
)
# What it keeps from the app, or says itself of the file: brought back, these come twice or belie the body.
NOT_BROUGHT_BACK = re.compile(
    "accept-ranges|cache-control|connection|content-(disposition|encoding|length|range|type)|date|etag|expires"
    "|keep-alive|last-modified|server|set-cookie|transfer-encoding|x-accel-.*"
)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def nginx(
    mapping: PathMap,
    upstream: str,
    *,
    listen: str = "80",
    server_name: str | None = None,
    secret: str | None = None,
    headers: Sequence[str] = (),
) -> str:
    """One ``server { }`` block for nginx, to include in ``http { }``.

    Args:
        mapping: The map that the app uses.
        upstream: Where the app listens: ``127.0.0.1:8000``, or ``unix:`` and the path of a socket.
        listen: Where nginx listens, as its `listen` directive has it.
        server_name: The site's names, as the `server_name` directive has them.
        secret: What the app's `secret=` is, if it has one.
        headers: Names of headers that the app sets on files and nginx shall not drop, besides the usual ones.

    Raises:
        ValueError: A value that nginx's configuration cannot hold, or that cannot work.
    """
    locations = "".join(_location(path, prefix, headers) for path, prefix in _pairs(mapping))
    name = "" if server_name is None else f"    server_name {_plain('server_name', server_name)};\n"
    shared = "" if secret is None else f"        proxy_set_header X-Accel-Secret {_quoted('the secret', secret)};\n"
    return f"""\
server {{
    listen {_plain("listen", listen)};
{name}
    # The app decides who may have a file.
    location / {{
        proxy_pass {_address(upstream)};
        proxy_http_version 1.1;
        # One proxy_set_header here, and nginx forgets those of the levels above: so all that the app needs stands here.
        proxy_set_header Host $host;
        proxy_set_header Connection "";
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        # What nginx offers to send: the app's directories, and the locations below. It replaces what a client sends.
        proxy_set_header X-Accel-Mapping {_quoted(f"the mapping {str(mapping)!r}", str(mapping))};
        proxy_set_header X-Sendfile-Type "";
{shared}    }}
{locations}}}
"""


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
    pairs = sorted(_pairs(mapping), key=lambda pair: len(pair[1]), reverse=True)
    handlers = "".join(_handler(number, path, prefix) for number, (path, prefix) in enumerate(pairs, 1))
    shared = "" if secret is None else f"\t\theader_up X-Accel-Secret {_literal('the secret', secret)}\n"
    return f"""\
{address} {{
	# The app decides who may have a file. Caddy sets Host and X-Forwarded-* by itself.
	reverse_proxy {_literal("the upstream", _checked(upstream).replace("unix:", "unix/"))} {{
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


def with_slashes(mapping: PathMap) -> list[tuple[str, str]]:
    """Directories and prefixes, each with its slash at the end."""
    return [(f"{path.rstrip('/')}/", f"{prefix.rstrip('/')}/") for path, prefix in mapping]


def _pairs(mapping: PathMap) -> list[tuple[str, str]]:
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


def _location(path: str, prefix: str, headers: Sequence[str]) -> str:
    if len(os.fsencode(prefix)) > 255:  # nginx keeps the length in one byte (ngx_http_location_tree_node_t)
        raise ValueError(f"the prefix {prefix!r} is longer than the 255 bytes that nginx compares: give a shorter one")
    names = {name.lower(): _header(name) for name in (*BROUGHT_BACK, *headers)}
    lines = "".join(
        f"        add_header {name} $upstream_http_{lower.replace('-', '_')};\n" for lower, name in names.items()
    )
    return f"""
    # ^~ keeps redirects here where you add a location with a regular expression, for all images, say.
    location ^~ {_quoted(f"the prefix {prefix!r}", prefix, variables=False)} {{
        # Only for redirects of the app's: a client that asks for it gets a 404.
        internal;
        # The slash at the end of both keeps `..` from leading out of the directory.
        alias {_quoted(f"the directory {path!r}", path)};
        # The kernel sends the file, past nginx's memory.
        sendfile on;
        # nginx drops these of the app's headers. This brings each back, and sends nothing where the app set nothing.
        # Not `always`, with which a 416 has it twice, and browsers refuse that.
{lines}    }}
"""


def _address(upstream: str) -> str:
    address = f"http://{_checked(upstream)}"
    return _quoted(f"the socket {upstream!r}", f"{address}:") if upstream.startswith("unix:") else address


def _checked(upstream: str) -> str:
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


def _plain(what: str, value: str) -> str:
    """A value that stands unquoted, blanks and all."""
    if not value.strip() or re.search(r"[;{}$#\"'\\]", value) or CONTROL.search(value):
        raise ValueError(f"{what} {value!r} holds what nginx's directive does not take")
    return value


def _quoted(what: str, value: str, *, variables: bool = True) -> str:
    """A value in nginx's quotes. Where nginx puts variables in, it has no way to write a dollar sign."""
    if CONTROL.search(value) or (variables and "$" in value):
        bad = "a dollar sign, which nginx takes for a variable" if "$" in value else "a control character"
        raise ValueError(f"{what} holds {bad}: nginx's configuration has no way to write it; rename it")
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if len(os.fsencode(quoted)) > 4096:  # NGX_CONF_BUFFER
        raise ValueError(f"{what} is longer than the 4096 bytes that nginx takes for one value")
    return quoted


def _header(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]+", name):
        raise ValueError(f"the header {name!r} is none that nginx can name: letters, digits and -")
    if NOT_BROUGHT_BACK.fullmatch(name.lower()):
        raise ValueError(f"the header {name!r} is one that nginx keeps, or says itself of the file: leave it out")
    return name


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
