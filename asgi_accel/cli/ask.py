"""HTTP for `asgi-accel check`: one request for each connection, and one time limit for all."""

import email.utils
import http.client
import io
import re
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from asgi_accel.cli.findings import advise
from asgi_accel.cli.values import CONTROL

ORIGIN = "https://asgi-accel-check.invalid"  # what browsers add to requests from another site


class CannotLook(Exception):
    """The site cannot be asked: the message says why."""


class OutOfTime(Exception):
    """The time for all requests together is over."""


@dataclass
class Answer:
    """A response, and the first 64 KiB of its body. The names of its headers are in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    def get(self, name: str) -> str:
        return self.headers.get(name, "")

    @property
    def size(self) -> int:
        """Bytes of the whole file, or -1."""
        text = self.get("content-range").rpartition("/")[2] or self.get("content-length")
        # A longer number is nonsense, and Python reads no more than 4,300 digits.
        return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else -1

    @property
    def sender(self) -> str | None:
        """Who may have sent a file, by its ETag: nginx's is the time and the size, Starlette's and S3's an MD5."""
        etag = self.get("etag").removeprefix("W/")
        if re.fullmatch(r'"[0-9a-f]{32}"', etag):
            return "app"
        found = re.fullmatch(r'"([0-9a-f]{1,8})-[0-9a-f]+"', etag)  # eight digits last until 2106
        same_time = found and email.utils.formatdate(int(found[1], 16), usegmt=True) == self.get("last-modified")
        return "nginx" if same_time else None

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
        timeout: Seconds for all requests together. A name that is looked up takes what the system gives it.
        ca: A file with the certificates that count in place of the system's.

    Raises:
        CannotLook: The URL or the file is none.
    """

    def __init__(self, url: str, headers: Sequence[tuple[str, str]], timeout: float, ca: str | None = None) -> None:
        self.timeout: float = timeout
        self.deadline: float = time.monotonic() + timeout
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").encode("idna").decode()
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
            # urlsplit leaves some control characters out without a word.
            if not host or "@" in parts.netloc or CONTROL.search(url):
                raise ValueError
            self.connection: http.client.HTTPConnection = http.client.HTTPConnection(host, port)
            if parts.scheme == "https":
                context = ssl.create_default_context(cafile=ca)
                self.connection = http.client.HTTPSConnection(host, port, context=context)
        except OSError as exc:
            raise CannotLook(advise("bad ca", ca=repr(ca), error=exc)) from None
        except (KeyError, ValueError, http.client.InvalidURL):
            shown = re.sub("//[^/]*@", "//...@", url)  # without a password
            raise CannotLook(advise("bad url", url=repr(shown))) from None
        target = (parts.path or "/") + f"?{parts.query}" * bool(parts.query)
        self.target: str = quote(target, safe="/%:@!$&'()*+,;=~?", errors="surrogateescape")
        self.has_login: bool = any(name.title() not in ("Host", "Origin") for name, _ in headers)
        usual = {"User-Agent": "asgi-accel check", "Accept": "*/*", "Connection": "close", "Origin": ORIGIN}
        self.headers: dict[str, str] = {**usual, **{name.title(): value for name, value in headers}}

    def ask(self, method: str = "GET", *more: tuple[str, str], path: str | None = None) -> Answer:
        """Send one request, and read no more of the answer than is needed.

        Raises:
            OutOfTime: The time is over.
            CannotLook: There is no answer.
        """
        target, headers = path or self.target, {**self.headers, **dict(more)}
        encoded = {name: value.encode("utf-8", "surrogateescape") for name, value in headers.items()}
        try:
            self.connection.timeout = max(self.deadline - time.monotonic(), 0)
            self.connection.request(method, target, headers=encoded)
            reader: Any = _Timed(self)
            response = http.client.HTTPResponse(reader, method=method)
            response.begin()
            while response.status < 200:  # http.client passes over 100 alone, not over 103
                response.headers = None  # type: ignore[assignment]  # so that it begins again
                response.begin()
            if response.status in (429, 503):  # which says nothing of the file
                raise ConnectionError(f"{response.status}: it got too many requests, or is closed for now")
            found = {name.lower(): " ".join(response.getheader(name, "").split()) for name in response.headers}
            return Answer(response.status, found, response.read(65536))
        except (OSError, http.client.HTTPException, ValueError) as exc:
            if time.monotonic() >= self.deadline:
                raise OutOfTime(advise("no time", host=self.connection.host, seconds=f"{self.timeout:g}")) from None
            what = f"the answer is not HTTP: {exc}" if type(exc) is http.client.BadStatusLine else str(exc)
            if isinstance(exc, ssl.SSLCertVerificationError):
                what = advise("bad certificate", error=exc.verify_message)
            raise CannotLook(f"{method} {target} of {self.connection.host}: {what[:300]}") from exc
        finally:
            self.connection.close()


class _Timed(io.RawIOBase):
    """What http.client takes for a socket: a server that sends a byte now and then gets no more time than another."""

    def __init__(self, site: Site) -> None:
        self._socket, self._deadline = site.connection.sock, site.deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(self._deadline - time.monotonic())  # a ValueError once it is over
        return int(self._socket.recv_into(buffer))
