"""Run the tests with each Python, with the lowest and the newest Starlette, FastAPI and anyio, and with newer nginx.

Run by `make test-all`, which gives the requirements of the lowest ones. What is not installed is named and left out.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
# Of the tools alone: what users bring is in its newest or its lowest version.
LOCKED = ["--constraint", "constraints/tools.txt", "--build-constraint", "constraints/tools.txt"]
SUITES = ["trixie", "forky"]  # of Debian, for their nginx
PACKAGES = ("starlette", "fastapi", "anyio")
VERSIONS = f"from importlib.metadata import version as v; print(*(f'{{n}} {{v(n)}}' for n in {PACKAGES}), sep=', ')"


def find_python(version: str) -> str | None:
    """A Python of that version that starts, on the PATH, where pyenv or uv puts it, or in /opt."""
    home = Path.home()
    patterns = [
        f"{home}/.pyenv/versions/{version}.*/bin/python{version}",
        f"{home}/.local/share/uv/python/cpython-{version}.*/bin/python{version}",
        f"/opt/*/bin/python{version}",
    ]
    candidates = [shutil.which(f"python{version}"), *(path for pattern in patterns for path in glob.glob(pattern))]
    for path in candidates:
        # pyenv has a shim for each version, which only fails for those that are not chosen.
        if path and subprocess.run([path, "-c", "import ssl"], capture_output=True).returncode == 0:
            return path
    return None


def run_tests(name: str, python: Path, **environment: str) -> str:
    """One line on how the tests went."""
    print(f"== {name}", flush=True)
    started = time.monotonic()
    command = (
        python,
        "-m",
        "pytest",
        "--quiet",
        "-n",
        "auto",
        "--dist",
        "loadfile",
        "-p",
        "no:cacheprovider",
        "--ignore",
        "tests/documents/test_browser.py",
    )
    result = subprocess.run(command, cwd=ROOT, env={**os.environ, "CI": "true", "LONG_TESTS": "yes", **environment})
    versions = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=True).stdout.strip()
    outcome = "passed" if result.returncode == 0 else "FAILED"
    return f"{outcome}  {name}: {versions}, {time.monotonic() - started:.0f} s"


def run_all(lowest: list[str]) -> Iterator[str]:
    for version in PYTHONS:
        found = find_python(version)
        if found is None:
            yield f"missing  Python {version} is not installed"
            continue
        for kind, requirements in (("lowest", lowest), ("newest", [])):
            venv = ROOT / ".venvs" / f"{version}-{kind}"
            install = ["--upgrade", "--editable", ".", "--group", "test", "--group", "suites", *LOCKED, *requirements]
            subprocess.run([ROOT / "tools" / "make_venv", found, venv, *install], cwd=ROOT, check=True)
            yield run_tests(f"Python {version}, {kind}", venv / "bin" / "python")
    for suite in SUITES:
        nginx = ROOT / ".nginx" / suite
        if subprocess.run([ROOT / "tools" / "newer_nginx", suite, nginx]).returncode != 0:
            yield f"missing  the nginx of Debian's {suite} cannot be had here"
            continue
        answer = subprocess.run([nginx / "nginx", "-v"], capture_output=True, text=True, check=True).stderr.strip()
        yield run_tests(answer.removeprefix("nginx version: "), Path(sys.executable), NGINX=str(nginx / "nginx"))


def main() -> None:
    lines = list(run_all(sys.argv[1:]))
    print("\n".join(["", *lines]))
    if any(line.startswith("FAILED") for line in lines):
        sys.exit(1)


if __name__ == "__main__":
    main()
