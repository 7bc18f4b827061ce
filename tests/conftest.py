"""What the tests share: the files to serve, and one real nginx in front of one real uvicorn."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from asgi import Header
from hypothesis import settings
from needs import need, need_nginx
from servers import Site

from asgi_accel import PathMap

# In CI the same examples each time, so that a change fails by its own fault; elsewhere they go on looking.
settings.register_profile("here", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("here")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder that nginx's workers can read whoever starts the tests, with a path short enough for unix sockets."""
    place = "/tmp" if os.path.isdir("/tmp") else None
    path = Path(tempfile.mkdtemp(prefix="accel-", dir=place))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def tmp_path(folder: Path) -> Path:
    """A folder of the test's own there, too: TMPDIR may have a blank, or be too long for a unix socket."""
    return Path(tempfile.mkdtemp(dir=folder))


@pytest.fixture
def mapping(tmp_path: Path) -> PathMap:
    """The app's mapping, for tests in process: all that is in the test's own folder."""
    return PathMap({tmp_path: "/files"})


@pytest.fixture
def offer(mapping: PathMap) -> Header:
    """The proxy's header that offers all of it."""
    return (b"x-accel-mapping", os.fsencode(str(mapping)))


@pytest.fixture(params=["nginx", "caddy"])
def proxy(request: pytest.FixtureRequest) -> str:
    """Each of the two in turn."""
    need(request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def site(folder: Path) -> Iterator[Site]:
    """A real nginx in front of a real uvicorn that runs `tests/shared/apps.py`."""
    need_nginx()
    with Site(folder) as running:
        yield running
