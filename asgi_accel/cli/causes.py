"""Who sends a file, and why nobody or the wrong one does: what `asgi-accel check` makes of the answers for that."""

from __future__ import annotations

import functools
import re
import secrets

from asgi_accel.cli.ask import Answer, Site
from asgi_accel.cli.findings import Finding, advise, say
from asgi_accel.cli.values import with_slashes
from asgi_accel.mapping import PathMap, percent_encode


class Look:
    """A site, its first answers, and more of them that are asked for once something needs them."""

    def __init__(self, site: Site, mapping: PathMap | None, origin: list[tuple[str, str]], has_header: bool) -> None:
        self.site, self.mapping, self.origin, self.has_header = site, mapping, origin, has_header
        self.got = site.ask("GET", *origin)
        self.head = site.ask("HEAD", *origin)
        # What comes for a path that nobody has, and to a method that no route of an app takes unless it says so.
        self.nowhere = site.ask("GET", *origin, path=f"/asgi-accel-check-{secrets.token_hex(8)}/")
        self.pairs = with_slashes(mapping or PathMap())

    @functools.cached_property
    def options(self) -> Answer:
        return self.site.ask("OPTIONS", *self.origin)

    @functools.cached_property
    def is_new_each_time(self) -> bool:
        """Whether two requests that are the same get different files."""
        again = self.site.ask("GET", *self.origin)
        names = ("etag", "last-modified", "content-disposition")
        return again.identity != self.got.identity or any(again.get(name) != self.got.get(name) for name in names)

    @functools.cached_property
    def sender(self) -> str | None:
        """Who has sent the file: nginx, the app, or None if that cannot be told."""
        if self.got.sender != "app":
            return self.got.sender
        # S3's ETag looks like Starlette's. Only Starlette takes this for a bad range, or writes parts like these.
        answer = self.site.ask("GET", ("Range", "bytes=0-0,2-2"))
        parts = re.fullmatch(r"multipart/byteranges; boundary=[0-9a-f]{26}", answer.get("content-type"))
        unheeded = self.site.ask("GET", ("If-None-Match", self.got.get("etag"))).status == 200
        return "app" if parts or (unheeded and not self.is_new_each_time) else None

    @functools.cached_property
    def app_said_yes(self) -> bool:
        """Whether the app has let the request in: it answers HEAD itself, or its name for the file is there."""
        return self.head.status == 200 or "content-disposition" in self.got.headers

    @functools.cached_property
    def nginx_asks_the_app(self) -> bool:
        return self.app_said_yes or self.head.status == 405 or not self.options.is_of_nginx

    def at(self, path: str) -> Answer:
        return self.site.ask(path=percent_encode(path.encode("utf-8", "surrogateescape")))

    def has_location(self, prefix: str) -> bool:
        """Whether nginx answers for a path itself: the app says the same of it as of any other path."""
        answer = self.at(prefix)
        # A page of nginx's by `error_page 404`, if the app's own is known to be the same for all paths.
        own_page = answer.body != self.nowhere.body and self.got.body in (answer.body, self.nowhere.body)
        return answer.is_of_nginx or answer.status != self.nowhere.status or own_page

    @functools.cached_property
    def missing(self) -> list[tuple[str, str]]:
        """The pairs of the mapping for which nginx has no location."""
        if self.nowhere.is_of_nginx:  # nginx asks the app for few paths, so this tells nothing
            return []
        return [(directory, prefix) for directory, prefix in self.pairs if not self.has_location(prefix)]

    @functools.cached_property
    def is_swapped(self) -> bool:
        """Whether nginx has a location by the name of a directory, and none for the prefix."""
        return any(self.has_location(directory) for directory, _ in self.missing)


def location(directory: str, prefix: str) -> str:
    return f"location ^~ {_quoted(prefix)} {{ internal; alias {_quoted(directory)}; }}"


def _quoted(text: str) -> str:
    """A value as nginx reads it, in quotes if it needs them."""
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"' if re.search(r"[\s;{}#\"'\\]", text) else text


def who_sends(look: Look) -> Finding:
    """Who sends the file. If it is not nginx, the cause and what to change."""
    got = look.got
    if got.status == 200 and got.is_empty and _is_untaken(look):
        return say("untaken")
    if got.status != 200:
        return _refused(look)
    if (got.status, got.body) == (look.nowhere.status, look.nowhere.body):
        return say("any path", advice=_no_file(look))
    what = f"200, {got.size:,} bytes" if got.size >= 0 else "200"
    if look.sender == "app" and not look.is_new_each_time:
        return say("the app", what=what, advice=_no_offer(look))
    return say({"nginx": "nginx", "app": "made anew"}.get(look.sender or "", "nobody knows"), what=what)


def _is_untaken(look: Look) -> bool:
    return "x-accel-redirect" in look.got.headers or look.head.size > 0 or not look.got.get("etag")


def _refused(look: Look) -> Finding:
    """What another status than 200 means, and what to change."""
    got, status = look.got, look.got.status
    yes = "the app said yes" if look.app_said_yes else "the app did not say no"
    if got.is_of_nginx and status in (403, 404):
        if not look.nginx_asks_the_app:
            return say("not asked", status=status, another=advise("another server"))
        return say("unreadable" if status == 403 else "not there", yes=yes, locations=_locations(look.pairs))
    if got.is_of_nginx and status > 401:
        return say("of nginx", status=status)
    if look.missing or (status == 404 and look.app_said_yes):
        prefixes = ", ".join(prefix for _, prefix in look.missing) or "the app's prefix"
        advice = _swapped(look) or advise("needs location", locations=_locations(look.missing or look.pairs))
        return say("no location", status=status, yes=yes, prefixes=prefixes, advice=advice)
    not_let_in = advise("not let in" if look.has_header else "let in")
    if 300 < status < 400:
        advice = advise("follow") if got.is_of_nginx else not_let_in
        return say("moved", status=status, location=got.get("location"), advice=advice)
    advice = _no_file(look) if status == 404 else advise("app failed") if status >= 500 else not_let_in
    return say("of the app", status=status, advice=advice)


def _no_file(look: Look) -> str:
    key = "no file" if look.pairs else "no file or location"
    return advise(key, another=advise("another server"), locations=_locations([]))


def _no_offer(look: Look) -> str:
    """Why the app sends the file itself."""
    offer = advise("offer", mapping=look.mapping or "/the/directory/=/prefix/")
    if look.mapping is None or look.is_swapped:
        return _swapped(look) or offer
    answer = look.site.ask("GET", ("X-Accel-Mapping", str(look.mapping)))
    believed = answer.status in (403, 404) or answer.sender == "nginx"  # so a client's own has reached the app
    return advise("no header" if believed else "another header", offer=offer)


def _swapped(look: Look) -> str:
    right = ", ".join(f"{prefix}={directory}" for directory, prefix in look.pairs)
    return advise("swapped", right=right) if look.is_swapped else ""


def _locations(pairs: list[tuple[str, str]]) -> str:
    return "\n".join(location(*pair) for pair in pairs or [("/the/directory/", "/prefix/")])
