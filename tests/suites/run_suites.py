"""Run other people's test suites with the middleware around each app: python tests/suites/run_suites.py starlette

A suite comes from its sdist, of the version that is installed, and is kept in `.suites/`; nothing of it is ours. Each
test must end as without the middleware, but for those in `expected.py`, which must not.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from expected import EXPECTED

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".suites"
ENOUGH = {"starlette": 1000, "fastapi": 4000}  # tests that pass: fewer, and the suite has not really run

Outcomes = dict[str, str]


def unpack(name: str) -> Path:
    """The folder of a suite, without the package itself, so that what is installed is what is tested."""
    version = importlib.metadata.version(name)
    folder = CACHE / f"{name}-{version}"
    if not folder.exists():
        options = ["--quiet", "--disable-pip-version-check", "--no-binary", ":all:", "--no-deps", "--dest", str(CACHE)]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, f"{name}=={version}"], check=True)
        fresh = CACHE / f"{name}-new"
        shutil.rmtree(fresh, ignore_errors=True)
        with tarfile.open(CACHE / f"{name}-{version}.tar.gz") as archive:
            # Debian 12's Python has no filters. What PyPI's file of this very version holds, pip would run, too.
            if hasattr(tarfile, "data_filter"):
                archive.extractall(fresh, filter="data")
            else:
                archive.extractall(fresh)
        shutil.rmtree(fresh / folder.name / name)
        (fresh / folder.name).rename(folder)
        fresh.rmdir()
    return folder


def python_of(name: str, folder: Path) -> Path:
    """This Python; for FastAPI one with all that its suite needs, and with the Starlette and FastAPI of this one."""
    if name == "starlette":
        return Path(sys.executable)
    venv = CACHE / f"{folder.name}-venv"
    if not (venv / ".installed").exists():
        version = importlib.metadata.version
        pinned = [f"starlette=={version('starlette')}", f"{name}[all]=={version(name)}"]
        wanted = ["--editable", str(ROOT), "--group", f"{folder}/pyproject.toml:tests", *pinned]
        subprocess.run([ROOT / "tools" / "make_venv", sys.executable, venv, *wanted], check=True)
        (venv / ".installed").touch()
    return venv / "bin" / "python"


def run(name: str, offer: str) -> Outcomes:
    """How each test of a suite ends, with that offer."""
    folder = unpack(name)
    written = CACHE / f"{name}-{offer}.json"
    written.unlink(missing_ok=True)
    path = os.pathsep.join(map(str, (HERE, HERE.parent / "shared", ROOT)))
    options = ["-p", "wrapped", "-p", "no:cacheprovider", "--quiet", "--tb=short", "tests"]
    with (CACHE / f"{name}-{offer}.log").open("w") as log:
        subprocess.run(
            [python_of(name, folder), "-m", "pytest", *options],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "ACCEL_OFFER": offer, "ACCEL_OUTCOMES": str(written)},
            stdout=log,
            stderr=log,
            check=False,  # some fail without the middleware, too: as root, say
        )
    outcomes: Outcomes = json.loads(written.read_text())
    return outcomes


def surprises(name: str, offer: str, without: Outcomes, outcomes: Outcomes) -> list[str]:
    """What is not as `expected.py` says."""
    expected = {test for tests in EXPECTED[name][offer].values() for test in tests}
    known = {test.partition("[")[0] for test in without}
    found = [f"is in the list, and not in the suite: {test}" for test in sorted(expected - known)]
    for test in sorted(without.keys() | outcomes.keys()):
        before, after = without.get(test, "absent"), outcomes.get(test, "absent")
        if (before != after) != (test.partition("[")[0] in expected):
            found.append(f"{before} without the middleware, {after} with it: {test}")
    return found


def check(name: str) -> bool:
    started = time.monotonic()
    python_of(name, unpack(name))
    with ThreadPoolExecutor(2) as pool:
        without, *others = pool.map(lambda offer: run(name, offer), ["without", *EXPECTED[name]])
    passed = sum(outcome == "passed" for outcome in without.values())
    good = passed >= ENOUGH[name]
    print(f"{name}: {len(without)} tests, {passed} pass without the middleware")
    for offer, outcomes in zip(EXPECTED[name], others, strict=True):
        found = surprises(name, offer, without, outcomes)
        good = good and not found
        differ = sum(without.get(test) != outcome for test, outcome in outcomes.items())
        print(f"{name}, offer of {offer}: {differ} differ, {len(found)} of them unexpectedly", *found, sep="\n    ")
    print(f"{name}: {'passed' if good else 'FAILED'} in {time.monotonic() - started:.0f} s; see .suites/*.log")
    return good


if __name__ == "__main__":
    CACHE.mkdir(exist_ok=True)
    sys.exit(1 if [name for name in sys.argv[1:] if not check(name)] else 0)
