"""HTTP as `asgi-accel check` speaks it: one request on a connection, all of them within one time limit."""

from __future__ import annotations

import email.utils
import http.client
import io
import os
import re
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Any, cast
from urllib.parse import quote, urlsplit

LONGEST_BODY = 65536  # bytes that are read of an answer
DIGITS = re.compile(r"\d{1,18}", re.ASCII)  # of a size: more is nonsense, and Python reads no more than 4,300


class CannotLook(Exception):
    """The site cannot be asked: the message says why."""


class OutOfTime(CannotLook):
    """The time for all requests together is over."""


@dataclass
class Answer:
    """A response, and the first 64 KiB of its body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def get(self, name: str) -> str:
        return self.headers.get(name, "")

    @property
    def size(self) -> int:
        """Bytes of the whole file, or -1."""
        text = self.get("content-range").rpartition("/")[2] or self.get("content-length")
        return int(text) if DIGITS.fullmatch(text) else -1

    @property
    def is_empty(self) -> bool:
        return self.size <= 0 and not self.body

    @property
    def sender(self) -> str | None:
        """Who may have sent a file, by its ETag: nginx's is the time and the size, Starlette's and S3's an MD5."""
        etag = self.get("etag").removeprefix("W/")
        if re.fullmatch(r'"[0-9a-f]{32}"', etag):
            return "app"
        found = re.fullmatch(r'"([0-9a-f]{1,10})-([0-9a-f]{1,15})"', etag)
        if found is None:
            return None
        time_, size = int(found[1], 16), int(found[2], 16)
        try:
            same_time = email.utils.formatdate(time_, usegmt=True) == self.get("last-modified")
        except (OverflowError, ValueError, OSError):  # after the year 9999
            return None
        return "nginx" if same_time and ("content-encoding" in self.headers or self.size in (-1, size)) else None

    @property
    def is_of_nginx(self) -> bool:
        """Whether this is one of nginx's own error pages."""
        return re.search(rb"<center>(nginx|openresty|tengine|angie)", self.body, re.IGNORECASE) is not None

    @property
    def identity(self) -> tuple[object, ...]:
        """What a client tells answers apart by."""
        return self.status, self.get("etag"), self.get("content-length"), self.sender or self.body


