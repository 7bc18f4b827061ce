"""Files that the app deletes after its response, which nginx would not find any more."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import anyio.lowlevel
import httpx
import pytest
from asgi import Answer, ask
from behind_nginx import sent_by_nginx
from needs import need_nginx
from running import wait_until
from servers import DEADLINE, HYPERCORN, UVICORN, Nginx, Process, Site, asgi_server, client
from starlette.background import BackgroundTask
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from asgi_accel import AccelMiddleware

TEXT = b"0123456789"
PATHSEND = "http.response.pathsend"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "files" / "a.txt"
    path.parent.mkdir()
    path.write_bytes(TEXT)
    return path


async def get(response: FileResponse, *headers: tuple[bytes, bytes], hold: float = 0.1, **options: object) -> Answer:
    """What a response becomes where the proxy offers to send its file."""
    folder = Path(response.path).parent
    offer = (b"x-accel-mapping", os.fsencode(f"{folder}/=/files/"))
    app = AccelMiddleware(response, {folder: "/files"}, hold=hold)
    return await ask(app, offer, *headers, **options)  # type: ignore[arg-type]


def is_redirect(answer: Answer) -> bool:
    return answer.header(b"x-accel-redirect") is not None


def comparable(answer: Answer) -> tuple[int, str, str]:
    """What must be the same: all but a multipart's random boundary."""
    headers, body = (re.sub(r"\b[0-9a-f]{26}\b", "-", str(part)) for part in (answer.headers, answer.body))
    return answer.status, headers, body


def open_files() -> list[str]:
    return os.listdir("/dev/fd")


@pytest.mark.anyio
class TestInProcess:
    """What the middleware sends, on both of AnyIO's backends."""

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture(autouse=True)
    def nothing_stays_open(self) -> object:
        """Each file that was opened is closed in the end."""
        before = len(open_files())
        yield
        assert len(open_files()) == before

    @pytest.mark.parametrize(
        "delete",
        [
            os.unlink,
            lambda path: shutil.rmtree(path.parent),
            lambda path: path.rename(path.with_name("moved")),
            lambda path: path.with_name("new").replace(path),
        ],
        ids=["deleted", "folder deleted", "moved", "replaced"],
    )
    @pytest.mark.parametrize("kind", ["function", "coroutine"])
    @pytest.mark.parametrize("wanted", [None, b"bytes=2-4", b"bytes=0-1,5-6", b"bytes=50-"])
    async def test_sent_by_the_app(
        self, file: Path, delete: Callable[[Path], object], kind: str, wanted: bytes | None
    ) -> None:
        """A file that is gone when the app is done is sent by the app, as without the middleware."""
        file.with_name("new").write_bytes(b"another file")

        async def task() -> None:
            delete(file)

        def respond() -> FileResponse:
            background = BackgroundTask(task) if kind == "coroutine" else BackgroundTask(delete, file)
            return FileResponse(file, headers={"X-Own": "1"}, background=background)

        headers = [] if wanted is None else [(b"range", wanted)]
        expected = await ask(FileResponse(file, headers={"X-Own": "1"}), *headers)
        answer = await get(respond(), *headers, extensions={PATHSEND: {}})
        assert comparable(answer) == comparable(expected)

    async def test_not_deleted(self, file: Path) -> None:
        """A file that is there still is redirected, once the task is done."""
        sent: list[bool] = []
        folder = file.parent
        app = AccelMiddleware(FileResponse(file, background=BackgroundTask(lambda: sent.append(False))), {folder: "/f"})

        async def note(scope: Scope, receive: Receive, send: Send) -> None:
            async def noting(message: Message) -> None:
                sent.append(True)
                await send(message)

            await app(scope, receive, noting)

        assert is_redirect(await ask(note, (b"x-accel-mapping", os.fsencode(f"{folder}/=/f/"))))
        assert sent == [False, True, True]

    async def test_without_a_task(self, file: Path) -> None:
        """A redirect of an app that has nothing more to do waits for nothing, not even for the event loop's turn."""
        request = get(FileResponse(file, stat_result=file.stat()))
        with pytest.raises(StopIteration) as stopped:
            request.send(None)
        assert is_redirect(stopped.value.value)

    async def test_finished_once(self, file: Path) -> None:
        """What has been sent is not sent again later, nor a file closed that has the number of the first by then."""
        answer = await get(FileResponse(file, stat_result=file.stat()), hold=1e-9)
        with file.open("rb") as stream:
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            assert stream.read() == TEXT
        assert len(answer.messages) == 2

    @pytest.mark.parametrize("delete", [True, False])
    async def test_slow_task(self, file: Path, delete: bool) -> None:
        """The response does not wait for a task that takes long, whether that has deleted the file or not."""
        done = anyio.Event()
        answers: list[Message] = []

        async def task() -> None:
            if delete:
                file.unlink()
            await done.wait()

        app = AccelMiddleware(FileResponse(file, background=BackgroundTask(task)), {file.parent: "/files"})

        async def note(scope: Scope, receive: Receive, send: Send) -> None:
            async def noting(message: Message) -> None:
                answers.append(message)
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    done.set()
                await send(message)

            await app(scope, receive, noting)

        with anyio.fail_after(10):
            answer = await ask(note, (b"x-accel-mapping", os.fsencode(f"{file.parent}/=/files/")))
        assert is_redirect(answer) != delete
        assert answer.body == (TEXT if delete else b"")

    @pytest.mark.parametrize("delete", [True, False])
    async def test_task_that_raises(self, file: Path, delete: bool) -> None:
        """The response goes out, and the error goes on to the server."""
        answers: list[Message] = []

        async def task() -> None:
            if delete:
                file.unlink()
            raise RuntimeError("as intended")

        async def note(scope: Scope, receive: Receive, send: Send) -> None:
            async def noting(message: Message) -> None:
                answers.append(message)

            await app(scope, receive, noting)

        app = AccelMiddleware(FileResponse(file, background=BackgroundTask(task)), {file.parent: "/files"})
        with pytest.raises(RuntimeError, match="as intended"):
            await ask(note, (b"x-accel-mapping", os.fsencode(f"{file.parent}/=/files/")))
        assert [message["type"] for message in answers] == ["http.response.start", "http.response.body"]
        assert answers[1]["body"] == (TEXT if delete else b"")

    async def test_client_that_hangs_up(self, file: Path) -> None:
        """An error of the server's own send goes on to the server, too."""

        async def hung_up(message: Message) -> None:
            raise OSError("as intended")

        async def note(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope, receive, hung_up)

        app = AccelMiddleware(FileResponse(file), {file.parent: "/files"})
        with pytest.raises(OSError, match="as intended"):
            await ask(note, (b"x-accel-mapping", os.fsencode(f"{file.parent}/=/files/")))

    async def test_file_that_nginx_alone_has(self, file: Path) -> None:
        """A file that the app cannot open is redirected at once."""
        stat_result = file.stat()
        file.unlink()
        assert is_redirect(await get(FileResponse(file, stat_result=stat_result)))

    async def test_pipe(self, file: Path) -> None:
        """A pipe keeps nobody waiting."""
        stat_result = file.stat()
        file.unlink()
        os.mkfifo(file)
        assert is_redirect(await get(FileResponse(file, stat_result=stat_result)))


