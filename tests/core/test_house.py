"""The package stays small: lines of code are counted without docstrings, comments and blank lines."""

from __future__ import annotations

import ast
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "asgi_accel"
COMMAND = PACKAGE / "cli"
NOT_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
MODULES = sorted(PACKAGE.rglob("*.py"))


def lines_of_code(path: Path, within: ast.AST | None = None) -> int:
    """How many lines of a module, or of one definition in it, hold code."""
    tree = ast.parse(path.read_bytes())
    first = getattr(within, "lineno", 0)
    last = getattr(within, "end_lineno", 10**9)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        line
        for node in ast.walk(tree)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    code: set[int] = set()
    with path.open("rb") as source:
        for token in tokenize.tokenize(source.readline):
            if token.type not in NOT_CODE and token.type != tokenize.ENCODING:
                code.update(range(token.start[0], token.end[0] + 1))
    return sum(first <= line <= last for line in code - docstrings)


def classes() -> Iterator[tuple[str, int]]:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ClassDef) and node.name != "PathMap":
                yield f"{path.name}:{node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_package() -> None:
    """What an app imports has at most 900 lines of code, the command 1,000."""
    sizes = {path.relative_to(PACKAGE).as_posix(): lines_of_code(path) for path in MODULES}
    command = sum(size for name, size in sizes.items() if name.startswith(("cli/", "__main__")))
    assert sum(sizes.values()) - command <= 900, sizes
    assert command <= 1000, sizes


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_modules(path: Path) -> None:
    """No module has more than 220 lines of code, and each begins with a sentence on what lives in it."""
    assert lines_of_code(path) <= 220
    assert ast.get_docstring(ast.parse(path.read_bytes()))


def test_classes() -> None:
    """No class has more than 130 lines, docstrings and all; `PathMap` is mostly docstrings."""
    assert [(name, size) for name, size in classes() if size > 130] == []
