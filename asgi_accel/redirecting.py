"""Files going out become redirects: one request's response, from the file sender's question to the end.

How a file sender is known is in `pathsend.py`, what becomes of its file in `handover.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from enum import Enum

import anyio
from starlette.types import ASGIApp, Message

from asgi_accel.again import ask_again, client_is_there, is_loss, may_ask_again
from asgi_accel.handover import Handover
from asgi_accel.log import LOST, logger
from asgi_accel.offer import REDIRECT
from asgi_accel.pathsend import PATHSEND
from asgi_accel.sending import in_lower_case, send_all, with_list
from asgi_accel.target import add_vary

START = "http.response.start"


class Stage(Enum):
    """How far the response is."""

    WATCHING = 1  # it has not started
    HOLDING = 2  # a file sender has started it: the next message tells what it sends
    PASSING = 3  # it goes out as the app sends it
    TAKEN = 4  # it is answered here, and what else the app sends is dropped


WATCHING, HOLDING, PASSING, TAKEN = Stage


class Redirecting(Handover):
    """The `send` of one request whose proxy offers to send files, and what to do when the app is done."""

    stage = WATCHING

    def send(self, message: Message) -> Awaitable[None]:
        stage = self.stage
        if stage is PASSING and message["type"] != PATHSEND:
            return self._send(message)
        if stage is WATCHING and message["type"] == START and not self.view.asked:
            self.stage = PASSING
            self.view.open = False
            return self._send(self._checked(message))
        return self._step(message)

    async def _step(self, message: Message) -> None:
        stage = self.stage
        if stage is HOLDING:
            await self._decide(message)
        elif stage is PASSING:  # a path that nobody has asked for, by a copy of the extensions
            await self._send_path(message)
        elif stage is WATCHING and message["type"] == START:
            self.stage = HOLDING
            self.view.open = False
            self.view.show_range()
            self._start = with_list(message)
        elif stage is WATCHING:
            await self._send(message)

    async def _decide(self, message: Message) -> None:
        """Go on with the response that a file sender has started, now that the next message tells what it sends."""
        is_whole = not message.get("more_body", False)
        self.stage = TAKEN
        if message["type"] == PATHSEND:
            await self._send_file(message)
        elif is_whole and self._start["status"] == 500:
            self._held = (self._start, message)  # it may come of a lost response
        elif is_whole and self._scope["method"] == "HEAD":
            await self._answer_head(message)
        else:
            self.stage = PASSING  # no file after all: an error page, say
            await send_all(self._send, self._checked(self._start), message)

    async def _answer_head(self, message: Message) -> None:
        """Answer the HEAD of a file, which does not tell its path. The ETag of its GET will be nginx's."""
        kind = self._offer.sendfile_type
        headers = in_lower_case(self._start)
        names = dict(headers)
        if kind in names:
            return await send_all(self._send, *self._redirect(headers, names[kind]))
        logger.debug("the HEAD of %.200r is answered by the app", self._scope["path"])
        if kind == REDIRECT and b"etag" in names:
            self._start = {**self._start, "headers": [header for header in headers if header[0] != b"etag"]}
        await send_all(self._send, self._start, message)

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
        if (self._refused or self._is_lost(error)) and await client_is_there(self._receive):
            may = may_ask_again(self._first)
            if not self._refused:
                what = "The app was asked once more." if may else "The app could not be asked once more."
                self._offer.log.once(LOST, self._scope["path"], what, level=logging.ERROR)
            if may:
                await ask_again(app, self._scope, self._first, self._receive, self._send)
                return True
        if error is None:
            await self._send_held()
            return True
        earlier = None if self._timer is None else self._timer.error
        with anyio.CancelScope(shield=True):  # a cancelled app must not lose its response
            try:
                await self._send_held()
            except Exception as exc:
                logger.debug("the response to %.200r could not be sent: %r", self._scope["path"], exc)
        if earlier is not None and isinstance(error, Exception):
            raise earlier
        return False

    def _is_lost(self, error: BaseException | None) -> bool:
        """Whether the app has heard of pathsend, and nothing has come of it that could go out."""
        is_missing = self.stage is HOLDING or (self.stage is WATCHING and self.view.known)
        return is_missing or self._longer if error is None else is_loss(error) and (is_missing or bool(self._held))

    async def _send_held(self) -> None:
        if self._timer is None:
            return await send_all(self._send, *self._held)
        timer, self._timer = self._timer, None  # the two hold each other, which would keep both from being freed
        await timer.finish()
