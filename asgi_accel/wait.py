"""The wait: a redirect waits until the app is done, up to a limit, and its file is kept open.

What an app does after its response, such as a background task, can delete the file before nginx opens it. So the
redirect goes out when the app is done. If the file is gone by then, the app sends it from the open file.
`redirecting.py` decides which redirects wait.

The file is opened in the event loop: a thread would cost more than all the rest of a redirect. If a network mount
hangs, the loop hangs, too. ``hold=0`` opens nothing.
"""

import asyncio
import contextvars
import os
from collections.abc import Awaitable, Callable

import anyio

# A descriptor that can be read, since FUSE keeps no deleted file for O_PATH. A pipe of that name must not block.
READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class OpenFile:
    """A file that stays readable when its name is gone. `FileResponse` takes it as its path."""

    def __init__(self, path: str) -> None:
        """Open the file; an `OSError` says that the app cannot."""
        self.path = path
        self._descriptor = os.open(path, READ)
        self.stat_result: os.stat_result = os.fstat(self._descriptor)

    def __index__(self) -> int:
        """What `open` takes for a path: a descriptor of its own, which is closed by whoever opens the file."""
        return os.dup(self._descriptor)

    def is_there(self) -> bool:
        """Whether the path still leads to this file."""
        try:
            return os.path.samestat(os.stat(self.path), self.stat_result)
        except OSError:
            return False

    def close(self) -> None:
        os.close(self._descriptor)


class Timer:
    """Calls `release` once: when the app is done, or after some seconds, in a task of its own."""

    error: Exception | None = None  # what `release` has raised in that task
    _done: asyncio.Event | anyio.Event | None = None  # of that task, once it has begun

    def __init__(self, seconds: float, release: Callable[[], Awaitable[None]]) -> None:
        self._seconds = seconds
        self._release = release
        self._handle: asyncio.Handle | anyio.CancelScope

        if _is_on_asyncio():
            # Most apps finish before the loop comes round, and starting a clock costs more.
            self._loop = asyncio.get_running_loop()
            self._handle = self._loop.call_soon(self._start_clock)
        else:
            import trio

            self._handle = anyio.CancelScope()
            trio.lowlevel.spawn_system_task(self._wait_on_trio, self._handle, context=contextvars.copy_context())

    def _start_clock(self) -> None:
        self._handle = self._loop.call_later(self._seconds, self._time_is_up)

    def _time_is_up(self) -> None:
        self._done = asyncio.Event()
        self._task = self._loop.create_task(self._release_alone(self._done))

    async def _wait_on_trio(self, scope: anyio.CancelScope) -> None:
        with scope:
            await anyio.sleep(self._seconds)

        if not scope.cancel_called:
            self._done = anyio.Event()
            await self._release_alone(self._done)

    async def _release_alone(self, done: asyncio.Event | anyio.Event) -> None:
        try:
            await self._release()
        except Exception as exc:  # for `finish`; a system task of trio must not raise
            self.error = exc
        finally:
            done.set()

    async def finish(self) -> None:
        """The app is done: release now, unless the time was up before; raise what went wrong with that."""
        self._handle.cancel()
        if self._done is None:
            await self._release()
            return

        await self._done.wait()
        if self.error is not None:
            raise self.error


def _is_on_asyncio() -> bool:
    """Whether this is a task of asyncio. In trio's guest mode asyncio's loop runs, too, but no task of it."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:  # no loop
        return False
