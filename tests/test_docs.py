"""The documents say what is so: their code runs, their links lead somewhere, their tables are those of the code."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import need_nginx
from servers import UVICORN, Nginx, asgi_server, client, free_port
from test_nginx import sent_by_nginx

from asgi_accel.__main__ import build_parser, main

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "examples/*/*.md")
    for path in ROOT.glob(pattern)
]
LANGUAGES = {"nginx", "python", "sh", "text", "apache", "lighttpd"}  # the last two: test_sendfile.py


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of one language in a document."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
    assert {kind for kind, _ in found} <= LANGUAGES, "a block of a kind that nobody tests"
    return [text for kind, text in found if kind == language]


@pytest.fixture(scope="module")
def storage(folder: Path) -> Path:
    """What the README calls /mnt/storage."""
    path = folder / "docs" / "storage"
    for name in ("reports/7.pdf", "invoices/7.pdf", "videos/7.mp4", "manual.pdf", "a.pdf"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(f"content of {name}".encode())
    return path


@pytest.fixture(scope="module")
def readme_app(folder: Path, storage: Path) -> Iterator[httpx.Client]:
    """All Python blocks of the README, one after another, as one app under uvicorn."""
    code = "\n\n".join(blocks("README.md", "python")).replace("/mnt/storage", str(storage))
    (folder / "docs" / "readme_app.py").write_text(code)
    path = os.pathsep.join([str(folder / "docs"), str(ROOT)])
    with (
        asgi_server(folder, *UVICORN, app="readme_app:app", name="readme", PYTHONPATH=path),
        client(folder / "readme.sock") as direct,
    ):
        yield direct


@pytest.fixture(scope="module")
def readme_site(folder: Path, storage: Path, readme_app: httpx.Client) -> Iterator[httpx.Client]:
    """That app behind nginx with the README's first block as its configuration."""
    need_nginx()
    location = blocks("README.md", "nginx")[0]
    location = location.replace("/mnt/storage", str(storage))
    location = location.replace("http://127.0.0.1:8000", f"http://unix:{folder}/readme.sock:")
    listens_on = folder / "docs.sock"
    with (
        Nginx(folder, f"server {{ listen unix:{listens_on};\n{location}\n}}", listens_on),
        client(listens_on) as proxied,
    ):
        yield proxied


class TestReadme:
    """The README's app and its nginx configuration."""

    @pytest.mark.parametrize(
        ("url", "name"),
        [
            ("/reports/7", "reports/7.pdf"),
            ("/invoices/7", "invoices/7.pdf"),
            ("/videos/7", "videos/7.mp4"),
            ("/manual", "manual.pdf"),
            ("/old/a.pdf", "a.pdf"),
            ("/older/a.pdf", "a.pdf"),
        ],
    )
    def test_files(self, readme_site: httpx.Client, readme_app: httpx.Client, url: str, name: str) -> None:
        """Each route gives the file, from nginx and without it."""
        for site in (readme_site, readme_app):
            response = site.get(url, headers={"Cookie": "who=me"})
            assert response.status_code == 200
            assert response.text == f"content of {name}"
            assert not [header for header in response.headers if header.startswith("x-accel")]
            assert sent_by_nginx(response) == (site is readme_site)

    def test_refusal(self, readme_site: httpx.Client) -> None:
        """The app decides."""
        assert readme_site.get("/reports/7").status_code == 403
        assert readme_site.get("/download/reports/7.pdf").status_code == 404

    def test_object_storage(self, readme_app: httpx.Client) -> None:
        """The redirect to object storage carries the signature."""
        target = readme_app.get("/archive/a b.zip").headers["x-accel-redirect"]
        assert re.fullmatch(r"/bucket/a%20b\.zip\?expires=\d+&signature=[0-9a-f]{64}", target)

    def test_two_sentences_and_code_first(self) -> None:
        """Code comes before the first scroll."""
        text = (ROOT / "README.md").read_text().splitlines()
        assert text.index("```nginx") < 10
        assert text.index("```python") < 30
        assert text.index("make demo    # the example behind nginx, on http://127.0.0.1:8080") < 55


