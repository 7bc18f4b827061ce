"""What is done to the stage, and what should come of it: one function for each kind of fault."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat

from faulty import CHANGES, change
from hostile import Hostile
from servers import client
from stage import (
    ACCEL,
    DISKLESS,
    MIB,
    PATIENCE,
    PLAIN,
    UNOFFERED,
    VAULT,
    Download,
    Stage,
    Usage,
    Way,
    settled,
    wait_until,
)

SEED = 20261121
THREADS = 40  # the most that AnyIO starts for file operations; it keeps idle ones for further use
CONTENT = random.Random(SEED).randbytes(64 * MIB)


@dataclass
class Table:
    """What was measured, and the promises that were not kept."""

    columns: list[str]
    rows: list[list[object]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def promise(self, kept: bool, text: str) -> None:
        if not kept:
            self.broken.append(text)

    def __str__(self) -> str:
        lines: list[list[object]] = [[*self.columns], ["---"] * len(self.columns), *self.rows]
        texts = ["| " + " | ".join(map(str, line)) + " |" for line in lines]
        texts += [f"\n{note}" for note in self.notes]
        return "\n".join(texts + [f"\nBROKEN: {text}" for text in self.broken])


def mib(size: float) -> str:
    return f"{size / MIB:,.0f}"


def slow_clients() -> Table:
    """A thousand clients ask for a large file, read its first 4 KiB, and then nothing more."""
    table = Table([])
    before, with_middleware = _slow_clients(table, ACCEL, 1024)
    columns = {
        "before": before,
        ACCEL.name: with_middleware,
        DISKLESS.name: _slow_clients(table, DISKLESS, 1024)[1],
        # nginx keeps up to 1 GiB of a response on its disk for each slow client, so this file has to be smaller.
        PLAIN.name: _slow_clients(table, PLAIN, 4)[1],
    }
    table.columns = ["", *columns]
    table.rows = [[name, *(column[name] for column in columns.values())] for name in before]
    return table


def _slow_clients(table: Table, way: Way, size: int) -> tuple[dict[str, object], dict[str, object]]:
    """What is held before they come, and when nothing moves any more."""
    clients = 1000
    with Stage() as stage:
        (stage.files / "file").touch()
        os.truncate(stage.files / "file", size * MIB)
        stage.download(way, "file").finish()  # what a process imports and caches once is no part of it
        pids = (stage.app.process.pid, *stage.workers())
        before = settled(lambda: [Usage.of(pid) for pid in pids], _hold_the_same)
        downloads = [stage.download(way, "file") for _ in range(clients)]
        for download in downloads:
            download.read(4096)
        during = settled(lambda: [Usage.of(pid) for pid in pids], _hold_the_same)
        served = sum(download.status == 200 and download.received > 0 for download in downloads)
        for download in downloads:
            download.hang_up()
    if way is ACCEL:
        table.promise(served == clients, "a slow client got no answer")
        table.promise(during[0].descriptors <= before[0].descriptors, "slow clients hold the app's file descriptors")
        table.promise(during[0].threads <= before[0].threads + THREADS, "slow clients hold the app's threads")
    return _figures(size, 0, before, before), _figures(size, served, before, during)


def _hold_the_same(some: list[Usage], others: list[Usage]) -> bool:
    """Whether nothing moves. Memory and processor time do so by themselves."""
    return [usage.held() for usage in some] == [usage.held() for usage in others]


def _figures(size: int, served: int, before: list[Usage], during: list[Usage]) -> dict[str, object]:
    (app, proxy), first = during, before[0]
    return {
        "the file, MiB": f"{size:,}",
        "clients with their first bytes": f"{served:,}",
        "the app's connections": f"{app.sockets - first.sockets:,}",
        "the app's file descriptors": f"{app.descriptors:,}",
        "the app's threads": app.threads,
        "the app's memory, MiB": mib(app.resident),
        "the app's processor time, s": f"{app.processor - first.processor:.1f}",
        "nginx's file descriptors": f"{proxy.descriptors:,}",
        "nginx's memory, MiB": mib(proxy.resident),
        "nginx's temporary files, MiB": mib(proxy.deleted),
    }


def sigkill() -> Table:
    """The app is killed when 100 clients have the first bytes of 64 MiB each. Then they read on."""
    table = Table(["sent by", "downloads", "whole", "average MiB received"])
    for way in (ACCEL, DISKLESS, PLAIN):
        with Stage() as stage:
            content = stage.write("file", CONTENT)
            downloads = [stage.download(way, "file", whole=content) for _ in range(100)]
            for download in downloads:
                download.read(4096)
            stage.app.process.kill()
            stage.app.process.wait()
            whole = sum(bool(download.finish().whole) for download in downloads)
            came = sum(download.received for download in downloads) / len(downloads)
            table.rows.append([way.name, len(downloads), whole, f"{came / MIB:.1f}"])
            table.promise(all(download.matches for download in downloads), f"{way.name} sent what is not the file's")
            table.promise(way is not ACCEL or whole == len(downloads), "downloads broke when the app was killed")
    return table


def sigterm() -> Table:
    """The app is told to end, as for a new version, while 100 clients read slowly. Then they read on."""
    table = Table(["sent by", "downloads", "the app has ended", "whole"])
    for way in (ACCEL, DISKLESS):
        with Stage() as stage:
            content = stage.write("file", CONTENT[: 16 * MIB])
            downloads = [stage.download(way, "file", whole=content) for _ in range(100)]
            for download in downloads:
                download.read(4096)
            start = time.monotonic()
            stage.app.process.terminate()
            ended = wait_until(stage.app_has_ended, 10)
            taken = f"after {time.monotonic() - start:.1f} s" if ended else "not within 10 s"
            whole = sum(bool(download.finish().whole) for download in downloads)
            table.rows.append([way.name, len(downloads), taken, whole])
            if way is ACCEL:
                table.promise(ended, "the app did not end while clients read slowly")
                table.promise(whole == len(downloads), "downloads broke when the app ended")
    return table


def reload() -> Table:
    """nginx is reloaded five times while 100 clients read 16 MiB each, a megabyte at a time."""
    table = Table(["sent by", "downloads", "whole", "asked for after a reload", "whole"])
    for way in (ACCEL, DISKLESS, PLAIN):
        with Stage() as stage:
            content = stage.write("file", CONTENT[: 16 * MIB])
            downloads = [stage.download(way, "file", whole=content) for _ in range(100)]
            later: list[Download] = []
            for _ in range(5):
                for download in downloads:
                    download.read(MIB)
                table.promise(_reload(stage), "nginx did not start a new worker")
                later += [stage.download(way, "file", whole=content).finish() for _ in range(4)]
            for download in downloads:
                download.finish()
            whole, new = (sum(bool(download.whole) for download in each) for each in (downloads, later))
            table.rows.append([way.name, len(downloads), whole, len(later), new])
            if way is ACCEL:
                table.promise(whole == len(downloads), "downloads broke when nginx was reloaded")
                table.promise(new == len(later), "new downloads broke when nginx was reloaded")
    return table


def _reload(stage: Stage) -> bool:
    """Make nginx read its configuration again, as `nginx -s reload` does; whether it started a new worker."""
    before = set(stage.workers())
    stage.nginx.process.send_signal(signal.SIGHUP)
    return wait_until(lambda: bool(set(stage.workers()) - before))


# What a client gets with the middleware, by when the file changes: before the request; when the app has answered and
# nginx has not opened the file; when a part of it has been sent.
MOMENTS = ("before the request", "between answer and sending", "while it is sent")
EXPECTED = {
    "replaced by a rename": ("200, new", "200, new", "200, old"),
    "rewritten in place": ("200, new", "200, new", "200, whole, but old and new mixed"),
    "truncated": ("200, new", "200, new", "200, cut short"),
    "appended to": ("200, new", "200, new", "200, old"),
    "deleted": ("500", "404", "200, old"),
    "made unreadable": ("403", "403", "200, old"),
}


def file_changes() -> Table:
    """The file changes before the request, between the app's answer and nginx's sending, or while it is sent."""
    table = Table(["the file is", "when", ACCEL.name, DISKLESS.name])
    old = CONTENT[: 8 * MIB]
    contents = {
        "replaced by a rename": CONTENT[-7 * MIB :],
        "rewritten in place": CONTENT[-8 * MIB :],
        "truncated": old[: 4 * MIB],
        "appended to": CONTENT[: 9 * MIB],
    }
    with Stage(as_nobody=True) as stage:
        for name in CHANGES:
            stage.write("new", contents.get(name, b""))
            for moment, expected in zip(MOMENTS, EXPECTED[name], strict=True):
                outcomes = [_outcome(stage, way, name, moment, old, contents.get(name)) for way in (ACCEL, DISKLESS)]
                table.rows.append([name, moment, *outcomes])
                table.promise(outcomes[0] == expected, f"{name} {moment}: {outcomes[0]} where {expected} was expected")
    return table


def _outcome(stage: Stage, way: Way, name: str, moment: str, old: bytes, new: bytes | None) -> str:
    stage.write("file", old)
    contents = {"old": old} if new is None else {"old": old, "new": new}
    if moment == MOMENTS[0]:
        change(stage.files, name)
    path = f"file?change={name.replace(' ', '+')}" if moment == MOMENTS[1] else "file"
    download = stage.download(way, path, **contents)
    if moment == MOMENTS[2]:
        download.read(4096)
        change(stage.files, name)
    return download.finish().outcome()


def deleted_afterwards() -> Table:
    """Each download has its own file, which a background task deletes when the app has responded."""
    count = 10_000
    table = Table(["the task is", "clients at once", "downloads", "lost"])
    for kind in ("function", "coroutine"):
        for clients in (1, 16, 64):
            with Stage() as stage:
                shares = [count // clients + (number < count % clients) for number in range(clients)]
                with ThreadPoolExecutor(clients) as pool:
                    lost = sum(pool.map(_lost, repeat(stage), repeat(f"{ACCEL.route}/deleted-by-{kind}"), shares))
                table.rows.append([f"a {kind}", clients, f"{count:,}", lost])
                table.promise(not lost, f"{lost} downloads were lost, with a {kind} and {clients} clients at once")
                table.promise(not list(stage.files.iterdir()), "the app did not delete all files")
    return table


def _lost(stage: Stage, path: str, count: int) -> int:
    """How many of so many downloads, one after another, are not whole."""
    with client(stage.folder / f"{ACCEL.server}.sock") as browser:
        responses = (browser.get(path) for _ in range(count))
        return sum((response.status_code, response.content) != (200, b"temporary ") for response in responses)


def hang_ups() -> Table:
    """Two hundred clients hang up, twice: half in the middle of 4 MiB, half before they have read anything."""
    table = Table(
        ["sent by", "", "tasks", "threads", "file descriptors", "processor time, s", "lines in the app's log"]
    )
    for way in (ACCEL, UNOFFERED, DISKLESS):
        with Stage() as stage:
            stage.write("file", CONTENT[: 4 * MIB])
            stage.download(way, "file").finish()
            before = settled(stage.state, dict.__eq__)
            lines = len(stage.app_log().splitlines())  # the one warning that nothing is offered
            table.rows.append([way.name, "before", *before.values(), "", ""])
            for wave in ("first 200", "next 200"):
                start = Usage.of(stage.app.process.pid).processor
                downloads = [stage.download(way, "file") for _ in range(200)]
                for download in downloads[::2]:
                    download.read(MIB // 2)
                for download in downloads:
                    download.hang_up()
                after, over = _state_afterwards(stage, before)
                taken = Usage.of(stage.app.process.pid).processor - start
                logged = len(stage.app_log().splitlines()) - lines
                table.rows.append([way.name, f"after the {wave}", *after.values(), f"{taken:.1f}", logged])
                if way is not DISKLESS:
                    table.promise(over, f"clients that hung up left something, with {way.name}: {before}, {after}")
                    table.promise(after["threads"] <= before["threads"] + THREADS, "clients that hung up left threads")
                    table.promise(not logged, f"clients that hung up left lines in the app's log, with {way.name}")
    return table


def _state_afterwards(stage: Stage, before: dict[str, int]) -> tuple[dict[str, int], bool]:
    """What the app holds when all is over, and whether that is no more than before."""
    states: list[dict[str, int]] = []

    def is_over() -> bool:
        states.append(stage.state())
        return all(states[-1][name] <= before[name] for name in ("tasks", "descriptors"))

    over = wait_until(is_over)
    return states[-1], over


def hostile_headers() -> Table:
    """Ten thousand requests: random bytes, forged mappings, bad ranges, headers that come twice or are too long."""
    requests = 10_000
    choose = random.Random(SEED)
    with Stage() as stage:
        content = stage.write("file", CONTENT[:1000])
        hostile = Hostile(choose, str(stage.files), str(stage.folder / "vault"))
        table = Table(["to", "requests", "by status", "redirects that clients see", "files from outside the mapping"])
        for server, name in (
            ("offers", "nginx that offers"),
            ("silent", "nginx that offers nothing"),
            ("app", "the app"),
        ):
            share = requests // 2 if server == "app" else requests // 4
            statuses: Counter[int] = Counter()
            redirects = outside = wrong = 0
            for _ in range(share):
                method, route = choose.choice(("GET", "GET", "GET", "HEAD")), choose.choice(("/accel", "/secret"))
                rest = b"".join(b"%s: %s\r\n" % header for header in hostile.headers())
                status, target, body = _ask(stage, server, f"{method} {route}/file", rest)
                statuses[status] += 1
                redirects += bool(target)
                outside += VAULT in body or target not in (b"", b"/download/file")
                wrong += status == 200 and body != (b"" if method == "HEAD" or target else content)
                wrong += status == 206 and not (body in content or body.lstrip().startswith(b"--"))  # several ranges
                # Nobody can know the secret, and without it a redirect needs one of the app's own pairs.
                wrong += bool(target) and (route == "/secret" or str(stage.files).encode() not in rest)
                if server == "app" and method == "GET" and not target:
                    without, _, other = _ask(stage, server, f"{method} /plain/file", rest)
                    wrong += (status, len(body)) != (without, len(other))
            counts = ", ".join(f"{status or 'no answer'}: {count:,}" for status, count in sorted(statuses.items()))
            table.rows.append([name, f"{share:,}", counts, redirects, outside])
            table.promise(not any(status >= 500 for status in statuses), f"{name} answered {counts}")
            table.promise(not statuses[0], f"{name} gave no answer")
            table.promise(not wrong, f"{name} gave {wrong} answers that are not what they should be")
            table.promise(not outside, f"{name} gave away a file from outside of the mapping")
            table.promise(server == "app" or not redirects, f"{name} let a redirect through to the client")
        table.promise("Traceback" not in stage.app_log(), "the app's log holds a traceback")
        crashes = [line for line in stage.nginx.error_log.read_text(errors="replace").splitlines() if "[alert]" in line]
        table.promise(not crashes, f"nginx's log holds {crashes[:3]}")
    table.notes.append(
        f"The random numbers' seed is {SEED}. A client that reaches the app itself, and names one of the app's own "
        "pairs, gets an empty answer with the redirect."
    )
    return table


def _ask(stage: Stage, server: str, line: str, headers: bytes) -> tuple[int, bytes, bytes]:
    """The status, the redirect and the body that a request gets."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(stage.folder / f"{server}.sock"))
        connection.settimeout(PATIENCE)
        # A server may refuse a request before it has read all of it. Its answer comes after the error.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(
                f"{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode() + headers + b"\r\n"
            )
        while True:
            with contextlib.suppress(ConnectionResetError):
                part = connection.recv(65536)
                if not part:
                    break
                answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    target = head.lower().partition(b"\r\nx-accel-redirect: ")[2].partition(b"\r\n")[0]
    return int(head.split(maxsplit=2)[1]) if head else 0, target, body


SECTIONS = [slow_clients, sigkill, sigterm, reload, file_changes, deleted_afterwards, hang_ups, hostile_headers]
