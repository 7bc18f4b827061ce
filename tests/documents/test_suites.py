"""`make suites` and `make test-all` run other people's suites: what makes their list fail."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

HEAD = "tests/test_responses.py::test_file_response_range_head"
MULTI = "tests/test_responses.py::test_file_response_range_multi_head[asyncio]"
PASSED = {HEAD: "passed", MULTI: "passed", "tests/test_other.py::test_other": "passed"}


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a list that is short."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "suites"))
    script = importlib.import_module("run_suites")
    listed = {"why": [HEAD, MULTI.partition("[")[0]]}
    monkeypatch.setattr(script, "EXPECTED", {"starlette": {"other": listed}})
    return script


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({HEAD: "failed", MULTI: "failed"}, []),
        ({HEAD: "failed"}, ["passed without the middleware, passed with it: " + MULTI]),
        ({HEAD: "failed", MULTI: "absent"}, []),
        (
            {HEAD: "failed", MULTI: "failed", "tests/test_other.py::test_other": "failed"},
            ["passed without the middleware, failed with it: tests/test_other.py::test_other"],
        ),
    ],
)
def test_surprises(runner: ModuleType, changed: dict[str, str], what: list[str]) -> None:
    """What differs must be in the list, and what is in the list must differ."""
    assert runner.surprises("starlette", "other", PASSED, {**PASSED, **changed}) == what


def test_unknown(runner: ModuleType) -> None:
    """A listed test that the suite has not is named."""
    without = {name: outcome for name, outcome in PASSED.items() if name != HEAD}
    assert runner.surprises("starlette", "other", without, {**without, MULTI: "failed"}) == [
        f"is in the list, and not in the suite: {HEAD}"
    ]
