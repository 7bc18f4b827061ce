"""What the log says: each warning once, with what to do about it.

Reasons that concern one request alone are debug messages, next to the code that decides. What a client or an app has
sent is shown by ``%.200r``: one short line, whatever it holds (CVE-2025-27111).
"""

import logging

logger: logging.Logger = logging.getLogger("asgi_accel")

# A request came through a proxy, and nothing is offered. What to do depends on what is missing, and on the proxy: the
# header that it reads. Each advice takes the mapping as its last value.
NO_OFFER = "a request came through a proxy (it has %s), but the app sends its files itself: %s. To change that, "
NEEDS = {
    b"x-accel-redirect": "nginx's location needs: proxy_set_header X-Accel-Mapping %.1000r;",
    b"x-sendfile": "set X-Accel-Mapping %.1000r with RequestHeader (Apache), setenv.set-request-header (lighttpd)",
}
NEEDS_SECRET = {
    b"x-accel-redirect": NEEDS[b"x-accel-redirect"] + " proxy_set_header X-Accel-Secret '...';",
    b"x-sendfile": NEEDS[b"x-sendfile"] + ", and X-Accel-Secret with the secret",
}
CLEAR_TYPE = {
    b"x-accel-redirect": 'nginx\'s location needs: proxy_set_header X-Sendfile-Type ""; beside X-Accel-Mapping %.1000r',
    b"x-sendfile": "unset X-Sendfile-Type with RequestHeader (Apache), beside X-Accel-Mapping %.1000r",
}
SENT_ONCE = "let the proxy set the header in place of what the client sent; for X-Accel-Mapping, %.1000r"
# https://github.com/basecamp/thruster sends X-Sendfile-Type, and can be told no mapping.
THRUSTER = "give AccelMiddleware always=True, sendfile_type='X-Sendfile': Thruster offers no %.1000r"
SWAPPED = "the two sides are swapped in the proxy's X-Accel-Mapping, %.200r: the directory comes first, as in %.1000r"
NO_LOCATION = (
    "the proxy asks the app for %.200r, under a prefix of its X-Accel-Mapping: it has no location for that prefix. "
    "asgi-accel nginx prints one"
)

# A redirect of the app's own.
NO_PAIR = "a redirect to %.200r goes out as it is: no proxy offers to send it, and mapping= has no pair for it"
MALFORMED = "a redirect to %.200r goes out as it is: its URI is malformed. Percent-encode it, from '/' on, without '..'"
PATH_AS_URI = "a redirect goes to %.200r, which is a path, not a URI: give AccelRedirectResponse(path, mapping=...)"

# A file.
DOT_DOT = "the app sends %.200r itself: its path has a '..'. Give FileResponse the path that it stands for"
OWNER_ONLY = (
    "a redirect goes to %.200r, which only its owner may read (user %d, mode %04o). Clients get a 403 if the proxy is "
    "another user: run its workers as the owner, or let their group read it, os.chmod(path, 0o640)"
)
CHANGED = (
    "a middleware wants to change the bytes of %.200r, but the proxy sends the file as it is on the disk. If they have "
    "to change, keep such files out of mapping="
)
