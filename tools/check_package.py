"""Build the wheel and the sdist, and check that they hold what they should and work in an empty environment.

Run by `make package`.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = {
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.py", "*.conf", "py.typed")
    for path in (ROOT / "asgi_accel").rglob(pattern)
}
IN_SDIST = {"LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml"}
USE = """
import asyncio, os
import asgi_accel
from starlette.responses import FileResponse

file = asgi_accel.__file__
mapping = asgi_accel.PathMap({os.path.dirname(file): "/download"})
app = asgi_accel.AccelMiddleware(FileResponse(file), mapping)

async def ask(*headers):
    sent = []
    async def send(message):
        sent.append(message)
    scope = {"type": "http", "method": "GET", "path": "/", "asgi": {"spec_version": "2.4"}, "headers": list(headers)}
    await app(scope, None, send)
    return dict(sent[0]["headers"]), b"".join(message["body"] for message in sent[1:])

headers, body = asyncio.run(ask((b"x-accel-mapping", str(mapping).encode())))
assert headers[b"x-accel-redirect"] == b"/download/__init__.py" and body == b""
headers, body = asyncio.run(ask())
assert b"x-accel-redirect" not in headers and body == open(file, "rb").read()
response = asgi_accel.AccelRedirectResponse("/download/100%.txt", filename="a.txt")
assert response.headers["x-accel-redirect"] == "/download/100%25.txt"
print("installed in an empty environment, and used:", file)
"""


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))


def build(folder: Path) -> None:
    run(sys.executable, "-m", "build", "--quiet", "--outdir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert held == MODULES, held ^ MODULES
        (license_file,) = (name for name in archive.namelist() if name.endswith("licenses/LICENSE"))
        (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        needs = [line for line in archive.read(metadata).decode().splitlines() if line.startswith("Requires-Dist")]
        assert needs == ["Requires-Dist: starlette>=0.47.0"], needs
        assert b"BSD 3-Clause" in archive.read(license_file)
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        assert names >= MODULES | IN_SDIST, (MODULES | IN_SDIST) - names
        for folder_name in ("tests", "docs", "examples/fastapi_app"):
            assert any(name.startswith(f"{folder_name}/") for name in names), folder_name
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    venv.create(folder / "empty", with_pip=True)
    python = folder / "empty" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    run(python, "-I", "-W", "error", "-c", USE)
    run(
        folder / "empty" / "bin" / "asgi-accel",
        "nginx",
        "--mapping",
        "/mnt/storage=/download",
        "--unix",
        "/run/app.sock",
    )


if __name__ == "__main__":
    main()
