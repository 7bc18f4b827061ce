"""`asgi-accel check`: what a live site does with a file that its app hands to the proxy, by a handful of requests."""

from __future__ import annotations

import argparse
import json
import math
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict

from asgi_accel.cli.app import add_app, given_app
from asgi_accel.cli.ask import CannotLook, OutOfTime, Site
from asgi_accel.cli.causes import Look, location, who_sends
from asgi_accel.cli.findings import Finding, say
from asgi_accel.cli.nginx import BROUGHT_BACK
from asgi_accel.mapping import PathMap

ORIGIN = "https://asgi-accel-check.invalid"
# What the app's answer and nginx's need not have in common: it is of the connection, of the sender, or of the body.
OF_THE_SENDER = re.compile(
    "accept-ranges|content-encoding|content-length|date|etag|last-modified|server|age|alt-svc|connection|keep-alive"
    "|strict-transport-security|transfer-encoding|vary|via|(x-)?cache-?.*|x-varnish|x-served-by|x-timer|cf-.*"
    "|nel|report-to|server-timing"
)
# What apps set on all their answers alike, so that a refusal tells it, too.
OF_THE_SITE = {name.lower() for name in BROUGHT_BACK} - {"content-language", "link", "repr-digest", "sourcemap"}


def check(site: Site, mapping: PathMap | None = None) -> Iterator[Finding]:
    """Ask a site for a file that its app serves, and tell what comes.

    Args:
        site: The URL of the file, on the proxy, and how to ask for it.
        mapping: The map that the app uses, if the internal locations shall be looked at, too.

    Raises:
        CannotLook: The site does not answer, or the time is over.
    """
    given = {name.lower() for name in site.given}
    origin = [] if "origin" in given else [("Origin", ORIGIN)]
    look = Look(site, mapping, origin, bool(given - {"host", "origin"}))
    looks: list[tuple[str, Callable[[Look], Iterable[Finding]]]] = [("who sends the file", lambda _: [who_sends(look)])]
    if look.got.status == 200 and not look.got.is_empty:
        looks += [
            ("ranges", _range),
            ("HEAD", _head),
            ("If-None-Match", lambda _: _condition(look, "If-None-Match", "etag")),
            ("If-Modified-Since", lambda _: _condition(look, "If-Modified-Since", "last-modified")),
            ("the app's headers", _lost_headers),
            ("name of the download", _name),
            ("forged headers", _forged),
        ]
    for name, tell in [*looks, ("redirect target", _redirect_target), ("internal locations", _internal_locations)]:
        try:
            yield from tell(look)
        except OutOfTime:
            raise
        except CannotLook as exc:  # one request of many, of which this alone suffers
            yield say("failed", name=name, error=exc)


def _range(look: Look) -> Iterator[Finding]:
    # As browsers ask for a part of a video: nginx has no ranges of what it compresses.
    part = look.site.ask("GET", ("Range", "bytes=0-0"), ("Accept-Encoding", "identity"))
    same = part.size in (look.got.size, -1) or look.got.size < 0 or look.is_new_each_time
    yield say("ranges" if part.status == 206 and same and len(part.body) == 1 else "no ranges", status=part.status)


def _head(look: Look) -> Iterator[Finding]:
    got, head = look.got, look.head
    if head.status == 200 and (head.size == got.size or -1 in (head.size, got.size) or look.is_new_each_time):
        yield say("head")
    elif head.status == 405:
        yield say("no head")
    else:
        yield say("other head", status=head.status, size=f"{head.size:,}", whole=f"{got.size:,}")


def _condition(look: Look, name: str, by: str) -> Iterator[Finding]:
    value = look.got.get(by)
    if not value:
        yield say("no condition", name=name)
    elif (status := look.site.ask("GET", (name, value)).status) == 304:
        yield say("condition", name=name)
    elif look.is_new_each_time:
        yield say("condition anew", name=name, status=status)
    else:
        yield say("bad condition" if look.sender == "nginx" else "unheeded", name=name, status=status)


def _lost_headers(look: Look) -> Iterator[Finding]:
    """What the app sets and nginx drops. The app's own answer is that to HEAD, or else a refusal."""
    got, head = look.got, look.head
    if look.sender != "nginx":
        yield say("not nginx")
        return
    own = head.status == 200 and head.sender is None
    refusal = look.options.headers if not own and look.options.status == 405 and not look.options.is_of_nginx else {}
    said = head.headers if own else {name: value for name, value in refusal.items() if name in OF_THE_SITE}
    lost = {header for header in said.keys() - got.headers.keys() if not OF_THE_SENDER.fullmatch(header)}
    kept = _parts(got.get("vary"))
    if _parts(said.get("vary", "")) - kept - {"x-accel-mapping", "accept-encoding"} and "*" not in kept:
        lost.add("vary")
    if lost:
        back = (f"add_header {name.title()} $upstream_http_{name.replace('-', '_')};" for name in sorted(lost))
        yield say("lost", names=_names(lost), lines="\n".join(back))
    else:
        yield say("kept" if own else "refusal")
    if "x-accel-mapping" in kept:
        yield say("vary")