class Site:
    """A site that is asked for one URL; more paths are asked as they are written, dots and all.

    Args:
        url: An http or https URL. What is not ASCII in it is encoded as browsers do.
        headers: What else to send with each request; a `Host` takes the place of the URL's.
        timeout: Seconds for all requests together.
        ca: A file with the certificate of an authority that counts, too.

    Raises:
        CannotLook: The URL or the file is none.
    """

    def __init__(
        self, url: str, headers: Sequence[tuple[str, str]] = (), *, timeout: float = 30, ca: str | None = None
    ) -> None:
        self.given, self.timeout = headers, timeout
        self.deadline = time.monotonic() + timeout
        shown = re.sub("//[^/]*@", "//...@", url)  # without a password
        no_url = CannotLook(f"{shown!r} is no URL to ask: give one like https://www.example/reports/7")
        try:
            parts = urlsplit(url)
            self.port = parts.port or {"http": 80, "https": 443}[parts.scheme]
            name = parts.hostname or ""
            self.host = name if ":" in name else name.encode("idna").decode()
        except (KeyError, ValueError):
            raise no_url from None
        if "@" in parts.netloc:
            raise CannotLook(f"{shown!r} has a user name in it: give --header 'Authorization: Basic ...' in its place")
        # urlsplit leaves some control characters out without a word.
        if not re.fullmatch(r"[0-9A-Za-z._-]+|[0-9A-Fa-f:.]+", self.host) or re.search(r"[\x00-\x1f\x7f]", url):
            raise no_url
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        self.target = quote(os.fsencode(target), safe="/%:@!$&'()*+,;=~?")
        host = f"[{self.host}]" if ":" in self.host else self.host
        plain = [("Host", f"{host}:{parts.port}" if parts.port else host)]
        plain += [("User-Agent", "asgi-accel check"), ("Accept", "*/*"), ("Connection", "close")]
        given = {name.lower() for name, _ in headers}
        self.headers = [*(header for header in plain if header[0].lower() not in given), *headers]
        self.tls = _tls(ca) if parts.scheme == "https" else None

    def ask(self, method: str = "GET", *more: tuple[str, str], path: str | None = None) -> Answer:
        """Send one request, and read no more of the answer than is needed.

        Raises:
            OutOfTime: The time is over.
            CannotLook: There is no answer.
        """
        target = self.target if path is None else path
        instead = {name.lower() for name, _ in more}
        headers = [*(header for header in self.headers if header[0].lower() not in instead), *more]
        head = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
        try:
            with self._connected() as connection:
                connection.settimeout(self.left())
                connection.sendall("\r\n".join(head).encode("utf-8", "surrogateescape"))
                reader = _Reader(_Timed(connection, self))
                status = 100
                while status < 200 and status != 101:  # http.client knows no 103
                    response = http.client.HTTPResponse(cast("socket.socket", reader), method=method)
                    response.begin()
                    status = response.status
                return Answer(status, _joined(response.getheaders()), response.read(LONGEST_BODY))
        except TimeoutError:
            raise OutOfTime(f"{self.host} has not answered all in {self.timeout:g} seconds (--timeout)") from None
        except (OSError, http.client.HTTPException, ValueError) as exc:
            what = f"{exc or type(exc).__name__}"
            if isinstance(exc, ssl.SSLCertVerificationError):
                what = (
                    f"{exc.verify_message}. If another server block answers, its certificate is for another name. "
                    "If the authority is your own, give its certificate: --ca FILE"
                )
            elif isinstance(exc, http.client.BadStatusLine) and not isinstance(exc, ConnectionError):
                what = f"this is no HTTP: {what[:100]!r}"
            raise CannotLook(f"{method} {target} of {self.host}: {what}") from exc

    def left(self) -> float:
        """Seconds that are left; raises TimeoutError if there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _connected(self) -> socket.socket:
        failed: OSError = OSError("the name has no address")
        for family, kind, protocol, _, address in self._addresses():
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(self.left())
                connection.connect(address)
                return connection if self.tls is None else self.tls.wrap_socket(connection, server_hostname=self.host)
            except OSError as exc:
                connection.close()
                failed = exc
        raise failed

    def _addresses(self) -> Any:
        """Look the name up in a thread of its own, since nothing else can end a look-up that hangs."""
        found: list[Any] = []

        def look_up() -> None:
            try:
                found.append(socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM))
            except OSError as exc:
                found.append(exc)

        thread = Thread(target=look_up, daemon=True)
        thread.start()
        thread.join(self.left())
        if not found:
            raise TimeoutError
        if isinstance(found[0], OSError):
            raise found[0]
        return found[0]


class _Timed(io.RawIOBase):
    """What comes by a connection, until the time is over."""

    def __init__(self, connection: socket.socket, site: Site) -> None:
        self._connection, self._site = connection, site

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(self._site.left())
        return self._connection.recv_into(buffer)


class _Reader(io.BufferedReader):
    """What http.client takes for a socket. It stays open: the next answer is read on from where the last one ended."""

    def makefile(self, mode: str) -> _Reader:
        return self

    def close(self) -> None:
        """Leave it open: http.client closes what it has read."""


def _tls(ca: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except OSError as exc:
            raise CannotLook(f"--ca {ca!r}: {exc}: give a file with a certificate in PEM") from None
    return context


def _joined(headers: list[tuple[str, str]]) -> dict[str, str]:
    """Headers by their names in small letters, several of one name as a list with commas."""
    joined: dict[str, list[str]] = {}
    for name, value in headers:
        joined.setdefault(name.lower(), []).append(" ".join(value.split()))  # a value may go on in the next line
    return {name: ", ".join(values) for name, values in joined.items()}
