"""Run the example by `asgi-accel run` until Ctrl-C, and leave nothing behind. `make demo` calls this.

nginx listens on the port that the environment variable PORT says (8080 if not given), the app itself on the one after
that, to compare. NGINX names an nginx other than the one that is installed. The library is in a temporary folder.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

HERE = Path(__file__).resolve().parent
TRY = """
  {address}   {what}; sign in as alice / wonderland, or bob / builder
"""
TRY_ALONE = """\
  {address}   the same app without nginx
"""
TRY_CURL = """
Or, from another terminal, sign in, ask for a part of the video, and for a file of Bob's:
  curl -c {cookies} -d user=alice -d password=wonderland -D - {address}/sign-in
  curl -b {cookies} -r 0-99 -D - -o /dev/null {address}/files/1
  curl -b {cookies} -D - -o /dev/null {address}/files/4
"""
TRY_CHECK = """
See what a client gets of it (after signing in with curl):
  {command} check {address}/files/1 --header "Cookie: session=$(awk 'END {{ print $NF }}' {cookies})"
"""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def port_is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def serve(place: str, app: str) -> None:
    """The app: uvicorn on the proxy's socket, as `asgi-accel run` asks, and on a port of its own, to compare."""
    log: dict[str, Any] = {"log_level": "warning", "access_log": False}
    config = uvicorn.Config(app, uds=place, timeout_keep_alive=75, timeout_graceful_shutdown=3, **log)
    beside = uvicorn.Config(app, port=int(os.environ["APP_PORT"]), **log)
    uvicorn.Server(config).run([config.bind_socket(), beside.bind_socket()])


@contextlib.contextmanager
def running(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A server in a session of its own, so that Ctrl-C reaches the demo alone and the demo ends it in order."""
    process = subprocess.Popen(
        command,
        start_new_session=True,
        cwd=HERE,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    shown = threading.Thread(target=show, args=(process,))
    shown.start()
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shown.join()


def show(process: subprocess.Popen[str]) -> None:
    """Print what a server says, but not that the strip asks once a second who has sent the files."""
    assert process.stderr is not None
    for line in process.stderr:
        if not line.rstrip().endswith("GET /transfers"):
            sys.stderr.write(line)


def ports() -> tuple[int, int]:
    """Where nginx listens, and where the app does.

    Raises:
        ValueError: The message says what is wrong, and what to give instead.
    """
    given = os.environ.get("PORT", "8080")
    if not given.isdecimal() or not 0 < int(given) < 65535:
        raise ValueError(f"PORT={given!r} is not a number of a port: PORT=8081 make demo")
    port = int(given)
    for taken, what in ((port, ""), (port + 1, ", where the app without nginx goes")):
        if not port_is_free(taken):
            raise ValueError(
                f"Something listens on port {taken} already{what}. Give another: PORT={port + 2} make demo"
            )
    return port, port + 1


def advice(port: int, folder: Path, behind_nginx: bool) -> str:
    address = f"http://127.0.0.1:{port}"
    what = "the app behind nginx" if behind_nginx else "the app alone"
    command = shlex.quote(os.path.relpath(Path(sys.executable).with_name("asgi-accel")))
    cookies = shlex.quote(str(folder / "cookies"))  # the folder goes with the demo
    text = TRY.format(address=address, what=what)
    if behind_nginx:
        text += TRY_ALONE.format(address=f"http://127.0.0.1:{port + 1}")
    text += TRY_CURL.format(address=address, cookies=cookies)
    if behind_nginx:
        text += TRY_CHECK.format(address=address, cookies=cookies, command=command)
    return text + "\nCtrl-C ends it."


def main() -> int:
    try:
        port, app_port = ports()
    except ValueError as exc:
        say(str(exc))
        return 1
    nginx = shutil.which(
        os.environ.get("NGINX", "nginx"), path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGHUP: the terminal was closed
        signal.signal(number, lambda *_: stop.set())

    with tempfile.TemporaryDirectory(prefix="asgi-accel-demo-") as temporary:
        folder = Path(temporary)
        # Uploads on their way are in TMPDIR. The time-outs are shorter than the patience of `running`.
        environment = {"DATA": str(folder / "data"), "TMPDIR": temporary, "PYTHONDONTWRITEBYTECODE": "1"}
        python = [sys.executable, "-m"]
        if nginx is None:
            say("There is no nginx here, so the app runs alone and sends its files itself.")
            waits_for = [port]
            command = [*python, "uvicorn", "--log-level", "warning", "--timeout-graceful-shutdown", "3", "app:app"]
            command += ["--port", str(port)]
        else:
            waits_for = [app_port, port]
            environment |= {"NGINX_PORT": str(port), "APP_PORT": str(app_port)}
            environment |= {"PATH": f"{Path(nginx).parent}:{os.environ.get('PATH', '')}"}
            command = [*python, "asgi_accel", "run", "--proxy", "nginx", "--port", str(port)]
            command += ["--timeout-graceful-shutdown", "3", "app:app"]
            command += ["--", sys.executable, str(HERE / "demo.py"), "{socket}", "{app}"]
        with running(*command, **environment) as process:
            told = False
            while not stop.wait(0.05):
                if process.poll() is not None:
                    say("A server ended of itself.")
                    return 1
                if not told and all(map(answers, waits_for)):
                    say(advice(port, folder, nginx is not None))
                    told = True
    return 0


if __name__ == "__main__":
    if len(sys.argv) == 3:
        serve(*sys.argv[1:])
    else:
        sys.exit(main())
