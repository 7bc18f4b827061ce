"""Where a newcomer looks first."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "asgi_accel"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_modules(path: Path) -> None:
    """Each module begins with a sentence on what lives in it."""
    assert ast.get_docstring(ast.parse(path.read_bytes()))
