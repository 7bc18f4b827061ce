"""A product with `AccelMiddleware` in the way that the request's `X-Set-Up` names, or without it.

The product is one and the same each time, so nothing else differs: no random name, no start time.
"""

from __future__ import annotations

import os
from typing import Any

from asgi_accel import AccelMiddleware

MAPPING = os.environ["MAPPING"]
NAMES = {"nothing": MAPPING, "other": "/nowhere/=/_none/", "all": MAPPING}


class Chosen:
    """A middleware as the product's users add it."""

    place = "inside"

    def __init__(self, app: Any) -> None:
        self.app = app
        self.wrapped = {f"{self.place}-{name}": AccelMiddleware(app, mapping) for name, mapping in NAMES.items()}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.wrapped.get(scope.get("set-up", ""), self.app)(scope, receive, send)


class AtTheEdge(Chosen):
    """Around the product. The request's header is read here, and taken out."""

    place = "around"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["set-up"] = dict(scope["headers"]).get(b"x-set-up", b"without").decode()
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"x-set-up"]
        await super().__call__(scope, receive, send)
