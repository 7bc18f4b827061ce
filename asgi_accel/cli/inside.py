"""The app that the server of `asgi-accel run` imports.

It is the app itself, or the app in an `AccelMiddleware`. It tells `run` the app's mapping: so the app is imported once,
where it runs.
"""

import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from asgi_accel.cli.app import load, told
from asgi_accel.mapping import PathMap
from asgi_accel.middleware import AccelMiddleware

CHANGED = "the app's mapping has changed, and the proxy has the old one: start asgi-accel run again"


def _tell(answer: Path, about: dict[str, Any]) -> None:
    """Answer `run`; and if it has an answer since an app was started before this one, see that it still holds."""
    text = json.dumps(about)
    if not answer.exists():
        new = answer.with_suffix(f".{os.getpid()}")
        new.write_text(text)
        new.replace(answer)
    elif answer.read_text() != text:
        sys.stderr.write(f"{about.get('traceback', '')}error {about.get('error', CHANGED)}\n")


def _create(given: dict[str, Any]) -> Any:
    if given["verbose"]:
        logger = logging.getLogger("asgi_accel")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(logging.StreamHandler())
    try:
        loaded = load(given["app"], factory=given["factory"])
        found = told(loaded, given["app"], given["mapping"])
    except ValueError as exc:
        # `run` prints it, once, however many workers have tried.
        shown = "".join(traceback.format_exception(exc.__cause__)) if exc.__cause__ else ""
        _tell(Path(given["answer"]), {"error": str(exc), "traceback": shown})
        os._exit(1)  # some servers would go on
    _tell(Path(given["answer"]), {"mapping": str(found.mapping), "secret": found.secret})
    return AccelMiddleware(loaded, PathMap.parse(given["mapping"])) if given["mapping"] else loaded


app: Any = _create(json.loads(os.environ["ASGI_ACCEL_RUN"]))
