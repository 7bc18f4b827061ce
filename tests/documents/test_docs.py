"""The documents say what is so: their code runs, their links lead somewhere, their tables are those of the code."""

from __future__ import annotations

import importlib
import json
import logging
import re
import runpy
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest
from needs import need_nginx
from pages import DOCUMENTS, ENVIRONMENT, FENCE, LOG_FORMAT, ROOT, blocks, titled_blocks
from servers import Nginx, free_port

from asgi_accel.cli import build_parser, main, parse

ELSEWHERE = ["benchmarks/results.md"]  # has no code
# What docs/nginx.md leaves out of the printed configuration, and the lines that it shows need.
PRINTED = "map $host $accel_host { default $host; } upstream accel_www_example_80 { server 127.0.0.1:9; }"


def headings(path: Path) -> list[str]:
    """The names that a code host gives to the headings of a document."""
    text = FENCE.sub("", path.read_text())
    return [
        re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    ]


class TestReadme:
    """What the README looks like. Its app is tested with the recipes."""

    def test_three_commands_first(self) -> None:
        """Code comes before the first scroll, and nginx's configuration after the app has been tried."""
        text = (ROOT / "README.md").read_text()
        lines = text.splitlines()
        assert lines.index("```python") < 30
        assert lines.index("asgi-accel run main:app") < lines.index("```nginx") < 70
        assert len(text.split()) <= 900


