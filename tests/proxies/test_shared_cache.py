"""A shared cache in front of the app, with no nginx between: Varnish, with the rules that it comes with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from behind_nginx import TEXT
from needs import _need
from servers import UVICORN, Process, asgi_server, client, free_port


@pytest.fixture(scope="module")
def files(folder: Path) -> Path:
    path = folder / "cached"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def cache(folder: Path, files: Path) -> Iterator[httpx.Client]:
    binary = shutil.which("varnishd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    _need(binary, "there is no Varnish: apt-get install varnish (Debian; vinyl-cache from forky on)")
    assert binary is not None
    port, home = free_port(), folder / "varnish"
    with asgi_server(folder, *UVICORN, name="cached-app", FILES=str(files)):
        command = [binary, "-F", "-n", str(home), "-a", f"127.0.0.1:{port}", "-b", str(folder / "cached-app.sock")]
        with Process(command, port, folder / "varnish.log"), client(port) as running:
            yield running


@pytest.mark.parametrize("address", ["/mapping/static/cached.txt", "/mapping/redirect-to?path=/download/cached.txt"])
def test_guessed_pair(cache: httpx.Client, files: Path, address: str) -> None:
    """One request with a guessed pair changes nothing for the next client."""
    (files / "cached.txt").write_bytes(TEXT)
    guessed = cache.get(address, headers={"X-Accel-Mapping": f"{files}/=/download/"})
    assert guessed.headers["x-accel-redirect"] == "/download/cached.txt"
    for _ in range(2):
        answer = cache.get(address)
        assert (answer.status_code, answer.content) == (200, TEXT)
    # The last one came from the cache, so there was something to spoil. Newer Varnish is called Vinyl Cache.
    assert len((answer.headers.get("x-varnish") or answer.headers["x-vinyl"]).split()) == 2
