"""The stage for the faults: a real nginx in front of a real uvicorn, clients that read as they are told to, and eyes on
the processes."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from servers import UVICORN, Nginx, asgi_server, client

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PATIENCE = 60  # seconds until what should happen counts as not happening
MIB = 1 << 20
VAULT = b"not for clients"
T = TypeVar("T")

HTTP = """
sendfile on;  # as distributions set it
client_max_body_size 0;
upstream app { server unix:$folder/app.sock; }

# Offers to send the files, as the README says.
server {
    listen unix:$folder/offers.sock;
    location / {
        proxy_pass http://app;
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Accel-Mapping "$folder/files/=/download/";
        proxy_set_header X-Accel-Secret "only the proxy knows";
        proxy_max_temp_file_size 0;  # or the disk is full if the app should send the files itself
    }
    location /download/ { internal; alias $folder/files/; }
    location /vault/ { internal; alias $folder/vault/; }
}

# Offers nothing, and lets through what clients send.
server {
    listen unix:$folder/silent.sock;
    location / {
        proxy_pass http://app;
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }
    location /download/ { internal; alias $folder/files/; }
    location /vault/ { internal; alias $folder/vault/; }
}

# The same, but what a slow client has not read yet is not kept on nginx's disk.
server {
    listen unix:$folder/diskless.sock;
    location / {
        proxy_pass http://app;
        proxy_max_temp_file_size 0;
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }
}
"""


class Way(NamedTuple):
    """How a file gets to the client."""

    name: str
    server: str
    route: str


ACCEL = Way("the middleware", "offers", "/accel")
UNOFFERED = Way("the middleware, nothing offered", "silent", "/accel")
PLAIN = Way("`FileResponse` alone", "silent", "/plain")
DISKLESS = Way("`FileResponse` alone, `proxy_max_temp_file_size 0`", "diskless", "/plain")


class Stage:
    """nginx in front of uvicorn, and a folder with the files that they send.

    As root, `as_nobody` takes from nginx's worker and the app the right to read every file.
    """

    def __init__(self, *, as_nobody: bool = False) -> None:
        self.as_nobody = as_nobody and os.geteuid() == 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Stage:
        with contextlib.ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
            self.files = self.folder / "files"
            vault = self.folder / "vault"
            environment = {
                "FILES": str(self.files),
                "PYTHONPATH": os.pathsep.join(map(str, [HERE, ROOT / "tests", ROOT])),
            }
            user = "root"
            for folder in (self.files, vault):
                folder.mkdir()
            (vault / "file").write_bytes(VAULT)  # named as the file that clients may have
            if self.as_nobody:
                nobody = pwd.getpwnam("nobody")
                user = f"nobody {grp.getgrgid(nobody.pw_gid).gr_name}"
                environment["AS_NOBODY"] = "1"
                for folder in (self.folder, self.files):
                    self.give_away(folder)
            app = asgi_server(self.folder, *UVICORN, app="faulty:site", name="app", tcp=False, **environment)
            self.app = stack.enter_context(app)
            http = HTTP.replace("$folder", str(self.folder))
            self.nginx = Nginx(self.folder, http, self.folder / "offers.sock", connections=4096, user=user)
            stack.enter_context(self.nginx)
            self.client = stack.enter_context(client(self.folder / "app.sock"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def give_away(self, path: Path) -> None:
        """Make what root wrote the app's own."""
        if self.as_nobody:
            nobody = pwd.getpwnam("nobody")
            os.chown(path, nobody.pw_uid, nobody.pw_gid)

    def write(self, name: str, content: bytes) -> bytes:
        """Write one of the files, and return its content."""
        path = self.files / name
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        self.give_away(path)
        return content

    def download(self, way: Way, name: str, **contents: bytes) -> Download:
        return Download(self.folder / f"{way.server}.sock", f"{way.route}/{name}", **contents)

    def workers(self) -> list[int]:
        """nginx's workers, those of before a reload included."""
        master = self.nginx.process.pid
        return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]

    def state(self) -> dict[str, int]:
        """What the app says that it holds."""
        state: dict[str, int] = self.client.get("/state").json()
        return state

    def app_has_ended(self) -> bool:
        return self.app.process.poll() is not None

    def app_log(self) -> str:
        return self.app.log.read_text(errors="replace")


