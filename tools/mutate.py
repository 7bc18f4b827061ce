"""Break the core in one small way at a time, and see whether a test notices.

    python tools/mutate.py [--minutes 40] [--jobs 2] [MODULE ...]

A statement is taken out, a condition negated, a comparison flipped, a constant changed. For each the in-process tests
run until one fails, in a copy of the project. What no test notices is printed with its line, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 120  # seconds for one mutant: what takes longer hangs, and is noticed
# In-process tests, the fast ones first. Those of a module's own name come before them.
TESTS = [
    "middleware",
    "responses",
    "offer",
    "log",
    "mapping",
    "fallback",
    "windows",
    "headers",
    "wait",
    "file_response",
]


def modules(names: list[str]) -> list[str]:
    """The test modules of those names, in that order."""
    found = [path for name in names for path in ROOT.glob(f"tests/*/test_{name}.py")]
    return [path.relative_to(ROOT).as_posix() for path in found]


FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
IMPORTED = "ignore::pytest.PytestAssertRewriteWarning"  # what the server below has imported
# A worker that has imported the tests' libraries once, and forks for each mutant.
SERVER = """
import os, sys
import anyio, fastapi, hypothesis, pytest, trio
import starlette.applications, starlette.middleware.base, starlette.staticfiles
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0), os.dup2(null, 1), os.dup2(null, 2)
        os._exit(int(pytest.main(line.split())) != 0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Mutant:
    module: str
    line: int
    what: str
    source: str


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def changed(value: object) -> object:
    """Another constant of the same type, or None."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "x" if value else "x"
    if isinstance(value, bytes):
        return value + b"x" if value else b"x"
    return None


def skipped(tree: ast.AST) -> set[int]:
    """Nodes whose change no test can see: annotations, docstrings, what is imported."""
    found: set[int] = set()
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.AnnAssign | ast.arg):
            parts = [node.annotation]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts = [node.returns]
        elif isinstance(node, ast.stmt) and is_docstring(node):
            parts = [node]
        for part in parts:
            if part is not None:
                found.update(id(inner) for inner in ast.walk(part))
    return found


def changes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Make each change in the tree, and yield while it is made."""
    skip = skipped(tree)
    for node in list(ast.walk(tree)):
        if id(node) in skip:
            continue
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            if not isinstance(statements, list) or isinstance(node, ast.Lambda):
                continue
            for number, statement in enumerate(list(statements)):
                kept = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass
                if isinstance(statement, kept) or is_docstring(statement):
                    continue
                if isinstance(statement, ast.AnnAssign) and statement.value is None:
                    continue
                statements[number] = ast.copy_location(ast.Pass(), statement)
                yield statement.lineno, f"without {ast.unparse(statement).splitlines()[0]}"
                statements[number] = statement
        if isinstance(node, ast.If | ast.While | ast.IfExp):
            test = node.test
            node.test = ast.copy_location(ast.UnaryOp(ast.Not(), test), test)
            yield test.lineno, f"not ({ast.unparse(test)})"
            node.test = test
        if isinstance(node, ast.BoolOp):
            operator = node.op
            node.op = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield node.lineno, f"and/or: {ast.unparse(node)}"
            node.op = operator
        if isinstance(node, ast.Compare):
            for number, comparison in enumerate(node.ops):
                node.ops[number] = FLIPPED[type(comparison)]()
                yield node.lineno, f"comparison: {ast.unparse(node)}"
                node.ops[number] = comparison
        if isinstance(node, ast.Constant) and (new := changed(node.value)) is not None:
            old, node.value = node.value, new  # type: ignore[assignment]
            yield node.lineno, f"constant: {old!r} to {new!r}"
            node.value = old


def mutants(module: Path) -> Iterator[Mutant]:
    tree = ast.parse(module.read_text())
    for line, what in changes(tree):
        broken = ast.fix_missing_locations(copy.deepcopy(tree))
        yield Mutant(module.name, line, what, ast.unparse(broken))


class Worker(threading.Thread):
    """One copy of the project, and a server that runs its tests."""

    def __init__(self, folder: Path, todo: queue.SimpleQueue[Mutant | None], until: float) -> None:
        super().__init__()
        self.home = folder
        self.todo = todo
        self.until = until
        self.unnoticed: list[Mutant] = []
        self.tried = self.left = 0
        for name in ("asgi_accel", "tests", "examples", "pyproject.toml"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)
        tests = modules(TESTS)
        self.command = " ".join(["-x", "-q", "-p", "no:cacheprovider", "-W", IMPORTED, *tests]) + "\n"
        # Each mutant has another text, but perhaps the same size and second: a stale .pyc would hide it.
        environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "CI": "true"}
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def passes(self, module: str = "") -> bool:
        """Whether the tests pass; those of the module come first."""
        names = sorted(TESTS, key=lambda name: f"{name}.py" != module)
        tests = modules(names)
        command = " ".join(["-x", "-q", "-p", "no:cacheprovider", "-W", IMPORTED, *tests])
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(command + "\n")
        self.server.stdin.flush()
        child = int(self.server.stdout.readline())

        def kill() -> None:
            os.killpg(child, signal.SIGKILL)

        timer = threading.Timer(LONGEST, kill)
        timer.start()
        status = int(self.server.stdout.readline())
        timer.cancel()
        return status == 0

    def run(self) -> None:
        while (mutant := self.todo.get()) is not None:
            if time.monotonic() > self.until:
                self.left += 1
                continue
            path = self.home / "asgi_accel" / mutant.module
            whole = path.read_text()
            path.write_text(mutant.source)
            self.tried += 1
            if self.passes(mutant.module):
                self.unnoticed.append(mutant)
                print(f"{mutant.module}:{mutant.line}: {mutant.what}", flush=True)
            path.write_text(whole)
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as offer.py; by default the whole core")
    parser.add_argument("--minutes", type=float, default=40, help="how long to go on (default: 40)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--every", type=int, default=1, help="try only each Nth mutant (default: 1)")
    options = parser.parse_args()
    names = options.modules or sorted(path.name for path in (ROOT / "asgi_accel").glob("*.py"))
    todo: queue.SimpleQueue[Mutant | None] = queue.SimpleQueue()
    made = [mutant for name in names for mutant in mutants(ROOT / "asgi_accel" / name)][:: options.every]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        workers = []
        for number in range(options.jobs):
            home = Path(folder) / str(number)
            home.mkdir()
            workers.append(Worker(home, todo, started + options.minutes * 60))
        if not workers[0].passes():
            print("the tests fail without any mutant", file=sys.stderr)
            return 2
        for mutant in [*made, *[None] * len(workers)]:
            todo.put(mutant)
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    tried, left = sum(worker.tried for worker in workers), sum(worker.left for worker in workers)
    unnoticed = sum(len(worker.unnoticed) for worker in workers)
    minutes = (time.monotonic() - started) / 60
    print(f"{tried} of {len(made)} mutants tried in {minutes:.0f} minutes, {unnoticed} unnoticed, {left} left out")
    return 1 if unnoticed or left else 0


if __name__ == "__main__":
    sys.exit(main())
