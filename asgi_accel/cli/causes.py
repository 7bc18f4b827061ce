"""Who sends a file, and why nobody or the wrong one does: what `asgi-accel check` makes of the answers for that."""

from __future__ import annotations

import functools
import re
import secrets
from dataclasses import dataclass

from asgi_accel.cli.ask import Answer, Site
from asgi_accel.cli.values import with_slashes
from asgi_accel.mapping import PathMap, percent_encode

NOT_ALLOWED = (
    "nginx's workers (user www-data on Debian) need r on the file and x on every directory above it: see namei -l\n"
    "files that the app makes for itself alone (0600, or a folder of 0700, as tempfile makes them): run nginx's "
    "workers as the app's user (user ...;), or put them into its group and start the app with UMask=0027\n"
    "setfacl does not help with a file that is made 0600: the mode is the mask of what it grants"
)
ANOTHER_SERVER = (
    "perhaps another server block answers, such as the default_server: look which one has this name and port, by\n"
    "nginx -T | grep -E 'listen|server_name'\n"
    "(Debian's own default site is /etc/nginx/sites-enabled/default)"
)


@dataclass
class Finding:
    """What was found out about one thing, and what to change if it is not as it should be.

    `ok` is None if it cannot be told from outside, or does not apply.
    """

    name: str
    ok: bool | None
    seen: str
    advice: str = ""


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
    name, got = "who sends the file", look.got
    if got.status == 200 and got.is_empty and _is_untaken(look):
        return Finding(
            name,
            False,
            "nobody: the app has handed the file over, and no proxy has taken it",
            "ask nginx, not the app or a proxy that passes the empty answer on (Traefik, Envoy, a load balancer)\n"
            "and no proxy_ignore_headers may name X-Accel-Redirect",
        )
    if got.status != 200:
        return Finding(name, False, *_refused(look))
    if (got.status, got.body) == (look.nowhere.status, look.nowhere.body):
        return Finding(name, None, "200, as for a path that nobody has", _no_file(look))
    seen = f"200, {got.size:,} bytes" if got.size >= 0 else "200"
    if look.sender == "nginx":
        return Finding(name, True, f"nginx: {seen}, nginx's ETag")
    if look.sender == "app" and look.is_new_each_time:
        advice = "a file that is deleted after the response is the app's to send: look with a file that stays"
        return Finding(name, None, f"the app: {seen}, another file for each request", advice)
    if look.sender == "app":
        return Finding(name, False, f"the app: {seen}, the app's ETag", _no_offer(look))
    return Finding(name, None, f"{seen}, with no ETag that tells")


def _is_untaken(look: Look) -> bool:
    return "x-accel-redirect" in look.got.headers or look.head.size > 0 or not look.got.get("etag")


def _refused(look: Look) -> tuple[str, str]:
    """What another status than 200 means, and what to change."""
    got, status = look.got, look.got.status
    if got.is_of_nginx and status in (403, 404):
        if not look.nginx_asks_the_app:
            return f"{status}: nginx says so itself, without asking the app", ANOTHER_SERVER
        who = "the app said yes, nginx" if look.app_said_yes else "the app did not say no, nginx"
        if status == 403:
            return f"403: {who} may not read the file", NOT_ALLOWED
        advice = (
            "the location's prefix and its alias must be a pair of the app's mapping, both with a slash at the end; "
            "in containers and with PrivateTmp, nginx must see the same directory"
        )
        return f"404: {who} has no such file or location", "\n".join([advice, *_locations(look.pairs)])
    if got.is_of_nginx and status > 401:
        return f"{status}, from nginx", "nginx's error log says why"
    if look.missing:
        yes = "the app said yes, and " if look.app_said_yes else ""
        names = ", ".join(prefix for _, prefix in look.missing)
        return f"{status}: {yes}nginx has no location for {names}, so it asks the app for that", _no_location(look)
    if status == 404 and look.app_said_yes:
        return (
            "404: the app said yes, and nginx, which has no location for the app's prefix, asked the app for that",
            _no_location(look),
        )
    if status == 404:
        return "404, from the app", _no_file(look)
    if 300 < status < 400:
        here = "ask for the URL that it leads to" if got.is_of_nginx else _not_let_in(look)
        return f"{status}, to {got.get('location')}", here
    if status >= 500:
        return f"{status}, from the app", "the app's log says why"
    return f"{status}, from the app", _not_let_in(look)


def _no_location(look: Look) -> str:
    if look.is_swapped:
        return _swapped(look)
    return "\n".join(["nginx needs this in the server block that answers", *_locations(look.missing or look.pairs)])


def _no_file(look: Look) -> str:
    if look.pairs:
        return f"if the app has this file for you,\n{ANOTHER_SERVER}"
    needs = "nginx has no location for the prefix in the app's mapping: give --mapping or --app to see. It needs"
    return f"if the app has this file for you,\n{needs}\n{_locations([])[0]}\nor {ANOTHER_SERVER}"


def _not_let_in(look: Look) -> str:
    if look.has_header:
        return "the app does not let this request in, with the header that you gave: is it still valid?"
    return "give a header to send, such as a login cookie: --header 'Cookie: session=...'; or the URL of a file"


def _no_offer(look: Look) -> str:
    """Why the app sends the file itself."""
    line = f'proxy_set_header X-Accel-Mapping "{look.mapping or "/the/directory/=/prefix/"}";'
    levels = "a location with a proxy_set_header of its own forgets those of the levels above: write all of them there"
    needed = f"where nginx proxies to the app it needs\n{line}\n{levels}"
    if look.mapping is None:
        return needed
    if look.is_swapped:
        return _swapped(look)
    answer = look.site.ask("GET", ("X-Accel-Mapping", str(look.mapping)))
    if answer.status in (403, 404) or answer.sender == "nginx":  # a client's own has reached the app
        return f"nginx sets no X-Accel-Mapping for this URL\n{needed}"
    return (
        f"nginx sets another X-Accel-Mapping than the app's, or the file is under no pair of it\n{needed}\n"
        "the directory stands left of the =, the prefix right: with the two sides swapped, nothing is redirected\n"
        "an app with a secret= needs proxy_set_header X-Accel-Secret, too"
    )


def _swapped(look: Look) -> str:
    right = ", ".join(f"{prefix}={directory}" for directory, prefix in look.pairs)
    return f"the two sides of the mapping are swapped: the directory stands left of the =, so perhaps\n{right}"


def _locations(pairs: list[tuple[str, str]]) -> list[str]:
    return [location(*pair) for pair in pairs or [("/the/directory/", "/prefix/")]]
