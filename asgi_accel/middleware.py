"""`AccelMiddleware`: its arguments, and which of the two directions a request takes.

If a proxy offers to send files, `redirecting.py` goes on, else `serving.py`.
"""

import math
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from asgi_accel import file_response
from asgi_accel.mapping import Pairs, PathMap, as_map
from asgi_accel.offer import IN_SCOPE, REDIRECT, Trust
from asgi_accel.redirecting import PASSING, Redirecting
from asgi_accel.serving import Serving

App = Callable[[Any, Any, Any], Awaitable[Any]]  # of any framework: their types of scopes and messages differ


class AccelMiddleware:
    """Let the proxy send files if it offers to, else let the app send them.

    The proxy's offer is the request's `X-Accel-Mapping` header. With `mapping` alone, a file becomes a redirect if a
    pair that covers it is in both `mapping` and the header.

    It makes no difference where you add it: other middlewares see the redirect as an ordinary response.

    Args:
        app: The ASGI app. Files that it sends by Starlette's `FileResponse`, as `StaticFiles` does, become redirects.
            For this, the first `AccelMiddleware` wraps ``FileResponse.__call__`` (`asgi_accel/file_response.py`).
        mapping: Directories of the app, each with the URI prefix of the proxy's internal location for it: a dict such
            as ``{"/mnt/storage": "/download"}``, a list of pairs, a `PathMap`, or the text that `PathMap.parse` reads.
        always: Redirect every file under `mapping`, whatever the request says. Use it only if nobody but the proxy can
            reach the app.
        trust_header: Believe the `X-Accel-Mapping` header, whoever sent it. Use it only if the proxy sets the header on
            every route to the app. Otherwise a client chooses which file the proxy sends (CVE-2025-61780).
        secret: Believe the header only if the `X-Accel-Secret` header equals this. With `mapping`, the header must also
            have a pair of `mapping`.
        sendfile_type: The header that your proxy reads: ``X-Accel-Redirect`` (nginx, Caddy), or ``X-Sendfile`` (Apache
            with mod_xsendfile, lighttpd). With ``X-Sendfile``, the right side of `mapping` is the directory as the
            proxy sees it.
        hold: How many seconds a redirect waits, at most, until the app is done, because a background task may delete
            the file. The wait opens the file in the event loop. With 0 there is no wait, and the middleware opens no
            file: use it if no task deletes your files.

    Raises:
        ValueError: An argument is missing, contradicts another one, or has a bad value.
    """

    def __init__(
        self,
        app: App,
        mapping: Pairs | str | None = None,
        *,
        always: bool = False,
        trust_header: bool = False,
        secret: str | None = None,
        sendfile_type: str = "X-Accel-Redirect",
        hold: float = 0.1,
    ) -> None:
        if isinstance(hold, bool) or not isinstance(hold, int | float) or not 0 <= hold < math.inf:
            raise ValueError(f"hold={hold!r}: give a number of seconds, 0 or more; 0 sends each redirect at once")

        self.app = app
        self._hold = hold
        self._trust = Trust(
            None if mapping is None else _read(mapping),
            always=always,
            trust_header=trust_header,
            secret=secret,
            sendfile_type=sendfile_type,
        )
        file_response.wrap()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                self._trust.hide_secret(scope)
            await self.app(scope, receive, send)
            return

        trust = self._trust
        offer = trust.offer(scope)
        requests = scope.setdefault(IN_SCOPE, [])  # a middleware further out may have put it there

        if offer is None or trust.sendfile_type != REDIRECT:  # Apache and lighttpd know no internal URIs
            send = Serving(trust, scope, receive, send).send

        if offer is None:
            await self.app(scope, receive, send)
            return

        request = Redirecting(trust, offer, self._hold, receive, send)
        requests.append(request)
        try:
            await self.app(scope, receive, request.send)
        except BaseException as error:
            await request.finish(error)
            raise
        else:
            if request.stage != PASSING or request.sender is not None:
                await request.finish()
        finally:
            request.is_done = True


# What was read from iterators, which end: Starlette and `asgi-accel nginx --app` may build an app's middleware each.
_from_iterators: dict[Iterator[Any], PathMap] = {}


def _read(mapping: Pairs | str) -> PathMap:
    if not isinstance(mapping, Iterator):
        return as_map(mapping)

    if mapping not in _from_iterators:
        _from_iterators[mapping] = as_map(mapping)
    return _from_iterators[mapping]
