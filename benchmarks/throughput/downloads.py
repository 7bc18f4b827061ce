"""Clients that download one file, each at a rate of its own, and spend almost no processor time themselves.

    python downloads.py PORT PATH CLIENTS RATE WARMING SECONDS

RATE is in bytes per second and client; 0 is as fast as it goes. What arrives is moved from the socket to /dev/null
within the kernel (`splice`). After WARMING seconds it writes a line, after SECONDS more another: the bytes that came in
between, and the seconds of its own processor time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import sys
import time

TICK = 0.01  # seconds
PIECE = 1 << 20  # bytes
NONBLOCK = 2  # SPLICE_F_NONBLOCK


class Client:
    """One download, begun anew when it ends."""

    def __init__(self, port: int, path: str) -> None:
        self.address = ("127.0.0.1", port)
        self.request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        self.connect()

    def connect(self) -> None:
        self.socket = socket.create_connection(self.address)
        self.socket.sendall(self.request)
        self.socket.setblocking(False)

    def fileno(self) -> int:
        return self.socket.fileno()

    def take(self, allowed: int, pipe: tuple[int, int], sink: int) -> int:
        """Throw away what has arrived, at most so many bytes, and say how many it was."""
        taken = 0
        with contextlib.suppress(BlockingIOError):
            while taken < allowed:
                count = os.splice(self.fileno(), pipe[1], allowed - taken, flags=NONBLOCK)
                if not count:
                    self.socket.close()
                    self.connect()
                    break
                taken += count
                while count:
                    count -= os.splice(pipe[0], sink, count)
        return taken


def main(port: int, path: str, clients: int, rate: int, warming: float, seconds: float) -> None:
    pipe, sink = os.pipe(), os.open(os.devnull, os.O_WRONLY)
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, PIECE)
    connections = [Client(port, path) for _ in range(clients)]
    taken, last = 0, time.monotonic()
    begin, computed = last + warming, 0.0
    while last < begin + seconds:
        if rate:
            time.sleep(TICK)
        now = time.monotonic()
        # What a client has not got in time, it does not get later: its line is not faster than that.
        allowed = int(rate * (now - last)) if rate else PIECE
        for client in connections if rate else select.select(connections, [], [], TICK)[0]:
            taken += client.take(allowed, pipe, sink)
        if last < begin <= now:
            sys.stdout.write("warm\n")
            sys.stdout.flush()
            taken, begin, computed = 0, now, time.process_time()
        last = now
    sys.stdout.write(f"{taken} {time.process_time() - computed}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:5]), *map(float, sys.argv[5:7]))
