"""Run the example behind nginx until Ctrl-C, and leave nothing behind. `make demo` calls this.

The environment variable PORT says where (8080 if not given), NGINX which nginx (the one that is installed).
"""

from __future__ import annotations

import contextlib
import os
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
FILES = HERE / "files"
HTTP = """
{user}daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    types {{ text/plain txt; application/pdf pdf; video/mp4 mp4; }}
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
  {address}   alice / wonderland, or bob / builder

Try:
  curl -u alice:wonderland -r 0-99 -D - -o /dev/null {address}/files/clip.mp4
  curl -u bob:builder -i {address}/download/notes.txt

Ctrl-C ends it.
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
    server = (HERE / "nginx.conf").read_text()
    for documented, own in (
        ("127.0.0.1:8000", f"unix:{folder}/app.sock"),
        ("127.0.0.1:8080", f"127.0.0.1:{port}"),
        ('"/srv/files/=', f'\'"{FILES}/"='),
        ('=/protected/";', "=/protected/';"),
        ("alias /srv/files/", f'alias "{FILES}/"'),
    ):
        assert documented in server, documented
        server = server.replace(documented, own)
    (folder / "server.conf").write_text(server)
    user = "user root;\n" if os.geteuid() == 0 else ""  # as the one who started it, whose files it reads
    configuration = folder / "nginx.conf"
    configuration.write_text(HTTP.format(folder=folder, user=user))
    return configuration


@contextlib.contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a session of its own, so that Ctrl-C reaches the demo alone and the demo ends it in order."""
    environment = {**os.environ, "FILES": str(FILES)}
    process = subprocess.Popen(command, start_new_session=True, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> int:
    try:
        port = int(os.environ.get("PORT", "8080"))
    except ValueError:
        say(f"PORT={os.environ['PORT']!r} is not a number: PORT=8081 make demo")
        return 1
    if not port_is_free(port):
        say(f"Something listens on port {port} already. Give another: PORT={port + 1} make demo")
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
        if nginx is None:
            say("There is no nginx here, so the app runs alone and sends its files itself.")
            processes = [stack.enter_context(running(*uvicorn, "--port", str(port)))]
        else:
            configuration = nginx_configuration(folder, port)
            processes = [
                stack.enter_context(running(*uvicorn, "--uds", folder / "app.sock")),
                stack.enter_context(running(nginx, "-c", configuration, "-e", folder / "error.log")),
            ]
        told = False
        while not stop.wait(0.05):
            if any(process.poll() is not None for process in processes):
                say("A server ended of itself:")
                with contextlib.suppress(FileNotFoundError):
                    say((folder / "error.log").read_text())
                return 1
            if not told and answers(port) and (nginx is None or (folder / "app.sock").exists()):
                say(TRY.format(address=f"http://127.0.0.1:{port}"))
                told = True
    return 0


if __name__ == "__main__":
    sys.exit(main())
