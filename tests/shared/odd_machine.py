"""A machine without what only Linux or POSIX has: the pytest plugin of tests/core/test_machines.py.

macOS has no `O_PATH`, and no /proc; Windows has no /dev/fd, and fewer names in `os` and `signal`.
"""

from __future__ import annotations

import asyncio.subprocess  # what the standard library and Starlette need of this machine, they take before
import contextlib
import importlib
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import starlette.staticfiles

FILES = {os: ("O_PATH", "O_NONBLOCK", "O_CLOEXEC", "mkfifo", "sendfile")}
PROCESSES = {
    os: ("fork", "geteuid", "getuid", "killpg", "setsid"),
    signal: ("SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1"),
}
LOADED = (asyncio.subprocess, starlette.staticfiles)


def refuse(path: Any) -> None:
    text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
    if text.startswith(("/dev/fd", "/proc", "/dev/stdout", "/dev/stderr")):
        raise FileNotFoundError(2, "not on this machine", text)


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        refuse(arguments[0])


def stat(path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
    refuse(path)
    return real_stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)


def remove(absent: Mapping[ModuleType, tuple[str, ...]]) -> None:
    for module, names in absent.items():
        for name in names:
            with contextlib.suppress(AttributeError):
                delattr(module, name)


assert "asgi_accel" not in sys.modules, "it has seen the real machine"
remove(FILES)
os.supports_dir_fd.clear()  # as on Windows
importlib.reload(shutil)  # or it removes folders with O_NONBLOCK: Python 3.14 does so if it has seen supports_dir_fd
real_stat, os.stat = os.stat, stat
sys.addaudithook(watch)
