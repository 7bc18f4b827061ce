"""The proxy's configuration, written from the mapping that the app uses, so that the two cannot differ."""

from __future__ import annotations

import re
from collections.abc import Sequence

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


def _pairs(mapping: PathMap) -> list[tuple[str, str]]:
    """Directories and prefixes, each with its slash at the end."""
    pairs = [(f"{path.rstrip('/')}/", f"{prefix.rstrip('/')}/") for path, prefix in mapping]
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
    names = {name.lower(): _header(name) for name in (*BROUGHT_BACK, *headers)}
    lines = "".join(
        f"        add_header {name} $upstream_http_{lower.replace('-', '_')};\n" for lower, name in names.items()
    )
    return f"""
    location {_quoted(f"the prefix {prefix!r}", prefix, variables=False)} {{
        # Only for redirects of the app's: a client that asks for it gets a 404.
        internal;
        # The slash at the end of both keeps `..` from leading out of the directory.
        alias {_quoted(f"the directory {path!r}", path)};
        # nginx drops these of the app's headers. This brings each back, and sends nothing where the app set nothing.
{lines}    }}
"""


def _address(upstream: str) -> str:
    if upstream.startswith("unix:"):
        path = upstream.removeprefix("unix:")
        if not path.startswith("/") or ":" in path:
            raise ValueError(f"the socket {path!r} must be an absolute path without a colon, such as /run/app.sock")
        return _quoted(f"the socket {path!r}", f"http://{upstream}:")
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", upstream):
        raise ValueError(f"the upstream {upstream!r} must be a host and a port, such as 127.0.0.1:8000")
    return f"http://{upstream}"


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
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _header(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]+", name):
        raise ValueError(f"the header {name!r} is none that nginx can name: letters, digits and -")
    return name
