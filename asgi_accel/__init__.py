"""Hand the files of an ASGI app to the proxy in front of it (nginx's ``X-Accel-Redirect``)."""

from asgi_accel.mapping import PathMap
from asgi_accel.middleware import AccelMiddleware
from asgi_accel.offer import offered
from asgi_accel.responses import AccelRedirectResponse, content_disposition

__all__ = ["AccelMiddleware", "AccelRedirectResponse", "PathMap", "content_disposition", "offered"]
