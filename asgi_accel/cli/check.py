"""`asgi-accel check`: what a live site does with a file that its app hands to the proxy, by a handful of requests."""

from __future__ import annotations

import argparse
import contextlib
import email.utils
import http.client
import json
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from urllib.parse import quote, urlsplit

from asgi_accel.cli.values import with_slashes
from asgi_accel.mapping import PathMap, percent_encode

LONGEST_BODY = 65536  # bytes that are read of an answer
TIMEOUT = 20  # seconds
ORIGIN = "https://asgi-accel-check.invalid"
LET_IN = "let the request in by --header 'Cookie: session=...', or give the URL of a file"
# What HEAD and GET need not have in common: it is of the connection, of the sender, or of the body.
OF_THE_SENDER = {
    *("accept-ranges", "content-encoding", "content-length", "date", "etag", "last-modified", "server"),
    *("age", "alt-svc", "connection", "keep-alive", "strict-transport-security", "transfer-encoding", "via"),
}


class CannotLook(Exception):
    """The site cannot be asked: the message says why."""


@dataclass
class Finding:
    """What was found out about one thing, and what to change where it is not as it should be.

    `ok` is None where it cannot be told from outside, or does not apply.
    """

    name: str
    ok: bool | None
    seen: str
    advice: str = ""


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
        return int(text) if text.isdecimal() else -1

    @property
    def sender(self) -> str | None:
        """Who has sent a file, as far as its ETag tells: nginx's is the time and the size, Starlette's an MD5."""
        etag = self.get("etag").removeprefix("W/")
        if re.fullmatch(r'"[0-9a-f]{32}"', etag):
            return "app"
        found = re.fullmatch(r'"([0-9a-f]+)-([0-9a-f]+)"', etag)
        if found is None:
            return None
        time, size = int(found[1], 16), int(found[2], 16)
        encoded = "content-encoding" in self.headers or self.size < 0
        same_time = email.utils.formatdate(time, usegmt=True) == self.get("last-modified")
        return "nginx" if same_time and (encoded or size == self.size) else None

    @property
    def is_of_nginx(self) -> bool:
        """Whether this is one of nginx's own error pages."""
        return b"<center>nginx" in self.body

    @property
    def identity(self) -> tuple[object, ...]:
        """What a client tells answers apart by."""
        return self.status, self.get("etag"), self.get("content-length"), self.sender or self.body


