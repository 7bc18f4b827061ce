"""Ask mypy, pyright, ty and pyrefly about one right and one wrong program, and pyright about the public types.

Users have any of the four. Run by `make lint`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
RIGHT, WRONG = "tests/typing/right.py", "tests/typing/wrong.py"
ERROR = re.compile(r"^ERROR |: error:| - error:|: error\[")
CHECKERS = {
    "mypy": ["mypy", "--strict"],
    "pyright": ["pyright", "--pythonpath", sys.executable],
    "ty": ["ty", "check", "--output-format", "concise", "--error-on-warning", "--python", sys.executable],
    "pyrefly": ["pyrefly", "check", "--output-format", "min-text", "--python-interpreter-path", sys.executable],
}


def run(command: list[str], **options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", **options}
    return subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, env=environment, capture_output=True, text=True)


def check_programs(checker: list[str]) -> str:
    """What is wrong with a checker's answers; an empty text if nothing is."""
    answer = run([*checker, RIGHT])
    if answer.returncode != 0:
        return f"it refuses what is right:\n{answer.stdout}{answer.stderr}"
    answer = run([*checker, WRONG])
    errors = [line for line in answer.stdout.splitlines() if ERROR.search(line)]
    found = {int(number) for line in errors for number in re.findall(rf"{WRONG}:(\d+)", line)}
    lines = (ROOT / WRONG).read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    if found == marked:
        return ""
    missed = "".join(f"\nit finds nothing in line {number}: {lines[number - 1]}" for number in sorted(marked - found))
    return f"{WRONG}:{missed}\n{answer.stdout}{answer.stderr}"


def check_completeness(folder: str) -> str:
    """Which public names have no type that each checker reads alike. The types of other packages do not count."""
    # pyright asks this of installed packages alone, and takes the first Python on the PATH.
    venv.create(folder, symlinks=True)
    (packages,) = Path(folder).glob("lib/python*/site-packages")
    (packages / "asgi_accel").symlink_to(ROOT / "asgi_accel", target_is_directory=True)
    (others,) = BIN.parent.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(f"{others}\n")
    path = f"{folder}/bin{os.pathsep}{os.environ['PATH']}"
    answer = run(["pyright", "--ignoreexternal", "--verifytypes", "asgi_accel"], PATH=path)
    if "Type completeness score: 100%" in answer.stdout:
        return ""
    return answer.stdout.partition("Symbols used in public interface:")[2] + answer.stderr


def main() -> None:
    wrong = False
    with tempfile.TemporaryDirectory() as folder:
        results = {name: check_programs(command) for name, command in CHECKERS.items()}
        results["pyright --verifytypes"] = check_completeness(folder)
    for name, problem in results.items():
        print(f"{name}: {problem or 'as it should be'}")
        wrong = wrong or bool(problem)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