@pytest.mark.parametrize("document", DOCUMENTS)
class TestDocuments:
    """All documents."""

    def test_nginx_blocks(self, folder: Path, document: str) -> None:
        """nginx takes each block as it stands."""
        found = blocks(document, "nginx")
        if found:
            need_nginx()
        found = [block.replace("/var/log/nginx/", f"{folder}/") for block in found]
        for number, block in enumerate(found):
            listens_on = folder / f"{Path(document).stem}{number}.sock"
            # Not what stands within a server.
            whole = "server {" in block or block.startswith(("upstream ", "map ")) or LOG_FORMAT in block
            formats = "".join(other for other in found if LOG_FORMAT in other and "server {" not in other)
            http = f"""
                proxy_cache_path {folder}/objects-{listens_on.stem} keys_zone=objects:1m;
                upstream storage {{ server 127.0.0.1:9; }}
                {PRINTED if "accel_host" in block else ""}
                {"" if whole else formats}
                server {{ listen unix:{listens_on};\n{"" if whole else block}\n}}
                {block.replace("listen 80", "listen 127.0.0.1:" + str(free_port())) if whole else ""}"""
            with Nginx(folder, http, listens_on):
                continue

    def test_python_blocks(self, document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each Python block runs after those before it."""
        for folder in ("storage/handbook", "storage/reports"):
            (tmp_path / "mnt" / folder).mkdir(parents=True)
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        monkeypatch.syspath_prepend(tmp_path)
        for name, code in titled_blocks(document).items():
            (tmp_path / name).write_text(code)
            importlib.import_module(name.removesuffix(".py"))
            monkeypatch.delitem(sys.modules, name.removesuffix(".py"))
        page = types.ModuleType("page")  # Litestar looks for a handler's types in its module
        monkeypatch.setitem(sys.modules, page.__name__, page)
        for block in blocks(document, "python"):
            exec(compile(block.replace("/mnt/", f"{tmp_path}/mnt/"), f"<{document}>", "exec"), vars(page))
        logging.getLogger("asgi_accel").setLevel(logging.NOTSET)  # docs/troubleshooting.md has it say all

    def test_commands(self, document: str) -> None:
        """Each command is one that there is, a container's too."""
        for command in re.findall("^CMD (.*)$", "".join(blocks(document, "text")), re.MULTILINE):
            program, *arguments = json.loads(command)
            assert program == "asgi-accel"
            parse(arguments)
        for line in "".join(blocks(document, "sh")).splitlines():
            command = shlex.split(line.partition(" > ")[0], comments=True)
            if command[:1] == ["make"]:
                subprocess.run([*command, "--dry-run"], cwd=ROOT, check=True, capture_output=True)
            elif command[2:] == ["--help"]:
                continue  # test_help
            elif command[:1] == ["asgi-accel"]:
                parse(command[1:])
            elif command[:1] == ["docker"]:  # not run here: test_example.py reads the files
                assert command[1] in ("compose", "build", "run")
                place = (ROOT / document).parent
                assert (place / ("compose.yaml" if command[1] == "compose" else "Dockerfile")).exists()
            else:
                assert command[:2] == ["pip", "install"]
                assert command[2] in ("asgi-accel", "asgi-accel[run]")

    def test_targets_named_in_tables(self, document: str) -> None:
        """Every `make` target that a document names exists."""
        for target in set(re.findall(r"`make ([\w-]+)`", (ROOT / document).read_text())):
            subprocess.run(["make", target, "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("document", [*DOCUMENTS, *ELSEWHERE])
def test_links(document: str) -> None:
    """Links and pictures within the project lead to a file, and to a heading of it."""
    text = FENCE.sub("", (ROOT / document).read_text())
    for target in re.findall(r"\]\(([^)]+)\)|(?:src|srcset)=\"([^\"]+)\"", text):
        name, _, heading = "".join(target).partition("#")
        if name.startswith("https:"):
            continue
        path = (ROOT / document).parent / name if name else ROOT / document
        assert path.is_file(), f"{name} is not there"
        assert not heading or path.suffix == ".svg" or heading in headings(path), f"{name} has no heading {heading}"


def test_help() -> None:
    """The reference has each command, and the site shows its help."""
    commands = re.findall(r"^    (\w+) +\S", build_parser().format_help(), re.MULTILINE)
    shown = "".join(blocks("docs/reference.md", "sh")).splitlines()
    assert shown == [f"asgi-accel {command} --help" for command in commands]


def test_rooms() -> None:
    """CONTRIBUTING.md has a line for each module of the core."""
    named = re.findall(r"^\| `(\w+\.py)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in (ROOT / "asgi_accel").glob("[a-z]*.py"))


def test_drawings() -> None:
    """The drawings are what their script draws."""
    script = runpy.run_path(str(ROOT / "tools" / "drawings.py"))
    for name, colours in script["COLOURS"].items():
        assert (ROOT / "docs" / "pictures" / name).read_text() == script["drawing"](colours), "run tools/drawings.py"


def test_pictures_are_small() -> None:
    """A clone stays small."""
    assert sum(path.stat().st_size for path in (ROOT / "docs" / "pictures").iterdir()) < 400_000


def test_printed_configuration(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Each line that docs/nginx.md shows of the configuration is printed by the command beside it, in this order."""
    (command,) = (command for command in blocks("docs/nginx.md", "sh") if "--mapping" in command)
    assert main(shlex.split(command)[1:]) == 0
    printed = iter([line.strip() for line in capsysbinary.readouterr().out.decode().splitlines()])
    shown = [line.strip() for line in blocks("docs/nginx.md", "nginx")[0].splitlines()]
    assert len(shown) > 10
    assert not [line for line in shown if line not in printed]  # each looks behind the one before it


def test_lowest_versions_are_told_alike() -> None:
    """The README, the Makefile and pyproject.toml name the same lowest versions."""
    project = (ROOT / "pyproject.toml").read_text()
    needs = re.search(r'^dependencies = \["starlette>=([\d.]+)", "anyio>=([\d.]+)"\]', project, re.MULTILINE)
    assert needs is not None
    makefile = (ROOT / "Makefile").read_text()
    assert f"starlette=={needs[1]} " in makefile
    assert f"anyio=={needs[2]}\n" in makefile
    fastapi = re.search(r"fastapi==([\d.]+)", makefile)
    assert fastapi is not None
    readme = (ROOT / "README.md").read_text()
    lowest = f"Starlette {needs[1].removesuffix('.0')} or newer (FastAPI {fastapi[1]} or newer), and anyio "
    assert lowest + f"{needs[2].removesuffix('.0')} or newer" in readme


def test_figures_are_those_of_the_benchmarks() -> None:
    """When not to use it: docs/comparison.md says what was measured."""
    section = (ROOT / "docs/comparison.md").read_text().partition("## When not to use it")[2].partition("\n## ")[0]
    figures = re.findall(r"\d+,\d{3}", section)
    assert len(figures) == 6
    results = (ROOT / "benchmarks/results.md").read_text()
    assert not [figure for figure in figures if f" {figure} " not in results]

    modules = Path(__file__).parent.parent.rglob("test_*.py")
    tests = "".join(path.read_text() for path in modules if path != Path(__file__))
    """SECURITY.md lists each, and each has a test that names it."""
    tests = "".join(
        path.read_text() for path in Path(__file__).parent.parent.rglob("test_*.py") if path != Path(__file__)
    )
    for name in ("CVE-2025-61780", "CVE-2026-34830", "CVE-2026-7381", "CVE-2025-27111"):
        assert name in (ROOT / "SECURITY.md").read_text()
        assert name in tests
