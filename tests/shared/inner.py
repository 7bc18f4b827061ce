"""Middlewares that stand between a file sender and AccelMiddleware, in the shapes that public projects have.

`SCOPE` change or copy the request's scope, and what the client gets is the file. `LOSSY` know nothing of pathsend, and
lose its message or add to bytes that never come.
"""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import zlib
from collections.abc import Callable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATHSEND = "http.response.pathsend"
SCRIPT = b"<script src=/reload.js></script>"


def pop_in_a_copy(scope: Scope) -> Scope:
    if PATHSEND in scope["extensions"]:
        extensions = dict(scope["extensions"])
        extensions.pop(PATHSEND)
        scope["extensions"] = extensions
    return scope


def rebuild(scope: Scope) -> Scope:
    if PATHSEND in scope["extensions"]:
        scope["extensions"] = {name: value for name, value in scope["extensions"].items() if name != PATHSEND}
    return scope


def delete(scope: Scope) -> Scope:
    if PATHSEND in scope["extensions"]:
        del scope["extensions"][PATHSEND]
    return scope


def pop(scope: Scope) -> Scope:
    scope["extensions"].pop(PATHSEND, None)
    return scope


def ask_and_pop(scope: Scope) -> Scope:
    if PATHSEND in scope["extensions"]:
        scope["extensions"].pop(PATHSEND)
    return scope


def clear(scope: Scope) -> Scope:
    if PATHSEND in scope["extensions"]:
        scope["extensions"].clear()
    return scope


def get_and_pop_item(scope: Scope) -> Scope:
    if scope["extensions"].get(PATHSEND) is not None:
        while scope["extensions"]:
            scope["extensions"].popitem()
    return scope


def copies_extensions(make: Callable[[Any], Any]) -> Callable[[Scope], Scope]:
    def change(scope: Scope) -> Scope:
        return {**scope, "extensions": make(scope["extensions"])}

    return change


def deep_copy(scope: Scope) -> Scope:
    """All that the server has put into the scope; what Starlette adds cannot be copied."""
    own = ("app", "router", "endpoint")
    return {name: value if name in own else copy.deepcopy(value) for name, value in scope.items()}


def log_json(scope: Scope) -> Scope:
    json.dumps(scope["extensions"])
    return scope


def look_up(scope: Scope) -> Scope:
    """`[]` reads the extension, and is no question."""
    with contextlib.suppress(KeyError):
        scope["extensions"][PATHSEND]
    return scope


def compiled(scope: Scope) -> Scope:
    """BlackSheep's compiled code takes nothing but tuples."""
    if PATHSEND in scope["extensions"]:
        assert_plain(scope)
    assert_plain(scope)
    return scope


def assert_plain(scope: Scope) -> None:
    """The request's headers are what the server made: a list, not something like a list."""
    assert type(scope["headers"]) is list
    assert {type(header) for header in scope["headers"]} == {tuple}


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda extensions: pickle.loads(pickle.dumps(extensions)),
    "json": lambda extensions: json.loads(json.dumps(extensions)),
    "spread": lambda extensions: {**extensions},
    "dict": dict,
    "method": lambda extensions: extensions.copy(),
    "or": lambda extensions: extensions | {},
    "ror": lambda extensions: {} | extensions,
    "items": lambda extensions: {name: value for name, value in extensions.items()},  # noqa: C416
    "keys": lambda extensions: {name: extensions[name] for name in extensions.keys()},  # noqa: SIM118
    "iter": lambda extensions: {name: extensions[name] for name in extensions},
    "values": lambda extensions: dict(zip(list(extensions), extensions.values(), strict=True)),
}

SCOPE: dict[str, Callable[[Scope], Scope]] = {
    "pop_in_a_copy": pop_in_a_copy,
    "rebuild": rebuild,
    "delete": delete,
    "pop": pop,
    "ask_and_pop": ask_and_pop,
    "clear": clear,
    "get_and_pop_item": get_and_pop_item,
    "copy_scope": copy.copy,
    "deep_copy": deep_copy,
    "log_json": log_json,
    "look_up": look_up,
    "compiled": compiled,
    **{f"extensions_by_{name}": copies_extensions(make) for name, make in COPIES.items()},
}


class ChangeScope:
    """Gives the app a scope that one of `SCOPE` has changed."""

    def __init__(self, app: ASGIApp, change: Callable[[Scope], Scope]) -> None:
        self.app = app
        self.change = change

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("extensions", {})
        await self.app(self.change(scope), receive, send)


class _Send:
    """A middleware whose `send` is made for each request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {}

        async def changed(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            await self.change(start, message, send)

        await self.app(scope, receive, changed)

    async def change(self, start: Message, message: Message, send: Send) -> None:
        raise NotImplementedError


class Compress(_Send):
    """As brotli-asgi and gradio: keeps the start until there is a body, and knows no other message."""

    async def change(self, start: Message, message: Message, send: Send) -> None:
        if message["type"] != "http.response.body":
            return
        body = message.get("body", b"")
        if not start.pop("sent", False):
            headers = MutableHeaders(raw=list(start["headers"]))
            headers.add_vary_header("Accept-Encoding")
            if not message.get("more_body") and len(body) > 100:
                body = zlib.compress(body)
                headers["Content-Encoding"] = "deflate"
                headers["Content-Length"] = str(len(body))
            await send({"type": "http.response.start", "status": start["status"], "headers": headers.raw})
        start["sent"] = True
        await send({**message, "body": body})


class Drop(_Send):
    """Passes the start, and then knows no other message than the body."""

    async def change(self, start: Message, message: Message, send: Send) -> None:
        if message["type"] in ("http.response.start", "http.response.body"):
            await send(message)


class Inject(_Send):
    """As sphinx-autobuild: adds a script to the last part of the body, and as much to `Content-Length`."""

    async def change(self, start: Message, message: Message, send: Send) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message["headers"]))
            if "content-length" in headers:
                headers["Content-Length"] = str(int(headers["Content-Length"]) + len(SCRIPT))
            message = {**message, "headers": headers.raw}
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            message = {**message, "body": message.get("body", b"") + SCRIPT}
        await send(message)


LOSSY: dict[str, Callable[[ASGIApp], ASGIApp]] = {"compress": Compress, "drop": Drop, "inject": Inject}
