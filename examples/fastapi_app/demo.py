"""Run the example by `asgi-accel run` until Ctrl-C, and leave nothing behind. `make demo` calls this.

nginx, or else Caddy, listens on the port that the environment variable PORT says (8080 if not given), the app itself on
the one after that, to compare. NGINX and CADDY name others than those that are installed. The library is in a temporary
folder.
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
import time
from pathlib import Path
from typing import Any

import uvicorn

HERE = Path(__file__).resolve().parent
TRY = """
  {address}   {what}; sign in as alice / wonderland, or bob / builder
"""
TRY_ALONE = """\
  {address}   the same app without {proxy}
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


def start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """`asgi-accel run`, in a session of its own, so that Ctrl-C reaches the demo alone."""
    return subprocess.Popen(
        command,
        start_new_session=True,
        cwd=HERE,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def guard(pipe: int, server: int, folder: str) -> None:
    """Wait for the end of the demo, which the end of a pipe tells in any case; then end and remove all that it made."""
    os.setsid()
    os.read(pipe, 1)
    deadline = time.monotonic() + 10
    with contextlib.suppress(ProcessLookupError):
        os.kill(server, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.kill(server, 0)
            time.sleep(0.05)
        os.kill(server, signal.SIGKILL)  # its own guard ends what it has started
    shutil.rmtree(folder, ignore_errors=True)


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
    for taken, what in ((port, ""), (port + 1, ", where the app alone goes")):
        if not port_is_free(taken):
            raise ValueError(
                f"Something listens on port {taken} already{what}. Give another: PORT={port + 2} make demo"
            )
    return port, port + 1


def find_proxy() -> tuple[str | None, str]:
    """nginx, or else Caddy, which pip brings; and the path on which `asgi-accel run` finds it."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    nginx = shutil.which(os.environ.get("NGINX", "nginx"), path=path)
    if nginx is not None:
        return "nginx", f"{Path(nginx).parent}:{path}"

    path = f"{Path(sys.executable).parent}:{path}"
    caddy = shutil.which(os.environ.get("CADDY", "caddy"), path=path)
    return ("Caddy" if caddy else None), path


def advice(port: int, folder: Path, proxy: str | None) -> str:
    address = f"http://127.0.0.1:{port}"
    what = f"the app behind {proxy}" if proxy else "the app alone"
    command = shlex.quote(os.path.relpath(Path(sys.executable).with_name("asgi-accel")))
    cookies = shlex.quote(str(folder / "cookies"))  # the folder goes with the demo
    text = TRY.format(address=address, what=what)
    if proxy:
        text += TRY_ALONE.format(address=f"http://127.0.0.1:{port + 1}", proxy=proxy)
    text += TRY_CURL.format(address=address, cookies=cookies)
    if proxy:
        text += TRY_CHECK.format(address=address, cookies=cookies, command=command)
    return text + "\nCtrl-C ends it."


def main() -> int:
    try:
        port, app_port = ports()
    except ValueError as exc:
        say(str(exc))
        return 1
    stops: list[int] = []  # a signal's handler must take no lock
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGHUP: the terminal was closed
        signal.signal(number, lambda number, _: stops.append(number))

    temporary = tempfile.mkdtemp(prefix="asgi-accel-demo-")
    proxy, path = find_proxy()
    environment = {
        "DATA": f"{temporary}/data",
        "TMPDIR": temporary,  # for uploads on their way
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": path,
    }
    if proxy is None:
        say("There is no nginx and no Caddy here, so the app runs alone and sends its files itself.")
        waits_for = [port]
        command = [
            "uvicorn",
            "--log-level",
            "warning",
            "--timeout-graceful-shutdown",
            "3",
            "app:app",
            "--port",
            str(port),
        ]
    else:
        waits_for = [app_port, port]
        environment |= {"PROXY": proxy, "PROXY_PORT": str(port), "APP_PORT": str(app_port)}
        command = ["asgi_accel", "run", "--proxy", proxy.lower(), "--port", str(port)]
        command += ["--timeout-graceful-shutdown", "3", "app:app"]
        command += ["--", sys.executable, str(HERE / "demo.py"), "{socket}", "{app}"]

    process = start([sys.executable, "-m", *command], environment)
    read, pipe = os.pipe()
    guarding = os.fork()
    if guarding == 0:
        os.close(pipe)
        guard(read, process.pid, temporary)
        os._exit(0)
    shown = threading.Thread(target=show, args=(process,))
    shown.start()

    status, told = 0, False
    try:
        while not stops and status == 0:
            time.sleep(0.05)
            if process.poll() is not None:
                say("A server ended of itself.")
                status = 1
            elif not told and all(map(answers, waits_for)):
                say(advice(port, Path(temporary), proxy))
                told = True
    finally:  # also if nothing can be printed: the thread that prints would wait forever
        os.close(pipe)
        process.wait()
        shown.join()
        os.waitpid(guarding, 0)

    return status


if __name__ == "__main__":
    if len(sys.argv) == 3:
        serve(*sys.argv[1:])
    else:
        sys.exit(main())
