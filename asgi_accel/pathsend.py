"""How a file sender is told from the rest of the app.

A file sender (`FileResponse`, `StaticFiles`) looks for the extension ``http.response.pathsend`` in its scope, and if it
is there, sends its file's path in place of the bytes. `FileResponse.__call__` does three things in this order:

1. It asks ``"http.response.pathsend" in scope["extensions"]``.
2. It reads the request's `Range`.
3. It starts its response.

So the question comes first, and nobody but a file sender asks it. While a proxy offers to send files, the app's
extensions are the dict below, which notes the question. From then on `Range` is hidden, so that the whole file comes as
a path, and the start of the response waits for the message after it.

`tests/test_pathsend.py` fails if Starlette changes this order. What happens to the path is in `redirecting.py`.
"""

from collections.abc import Callable
from typing import Any

from starlette.types import Scope

from asgi_accel.offer import RANGES, Headers

PATHSEND = "http.response.pathsend"
ZEROCOPYSEND = "http.response.zerocopysend"  # some file senders prefer it, and it tells no path


class Extensions(dict[str, Any]):
    """The app's extensions while a proxy offers to send files, with pathsend among them, as ``{}``.

    ``in`` and ``get`` are the question. Code that copies or changes the dict is not a file sender: it may be a logger,
    or a middleware that makes other extensions for one. The copy is a plain dict.
    """

    __slots__ = ("_has_range", "_hidden", "_ranges", "_scope", "asked", "known", "open", "server")

    def __init__(self, scope: Scope, has_range: bool) -> None:
        """Put this dict into the scope. The scope is not copied: outer layers see what the app writes into it."""
        self.server: dict[str, Any] = scope.get("extensions") or {}
        self.asked: bool = False  # by a file sender, and nothing has said otherwise since
        self.known: bool = False  # the app has heard of pathsend, by the question or in a copy
        self.open: bool = True  # until the response has started: a later question is answered as the server would
        self._scope = scope
        self._has_range = has_range
        self._hidden: Headers = []  # the request's headers without `Range`, while that is hidden
        self._ranges: list[tuple[int, tuple[bytes, bytes]]] = []  # what is hidden, and where it was
        if self.server:
            self.update(self.server)
            dict.pop(self, ZEROCOPYSEND, None)
        self[PATHSEND] = {}  # without what a server may announce in it, such as ranges
        scope["extensions"] = self

    def __contains__(self, name: object) -> bool:
        is_there = super().__contains__(name)  # unless a middleware has taken it out
        if name == PATHSEND and not self.open:
            return is_there and PATHSEND in self.server
        if name == PATHSEND and is_there:
            self.asked = self.known = True
            if self._has_range and not self._ranges:
                headers = self._scope["headers"]
                self._ranges = [(at, header) for at, header in enumerate(headers) if header[0] in RANGES]
                self._hidden = self._scope["headers"] = [header for header in headers if header[0] not in RANGES]
        return is_there

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401 (this is `get`)

    def take_back(self) -> None:
        """Take the question back: whoever asked was not a file sender."""
        self.asked, self.known = False, True
        self.show_range()

    def show_range(self) -> None:
        """Show the request's `Range` again, in copies of the scope, too: they hold the same list.

        A middleware may have changed the other headers meanwhile. What it has taken out must not come back.
        """
        if self._ranges:
            shown = self._scope["headers"] = list(self._scope["headers"])
            for at, header in self._ranges:
                shown.insert(at, header)
                self._hidden.insert(at, header)
            self._ranges = []

    def give_back(self) -> None:
        """Leave the scope as the server made it."""
        self.show_range()
        self._scope["extensions"] = self.server

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)  # `copy`, `deepcopy` and `pickle`


def _taking_back(name: str) -> Callable[..., Any]:
    of_dict = getattr(dict, name)

    def method(self: Extensions, *args: Any) -> Any:
        self.take_back()
        return of_dict(self, *args)

    return method


COPYING = ("__iter__", "__or__", "copy", "items", "keys", "values")
TAKING_OUT = ("__delitem__", "clear", "pop", "popitem")
for _name in COPYING + TAKING_OUT:
    setattr(Extensions, _name, _taking_back(_name))
