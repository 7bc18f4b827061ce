"""The one seam: `FileResponse.__call__`, wrapped.

A `FileResponse` is an ASGI app that sends a file. Starlette has no hook by which a middleware could learn which file
that is, before the bytes come, and every way around that has to guess. So the first `AccelMiddleware` puts a function
in the place of `FileResponse.__call__`, once for the process:

- If a proxy offers to send files for this request, it sends a redirect: a start with `X-Accel-Redirect`, an empty body.
- If not, or if the app has to send this file, Starlette's own method runs, and nothing else.

It fails safe. It uses what is public: `path`, `status_code`, `raw_headers` and `background`. If one of them is missing
or odd, Starlette's own method runs. It does not change the response, which an app may return many times. A subclass
with a `__call__` that does not call this one sends its files itself, and so does one that changes how the bytes are
read.

A proposal for Starlette, so that this module can go: ``FileResponse.__call__`` calls ``scope["extensions"]
["http.response.file"](self)``, if that is there, before it looks at the file, and returns if that says that the
response has been sent.
"""

import functools
from typing import Any

from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from asgi_accel.log import logger
from asgi_accel.offer import innermost

MARK = "_is_asgi_accels"


def wrap() -> None:
    """Wrap `FileResponse.__call__`, if it is not wrapped."""
    starlettes_own: Any = FileResponse.__call__
    if hasattr(starlettes_own, MARK):
        return

    @functools.wraps(starlettes_own)
    async def call(self: FileResponse, scope: Scope, receive: Receive, send: Send) -> None:
        redirect = _redirect(self, scope)
        if redirect is None:
            await starlettes_own(self, scope, receive, send)
            return

        for message in redirect:
            await send(message)

        background = getattr(self, "background", None)
        if background is not None:
            await background()

    setattr(call, MARK, True)
    FileResponse.__call__ = call  # type: ignore[method-assign]


def _redirect(response: FileResponse, scope: Scope) -> tuple[Message, Message] | None:
    """The redirect in place of a response, or None if the app has to send the file."""
    request = innermost(scope)
    if request is None or not _sends_its_file(type(response)):  # type: ignore[arg-type]
        return None

    try:
        return request.redirect(response, scope)
    except (AttributeError, TypeError, ValueError) as exc:
        logger.debug("the app sends %.200r itself: %r", response, exc)
        return None


@functools.lru_cache(maxsize=64)
def _sends_its_file(kind: type[FileResponse]) -> bool:
    """Whether a class sends its file as it is: it has none of the methods by which `FileResponse` sends bytes."""
    changed = {name for part in kind.__mro__[: kind.__mro__.index(FileResponse)] for name in vars(part)}
    inner = {name for name in vars(FileResponse) if name.startswith("_") and not name.startswith("__")}
    return changed.isdisjoint(inner)