def _parts(value: str) -> set[str]:
    return {part.strip().lower() for part in value.split(",")} - {""}


def _names(headers: Iterable[str]) -> str:
    return ", ".join(map(str.title, sorted(headers)))


def _name(look: Look) -> Iterator[Finding]:
    own, sent = look.head.get("content-disposition"), look.got.get("content-disposition")
    if own == sent or not own:
        yield say("name" if sent else "no name", sent=sent)
    else:
        yield say("name anew" if sent and look.is_new_each_time else "other name", sent=sent or "none", own=own)


def _forged(look: Look) -> Iterator[Finding]:
    """A client's own header must change nothing."""
    forged = f"/=/asgi-accel-check-{secrets.token_hex(8)}/"
    for name, value, line in (
        ("X-Accel-Mapping", forged, 'proxy_set_header X-Accel-Mapping "/the/directory/=/prefix/"; and no trust_header'),
        ("X-Sendfile-Type", "X-Sendfile", 'proxy_set_header X-Sendfile-Type "";'),
    ):
        got, answer = look.got, look.site.ask("GET", *look.origin, (name, value))
        if answer.identity == got.identity:
            yield say("not believed", name=name)
        elif (answer.status, answer.sender) == (got.status, got.sender) and look.is_new_each_time:
            yield say("not believed anew", name=name)
        else:
            sender = answer.sender or "something else"
            yield say("believed", name=name, status=answer.status, sender=sender, line=line)


def _redirect_target(look: Look) -> Iterator[Finding]:
    names = look.got.headers.keys() | look.head.headers.keys()
    shown = sorted(name for name in names if name.startswith(("x-accel", "x-sendfile")))
    lines = "\n".join(f"proxy_hide_header {name.title()};" for name in shown)
    yield say("shown" if shown else "hidden", names=_names(shown), lines=lines)


def _internal_locations(look: Look) -> Iterator[Finding]:
    if look.mapping is None:
        yield say("no mapping")
    for directory, prefix in look.pairs:
        for name, tried, line in (
            (f"{prefix} from outside", prefix, "internal;"),
            (f"out of {prefix}", f"{prefix[:-1]}../", location(directory, prefix)),
        ):
            answer, nowhere = look.at(tried), look.nowhere
            same = answer.status == nowhere.status and (answer.body == nowhere.body or not answer.is_of_nginx)
            busy = answer.status in (400, 429) or answer.status >= 500
            key = "closed" if answer.status == 404 or same else "busy" if busy else "open"
            yield say(key, name=name, tried=tried, status=answer.status, line=line)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("url", metavar="URL", help="a file that the app serves, as clients ask the proxy for it")
    add_app(parser, required=False)
    text = "a header to send, such as a login cookie; may be repeated"
    add("--header", metavar="'NAME: VALUE'", action="append", default=[], type=_header, help=text)
    add("--ca", metavar="FILE", help="the certificate of an authority of your own, for https")
    text = "for all requests together (default: %(default)s)"
    add("--timeout", metavar="SECONDS", type=_seconds, default=30, help=text)
    add("--json", action="store_true", help="print the findings as JSON")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not value.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is no header: give one like 'Cookie: session=...'")
    return name, value.strip()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no time limit: give seconds, such as 30")
    return seconds


def run(given: argparse.Namespace) -> int:
    """Print what is found; return 1 if something is wrong, 2 if the site cannot be asked."""
    found = given_app(given)
    mapping = None if found is None else found.mapping
    findings: list[Finding] = []  # those before the time was over, too
    reason = ""
    try:
        site = Site(given.url, given.header, timeout=given.timeout, ca=given.ca)
        findings.extend(check(site, mapping))
    except CannotLook as exc:
        reason = f"asgi-accel check: {_printable(str(exc))}\n"
    if given.json and (findings or not reason):
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
    elif not given.json:
        for finding in findings:
            mark = {True: "✓", False: "✗", None: "-"}[finding.ok]
            _write(f"{mark} {finding.name:26} {_printable(finding.seen)}\n")
            for line in finding.advice.splitlines():
                _write(f"      {_printable(line)}\n")
    sys.stderr.write(reason)
    return 2 if reason else int(any(finding.ok is False for finding in findings))


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
