"""What is refused before its body is read: too large, sent by another site's page, or a form that is slow to read."""

from collections.abc import Mapping

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FORM = 64 * 1024  # bytes: more than any form here needs, the upload's aside


class Guard:
    """Plain ASGI. `limits` says for which paths a body may be larger than a form's."""

    def __init__(self, app: ASGIApp, limits: Mapping[str, int]) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        if _from_elsewhere(headers):
            answer = PlainTextResponse("Another site has sent this.", 403)
            return await answer(scope, receive, send)
        limit = self.limits.get(scope["path"], FORM)
        refusal = _unreadable(headers, limit)
        received = 0

        async def guarded() -> Message:
            """What the app reads. An HTTPException that is raised here gets the app's own page."""
            nonlocal received
            if refusal is not None:
                raise refusal
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:  # a body without a Content-Length
                raise _too_large(limit)
            return message

        await self.app(scope, guarded, send)


def _unreadable(headers: Headers, limit: int) -> HTTPException | None:
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limit:
        return _too_large(limit)
    # Python decodes some character sets so slowly that a form of 900 kB would stop the app for most of a minute.
    charset = parse_options_header(headers.get("content-type"))[1].get(b"charset", b"utf-8")
    return None if charset.lower() == b"utf-8" else HTTPException(415, "Forms are in UTF-8 here.")


def _from_elsewhere(headers: Headers) -> bool:
    """Whether another page has sent it: one of another site, or on another port of this host, which gets the cookie."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")  # old browsers, and sites without TLS. What is no browser sends neither
    return origin is not None and origin.partition("://")[2] != headers.get("host")


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"At most {limit:,} bytes, please.")
