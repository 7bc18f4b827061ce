"""Flask's `send_file`, as it is without further settings."""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask, Response, send_file

app = Flask(__name__)


@app.get("/send-file/<name>")
def file(name: str) -> Response:
    return send_file(Path(os.environ["FILES"]) / name)
