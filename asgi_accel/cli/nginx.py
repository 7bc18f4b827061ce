"""`asgi-accel nginx`: nginx's configuration, written from the mapping that the app uses."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from asgi_accel.cli.values import CONTROL, checked_pairs, checked_upstream
from asgi_accel.mapping import PathMap

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
    locations = "".join(_location(path, prefix, headers) for path, prefix in checked_pairs(mapping))
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
    address = f"http://{checked_upstream(upstream)}"
    return _quoted(f"the socket {upstream!r}", f"{address}:") if upstream.startswith("unix:") else address


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
