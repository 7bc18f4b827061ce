"""How `asgi-accel run` ends: whatever happens, no process, no socket and no file is left, and one knows what it was."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from needs import need
from running import SERVERS, Running, wait_until

SIZE = 30_000_000
pytestmark = pytest.mark.usefixtures("files")


@pytest.fixture(scope="module")
def files(folder: Path) -> Path:
    files = folder / "run-files"
    files.mkdir(exist_ok=True)
    (files / "big.bin").write_bytes(bytes(SIZE))
    return files


@contextmanager
def download(running: Running, path: str = "/file/big.bin") -> Iterator[socket.socket]:
    """A download that has begun, and goes on as one reads. The kernel takes a small part of it meanwhile."""
    assert running.url is not None
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", int(running.url.rpartition(":")[2])))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        yield connection


def size_of_rest(connection: socket.socket) -> int:
    size = 0
    try:
        while part := connection.recv(1_000_000):
            size += len(part)
    except ConnectionResetError:
        pass
    return size


def refused(running: Running) -> bool:
    assert running.url is not None
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", int(running.url.rpartition(":")[2]))) != 0


def main_process(running: Running, name: str) -> int:
    """The first process of the proxy or the app."""
    for pid in sorted(running.left()):
        if name in Path(f"/proc/{pid}/cmdline").read_text() and pid != running.process.pid:
            return pid
    raise AssertionError(f"there is no {name}")


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_end_in_progress(folder: Path, proxy: str, number: signal.Signals, server: str) -> None:
    """Nothing new is accepted, a download in progress is finished, and the exit status is 0."""
    with Running(folder, "--proxy", proxy, *SERVERS[server]) as running, download(running) as connection:
        running.process.send_signal(number)
        wait_until(lambda: refused(running), "nothing new is accepted")
        assert size_of_rest(connection) > SIZE - 1000
        assert running.wait() == 0
        assert f"run   responses sent by {proxy} 1 (30,000,000 B), by app 0 (0 B)\n" in running.said


@pytest.mark.parametrize("server", SERVERS)
def test_sigkill(folder: Path, proxy: str, server: str) -> None:
    """Nothing runs on, though nobody could be told."""
    with Running(folder, "--proxy", proxy, *SERVERS[server]) as running, download(running):
        running.process.kill()
        assert running.wait() == -9
        wait_until(lambda: refused(running), "the end of the socket")  # a process closes it a moment after its memory


def test_answer_of_the_app(folder: Path, proxy: str) -> None:
    """What the app itself sends is finished, too."""
    with Running(folder, "--proxy", proxy) as running, download(running, "/slow") as connection:
        running.process.send_signal(signal.SIGINT)
        assert size_of_rest(connection) > 9000
        assert running.wait() == 0


@pytest.mark.parametrize("server", SERVERS)
def test_second_ctrl_c(folder: Path, proxy: str, server: str) -> None:
    """The second ends it at once, whatever is in progress."""
    options = ("--proxy", proxy, "--timeout-graceful-shutdown", "600", *SERVERS[server])
    with Running(folder, *options) as running, download(running) as rest:
        running.process.send_signal(signal.SIGINT)
        wait_until(lambda: "running requests have 600 seconds" in running.said, "one is told")
        assert running.end(signal.SIGINT) == 130
        assert size_of_rest(rest) < SIZE - 1000


def test_hang_up(folder: Path) -> None:
    """The end of the terminal is a signal to end, but not under nohup."""
    need("nginx")
    with Running(folder, before=("env", "--default-signal=HUP")) as running:  # the tests may run under nohup
        assert running.end(signal.SIGHUP) == 0
    with Running(folder, before=("nohup",)) as running:
        running.process.send_signal(signal.SIGHUP)
        assert running.client.get("/page").status_code == 200


def test_grace(folder: Path, proxy: str) -> None:
    """After the grace, what is still in progress is cut off."""
    with Running(folder, "--proxy", proxy, "--timeout-graceful-shutdown", "1") as running, download(running):
        assert running.end() == 0


@pytest.mark.parametrize("server", SERVERS)
def test_app_does_not_end(folder: Path, proxy: str, server: str) -> None:
    """Nor is an app waited for longer that has something to do at its end."""
    options = ("--proxy", proxy, "--timeout-graceful-shutdown", "1", *SERVERS[server])
    with Running(folder, *options, app="run_app:stubborn") as running:
        assert running.end() == 0


@pytest.mark.parametrize("server", SERVERS)
def test_app_dies(folder: Path, proxy: str, server: str) -> None:
    with Running(folder, "--proxy", proxy, *SERVERS[server]) as running:
        os.kill(main_process(running, "app.sock"), signal.SIGKILL)
        assert running.wait() == 1
        assert "error the app has ended, by signal 9" in running.said


@pytest.mark.parametrize("server", SERVERS)
def test_proxy_dies(folder: Path, proxy: str, server: str) -> None:
    with Running(folder, "--proxy", proxy, *SERVERS[server]) as running:
        os.kill(main_process(running, f"{proxy}.conf"), signal.SIGKILL)
        assert running.wait() == 1
        assert f"error {proxy} has ended, by signal 9" in running.said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a first process")
@pytest.mark.parametrize("server", SERVERS)
def test_process_1(folder: Path, proxy: str, server: str) -> None:
    """As a container's first process it ends by SIGTERM, within the grace, and reaps what others leave."""
    # In a chroot, / may be no mount whose propagation could change. That of /proc alone is changed in any case.
    user = () if os.geteuid() == 0 else ("--map-root-user",)
    before = ("unshare", *user, "--propagation", "unchanged", "--pid", "--fork", "--mount-proc", "--kill-child")
    options = ("--proxy", proxy, "--timeout-graceful-shutdown", "1", *SERVERS[server])
    with Running(folder, *options, before=before) as running:
        first = min(pid for pid in running.left() if pid != running.process.pid)
        own = children(first)
        assert running.client.get("/orphan").status_code == 200
        # A zombie would stay among them.
        wait_until(lambda: children(first) == own, "the end of the orphan")
        with download(running):
            os.kill(first, signal.SIGTERM)
            assert running.wait() == 0


def children(pid: int) -> list[str]:
    """The children of a process, zombies among them."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