@contextlib.contextmanager
def behind_nginx(home: Path, server: Process, files: Path) -> Iterator[httpx.Client]:
    """A server of `tests/shared/apps.py`, and nginx in front of it, which offers to send its files."""
    socket = home / "nginx.sock"
    http = f"""
        server {{
            listen unix:{socket};
            location / {{
                proxy_pass http://unix:{server.listens_on};
                proxy_set_header X-Accel-Mapping "{files}/=/download/";
            }}
            location /download/ {{ internal; alias {files}/; }}
        }}
    """
    with server, Nginx(home, http, socket), client(socket) as through:
        yield through


def download(through: httpx.Client, count: int, at_once: int, path: str) -> Counter[tuple[int, bytes]]:
    """What so many downloads give."""

    def one(_: int) -> tuple[int, bytes]:
        response = through.get(path)
        return response.status_code, response.content

    with ThreadPoolExecutor(at_once) as pool:
        return Counter(pool.map(one, range(count)))


@pytest.fixture
def home(folder: Path) -> Path:
    need_nginx()
    home = Path(tempfile.mkdtemp(dir=folder))
    home.chmod(0o755)
    (home / "files").mkdir()
    return home


@pytest.fixture
def fuse(home: Path) -> Iterator[Path]:
    """A folder on FUSE, as sshfs, rclone and s3fs have it: what is deleted is gone, unless somebody can read it."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("there is no /dev/fuse, so nothing can be mounted")
    mounted = home / "mounted"
    mounted.mkdir()
    try:
        subprocess.run(["bindfs", str(home / "files"), str(mounted)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"bindfs cannot mount a folder: {exc}")
    yield mounted
    fusermount = shutil.which("fusermount3") or "fusermount"
    subprocess.run(
        ["umount", "-l", str(mounted)] if os.geteuid() == 0 else [fusermount, "-zu", str(mounted)], check=True
    )


WHOLE = (200, b"temporary ")
ROUTE = "/mapping/deleted-by-coroutine"


class TestThousand:
    """Of 1,000 downloads each, 16 at once, of a file that a background task deletes, none is lost."""

    def test_asyncio(self, site: Site) -> None:
        """uvicorn."""
        assert download(site.offers, 1000, 16, ROUTE) == {WHOLE: 1000}

    def test_trio(self, home: Path) -> None:
        """Hypercorn on trio, which has no asyncio loop to put a timer into."""
        server = asgi_server(home, *HYPERCORN, "-k", "trio", name="app", FILES=str(home / "files"))
        with behind_nginx(home, server, home / "files") as through:
            assert download(through, 1000, 16, ROUTE) == {WHOLE: 1000}

    def test_fuse(self, home: Path, fuse: Path) -> None:
        """A FUSE mount."""
        server = asgi_server(home, *UVICORN, name="app", FILES=str(fuse))
        with behind_nginx(home, server, fuse) as through:
            (fuse / "a.txt").write_bytes(TEXT)
            response = through.get(f"/mapping/file?hex={b'a.txt'.hex()}")
            assert (response.content, sent_by_nginx(response)) == (TEXT, True)
            assert download(through, 1000, 16, ROUTE) == {WHOLE: 1000}
            # FUSE has the deleted ones until nginx has closed them, which is a moment after it has sent them.
            wait_until(lambda: [path.name for path in fuse.iterdir()] == ["a.txt"], "the end of the deleted files")


def test_without_proc(home: Path) -> None:
    """No /proc is needed, nor /dev/fd, which leads there: some containers have none."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    # The change is for /proc alone, and seen nowhere else. In a chroot, / may be no mount.
    hide = 'mount --make-rprivate /proc && mount -t tmpfs none /proc && exec "$@"'
    alone = ["unshare", "--mount", "--propagation", "unchanged", *user, "sh", "-c", hide, "sh"]
    try:
        subprocess.run([*alone, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"/proc cannot be hidden here: {exc}")
    assert subprocess.run([*alone, "test", "-e", "/dev/fd/0"]).returncode == 1
    server = asgi_server(home, *UVICORN, name="app", FILES=str(home / "files"))
    server.command = [*alone, *server.command]
    with behind_nginx(home, server, home / "files") as through:
        assert download(through, 50, 4, ROUTE) == {WHOLE: 50}
        response = through.get(ROUTE, headers={"Range": "bytes=1-3"})
        assert (response.status_code, response.content) == (206, b"emp")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="/proc tells how many files another process has open")