class Site:
    """A site that is asked for one URL; more paths are asked as they are written, dots and all."""

    def __init__(self, url: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CannotLook(f"{url!r} is no URL to ask: give one like https://www.example/reports/7")
        try:
            self.port = parts.port
        except ValueError as exc:
            raise CannotLook(f"{url!r}: {exc}") from None
        self.connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.host = parts.hostname
        self.target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + (f"?{parts.query}" if parts.query else "")
        self.headers = headers

    def ask(self, method: str = "GET", *more: tuple[str, str], path: str | None = None) -> Answer:
        """Send one request, and read no more of the answer than is needed.

        Raises:
            CannotLook: There is no answer.
        """
        try:
            with contextlib.closing(self.connect(self.host, self.port, timeout=TIMEOUT)) as connection:
                connection.putrequest(method, self.target if path is None else path, skip_accept_encoding=True)
                for name, value in (("User-Agent", "asgi-accel check"), *self.headers, *more):
                    connection.putheader(name, value.encode("utf-8"))
                connection.endheaders()
                response = connection.getresponse()
                headers = {name.lower(): value for name, value in response.getheaders()}
                return Answer(response.status, headers, response.read(LONGEST_BODY))
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise CannotLook(f"{method} {path or self.target} of {self.host}: {exc or type(exc).__name__}") from exc


def check(url: str, mapping: PathMap | None = None, headers: Sequence[tuple[str, str]] = ()) -> Iterator[Finding]:
    """Ask a site for a file that its app serves, and tell what comes.

    Args:
        url: The URL of the file, on the proxy.
        mapping: The map that the app uses, if the internal locations shall be looked at, too.
        headers: What else to send, such as a cookie that lets the request in.

    Raises:
        CannotLook: The URL is none, or the site does not answer.
    """
    site = Site(url, headers)
    origin = [] if any(name.lower() == "origin" for name, _ in headers) else [("Origin", ORIGIN)]
    got, head = site.ask("GET", *origin), site.ask("HEAD", *origin)
    yield _sender(got, head, mapping)
    if got.status == 200 and got.size != 0:
        yield _range(got, site.ask("GET", ("Range", "bytes=0-0")))
        yield _head(got, head)
        yield from _conditions(site, got)
        yield _lost_headers(got, head)
        yield _name(got, head)
        yield from _forged(site, got)
    yield _inner_headers(got, head)
    yield from _internal_locations(site, mapping)


def _sender(got: Answer, head: Answer, mapping: PathMap | None) -> Finding:
    name, advice = "who sends the file", ""
    offer = f'proxy_set_header X-Accel-Mapping "{mapping or "/the/directory/=/prefix/"}";'
    seen = f"{got.status}"
    if got.status == 200 and got.size == 0 and ("x-accel-redirect" in got.headers or head.size > 0):
        return Finding(
            name,
            False,
            "nobody: the app has handed the file over, and no proxy has taken it",
            "ask the proxy, not the app itself; and no proxy_ignore_headers may name X-Accel-Redirect",
        )
    if got.status in (301, 302, 303, 307, 308):
        return Finding(name, False, f"{seen}, to {got.get('location')}", LET_IN)
    if got.is_of_nginx and got.status in (403, 404):
        who = "the app said yes, nginx " if head.status == 200 else "nginx "
        if got.status == 403:
            seen = f"403: {who}may not read the file"
            advice = (
                "nginx's workers (user www-data on Debian) need r on the file and x on every directory on the way to it"
            )
        else:
            seen = f"404: {who}has no such file or location"
            advice = (
                "the location's prefix and its alias must be a pair of the app's mapping, both with a slash at the end"
            )
            advice = "\n".join([advice, *_locations(mapping)])
        return Finding(name, False, seen, advice)
    if got.status == 404 and head.status == 200:
        return Finding(
            name,
            False,
            "404: the app said yes, and nginx, which has no location for the app's prefix, asked the app for that",
            "\n".join(["nginx needs a location for each pair of the app's mapping", *_locations(mapping)]),
        )
    if got.is_of_nginx:
        return Finding(name, False, f"{seen}, from nginx", "nginx's error log says why")
    if got.status != 200:
        return Finding(name, False, f"{seen}, from the app", LET_IN)
    seen = f"200, {got.size:,} bytes" if got.size >= 0 else "200"
    if got.sender == "nginx":
        return Finding(name, True, f"nginx: {seen}, nginx's ETag")
    if got.sender == "app":
        return Finding(
            name, False, f"the app: {seen}, the app's ETag", f"where nginx proxies to the app it needs\n{offer}"
        )
    return Finding(name, None, f"{seen}, with no ETag that tells")


def _range(got: Answer, part: Answer) -> Finding:
    if part.status == 206 and part.size in (got.size, -1) and part.body == got.body[:1]:
        return Finding("ranges", True, "206 with the byte that was asked for")
    return Finding(
        "ranges",
        False,
        f"{part.status} where 206 was due: a video does not seek, a download does not resume",
        "nginx sends no ranges of what it compresses (gzip_types), nor of what it proxies unless the other server does",
    )


def _head(got: Answer, head: Answer) -> Finding:
    if (head.status, head.size) == (200, got.size) or (head.status == 200 and got.size < 0):
        return Finding("HEAD", True, "as GET, without the body")
    if head.status == 405:
        return Finding(
            "HEAD", None, "405: the app's route takes none (a FastAPI route does with methods=['GET', 'HEAD'])"
        )
    return Finding(
        "HEAD",
        False,
        f"{head.status}, {head.size:,} bytes, where GET has {got.size:,}",
        "what answers HEAD must be what answers GET",
    )


def _conditions(site: Site, got: Answer) -> Iterator[Finding]:
    for name, value in (("If-None-Match", got.get("etag")), ("If-Modified-Since", got.get("last-modified"))):
        if not value:
            yield Finding(name, None, "the answer has nothing to ask it by")
        elif (status := site.ask("GET", (name, value)).status) == 304:
            yield Finding(name, True, "304 for what the client has")
        elif got.sender == "app":
            yield Finding(name, None, f"{status}: the app sends the file, and FileResponse does not heed it")
        else:
            yield Finding(name, False, f"{status} where 304 was due", "if_modified_since exact; (nginx's default)")


def _lost_headers(got: Answer, head: Answer) -> Finding:
    name = "headers of the app's"
    if got.sender != "nginx" or head.status != 200 or head.sender is not None:
        return Finding(name, None, "told only where nginx answers GET, and the app HEAD")
    lost = sorted(head.headers.keys() - got.headers.keys() - OF_THE_SENDER)
    if not lost:
        return Finding(name, True, "all that HEAD has, GET has too")
    lines = "\n".join(f"add_header {header.title()} $upstream_http_{header.replace('-', '_')};" for header in lost)
    return Finding(name, False, f"nginx drops {', '.join(map(str.title, lost))}", f"in the internal location\n{lines}")


def _name(got: Answer, head: Answer) -> Finding:
    name, own, sent = "name of the download", head.get("content-disposition"), got.get("content-disposition")
    if not own and not sent:
        return Finding(name, None, "there is no Content-Disposition")
    if own == sent or not own:
        return Finding(name, True, sent)
    return Finding(
        name,
        False,
        f"{sent or 'none'} where the app says {own}",
        "no proxy_hide_header Content-Disposition, no add_header Content-Disposition",
    )


def _forged(site: Site, got: Answer) -> Iterator[Finding]:
    """A client's own header must change nothing."""
    forged = f"/=/asgi-accel-check-{secrets.token_hex(8)}/"
    for name, value, advice in (
        ("X-Accel-Mapping", forged, 'proxy_set_header X-Accel-Mapping "/the/directory/=/prefix/"; and no trust_header'),
        ("X-Sendfile-Type", "X-Sendfile", 'proxy_set_header X-Sendfile-Type "";'),
    ):
        answer = site.ask("GET", (name, value))
        if answer.identity == got.identity:
            yield Finding(f"forged {name}", True, "changes nothing")
        else:
            seen = f"a client that sends it gets {answer.status}, {answer.sender or 'something else'}"
            yield Finding(f"forged {name}", False, seen, f"where nginx proxies to the app it needs\n{advice}")


def _inner_headers(*answers: Answer) -> Finding:
    shown = sorted(
        {name for answer in answers for name in answer.headers if name.startswith(("x-accel", "x-sendfile"))}
    )
    if not shown:
        return Finding("inner headers", True, "none shows on the outside")
    hidden = "\n".join(f"proxy_hide_header {name.title()};" for name in shown)
    return Finding("inner headers", False, f"{', '.join(map(str.title, shown))} on the outside", hidden)


def _internal_locations(site: Site, mapping: PathMap | None) -> Iterator[Finding]:
    if mapping is None:
        yield Finding("internal locations", None, "give --mapping to have them looked at")
        return
    control = site.ask(path=f"/asgi-accel-check-{secrets.token_hex(8)}/")
    for directory, prefix in with_slashes(mapping):
        path = percent_encode(prefix.encode("utf-8", "surrogateescape"))
        for name, tried, line in (
            (f"{prefix} from outside", path, "internal;"),
            (f"out of {prefix}", f"{path[:-1]}../", _location(directory, prefix)),
        ):
            answer = site.ask(path=tried)
            if answer.status == 404 or (answer.status, answer.body) == (control.status, control.body):
                yield Finding(name, True, f"{answer.status}, as for what is not there")
            else:
                yield Finding(name, False, f"{tried} answers {answer.status}", f"that location needs\n{line}")


def _location(directory: str, prefix: str) -> str:
    return f"location {prefix} {{ internal; alias {directory}; }}"


def _locations(mapping: PathMap | None) -> list[str]:
    return [_location(*pair) for pair in with_slashes(mapping or PathMap())]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="a file that the app serves, as clients ask the proxy for it")
    parser.add_argument("--mapping", metavar="MAPPING", type=PathMap.parse, help="the mapping that the app uses")
    parser.add_argument(
        "--header",
        metavar="'NAME: VALUE'",
        action="append",
        default=[],
        type=_header,
        help="let the request in by this",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not value.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is no header: give one like 'Cookie: session=...'")
    return name, value.strip()


def run(arguments: argparse.Namespace) -> int:
    """Print what is found; return 1 where something is wrong, 2 where the site cannot be asked."""
    try:
        findings = list(check(arguments.url, arguments.mapping, arguments.header))
    except CannotLook as exc:
        sys.stderr.write(f"asgi-accel check: {_printable(str(exc))}\n")
        return 2
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
    else:
        for finding in findings:
            mark = {True: "✓", False: "✗", None: "-"}[finding.ok]
            _write(f"{mark} {finding.name:26} {_printable(finding.seen)}\n")
            for line in finding.advice.splitlines():
                _write(f"      {_printable(line)}\n")
    return int(any(finding.ok is False for finding in findings))


def _printable(text: str) -> str:
    """Text that cannot control the terminal, whatever a server sends."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _write(text: str) -> None:
    encoding = sys.stdout.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.replace("✓", "+").replace("✗", "x").encode(encoding, "backslashreplace").decode(encoding)
    sys.stdout.write(text)
