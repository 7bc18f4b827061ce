"""sphinx-autobuild, which has no place for a middleware: the app that its command would serve, taken from it."""

import os
from typing import Any

import uvicorn
from chosen import AtTheEdge
from sphinx_autobuild.__main__ import main

served: list[Any] = []
setattr(uvicorn, "run", lambda app, **options: served.append(app))  # noqa: B010
main(["--port", "1", "-q", f"{os.environ['FILES']}/docs", f"{os.environ['FILES']}/built"])
(app,) = served
site = AtTheEdge(app)
