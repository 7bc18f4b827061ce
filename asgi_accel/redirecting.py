"""Files going out become redirects: one request's response, from the file sender's question to the end.

How a file sender is known is in `pathsend.py`, what becomes of its file in `handover.py`.
"""

import contextlib
import logging
from collections.abc import Awaitable

import anyio
from starlette.types import ASGIApp, Message

from asgi_accel.again import ask_again, client_is_there, is_loss, may_ask_again
from asgi_accel.handover import Handover
from asgi_accel.log import LOST, logger
from asgi_accel.offer import REDIRECT
from asgi_accel.pathsend import PATHSEND
from asgi_accel.serving import in_lower_case, is_part, send_all, send_bytes, with_list
from asgi_accel.target import add_vary

START = "http.response.start"


# How far a response is. WATCHING: it has not started. HOLDING: a file sender has started it, and the next message tells
# what it sends. PASSING: it goes out as the app sends it. TAKEN: it is answered here, and what else comes is dropped.
WATCHING, HOLDING, PASSING, TAKEN = range(4)


class Redirecting(Handover):
    """The `send` of one request whose proxy offers to send files, and what to do when the app is done."""

    stage: int = WATCHING

    def send(self, message: Message) -> Awaitable[None]:
        stage, kind = self.stage, message["type"]
        if stage == PASSING and kind != PATHSEND:
            return self._send(message)
        if stage == WATCHING and kind == START and not self.view.asked:
            self.stage, self.view.open = PASSING, False
            return self._send(self._checked(message))
        return self._send(message) if stage == WATCHING and kind != START else self._step(message)

    async def _step(self, message: Message) -> None:
        if self.stage == WATCHING:
            self.stage, self.view.open = HOLDING, False
            self.view.show_range()
            self._start = with_list(message)
        elif self.stage == HOLDING:
            self.stage = TAKEN
            await self._decide(message)
        elif self.stage == PASSING:  # a path that nobody has asked for, by a copy of the extensions
            knows_path = PATHSEND in self.view.server and not is_part(message)
            await (self._send(message) if knows_path else send_bytes(message, self._send))
        elif self._held and self._timer is None:
            self._held += (message,)  # of an error page

    async def _decide(self, message: Message) -> None:
        """Go on with the response that a file sender has started, now that the next message tells what it sends."""
        start, kind = self._start, self._offer.sendfile_type
        headers = in_lower_case(start)
        own = dict(headers).get(kind)
        is_file = message["type"] == PATHSEND and not is_part(message)
        is_body = message["type"] == "http.response.body"
        is_whole = is_body and not message.get("more_body", False)
        is_head = is_whole and self._scope["method"] == "HEAD"
        if own is not None and (is_file or is_head):
            await send_all(self._send, *self._redirect(headers, own))
        elif is_file:
            await self._send_file(message["path"], headers)
        elif is_body and start["status"] == 500:
            self._held = (start, message)  # an error page, which may come of a lost response
        elif is_head:  # It does not tell a path. The ETag of its GET will be nginx's.
            logger.debug("the HEAD of %.200r is answered by the app", self._scope["path"])
            if kind == REDIRECT and headers:
                start = {**start, "headers": [header for header in headers if header[0] != b"etag"]}
            await send_all(self._send, start, message)
        elif is_whole and start["status"] != 304 and self._is_longer(headers, len(message.get("body", b""))):
            logger.debug("the body of %.200r has been lost", self._scope["path"])  # the path was, and then it was ended
        else:  # a part of a file, or no file after all: an error page, say
            self.stage = PASSING
            await self._send(self._checked(start))
            await self.send(message)

    def _checked(self, start: Message) -> Message:
        """A start of the app's own, with `Vary` if it is a redirect that would be a file without this offer."""
        start = with_list(start)
        for name, value in start.get("headers", ()):
            if len(name) == 16 and name.lower() == REDIRECT == self._offer.sendfile_type:
                is_file = value.startswith(self._offer.targets) or self._offer.is_file(value)
                return {**start, "headers": add_vary(start["headers"])} if is_file and self._offered.varies else start
        return start

    async def finish(self, app: ASGIApp, error: BaseException | None = None) -> bool:
        """The app is done, or has raised an error: send what was held back, or ask the app again for what was lost.

        Returns:
            Whether the error is dealt with: it says only that a response was lost, and the app has been asked again.

        Raises:
            Exception: A held redirect could not be sent, before the app raised an error itself.
        """
        if self._is_lost(error) and await client_is_there(self._receive):
            may = may_ask_again(self._first)
            if not self._refused:
                what = "The app was asked once more." if may else "The app could not be asked once more."
                self._offer.warn(LOST, self._scope["path"], what, level=logging.ERROR)
            if may:
                await ask_again(app, self._scope, self._first, self._receive, self._send)
                return True
        if error is None:
            await self._send_held()
            return True
        earlier = None if self._timer is None else self._timer.error
        # A cancelled app must not lose its response. What goes wrong with that must not hide the app's own error.
        with anyio.CancelScope(shield=True), contextlib.suppress(Exception):
            await self._send_held()
        if earlier is not None and isinstance(error, Exception):
            raise earlier
        return False

    def _is_lost(self, error: BaseException | None) -> bool:
        """Whether the app has heard of pathsend, and nothing has come of it that could go out."""
        is_missing = self.stage == HOLDING or (self.stage == WATCHING and self.view.known)
        if error is None:
            return is_missing or self._longer or self._refused
        return is_loss(error) and (is_missing or bool(self._held))

    async def _send_held(self) -> None:
        timer, self._timer = self._timer, None  # the two hold each other, which would keep both from being freed
        await (send_all(self._send, *self._held) if timer is None else timer.finish())
