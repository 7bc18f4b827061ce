"""Machines that are not Linux, simulated by odd_machine.py: the middleware's tests pass, and the command starts."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHARED = HERE.parent / "shared"
ROOT = HERE.parent.parent
# Modules that Windows has not got.
POSIX = {
    "_posixsubprocess",
    "crypt",
    "fcntl",
    "grp",
    "posix",
    "pty",
    "pwd",
    "readline",
    "resource",
    "syslog",
    "termios",
    "tty",
}


def run(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SHARED), str(ROOT)])}
    environment.pop("COVERAGE_PROCESS_START", None)
    result = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_middleware() -> None:
    """Files go out as on Linux, those that a background task deletes included. Windows has no pipes with names."""
    tests = ["test_middleware.py", "test_wait.py", "test_offer.py", "test_responses.py"]
    files = [str(HERE / name) for name in tests]
    answer = run("-m", "pytest", "-q", "-p", "odd_machine", "-p", "no:cacheprovider", "-k", "not pipe", *files)
    assert " passed" in answer


# pytest itself could not do without these names.
COMMAND = "import odd_machine; odd_machine.remove(odd_machine.PROCESSES); from asgi_accel.cli import main; "


@pytest.mark.parametrize("proxy", ["nginx", "caddy"])
def test_command(proxy: str) -> None:
    """The command prints what it prints on Linux."""
    arguments = [proxy, "--mapping", "/mnt/storage/=/download/", "--upstream", "127.0.0.1:8000"]
    code = f"{COMMAND} raise SystemExit(main({arguments!r}))"
    assert run("-c", code) == run("-m", "asgi_accel", *arguments)


def test_help() -> None:
    """Each command starts, and says what it does."""
    commands = re.findall(r"^    (\w+)  ", run("-c", f"{COMMAND} main(['--help'])"), re.MULTILINE)
    assert {"nginx", "caddy", "check"} <= set(commands)
    for command in commands:
        assert "usage: asgi-accel" in run("-c", f"{COMMAND} main([{command!r}, '--help'])")


def test_imports() -> None:
    """Nothing that the command loads, until it is told to run an app, imports what Windows lacks."""
    loaded = (
        "import sys; print(*(sys.modules[name].__file__ for name in sys.modules if 'asgi_accel' in name), sep='\\n')"
    )
    files = [Path(name) for name in run("-c", COMMAND + loaded).splitlines()]
    assert {ROOT / "asgi_accel" / "wait.py", ROOT / "asgi_accel" / "cli" / "check.py"} <= set(files)
    for path in files:
        body = ast.parse(path.read_bytes()).body
        names = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in body if isinstance(node, ast.ImportFrom)}
        assert not {name.partition(".")[0] for name in names} & POSIX, path
