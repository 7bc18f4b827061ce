"""Who sends a file, and why nobody or the wrong one does: how `asgi-accel check` reads the site's answers."""

import functools
import re
import secrets
from collections.abc import Iterator

from asgi_accel.cli.ask import Answer, Site
from asgi_accel.cli.findings import Finding, advise, say
from asgi_accel.cli.values import quoted, with_slashes
from asgi_accel.mapping import PathMap, percent_encode


class Look:
    """A site, its first answers, and more of them that are asked for once something needs them."""

    def __init__(self, site: Site, mapping: PathMap) -> None:
        self.site: Site = site
        self.mapping: PathMap = mapping
        self.got: Answer = site.ask()
        self.head: Answer = site.ask("HEAD")
        self.nowhere: Answer = site.ask(path=f"/asgi-accel-check-{secrets.token_hex(8)}/")  # a path that nobody has
        self.pairs: list[tuple[str, str]] = with_slashes(mapping)

    @functools.cached_property
    def options(self) -> Answer:
        """What comes to a method that no route of an app takes unless it says so."""
        return self.site.ask("OPTIONS")

    @functools.cached_property
    def is_new_each_time(self) -> bool:
        """Whether two requests that are the same get different files."""
        again = self.site.ask()
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

    @property
    def app_said_yes(self) -> bool:
        """Whether the app has let the request in: it answers HEAD itself, or its name for the file is there."""
        return self.head.status == 200 or "content-disposition" in self.got.headers

    def at(self, path: str) -> Answer:
        return self.site.ask(path=percent_encode(path.encode("utf-8", "surrogateescape")))

    def has_location(self, prefix: str) -> bool:
        """Whether nginx answers for a path itself: the app says the same of it as of any other path."""
        answer = self.at(prefix)
        # nginx's own page, by `error_page 404`, if the app's page is known to be the same for all paths.
        own_page = answer.body != self.nowhere.body and self.got.body in (answer.body, self.nowhere.body)
        return answer.is_of_nginx or answer.status != self.nowhere.status or own_page

    @functools.cached_property
    def missing(self) -> list[tuple[str, str]]:
        """The pairs of the mapping for which nginx has no location."""
        # If nginx answers for a path that nobody has, it asks the app for few paths: so this says nothing.
        # Caddy asks the app for a prefix, too, unless the app has redirected there.
        says_nothing = self.nowhere.is_of_nginx or "Caddy" in self.nowhere.get("server") + self.nowhere.get("via")
        return [pair for pair in self.pairs if not (says_nothing or self.has_location(pair[1]))]

    @functools.cached_property
    def is_swapped(self) -> bool:
        """Whether nginx has a location by the name of a directory, and none for the prefix."""
        return any(self.at(directory).is_of_nginx for directory, _ in self.missing)


def location(directory: str, prefix: str) -> str:
    path, alias = (quoted(f"the mapping's {text!r}", text, variables=False) for text in (prefix, directory))
    return f"location ^~ {path} {{ internal; alias {alias}; }}"


def who_sends_the_file(look: Look) -> Iterator[Finding]:
    """Who sends the file. If it is not nginx, the cause and what to change."""
    got, key = look.got, _cause(look)
    pairs = (key == "no location" and look.missing) or look.pairs or [("/the/directory/", "/prefix/")]
    locations = "\n".join(location(*pair) for pair in pairs)
    yield say(
        key,
        status=got.status,
        size=f", {got.size:,} bytes" if got.size >= 0 else "",
        target=got.get("location"),
        yes="the app said yes" if look.app_said_yes else "the app did not say no",
        login=advise("not let in" if look.site.has_login else "let in"),
        cause=advise("another server" if look.pairs else "no location or another server", locations=locations),
        prefixes=", ".join(prefix for _, prefix in pairs) if look.pairs else "the app's prefix",
        locations=locations,
        mapping=look.mapping or "/the/directory/=/prefix/",
        right=", ".join(f"{prefix}={directory}" for directory, prefix in look.pairs),
    )


def _cause(look: Look) -> str:
    """Which text of the template tells it."""
    got, status = look.got, look.got.status
    if status == 200:
        if not got.body and ("x-accel-redirect" in got.headers or look.head.size > 0 or not got.get("etag")):
            return "untaken"
        if (status, got.body) == (look.nowhere.status, look.nowhere.body):
            return "no location" if look.missing else "any path"
        if look.sender != "app":
            return look.sender or "nobody knows"
        return "made anew" if look.is_new_each_time else "swapped" if look.is_swapped else "the app"
    if got.get("server") == "Caddy":  # with the app's answers it has another name, or its own is in Via
        return "of caddy"
    # A page of nginx's `error_page` comes for an internal location, too, and not for any path.
    pages = (look.at(prefix).body for _, prefix in look.pairs if got.body != look.nowhere.body)
    if status in (403, 404) and (got.is_of_nginx or (status == 403 and look.app_said_yes) or got.body in pages):
        if not look.app_said_yes and look.head.status != 405 and look.options.is_of_nginx:
            return "not asked"
        return "unreadable" if status == 403 else "not there"
    if got.is_of_nginx:
        return "moved by nginx" if 300 < status < 400 else "not let in by nginx" if status == 401 else "of nginx"
    # Without a location the answer is that for any path. Before a login, that may be all that the app says.
    any_path = status == look.nowhere.status < 500 and (status == 404 or look.site.has_login) and look.missing
    if any_path or (status == 404 and look.app_said_yes):
        return "swapped" if look.is_swapped else "no location"
    return "moved" if 300 < status < 400 else "no file" if status == 404 else "broken" if status >= 500 else "refused"
