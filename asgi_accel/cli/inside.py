"""What `asgi-accel run` has run in other processes than its own: what reads the app's mapping, and the app wrapped."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from asgi_accel.cli.app import Found, check_prefixes, find, given_app, load
from asgi_accel.mapping import PathMap
from asgi_accel.middleware import AccelMiddleware

NAME = "ASGI_ACCEL_RUN"  # the environment variable that has the arguments below, as JSON


def ask(app: str, factory: bool, mapping: str | None, answer: str, **_: Any) -> None:
    """Write into a file what the proxy must know of the app, or why there is no such thing."""
    try:
        found = asked(app, factory, mapping)
        told = {"mapping": str(found.mapping), "secret": found.secret}
    except ValueError as exc:
        cause = exc.__cause__
        told = {"error": str(exc), "traceback": "".join(traceback.format_exception(cause)) if cause else ""}
    Path(f"{answer}.new").write_text(json.dumps(told))
    os.replace(f"{answer}.new", answer)
    os._exit(0)  # whatever threads the app has started


def asked(app: str, factory: bool, mapping: str | None) -> Found:
    """What the proxy must know of the app.

    Raises:
        ValueError: There is no such thing, or a prefix is also a route of the app.
    """
    if mapping is None:
        given = given_app(argparse.Namespace(app=app, factory=factory, mapping=None))
        assert given is not None  # noqa: S101
        return given
    offered = PathMap.parse(mapping)
    loaded = load(app, factory=factory)
    if find(loaded) is not None:
        raise ValueError(f"the app {app!r} has an AccelMiddleware with a mapping of its own: leave --mapping out")
    check_prefixes(loaded, [prefix for _, prefix in offered])
    return Found(offered)


def create() -> Any:
    """The app as `run` was told: in an AccelMiddleware, or asked whether its mapping is still that of the start."""
    given = json.loads(os.environ[NAME])
    if given["verbose"]:
        logger = logging.getLogger("asgi_accel")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(logging.StreamHandler())
    loaded = load(given["app"], factory=given["factory"])
    if given["mapping"] is not None:
        return AccelMiddleware(loaded, PathMap.parse(given["mapping"]))
    answer = Path(given["answer"])
    if answer.exists():  # so this is no start, but a reload
        found, offered = find(loaded), json.loads(answer.read_text())["mapping"]
        if found is None or str(found.mapping) != offered:
            now = "no mapping" if found is None else f"the mapping {str(found.mapping)!r}"
            sys.stderr.write(f"error the app now has {now}, the proxy {offered!r} still: start asgi-accel run again\n")
    return loaded


def __getattr__(name: str) -> Any:
    """`app`, made when a server asks for it."""
    if name != "app":
        raise AttributeError(name)
    return create()


if __name__ == "__main__":
    ask(**json.loads(os.environ[NAME]))
