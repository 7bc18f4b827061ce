"""`asgi-accel nginx`: nginx's configuration, written from the mapping that the app uses.

`asgi-accel run` puts the same parts together: `shared`, `app_location` and `file_locations`.
"""

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
    "Timing-Allow-Origin",
    "Vary",
    "Content-Language",
    "Link",
    "Content-Security-Policy",
    "Content-Security-Policy-Report-Only",
    "Cross-Origin-Embedder-Policy",
    "Cross-Origin-Opener-Policy",
    "Cross-Origin-Resource-Policy",
    "Origin-Agent-Cluster",
    "Permissions-Policy",
    "Referrer-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-Robots-Tag",
    "Repr-Digest",
    "Service-Worker-Allowed",
    "SourceMap",
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
    body_size: str | None = None,
) -> str:
    """A file for nginx's ``conf.d``, which is included in ``http { }``: maps, an upstream and a server block.

    Args:
        mapping: The map that the app uses.
        upstream: Where the app listens: ``127.0.0.1:8000``, or ``unix:`` and the path of a socket.
        listen: Where nginx listens, as its `listen` directive has it.
        server_name: The site's names, as the `server_name` directive has them.
        secret: What the app's `secret=` is, if it has one.
        headers: Names of headers that the app sets on files and nginx shall not drop, besides the usual ones.
        body_size: The largest upload, as the `client_max_body_size` directive has it.

    Raises:
        ValueError: A value that nginx's configuration cannot hold, or that cannot work.
    """
    # Two upstreams of one name are an error, and several of these files may be in one folder.
    name = re.sub(r"[^A-Za-z0-9]+", "_", f"accel {server_name or ''} {listen}").strip("_")
    if server_name is None:
        site = (
            "    # Without server_name, nginx asks this server only where no other is default_server for that port.\n"
        )
    else:
        site = f"    server_name {_plain('server_name', server_name)};\n"
    if body_size is None:
        site += "    # nginx refuses uploads of more than 1 MB (413). Say what you allow: client_max_body_size 100m;\n"
    else:
        site += f"    client_max_body_size {_plain('client_max_body_size', body_size)};\n"
    return f"""\
# Put this file into /etc/nginx/conf.d/, as my-site.conf, say. Then: nginx -t, and reload nginx.
# Debian has a site of its own that answers for all names on port 80, /etc/nginx/sites-enabled/default: give your
# site's names (server_name), or remove that file.

{shared(name, upstream)}
server {{
    listen {_plain("listen", listen)};
{site}
{app_location(name, mapping, secret)}{file_locations(mapping, headers)}}}
"""


def shared(name: str, upstream: str) -> str:
    """What stands in ``http { }``, beside the server: maps, and an upstream of that name."""
    return f"""\
# Only a websocket may upgrade: anything else is a tunnel to the app on which a client says what it likes.
map $http_upgrade $accel_upgrade {{
    default "";
    "~*^websocket$" websocket;
}}
map $accel_upgrade $accel_connection {{
    default "";
    websocket upgrade;
}}
# The host, as nginx has checked it, with the port that the client has asked for.
map $http_host $accel_host {{
    default $host;
    "~(?<accel_port>:[0-9]+)$" $host$accel_port;
}}
# The app's Vary without X-Accel-Mapping, which is between app and proxy.
map $upstream_http_vary $accel_vary {{
    default $upstream_http_vary;
    "~*^X-Accel-Mapping$" "";
    "~*^X-Accel-Mapping *, *(?<accel_after>.*)$" $accel_after;
    "~*^(?<accel_before>.*?) *, *X-Accel-Mapping(?<accel_rest> *,.*)?$" $accel_before$accel_rest;
}}

upstream {name} {{
    server {_address(upstream)};
    keepalive 16;
    # Less than the 5 seconds after which uvicorn closes an idle connection: else a request can meet the closing.
    keepalive_timeout 4s;
}}
"""


def app_location(name: str, mapping: PathMap, secret: str | None, *, proto: str = "$scheme") -> str:
    """The location that asks the app.

    Args:
        name: The upstream's.
        mapping: The map that the app uses.
        secret: What the app's `secret=` is, if it has one.
        proto: What the app is told of the client's scheme. The client's address is ``$remote_addr``, which nginx's
            realip module can set from what a proxy further out says.
    """
    return f"""\
    # The app decides who may have a file.
    location / {{
        proxy_pass http://{name};
        proxy_http_version 1.1;
        # One proxy_set_header here, and nginx forgets those of the levels above: so all that the app needs stands here.
        proxy_set_header Host $accel_host;
        proxy_set_header Upgrade $accel_upgrade;
        proxy_set_header Connection $accel_connection;
        # Who asks, as nginx knows it. What a client says of that itself does not reach the app. If another proxy stands
        # in front of nginx, name it with set_real_ip_from, real_ip_header X-Forwarded-For and real_ip_recursive on.
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto {proto};
        proxy_set_header X-Forwarded-Host "";
        proxy_set_header X-Forwarded-Prefix "";
        proxy_set_header X-Real-IP "";
        proxy_set_header Forwarded "";
        # What nginx offers to send: the app's directories, and the locations below. It replaces what a client sends.
        proxy_set_header X-Accel-Mapping {_quoted(f"the mapping {str(mapping)!r}", str(mapping))};
        proxy_set_header X-Accel-Secret {_quoted("the secret", secret or "")};
        proxy_set_header X-Sendfile-Type "";
    }}
"""


def file_locations(mapping: PathMap, headers: Sequence[str] = ()) -> str:
    """The internal locations, to which redirects lead."""
    return "".join(_location(path, prefix, headers) for path, prefix in checked_pairs(mapping))


def _location(path: str, prefix: str, headers: Sequence[str]) -> str:
    if len(os.fsencode(prefix)) > 255:  # nginx keeps the length in one byte (ngx_http_location_tree_node_t)
        raise ValueError(f"the prefix {prefix!r} is longer than the 255 bytes that nginx compares: give a shorter one")
    names = {name.lower(): _header(name) for name in (*BROUGHT_BACK, *headers)}
    values = {lower: f"$upstream_http_{lower.replace('-', '_')}" for lower in names} | {"vary": "$accel_vary"}
    lines = "".join(f"        add_header {name} {values[lower]};\n" for lower, name in names.items())
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
    checked = checked_upstream(upstream)
    return _quoted(f"the socket {upstream!r}", checked) if upstream.startswith("unix:") else checked


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
