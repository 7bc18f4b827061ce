"""Files that the app deletes after its response, which nginx would not find any more."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import anyio.lowlevel
import httpx
import pytest
from asgi import Answer, ask
from servers import Site
from starlette.background import BackgroundTask
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send
from test_nginx import sent_by_nginx

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
    """What the middleware sends."""

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


@pytest.mark.parametrize("delete", [True, False])
def test_trio(file: Path, delete: bool) -> None:
    """On trio the redirect waits, too."""
    request = FileResponse(file, background=BackgroundTask(file.unlink if delete else list))
    answer = anyio.run(get, request, backend="trio")
    assert is_redirect(answer) != delete
    assert answer.body == (TEXT if delete else b"")


class TestThroughNginx:
    """What a client gets."""

    @pytest.mark.parametrize("at_once", [1, 16])
    @pytest.mark.parametrize("mode", ["mapping", "base"])
    @pytest.mark.parametrize("how", ["by-function", "by-coroutine", "at-the-end"])
    def test_none_is_lost(self, site: Site, mode: str, how: str, at_once: int) -> None:
        """Every download of a file that is deleted at once is whole; `make faults` counts 10,000 of each."""

        def download(_: int) -> tuple[int, bytes]:
            response = site.offers.get(f"/{mode}/deleted-{how}")
            return response.status_code, response.content

        with ThreadPoolExecutor(at_once) as pool:
            assert set(pool.map(download, range(60))) == {(200, b"temporary ")}

    def test_range(self, site: Site) -> None:
        """A range of it, too, and it comes from the app."""
        response: httpx.Response = site.offers.get("/mapping/deleted-by-coroutine", headers={"Range": "bytes=1-3"})
        assert (response.status_code, response.content) == (206, b"emp")
        assert not sent_by_nginx(response)
