"""The example as a stranger runs it: `make demo`, with nginx and without."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from conftest import need_nginx

EXAMPLE = Path(__file__).parent.parent / "examples" / "fastapi_app"
FILES = EXAMPLE / "files"
ALICE = ("alice", "wonderland")
BOB = ("bob", "builder")
UMLAUT = "Übersicht 100%.txt"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Demo:
    process: subprocess.Popen[str]
    port: int
    said: str
    temporary: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, auth: tuple[str, str] | None, **headers: str) -> httpx.Response:
        return httpx.get(self.address + path, auth=auth, headers=headers, trust_env=False)


def start(folder: Path, **environment: str) -> Demo:
    port = free_port()
    temporary = folder / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, EXAMPLE / "demo.py"],
        env={**os.environ, "PORT": str(port), "TMPDIR": str(temporary), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    while "Ctrl-C" not in said:
        line = process.stdout.readline()
        assert line, f"the demo ended: {said}"
        said += line
    return Demo(process, port, said, temporary)


def stop(demo: Demo, number: signal.Signals = signal.SIGINT) -> str:
    demo.process.send_signal(number)
    return demo.process.communicate(timeout=20)[0]


@pytest.fixture(scope="module", params=["behind nginx", "alone"])
def demo(request: pytest.FixtureRequest, folder: Path) -> Iterator[Demo]:
    own = folder / request.param.replace(" ", "-")
    own.mkdir()
    if request.param == "alone":
        running = start(own, NGINX="/nonexistent")
        assert "There is no nginx" in running.said
    else:
        need_nginx()
        running = start(own)
    yield running
    stop(running)


class TestDemo:
    """The same requests, behind nginx and alone."""

    @pytest.mark.parametrize(
        ("auth", "name", "kind"),
        [
            (ALICE, "clip.mp4", "video/mp4"),
            (ALICE, "report.pdf", "application/pdf"),
            (ALICE, UMLAUT, "text/plain; charset=utf-8"),
            (BOB, "notes.txt", "text/plain; charset=utf-8"),
            (BOB, "invoice.pdf", "application/pdf"),
        ],
    )
    def test_files(self, demo: Demo, auth: tuple[str, str], name: str, kind: str) -> None:
        """Each user has files, shown and saved, byte for byte; the other one has not."""
        for route in ("files", "download"):
            response = demo.get(f"/{route}/{quote(name)}", auth)
            assert response.status_code == 200
            assert response.content == (FILES / auth[0] / name).read_bytes()
            assert response.headers["content-type"] == kind
            assert not [header for header in response.headers if header.startswith("x-accel")]
            assert ("content-disposition" in response.headers) == (route == "download")
            head = httpx.head(f"{demo.address}/{route}/{quote(name)}", auth=auth, trust_env=False)
            assert head.headers["content-length"] == response.headers["content-length"]
            assert demo.get(f"/{route}/{quote(name)}", BOB if auth == ALICE else ALICE).status_code == 404
            assert demo.get(f"/{route}/{quote(name)}", None).status_code == 401
            assert demo.get(f"/{route}/{quote(name)}", (auth[0], "wrong")).status_code == 401

    def test_name_of_the_download(self, demo: Demo) -> None:
        """A download has its name."""
        value = demo.get(f"/download/{quote(UMLAUT)}", ALICE).headers["content-disposition"]
        assert value == "attachment; filename=\"_bersicht 100_.txt\"; filename*=UTF-8''%C3%9Cbersicht%20100%25.txt"

    def test_seeking(self, demo: Demo) -> None:
        """A browser can seek in the video."""
        response = demo.get("/files/clip.mp4", ALICE, Range="bytes=1000-1999")
        assert response.status_code == 206
        assert response.content == (FILES / "alice" / "clip.mp4").read_bytes()[1000:2000]

    def test_index(self, demo: Demo) -> None:
        """The page links the user's own files and plays the video."""
        page = demo.get("/", ALICE).text
        links = re.findall('href="([^"]*)"', page)
        assert len(links) == 6
        for link in links:
            assert demo.get(link, ALICE).status_code == 200
        assert "<video" in page

    def test_no_way_out(self, demo: Demo) -> None:
        """Neither the internal location nor a path with dots leads to a file."""
        for path in ("/protected/alice/report.pdf", "/protected../app.py", "/files/..%2Fbob%2Fnotes.txt"):
            assert demo.get(path, ALICE).status_code == 404

    def test_what_it_says(self, demo: Demo) -> None:
        """The commands that it prints work as they are."""
        commands = re.findall(r"^ +(curl .*)$", demo.said, re.MULTILINE)
        assert len(commands) == 2
        answers = [subprocess.run(shlex.split(f"{command} -sS --noproxy *"), capture_output=True, check=True).stdout
                   for command in commands]  # fmt: skip
        assert answers[0].startswith(b"HTTP/1.1 206")
        assert b"Bob's notes" in answers[1]
        assert (b"nginx" in answers[0]) == ("There is no nginx" not in demo.said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("nginx", ["nginx", "/nonexistent"])
def test_leaves_nothing_behind(folder: Path, number: signal.Signals, nginx: str) -> None:
    """When it ends, no file, no process and no listener is left."""
    if nginx == "nginx":
        need_nginx()
    own = folder / f"end-{number}-{nginx.strip('/')}"
    own.mkdir()
    demo = start(own, NGINX=nginx)
    children = Path(f"/proc/{demo.process.pid}/task/{demo.process.pid}/children").read_text().split()
    assert len(children) == (2 if nginx == "nginx" else 1)
    assert stop(demo, number) == ""
    assert demo.process.returncode == 0
    assert list(demo.temporary.iterdir()) == []
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    with socket.socket() as connection:
        assert connection.connect_ex(("127.0.0.1", demo.port)) != 0


@pytest.mark.parametrize(("port", "words"), [("taken", "listens on port"), ("x", "is not a number")])
def test_bad_port(port: str, words: str) -> None:
    """A port that is taken, or none, is told in a sentence."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        given = str(listener.getsockname()[1]) if port == "taken" else port
        ended = subprocess.run(
            [sys.executable, EXAMPLE / "demo.py"], env={**os.environ, "PORT": given}, capture_output=True, text=True
        )
    assert ended.returncode == 1
    assert words in ended.stdout
    assert ended.stderr == ""
