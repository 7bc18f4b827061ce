"""Asking again: if another middleware lost a response, the app is called a second time, without pathsend.

A middleware between the route and `AccelMiddleware` may not know pathsend. It drops the message, or adds to bytes that
never come. Then nothing has gone out yet, and the client gets the same as without `AccelMiddleware`.
"""

from typing import Any

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_accel.pathsend import PATHSEND


def may_ask_again(scope: Scope) -> bool:
    """Whether a request may be made twice: a GET or HEAD without a body (RFC 9110, 9.2.1 and 9.3.1)."""
    names = dict(scope.get("headers", ()))
    has_body = names.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in names  # RFC 9112, section 6.3
    return scope["method"] in ("GET", "HEAD") and not has_body


async def client_is_there(receive: Receive) -> bool:
    """Whether the client is still there. If it is gone, an app may give up and send nothing, and is right.

    It looks twice: if the app has not read the request's body, that comes first. The first look waits, since Granian
    needs a moment for the body, and reports that the client has gone if nobody waits for it. If the app has read the
    body, nothing comes, and the client waits as long.
    """
    for seconds in (0.2, 0):
        with anyio.move_on_after(seconds):
            if (await receive())["type"] == "http.disconnect":
                return False
    return True


async def ask_again(app: ASGIApp, scope: Scope, first: dict[str, Any], receive: Receive, send: Send) -> None:
    """Call the app once more with the scope as it first was, but without pathsend."""
    empty = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive_again() -> Message:
        return empty.pop() if empty else await receive()

    scope.clear()
    scope.update(first, extensions={k: v for k, v in (first.get("extensions") or {}).items() if k != PATHSEND})
    await app(scope, receive_again, send)
