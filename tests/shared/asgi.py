"""An ASGI app driven in process, message by message."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import anyio
from starlette.types import ASGIApp, Message, Receive

Header = tuple[bytes, bytes]


@dataclass
class Answer:
    """What an app sent, and the scope as it left it."""

    messages: list[Message] = field(default_factory=list)
    scope: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> list[Header]:
        return list(self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    def header(self, name: bytes) -> bytes | None:
        return dict(self.headers).get(name)


async def ask(
    app: ASGIApp,
    *headers: Header,
    method: str = "GET",
    path: str = "/",
    query: bytes = b"",
    extensions: dict[str, Any] | None = None,
    receive: Receive | None = None,
    answer: Answer | None = None,
) -> Answer:
    """Send one request to an app and collect its answer, in `answer` as it comes; the client leaves when it has it."""
    answer = Answer() if answer is None else answer
    answer.scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"localhost"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    if extensions is not None:
        answer.scope["extensions"] = extensions
    requested = False
    complete = anyio.Event()

    async def client_waits() -> Message:
        nonlocal requested
        if requested:
            await complete.wait()
            return {"type": "http.disconnect"}
        requested = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        answer.messages.append(message)
        if message["type"] != "http.response.start" and not message.get("more_body", False):
            complete.set()

    await app(answer.scope, receive or client_waits, send)
    return answer
