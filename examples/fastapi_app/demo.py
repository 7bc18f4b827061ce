"""Run the example behind nginx until Ctrl-C, and leave nothing behind. `make demo` calls this.

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

HERE = Path(__file__).resolve().parent
HTTP = """
{user}daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/client_body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/server.conf;
}}
"""
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


def nginx_configuration(folder: Path, port: int) -> Path:
    """nginx.conf as it stands, with the demo's paths, wrapped in what it is included from."""
    files = folder.resolve() / "data" / "files"
    server = (HERE / "nginx.conf").read_text()
    for documented, own in (
        ("server app:8000", f"server 127.0.0.1:{port + 1}"),
        ("listen 8080", f"listen 127.0.0.1:{port}"),
        ('"/srv/data/files/=', f'\'"{files}/"='),
        ('=/protected/";', "=/protected/';"),
        ("alias /srv/data/files/", f'alias "{files}/"'),
    ):
        assert documented in server, documented
        server = server.replace(documented, own)
    (folder / "server.conf").write_text(server)
    user = "user root;\n" if os.geteuid() == 0 else ""  # as the one who started it, whose files it reads
    configuration = folder / "nginx.conf"
    configuration.write_text(HTTP.format(folder=folder, user=user))
    return configuration


@contextlib.contextmanager
def running(*command: str | Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a session of its own, so that Ctrl-C reaches the demo alone and the demo ends it in order."""
    process = subprocess.Popen(command, start_new_session=True, env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


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

    with tempfile.TemporaryDirectory(prefix="asgi-accel-demo-") as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        # -B: no __pycache__ stays. The time-out is shorter than the patience of `running`, if a download is under way.
        uvicorn = [sys.executable, "-B", "-m", "uvicorn", "--app-dir", str(HERE), "--log-level", "warning", "app:app"]
        uvicorn += ["--timeout-graceful-shutdown", "3", "--timeout-keep-alive", "75"]
        environment = {"DATA": str(folder / "data"), "TMPDIR": temporary}  # uploads on their way are in TMPDIR
        if nginx is None:
            say("There is no nginx here, so the app runs alone and sends its files itself.")
            waits_for = [port]
            processes = [stack.enter_context(running(*uvicorn, "--port", str(port), **environment))]
        else:
            environment |= {"NGINX_PORT": str(port), "APP_PORT": str(app_port)}
            waits_for = [app_port, port]
            processes = [
                stack.enter_context(running(*uvicorn, "--port", str(app_port), **environment)),
                stack.enter_context(
                    running(nginx, "-c", nginx_configuration(folder, port), "-e", folder / "error.log")
                ),
            ]
        told = False
        while not stop.wait(0.05):
            if any(process.poll() is not None for process in processes):
                say("A server ended of itself:")
                with contextlib.suppress(FileNotFoundError):
                    say((folder / "error.log").read_text())
                return 1
            if not told and all(map(answers, waits_for)):
                say(advice(port, folder, nginx is not None))
                told = True
    return 0


if __name__ == "__main__":
    sys.exit(main())