class Download:
    """A client that has asked for a file, and reads only when told to.

    `contents` are what the file may hold, by name; `matches` are those names that fit what has come so far.
    """

    def __init__(self, listens_on: Path, path: str, **contents: bytes) -> None:
        self.contents = contents
        self.matches = set(contents)
        self.status = 0
        self.length = -1
        self.received = 0
        self.ended = False
        self._head = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(listens_on))  # before there is a timeout: with one, a full queue is an error
        self._socket.settimeout(PATIENCE)
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())

    def read(self, size: int) -> None:
        """Read up to so many further bytes of the body, and the headers before."""
        while not self.status and not self.ended:
            self._head += self._receive(4096)
            head, found, body = self._head.partition(b"\r\n\r\n")
            if found:
                lines = head.decode("latin-1").lower().split("\r\n")
                self.status = int(lines[0].split()[1])
                self.length = int(dict(line.split(": ", 1) for line in lines[1:]).get("content-length", "-1"))
                self._check(body)
                size -= len(body)
        while size > 0 and not self.ended and self.received != self.length:
            part = self._receive(min(size, MIB))
            self._check(part)
            size -= len(part)

    def finish(self) -> Download:
        """Read on to the end, and hang up."""
        while not self.ended and self.received != self.length:
            self.read(MIB)
        self.hang_up()
        return self

    def hang_up(self) -> None:
        self._socket.close()

    def _receive(self, size: int) -> bytes:
        try:
            part = self._socket.recv(size)
        except ConnectionResetError:
            part = b""
        self.ended = not part
        return part

    def _check(self, part: bytes) -> None:
        self.matches = {name for name in self.matches if self.contents[name].startswith(part, self.received)}
        self.received += len(part)

    @property
    def whole(self) -> list[str]:
        """The contents that have come whole and unchanged: none or one of them."""
        if self.status != 200 or self.received != self.length:
            return []
        return [name for name in self.matches if len(self.contents[name]) == self.length]

    def outcome(self) -> str:
        """What the client got, in words."""
        if self.status != 200:
            return str(self.status or "no answer")
        if self.whole:
            return f"200, {self.whole[0]}"
        if self.received < self.length:
            return "200, cut short"
        return "200, whole, but old and new mixed"


class Usage(NamedTuple):
    """What a process holds."""

    sockets: int
    descriptors: int
    threads: int
    resident: int  # bytes
    deleted: int  # bytes of files that have no name any more, as nginx's temporary files
    has_read: int  # bytes, so far
    processor: float  # seconds, so far

    @classmethod
    def of(cls, pid: int) -> Usage:
        home = Path(f"/proc/{pid}")
        sockets = descriptors = deleted = 0
        for link in (home / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(link)
                descriptors += 1
                sockets += target.startswith("socket:")
                deleted += link.stat().st_size if target.endswith("(deleted)") else 0
        status = dict(line.split(":", 1) for line in (home / "status").read_text().splitlines())
        io = dict(line.split(": ") for line in (home / "io").read_text().splitlines())
        times = (home / "stat").read_text().rpartition(")")[2].split()[11:13]
        return cls(
            sockets,
            descriptors,
            int(status["Threads"]),
            int(status["VmRSS"].split()[0]) * 1024,
            deleted,
            int(io["rchar"]),
            sum(map(int, times)) / os.sysconf("SC_CLK_TCK"),
        )

    def held(self) -> tuple[int, ...]:
        """What stays as it is while nothing happens."""
        return self.sockets, self.descriptors, self.threads, self.deleted, self.has_read


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Wait until something is so, and return whether it came to be."""
    deadline = time.monotonic() + seconds
    while not (so := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return so


def settled(look: Callable[[], T], same: Callable[[T, T], bool]) -> T:
    """Look until nothing has changed for a second, and return what is seen then."""
    deadline = time.monotonic() + 2 * PATIENCE
    seen, since = look(), time.monotonic()
    while time.monotonic() < since + 1:
        if time.monotonic() > deadline:
            raise RuntimeError(f"there is no end to the change: {seen}")
        time.sleep(0.1)
        now = look()
        if not same(seen, now):
            since = time.monotonic()
        seen = now
    return seen


def check_limits() -> None:
    """See to the disk and the file descriptors that a thousand clients need, here and in the servers."""
    if shutil.disk_usage(tempfile.gettempdir()).free < 6 * 1024 * MIB:
        raise RuntimeError(f"{tempfile.gettempdir()} has less than 6 GiB free: give another folder by $TMPDIR")
    wanted = 8192
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise RuntimeError(f"`ulimit -Hn` is {hard}: a thousand clients need {wanted}")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
