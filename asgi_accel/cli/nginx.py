"""`asgi-accel nginx`: nginx's configuration, written from the mapping that the app uses.

`asgi-accel run` puts the same parts together: `shared`, `app_location` and `internal_locations`.
"""

import re
from collections.abc import Sequence

from asgi_accel.cli.storage import NO_STORAGES, Storages
from asgi_accel.cli.values import checked_pairs, checked_upstream, fill, header_name, location_prefix, plain, quoted
from asgi_accel.mapping import PathMap

# What nginx drops of a redirect, and browsers look for.
BROUGHT_BACK = fill("headers.txt").split()
# What it keeps from the app, or sets itself: brought back, these would come twice or not fit the body.
NOT_BROUGHT_BACK = re.compile("|".join(fill("headers-kept.txt").split()))


def nginx(
    mapping: PathMap,
    upstream: str,
    *,
    listen: str = "80",
    server_name: str | None = None,
    secret: str | None = None,
    headers: Sequence[str] = (),
    body_size: str | None = None,
    storages: Storages = NO_STORAGES,
) -> str:
    """A file for nginx's ``conf.d``, which is included in ``http { }``: maps, an upstream and a server block.

    Args:
        mapping: The map that the app uses.
        upstream: Where the app listens: ``127.0.0.1:8000``, or ``unix:`` and the path of a socket.
        listen: Where nginx listens, as its `listen` directive has it.
        server_name: The site's names, as the `server_name` directive has them.
        secret: What the app's `secret=` is, if it has one.
        headers: More names of the app's headers that nginx must not drop.
        body_size: The largest upload, as the `client_max_body_size` directive has it.
        storages: Where else redirects lead.

    Raises:
        ValueError: A value that nginx's configuration cannot hold, or that cannot work.
    """
    if body_size is not None and not re.fullmatch("[0-9]+[kKmMgG]?", body_size):
        raise ValueError(f"the largest upload {body_size!r} must be a number, and k, m or g after it, such as 100m")
    # Two upstreams of one name are an error, and several of these files may be in one folder.
    name = re.sub(r"[^A-Za-z0-9]+", "_", f"accel {server_name or ''} {listen}").strip("_")
    return fill(
        "nginx.conf",
        shared=shared(name, upstream),
        listen=plain("listen", listen),
        names=_directive("server_name", server_name),
        uploads=_directive("client_max_body_size", body_size),
        app=app_location(name, mapping, secret),
        locations=internal_locations(mapping, headers, storages),
    )


def _directive(name: str, value: str | None) -> str:
    return "" if value is None else f"    {name} {plain(name, value)};\n"


def shared(name: str, upstream: str) -> str:
    """What stands in ``http { }``, beside the server: maps, and an upstream of that name."""
    address = checked_upstream(upstream)
    address = quoted("the socket", address) if address.startswith("unix:") else address
    return fill("nginx-shared.conf", name=name, address=address)


def app_location(name: str, mapping: PathMap, secret: str | None, *, proto: str = "$scheme") -> str:
    """The location that asks the app.

    Args:
        name: The upstream's.
        mapping: The map that the app uses.
        secret: What the app's `secret=` is, if it has one.
        proto: The client's scheme, as the app gets it. The client's address is ``$remote_addr``, which nginx's
            realip module can set from what a proxy further out says.
    """
    offer = quoted(f"the mapping {str(mapping)!r}", str(mapping))
    secret = quoted("the secret", secret or "")
    return fill("nginx-app.conf", name=name, proto=proto, mapping=offer, secret=secret)


def internal_locations(mapping: PathMap, headers: Sequence[str] = (), storages: Storages = NO_STORAGES) -> str:
    """The internal locations, to which redirects lead: for each directory, and for each storage."""
    names = {name.lower(): header_name(name) for name in (*BROUGHT_BACK, *headers)}
    for lower, name in names.items():
        if NOT_BROUGHT_BACK.fullmatch(lower):
            raise ValueError(f"the header {name!r} is one that nginx keeps or sets itself: leave it out")
    back = {name: f"$upstream_http_{lower.replace('-', '_')}" for lower, name in names.items()}
    back[names["vary"]] = "$accel_vary"
    files = "".join(
        fill(
            "nginx-files.conf",
            prefix=location_prefix(prefix),
            directory=quoted(f"the directory {path!r}", path),
            warning=fill("nginx-disk.conf") if path == "/" else "",
            back="".join(f"        add_header {name} {value};\n" for name, value in back.items()),
        )
        for path, prefix in checked_pairs(mapping)
        if prefix not in storages.prefixes
    )
    return files + storages.locations(back)