@pytest.mark.parametrize("document", DOCUMENTS)
class TestDocuments:
    """All documents."""

    def test_nginx_blocks(self, folder: Path, document: str) -> None:
        """nginx takes each block as it stands."""
        found = blocks(document, "nginx")
        if found:
            need_nginx()
        for number, block in enumerate(found):
            listens_on = folder / f"{Path(document).stem}{number}.sock"
            http = f"""
                proxy_cache_path {folder}/objects-{listens_on.stem} keys_zone=objects:1m;
                upstream storage {{ server 127.0.0.1:9; }}
                server {{ listen unix:{listens_on};\n{"" if "server {" in block else block}\n}}
                {block.replace("listen 80", "listen 127.0.0.1:" + str(free_port())) if "server {" in block else ""}"""
            with Nginx(folder, http, listens_on):
                continue

    def test_python_blocks(self, document: str) -> None:
        """Each Python block runs after those before it."""
        names: dict[str, object] = {}
        for block in blocks(document, "python"):
            exec(compile(block, document, "exec"), names)

    def test_commands(self, document: str) -> None:
        """Each command is one that there is."""
        for line in "".join(blocks(document, "sh")).splitlines():
            command = shlex.split(line, comments=True)
            if command[:1] == ["make"]:
                subprocess.run([*command, "--dry-run"], cwd=ROOT, check=True, capture_output=True)
            elif command[:1] == ["asgi-accel"]:
                build_parser().parse_args(command[1:])
            elif command[:2] == ["docker", "compose"]:  # not run here: test_example.py reads the file
                assert ((ROOT / document).parent / "compose.yaml").exists()
            else:
                assert command == ["pip", "install", "asgi-accel"]

    def test_links(self, document: str) -> None:
        """Links within the project lead to a file, and to a heading of it."""
        for target in re.findall(r"\]\(([^)]+)\)", (ROOT / document).read_text()):
            if target.startswith("https://"):
                continue
            name, _, heading = target.partition("#")
            text = ((ROOT / document).parent / name if name else ROOT / document).read_bytes().decode(errors="replace")
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            assert not heading or heading in [
                re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in headings
            ]

    def test_targets_named_in_tables(self, document: str) -> None:
        """Every `make` target that a document names exists."""
        for target in set(re.findall(r"`make ([\w-]+)`", (ROOT / document).read_text())):
            subprocess.run(["make", target, "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_printed_configuration(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """docs/nginx.md shows what the command beside it prints."""
    (command,) = blocks("docs/nginx.md", "sh")
    assert main(shlex.split(command)[1:]) == 0
    assert capsysbinary.readouterr().out.decode() == blocks("docs/nginx.md", "nginx")[0]


def test_lowest_versions_are_told_alike() -> None:
    """The README, the Makefile and pyproject.toml name the same lowest versions."""
    needs = re.search(r'dependencies = \["starlette>=([\d.]+)"\]', (ROOT / "pyproject.toml").read_text())
    assert needs is not None
    makefile = (ROOT / "Makefile").read_text()
    assert f"starlette=={needs[1]} " in makefile
    fastapi = re.search(r"fastapi==([\d.]+)", makefile)
    assert fastapi is not None
    readme = (ROOT / "README.md").read_text()
    assert f"Starlette {needs[1].removesuffix('.0')} or newer (FastAPI {fastapi[1]} or newer)" in readme


def test_security_names_the_vulnerabilities() -> None:
    """SECURITY.md lists each, and each has a test that names it."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__))
    for name in ("CVE-2025-61780", "CVE-2026-34830", "CVE-2026-7381", "CVE-2025-27111"):
        assert name in (ROOT / "SECURITY.md").read_text()
        assert name in tests
