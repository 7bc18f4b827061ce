"""`asgi-accel check` at odd and hostile servers: a sentence or a dash, in time, and no false alarm."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from needs import need_nginx
from servers import Nginx, free_port

from asgi_accel.cli import main

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


@contextlib.contextmanager
def serving(answer: Callable[[socket.socket, bytes], None], *, family: int = socket.AF_INET) -> Iterator[str]:
    """A server that does what it is told with each connection, once it has read the request."""
    host = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}[socket.AddressFamily(family)]
    with socket.create_server((host, 0), family=socket.AddressFamily(family)) as listener:
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    answer(connection, connection.recv(65536))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def send_plain(connection: socket.socket, request: bytes) -> None:
    """A file, and no other page."""
    connection.sendall(PLAIN if b" / " in request else PLAIN.replace(b"200 OK", b"404 No").replace(b"hello", b"where"))


def sends(data: bytes) -> Callable[[socket.socket, bytes], None]:
    return lambda connection, _: connection.sendall(data)


def for_ever(first: bytes, part: bytes, pause: float = 0) -> Callable[[socket.socket, bytes], None]:
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(first)
        while True:  # until the client has gone
            connection.sendall(part)
            time.sleep(pause)

    return answer


class TestTime:
    """All requests together take no longer than `--timeout`."""

    @pytest.mark.parametrize(
        "answer",
        [
            for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            for_ever(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
            for_ever(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x", 0.05),
            for_ever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.05),
            for_ever(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.05),
            for_ever(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b"x", 0.05),
        ],
        ids=["100", "103", "body", "chunks", "headers", "size"],
    )
    def test_no_end(self, capsys: pytest.CaptureFixture[str], answer: Callable[[socket.socket, bytes], None]) -> None:
        """A server that never ends is left with a sentence."""
        with serving(answer) as url:
            started = time.monotonic()
            assert main(["check", url, "--timeout", "0.6"]) == 2
            assert time.monotonic() - started < 5
        # Newer Pythons take no more than 100 interim responses.
        assert re.search("--timeout|more than 100 interim responses", capsys.readouterr().err)

    def test_later(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What was found before is printed."""

        def answer(connection: socket.socket, request: bytes) -> None:
            if b"\r\nRange:" in request:
                for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05)(connection, request)
            send_plain(connection, request)

        with serving(answer) as url:
            assert main(["check", url, "--timeout", "1"]) == 2
        output = capsys.readouterr()
        assert "who sends the file" in output.out
        assert "--timeout" in output.err

    @pytest.mark.parametrize("given", ["0", "-1", "nan", "soon", "1e9"])
    def test_bad_timeout(self, capsys: pytest.CaptureFixture[str], given: str) -> None:
        """A time limit that is none is refused by its value."""
        with pytest.raises(SystemExit):
            main(["check", "http://127.0.0.1/", "--timeout", given])
        assert given in capsys.readouterr().err