@pytest.mark.parametrize("options", [UVICORN, (*HYPERCORN, "-k", "trio")], ids=["asyncio", "trio"])
@pytest.mark.parametrize("route", ["deleted-slowly", "slow-task"])
def test_clients_that_hang_up(home: Path, options: tuple[str, ...], route: str) -> None:
    """Clients that go away during the wait leave no file open, and keep nobody else from a response."""
    with asgi_server(home, *options, name="app", FILES=str(home / "files")) as server, client(server.listens_on) as own:
        opened = f"/proc/{server.process.pid}/fd"
        headers = {"X-Accel-Mapping": f"{home}/files/=/download/"}
        assert own.get(f"/mapping/{route}", headers=headers).status_code == 200
        before = len(os.listdir(opened))
        request = (
            f"GET /mapping/{route} HTTP/1.1\r\nHost: localhost\r\nX-Accel-Mapping: {headers['X-Accel-Mapping']}\r\n\r\n"
        )
        for _ in range(50):
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
                connection.connect(str(server.listens_on))
                connection.sendall(request.encode())
        deadline = time.monotonic() + DEADLINE
        while len(os.listdir(opened)) > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(os.listdir(opened)) <= before
        assert own.get(f"/mapping/{route}", headers=headers).status_code == 200


class TestThroughNginx:
    """What a client gets."""

    @pytest.mark.parametrize("at_once", [1, 16])
    @pytest.mark.parametrize("mode", ["mapping", "base"])
    @pytest.mark.parametrize("how", ["by-function", "by-coroutine", "at-the-end"])
    def test_none_is_lost(self, site: Site, mode: str, how: str, at_once: int) -> None:
        """Every download of a file that is deleted at once is whole; `make faults` counts 10,000 of each."""

        assert download(site.offers, 60, at_once, f"/{mode}/deleted-{how}") == {WHOLE: 60}

    def test_range(self, site: Site) -> None:
        """A range of it, too, and it comes from the app."""
        response: httpx.Response = site.offers.get("/mapping/deleted-by-coroutine", headers={"Range": "bytes=1-3"})
        assert (response.status_code, response.content) == (206, b"emp")
        assert not sent_by_nginx(response)
