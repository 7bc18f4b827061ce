"""`asgi-accel check`: what a live site does with a file that its app sends, found out by a few requests."""

import argparse
import json
import re
import secrets
import sys
from collections.abc import Iterator
from dataclasses import asdict

from asgi_accel.cli.app import given_app
from asgi_accel.cli.ask import Answer, CannotLook, OutOfTime, Site
from asgi_accel.cli.causes import Look, location, who_sends_the_file
from asgi_accel.cli.findings import Finding, say
from asgi_accel.cli.nginx import BROUGHT_BACK
from asgi_accel.cli.values import printable
from asgi_accel.mapping import PathMap

# Headers that may differ between the app's answer and nginx's: they are of the connection, the sender or the body.
OF_THE_SENDER = re.compile(
    "accept-ranges|content-encoding|content-length|date|etag|last-modified|server|age|alt-svc|connection|keep-alive"
    "|strict-transport-security|transfer-encoding|vary|via|(x-)?cache-?.*|x-varnish|x-served-by|x-timer|cf-.*"
    "|nel|report-to|server-timing"
)
# Headers that apps set on all their answers, so that a refusal shows them, too.
OF_THE_SITE = {name.lower() for name in BROUGHT_BACK} - {"content-language", "link", "repr-digest", "sourcemap"}


def check(site: Site, mapping: PathMap) -> Iterator[Finding]:
    """Ask a site for a file that its app serves, and tell what comes.

    Args:
        site: The URL of the file, on the proxy, and how to ask for it.
        mapping: The app's mapping, to check the internal locations, too. If it is empty, they are not checked.

    Raises:
        CannotLook: The site does not answer.
        OutOfTime: The time is over.
    """
    look = Look(site, mapping)
    of_files = [_ranges, _head, _conditions, _headers_of_the_app, _name_of_the_download, _forged_headers]
    looks = of_files if look.got.status == 200 and look.got.body not in (b"", look.nowhere.body) else []
    for tell in (who_sends_the_file, *looks, _redirect_target, _internal_locations):
        try:
            yield from tell(look)
        except CannotLook as exc:  # one request of many, of which this alone suffers
            yield say("failed", name=tell.__name__.strip("_").replace("_", " "), error=exc)


def _is_of_same_size(look: Look, answer: Answer) -> bool:
    return answer.size == look.got.size or -1 in (answer.size, look.got.size) or look.is_new_each_time


def _ranges(look: Look) -> Iterator[Finding]:
    # As browsers ask for a part of a video: nginx has no ranges of what it compresses.
    part = look.site.ask("GET", ("Range", "bytes=0-0"), ("Accept-Encoding", "identity"))
    right = part.status == 206 and len(part.body) == 1 and _is_of_same_size(look, part)
    yield say("ranges" if right else "no ranges", status=part.status)


def _head(look: Look) -> Iterator[Finding]:
    status, size, whole = look.head.status, f"{look.head.size:,}", f"{look.got.size:,}"
    right = status == 200 and _is_of_same_size(look, look.head)
    yield say("head" if right else "no head" if status == 405 else "other head", status=status, size=size, whole=whole)


def _conditions(look: Look) -> Iterator[Finding]:
    for name, by in (("If-None-Match", "etag"), ("If-Modified-Since", "last-modified")):
        value = look.got.get(by)
        status = look.site.ask("GET", (name, value)).status if value else look.got.status
        due = look.sender == "nginx" and not look.is_new_each_time
        yield say("condition" if status == 304 else "bad condition" if due else "unheeded", name=name, status=status)