class TestAnswers:
    """Answers that make no sense."""

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"SSH-2.0-OpenSSH\r\n",
            b"\x00\x01\x02",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500,
        ],
        ids=["nothing", "ssh", "bytes", "status", "headers"],
    )
    def test_no_http(self, capsys: pytest.CaptureFixture[str], data: bytes) -> None:
        """An answer that is not HTTP is called that."""
        with serving(sends(data)) as url:
            assert main(["check", url]) == 2
        error = capsys.readouterr().err
        assert error.startswith("asgi-accel check: GET / of 127.0.0.1: ")
        assert error.count("\n") == 1

    @pytest.mark.parametrize(
        "headers",
        [
            "Content-Length: " + "9" * 5000,
            "Content-Range: bytes 0-0/" + "9" * 5000 + "\r\nContent-Length: 5",
            "Content-Length: \uff15",
            'ETag: "ffffffffff-5"\r\nContent-Length: 5',
            'ETag: "' + "f" * 5000 + '-5"\r\nContent-Length: 5',
            'ETag: "e7ffffffff-5"\r\nLast-Modified: x\r\nContent-Length: 5',
        ],
    )
    def test_nonsense(self, capsys: pytest.CaptureFixture[str], headers: str) -> None:
        """Sizes and times that are too large are none."""
        data = f"HTTP/1.1 200 OK\r\n{headers}\r\nConnection: close\r\n\r\nhello".encode()

        def answer(connection: socket.socket, request: bytes) -> None:
            if b" / " in request:
                connection.sendall(data)
            else:
                send_plain(connection, request)

        with serving(answer) as url:
            assert main(["check", url, "--mapping", "/a/=/b/"]) in (0, 1)
        assert "ranges" in capsys.readouterr().out

    def test_folded_header(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A server cannot add lines to what is said, nor fill in what the sentences leave open."""
        data = b"HTTP/1.1 302 Found\r\nLocation: /a\r\n <advice>\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        with serving(sends(data)) as url:
            assert main(["check", url]) == 1
        assert capsys.readouterr().out.splitlines()[0].endswith("302, to /a <advice>")

    def test_one_request_fails(self, capsys: pytest.CaptureFixture[str]) -> None:
        """There is a dash if one finding alone suffers."""

        def answer(connection: socket.socket, request: bytes) -> None:
            if b"\r\nRange:" not in request:
                send_plain(connection, request)

        with serving(answer) as url:
            assert main(["check", url]) == 0
        assert "- ranges                     cannot tell: GET / of 127.0.0.1" in capsys.readouterr().out

    def test_busy(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A site that has no time for a request says nothing of its locations."""

        def answer(connection: socket.socket, request: bytes) -> None:
            busy = b"HTTP/1.1 504 Late\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            connection.sendall(busy if request.startswith(b"GET /b") else PLAIN)

        with serving(answer) as url:
            main(["check", url, "--mapping", "/a/=/b/"])
        assert "- /b/ from outside           /b/ answers 504" in capsys.readouterr().out

    def test_login(self, capsys: pytest.CaptureFixture[str]) -> None:
        """An app that lets nobody in, with or without a cookie."""
        refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        with serving(sends(refused)) as url:
            assert main(["check", url]) == 1
            assert "a header to send, such as a login cookie" in capsys.readouterr().out
            assert main(["check", url, "--header", "Cookie: a=1"]) == 1
            assert "with the header that you gave" in capsys.readouterr().out

    def test_json_without_an_answer(self, capsys: pytest.CaptureFixture[str]) -> None:
        """There is no data if nothing was found."""
        with serving(sends(b"")) as url:
            assert main(["check", url, "--json"]) == 2
        assert capsys.readouterr().out == ""


class TestRightSites:
    """No cross for what is right."""

    def test_early_hints(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The answer is what comes after the hints."""
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" * 2
        with serving(sends(b"HTTP/1.1 100 Continue\r\n\r\n" + hints + PLAIN)) as url:
            main(["check", url, "--json"])
        assert json.loads(capsys.readouterr().out)[0]["seen"].startswith("200, ")

    def test_new_each_time(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A report that is made anew, with another size, name and time for each request."""
        made: list[int] = []

        def answer(connection: socket.socket, request: bytes) -> None:
            made.append(1)
            body = b"x" * (100 + len(made))
            part = b"\r\nRange:" in request
            path = request.split(b" ")[1]
            status = "206 Partial Content" if part else "404 Not Found" if path != b"/" else "200 OK"
            etag = hashlib.sha1(body).hexdigest()
            head = f'HTTP/1.1 {status}\r\nETag: "{etag}"\r\nContent-Disposition: attachment; filename={len(made)}\r\n'
            head += f"Content-Range: bytes 0-0/{len(body)}\r\n" if part else ""
            sent = body[:1] if part else body
            head += f"Content-Length: {len(sent)}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode() + (b"" if request.startswith(b"HEAD") else sent))

        with serving(answer) as url:
            assert main(["check", url, "--mapping", "/a/=/b/"]) == 0
        assert "✗" not in capsys.readouterr().out

    def test_host_is_sent_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The Host that is given takes the place of the URL's."""
        seen: list[bytes] = []

        def answer(connection: socket.socket, request: bytes) -> None:
            seen.append(request)
            connection.sendall(PLAIN)

        with serving(answer) as url:
            main(["check", url, "--header", "Host: www.example"])
        assert seen
        assert all(request.lower().count(b"\r\nhost:") == 1 for request in seen)
        assert all(b"\r\nHost: www.example\r\n" in request for request in seen)

    def test_ipv6(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """An address of IPv6 needs no port."""
        seen: list[bytes] = []

        def answer(connection: socket.socket, request: bytes) -> None:
            seen.append(request)
            send_plain(connection, request)

        look_up = socket.getaddrinfo
        with serving(answer, family=socket.AF_INET6) as url:
            port = int(url.rstrip("/").rpartition(":")[2])
            asked: list[tuple[object, object]] = []

            def elsewhere(host: str, wanted: int, *more: int) -> object:
                asked.append((host, wanted))
                return look_up(host, port, *more)

            monkeypatch.setattr("socket.getaddrinfo", elsewhere)
            assert main(["check", "http://[::1]/"]) == 1  # no ranges
        assert set(asked) == {("::1", 80)}
        assert all(b"\r\nHost: [::1]\r\n" in request for request in seen)

    def test_authority_of_ones_own(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """https with a certificate that only `--ca` makes good."""
        need_nginx()
        key, certificate = folder / "check.key", folder / "check.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
                *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
                *("-keyout", str(key), "-out", str(certificate)),
            ],
            check=True,
            capture_output=True,
        )
        port, listens_on = free_port(), folder / "tls.sock"
        http = f"""server {{
            listen unix:{listens_on}; listen 127.0.0.1:{port} ssl;
            ssl_certificate {certificate}; ssl_certificate_key {key}; location = / {{ return 200 hello; }} }}"""
        with Nginx(folder, http, listens_on):
            url = f"https://localhost:{port}/"
            assert main(["check", url, "--ca", str(certificate)]) == 1  # no ranges
            assert "200, 5 bytes" in capsys.readouterr().out
            assert main(["check", url]) == 2
            assert "--ca FILE" in capsys.readouterr().err
            assert main(["check", url, "--ca", str(key)]) == 2
            assert str(key) in capsys.readouterr().err
            assert main(["check", url, "--ca", str(folder / "none")]) == 2
            assert "PEM" in capsys.readouterr().err


class TestURLs:
    """URLs that are odd."""

    def test_not_ascii(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What is not ASCII is encoded as browsers do."""
        seen: list[bytes] = []

        def answer(connection: socket.socket, request: bytes) -> None:
            seen.append(request)
            connection.sendall(PLAIN)

        with serving(answer) as url:
            main(["check", f"{url}Rechnung für ä%20.pdf?a=ö?", "--header", "Accept: x"])
        assert seen[0].startswith(b"GET /Rechnung%20f%C3%BCr%20%C3%A4%20.pdf?a=%C3%B6? HTTP/1.1\r\n")

    def test_user_name(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A user name is refused, and the password not repeated."""
        assert main(["check", "http://me:geheim@127.0.0.1/"]) == 2
        error = capsys.readouterr().err
        assert "Authorization: Basic" in error
        assert "geheim" not in error

    @pytest.mark.parametrize(
        "url",
        ["http://a\nb/", "http://127.0.0.1/\x1b[31m", "http://[::1", "http://ex ample/", "http://" + "ä" * 70 + "/"],
    )
    def test_bad(self, capsys: pytest.CaptureFixture[str], url: str) -> None:
        """A URL that cannot be asked is named, and controls no terminal."""
        assert main(["check", url]) == 2
        error = capsys.readouterr().err
        assert "is not a usable URL" in error
        assert "\x1b" not in error
        assert error.count("\n") == 1

    def test_name_without_address(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A name in letters that are not ASCII is looked up."""
        assert main(["check", "http://exämple.invalid/", "--timeout", "20"]) == 2
        assert "xn--exmple-cua.invalid" in capsys.readouterr().err
