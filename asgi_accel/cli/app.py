"""The app, imported as uvicorn does, and what its `AccelMiddleware` was given: so app and proxy cannot differ."""

import argparse
import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.routing import BaseRoute, Mount, Router

from asgi_accel.mapping import PathMap
from asgi_accel.middleware import AccelMiddleware


@dataclass(frozen=True)
class Found:
    """What an app's `AccelMiddleware` was given. `mapping` is empty if it has none of its own."""

    mapping: PathMap
    secret: str | None = None
    sendfile_type: str = "x-accel-redirect"  # in small letters


def load(app: str, *, factory: bool = False) -> Any:
    """Import an app by ``module:attribute``, with the working directory on the path, and call it if it makes an app.

    What the import prints goes to the standard error, since the standard output is the proxy's configuration.

    Raises:
        ValueError: The text is malformed, or the import failed: that error is its cause.
    """
    module, _, attributes = app.partition(":")
    if not module or not attributes:
        raise ValueError(f"the app {app!r} must be a module and a name in it, such as main:app")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        with contextlib.redirect_stdout(sys.stderr):
            start: Any = importlib.import_module(module)
            loaded = functools.reduce(getattr, attributes.split("."), start)
            try:
                return loaded()
            except TypeError:
                if factory:
                    raise
                return loaded
    except (Exception, SystemExit) as exc:
        error = " ".join(f"{type(exc).__name__}: {exc}".split())
        raise ValueError(f"the app {app!r} cannot be imported from {os.getcwd()}: {error}") from exc


def find(app: Any) -> Found | None:
    """What the `AccelMiddleware` of an app was given, wherever it is: added, wrapped around the app, or further in.

    Raises:
        ValueError: There are several that were given different things.
    """
    found = {_given(middleware): None for _, part in _parts(app) for middleware in _middlewares(part)}
    if len(found) > 1:
        mappings = " and ".join(sorted({repr(str(one.mapping)) for one in found}))
        raise ValueError(f"the app has several AccelMiddleware that differ ({mappings}): give one with --mapping")
    return next(iter(found), None)


def _given(middleware: AccelMiddleware) -> Found:
    trust = middleware._trust
    return Found(trust.mapping, trust.secret.decode() if trust.secret else None, trust.sendfile_type.decode())


def _middlewares(part: Any) -> Iterator[AccelMiddleware]:
    if isinstance(part, AccelMiddleware):
        yield part
    for added in getattr(part, "user_middleware", ()):
        if isinstance(added.cls, type) and issubclass(added.cls, AccelMiddleware):
            try:
                yield added.cls(part, *added.args, **added.kwargs)
            except TypeError as exc:
                raise ValueError(f"the app's AccelMiddleware has wrong arguments: {exc}") from exc


def _parts(app: Any, path: str = "", within: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """An app, the apps that it wraps, its routes and theirs, each with the path at which it is."""
    if id(app) in within:
        return
    yield path, app
    inner = [(path, getattr(app, name, None)) for name in ("app", "asgi_app", "router", "middleware_stack")]
    if isinstance(app, Router):
        # New versions of FastAPI keep an included router as one route, and have this to look into it.
        unfold = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", list)
        for route in unfold(app.routes):
            inner.append((path + (getattr(route, "path", None) or ""), getattr(route, "original_route", route)))
    for place, part in inner:
        if part is not None:
            yield from _parts(part, place, (*within, id(app)))


def check_prefixes(app: Any, prefixes: Iterable[str], fetched: Sequence[str] = ()) -> None:
    """See that no prefix is also a route of the app.

    For a prefix that is `fetched` from another server, nginx takes the path without the slash, too (`proxy_pass`).

    Raises:
        ValueError: One is: the proxy would answer 404 to clients that ask for that route.
    """
    for path, part in _parts(app):
        if isinstance(part, BaseRoute):
            fixed = path.partition("{")[0] + "/" * isinstance(part, Mount)
            for prefix in (*prefixes, *fetched):
                is_fetched = prefix in fetched and path == prefix.rstrip("/")
                if prefix != "/" and (is_fetched or fixed.startswith(f"{prefix.rstrip('/')}/")):
                    text = f"the prefix {prefix!r} is also the app's route {path!r}, for which clients would get a 404"
                    raise ValueError(f"{text}: give the files another prefix")


def given_app(given: argparse.Namespace, more_prefixes: Sequence[str] = ()) -> Found:
    """What those arguments say; an empty mapping if they were left out.

    `more_prefixes` are those that the proxy fetches from other servers: none may be a route of the app.

    Raises:
        ValueError: The mapping is bad, or the app cannot be imported, or has no mapping that a proxy can use.
    """
    if given.app is None:
        return Found(PathMap.parse(given.mapping or ""))
    return told(load(given.app, factory=given.factory), given.app, None, more_prefixes)


def told(app: Any, name: str, mapping: str | None, more_prefixes: Sequence[str] = ()) -> Found:
    """What the proxy must know of an app. A mapping is for an app that has none.

    Raises:
        ValueError: As above, or both have a mapping.
    """
    found = find(app)
    if mapping is not None:
        if found is not None and found.mapping:
            raise ValueError(f"the app {name!r} has an AccelMiddleware with a mapping: leave --mapping out")
        found = replace(found or Found(PathMap()), mapping=PathMap.parse(mapping))
    if found is None:
        raise ValueError(f"the app {name!r} has no AccelMiddleware: add one, or give --mapping")
    if found.sendfile_type != "x-accel-redirect":
        raise ValueError(f"the app {name!r} is for Apache or lighttpd, by X-Sendfile: see docs/proxies.md")
    if not found.mapping:
        raise ValueError(f"the AccelMiddleware of {name!r} has no mapping=: add it there, or give --mapping")
    check_prefixes(app, [prefix for _, prefix in found.mapping], more_prefixes)
    return found