def _headers_of_the_app(look: Look) -> Iterator[Finding]:
    """What the app sets and nginx drops. The app's own answer is that to HEAD, or else a refusal."""
    got, head = look.got, look.head
    if look.sender != "nginx":
        yield say("not nginx")
        return
    own = head.status == 200 and head.sender != "nginx"
    refusal = look.options.headers if not own and look.options.status == 405 and not look.options.is_of_nginx else {}
    said = head.headers if own else {name: value for name, value in refusal.items() if name in OF_THE_SITE}
    lost = {header for header in said.keys() - got.headers.keys() if not OF_THE_SENDER.fullmatch(header)}
    varied, varies = (set(re.findall(r"[^\s,]+", text.lower())) for text in (said.get("vary", ""), got.get("vary")))
    if varied - varies - {"x-accel-mapping", "accept-encoding"} and "*" not in varies:
        lost.add("vary")
    lines = (f"add_header {name.title()} $upstream_http_{name.replace('-', '_')};" for name in sorted(lost))
    key = "lost" if lost else "kept" if own else "refusal"
    yield say(key, names=", ".join(sorted(lost)).title(), lines="\n".join(lines))


def _name_of_the_download(look: Look) -> Iterator[Finding]:
    own, sent = look.head.get("content-disposition"), look.got.get("content-disposition")
    right = own in ("", sent) or (sent and look.is_new_each_time)
    yield say("other name" if not right else "name" if sent else "no name", sent=sent or "none", own=own)


def _forged_headers(look: Look) -> Iterator[Finding]:
    """A client's own header must change nothing."""
    forged = f"/=/asgi-accel-check-{secrets.token_hex(8)}/"
    for name, value in (("X-Accel-Mapping", forged), ("X-Sendfile-Type", "X-Sendfile")):
        got, answer = look.got, look.site.ask("GET", (name, value))
        anew = (answer.status, answer.sender) == (got.status, got.sender) and look.is_new_each_time
        key = "not believed" if answer.identity == got.identity or anew else "believed"
        yield say(key, name=name, status=answer.status, sender=answer.sender or "something else")


def _redirect_target(look: Look) -> Iterator[Finding]:
    names = look.got.headers.keys() | look.head.headers.keys()
    shown = sorted(name for name in names if name.startswith(("x-accel", "x-sendfile")))
    lines = "\n".join(f"proxy_hide_header {name.title()};" for name in shown)
    yield say("shown" if shown else "hidden", names=", ".join(shown).title(), lines=lines)


def _internal_locations(look: Look) -> Iterator[Finding]:
    if not look.mapping:
        yield say("no mapping")
    for directory, prefix in look.pairs:
        for name, tried in ((f"{prefix} from outside", prefix), (f"out of {prefix}", f"{prefix[:-1]}../")):
            got, nowhere = look.at(tried), look.nowhere
            same = got.status == nowhere.status and (got.body == nowhere.body or not got.is_of_nginx)
            key = "closed" if got.status == 404 or same else "busy" if got.status in (400, 500, 502, 504) else "open"
            yield say(key, name=name, tried=tried, status=got.status, location=location(directory, prefix))


def header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not value.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not a header: give one like 'Cookie: session=...'")
    return name, value.strip()


def seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{0,5}\.?[0-9]+", text) or not 0 < float(text) <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time limit: give seconds, such as 30")
    return float(text)


def run(given: argparse.Namespace) -> int:
    """Print what is found; return 1 if something is wrong, 2 if the site cannot be asked."""
    found = given_app(given)
    findings: list[Finding] = []  # those before the time was over, too
    reason = ""
    try:
        site = Site(given.url, given.header, given.timeout, given.ca)
        findings.extend(check(site, found.mapping))
    except (CannotLook, OutOfTime) as exc:
        reason = f"asgi-accel check: {printable(str(exc))}\n"
    if not given.json:
        _write(findings)
    elif findings or not reason:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
    sys.stderr.write(reason)
    return 2 if reason else int(any(finding.ok is False for finding in findings))


def _write(findings: list[Finding]) -> None:
    text = ""
    for finding in findings:
        mark = {True: "✓", False: "✗", None: "-"}[finding.ok]
        text += f"{mark} {finding.name:26} {printable(finding.seen)}\n"
        text += "".join(f"      {printable(line)}\n" for line in finding.advice.splitlines())
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = text.replace("✓", "+").replace("✗", "x").encode("ascii", "backslashreplace").decode()
    sys.stdout.write(text)
