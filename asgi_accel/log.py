"""What the log says: each warning once, with what to do about it.

Reasons that concern one request alone are debug messages, next to the code that decides. What a client or an app has
sent is shown by ``%.200r``: one short line, whatever it holds (CVE-2025-27111).
"""

import logging

logger: logging.Logger = logging.getLogger("asgi_accel")

NO_OFFER = "a request came through a proxy (it has %s), but the app sends its files itself: %s. To change that, "
NGINX_NEEDS = NO_OFFER + "nginx's location needs: proxy_set_header X-Accel-Mapping %.1000r;"
NGINX_NEEDS_SECRET = NGINX_NEEDS + " proxy_set_header X-Accel-Secret '...';"
OTHERS_NEED = NO_OFFER + "set X-Accel-Mapping %.1000r with RequestHeader (Apache), setenv.set-request-header (lighttpd)"
OTHERS_NEED_SECRET = OTHERS_NEED + ", and X-Accel-Secret with the secret"
# https://github.com/basecamp/thruster sends X-Sendfile-Type, and can be told no mapping.
THRUSTER_NEEDS = NO_OFFER + "give AccelMiddleware always=True, sendfile_type='X-Sendfile': Thruster offers no %.1000r"
SWAPPED = "the two sides are swapped in the proxy's X-Accel-Mapping, %.200r: the directory comes first, as in %.1000r"
NO_LOCATION = "the proxy asks the app for %.200r, under a prefix of its X-Accel-Mapping: it has no location for that "
NO_LOCATION += "prefix. asgi-accel nginx prints one"
NO_PAIR = "a redirect to %.200r goes out as it is: no proxy offers to send it, and mapping= has no pair for it"
MALFORMED = "a redirect to %.200r goes out as it is: its URI is malformed. Percent-encode it, from '/' on, without '..'"
PATH_AS_URI = "a redirect goes to %.200r, which is a path, not a URI: give AccelRedirectResponse(path, mapping=...)"
OWNER_ONLY = "a redirect goes to %.200r, which only its owner may read (user %d, mode %04o). Clients get a 403 if the "
OWNER_ONLY += "proxy is another user: run its workers as the owner, or let their group read it, os.chmod(path, 0o640)"
LOST = "the file response to %.200r was lost or changed by a middleware between the route and AccelMiddleware that "
LOST += "does not know http.response.pathsend. Make AccelMiddleware the first app.add_middleware() line. "
LOST += "The app %s asked again."
