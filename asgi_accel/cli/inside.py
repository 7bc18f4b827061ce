"""The app, as the server that `asgi-accel run` starts is told to import it: `app`, or `create` for a factory.

It is the app itself, or the app in an `AccelMiddleware`. It tells `run` the app's mapping: so the app is imported once,
where it runs.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from asgi_accel.cli.app import find, load, told
from asgi_accel.mapping import PathMap
from asgi_accel.middleware import AccelMiddleware

given = json.loads(os.environ["ASGI_ACCEL_RUN"])
answer = Path(given["answer"])


def _tell(about: dict[str, Any]) -> None:
    """Answer `run`; and if it has an answer since an app was started before this one, see that it still holds."""
    text = json.dumps(about)
    if not answer.exists():
        new = answer.with_suffix(f".{os.getpid()}")
        new.write_text(text)
        new.replace(answer)
    elif answer.read_text() != text:
        sys.stderr.write(
            "error the app's mapping has changed, and the proxy has the old one: start asgi-accel run again\n"
        )


def _create() -> Any:
    if given["verbose"]:
        logger = logging.getLogger("asgi_accel")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(logging.StreamHandler())
    try:
        loaded = load(given["app"], factory=given["factory"])
    except ValueError as exc:
        _tell({"error": str(exc), "wait": 2})  # seconds for the server to show the error, and to end
        raise exc.__cause__ or exc from None
    try:
        found = told(loaded, given["app"], given["mapping"])
        _tell({"mapping": str(found.mapping), "secret": found.secret})
    except ValueError as exc:
        _tell({"error": str(exc), "wait": 0})
    wrapped = given["mapping"] is not None and find(loaded) is None
    return AccelMiddleware(loaded, PathMap.parse(given["mapping"])) if wrapped else loaded


app = _create()


def create() -> Any:
    return app


if __name__ == "__main__":
    os._exit(0)  # whatever threads the app has started
