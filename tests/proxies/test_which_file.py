"""Which file nginx sends, under any header: the one that the app has chosen. nginx itself is the judge.

The app's map, the request's map and nginx's locations can differ. A location that does not set the header passes a
client's on, and nginx may have more locations than the app knows.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from asgi import ask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from needs import need_nginx
from servers import UVICORN, Nginx, asgi_server, client
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap

Pairs = list[tuple[str, str]]  # `@` stands for the folder with the files

SECRET = "only the proxy knows"
MODES: dict[str, dict[str, Any]] = {
    "mapping": {"mapping": True},
    "always": {"mapping": True, "always": True},
    "trust_header": {"trust_header": True},
    "secret": {"secret": SECRET},
    "mapping+secret": {"mapping": True, "secret": SECRET},
}
FOLDERS = ["/".join(parts) for depth in range(4) for parts in itertools.product("ab", repeat=depth)]
NAMES = ["f", "%2f é"]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Send a file under an `AccelMiddleware`, as the request's query says."""
    query = Request(scope).query_params
    await AccelMiddleware(FileResponse(query["file"]), **json.loads(query["options"]))(scope, receive, send)


class Case(NamedTuple):
    """One nginx in front of the app."""

    mode: str  # a key of `MODES`
    own: Pairs  # the app's map
    named: Pairs  # the request's
    nginx: Pairs  # its locations; of several with the same prefix, which nginx refuses, the first is there
    files: list[str]  # as the app names them


class Judge:
    """An app, and an nginx for each case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = folder / "files"
        self.sent_by: Counter[str] = Counter()  # nginx or the app
        self.socket = folder / "nginx.sock"
        self.client = client(self.socket)

    def _map(self, pairs: Pairs) -> PathMap:
        return PathMap((directory.replace("@", str(self.files)), prefix) for directory, prefix in pairs)

    def _server(self, name: str, pairs: Pairs) -> str:
        """nginx with an internal location for each prefix. It sets no header, so a client's goes to the app."""
        locations: dict[str, str] = {}
        for directory, prefix in pairs:
            locations.setdefault(prefix.rstrip("/"), directory.replace("@", str(self.files)).rstrip("/"))
        internal = "".join(
            f'location "{prefix}/" {{ internal; alias "{directory}/"; add_header X-Sent-By nginx; }}\n'
            for prefix, directory in locations.items()
        )
        return (
            f"server {{ listen unix:{self.socket}; server_name {name}; keepalive_timeout 0;\n"
            f"location = /app {{ proxy_pass http://unix:{self.folder}/which.sock:/; }}\n{internal}}}\n"
        )

    def check(self, *cases: Case) -> list[str]:
        """Ask for each file of each case, and see that it comes; returns who has sent each."""
        home = Path(tempfile.mkdtemp(dir=self.folder))
        servers = "".join(self._server(f"case-{number}", case.nginx) for number, case in enumerate(cases))
        with Nginx(home, servers, self.socket):
            sent_by = [
                self._ask(f"case-{number}", case, file.replace("@", str(self.files)))
                for number, case in enumerate(cases)
                for file in case.files
            ]
        self.sent_by.update(sent_by)
        return sent_by

    def _ask(self, host: str, case: Case, path: str) -> str:
        options = MODES[case.mode]
        if "mapping" in options:
            options = {**options, "mapping": str(self._map(case.own))}
        response = self.client.get(
            "/app",
            params={"file": path, "options": json.dumps(options)},
            headers={"X-Accel-Mapping": str(self._map(case.named)), "X-Accel-Secret": SECRET, "Host": host},
        )
        assert (response.status_code, response.text) == (200, os.path.normpath(path)), case
        sent: str = response.headers.get("x-sent-by", "app")
        return sent


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Judge]:
    need_nginx()
    home = folder / "which"
    home.mkdir()
    judge = Judge(home)
    for below, name in itertools.product(FOLDERS, NAMES):
        path = judge.files / below / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(path))
    with asgi_server(home, *UVICORN, app="test_which_file:app", name="which"), judge.client:
        yield judge


A, B, BELOW, OTHER = ("@/a", "/files"), ("@/b", "/files/b"), ("@/a/b", "/below"), ("@/b", "/other")


@pytest.mark.parametrize("mode", ["mapping", "mapping+secret"])
@pytest.mark.parametrize(
    ("own", "named", "nginx", "path"),
    [
        ([A, B], [A], [A, B], "@/a/b/f"),
        ([A], [A, B], [A, B], "@/a/b/f"),
        ([A, ("@/b", "/files")], [A], [A], "@/b/f"),
        ([A, ("@/b", "/files")], [A], [("@/b", "/files")], "@/a/f"),
        ([A], [A, ("@/b", "/files")], [("@/b", "/files")], "@/a/f"),
        ([A, BELOW], [A, ("@/a/b", "/other")], [A, BELOW, OTHER], "@/a/b/f"),
    ],
    ids=["left out", "unknown to the app", "prefix shared", "the other has it", "shared by the header", "two prefixes"],
)
def test_maps_that_differ(judge: Judge, mode: str, own: Pairs, named: Pairs, nginx: Pairs, path: str) -> None:
    """The app sends a file itself if the pairs that one side alone names would lead to another."""
    assert judge.check(Case(mode, own, named, nginx, [path])) == ["app"]


@pytest.mark.parametrize("mode", MODES)
def test_a_prefix_that_two_directories_have(judge: Judge, mode: str) -> None:
    """It leads back to nothing, and a shorter one does not take its place, whichever of the two nginx has."""
    shared = [("@/a", "/files"), ("@/b", "/files/a"), ("@/a/b", "/files/a")]
    for nginx in (shared, shared[::-1]):
        assert judge.check(Case(mode, shared, shared, nginx, ["@/a/a/f", "@/b/f", "@/a/b/f"])) == ["app"] * 3
        assert judge.check(Case(mode, shared, shared, nginx, ["@/a/f"])) == ["nginx"]


@pytest.mark.parametrize("mode", MODES)
def test_maps_that_agree(judge: Judge, mode: str) -> None:
    """With the same map on both sides nginx sends every file that leads back, however the app writes its path."""
    both = [A, ("@/b", "/other"), ("@/b/a", "/files/c")]
    files = ["@/a/f", "@/a//b/f", "@/a/./b/f", "@/b/f", "@/b/a/%2f é", "@/a/b/a/%2f é"]
    assert judge.check(Case(mode, both, both, both, files)) == ["nginx"] * len(files)


directories = st.sampled_from(["@" if not below else f"@/{below}" for below in FOLDERS if len(below) < 4] + ["/"])
prefixes = st.sampled_from(["/" + below for below in FOLDERS if len(below) < 4])
maps = st.lists(st.tuples(directories, prefixes), max_size=3, unique_by=lambda pair: pair[0])
paths = st.builds(
    lambda below, slash, name: slash.join(["@", *filter(None, below.split("/")), name]),
    st.sampled_from(FOLDERS),
    st.sampled_from(["/", "/", "//", "/./"]),
    st.sampled_from(NAMES),
)


@st.composite
def any_case(draw: st.DrawFn) -> Case:
    mode = draw(st.sampled_from([*MODES, "mapping", "mapping+secret"]))
    common = dict(draw(maps))
    own, named = ([*{**dict(draw(maps)), **common}.items()] for _ in range(2))
    # What the app can know of: in modes that do not look at one of the two maps, that is the other.
    nginx = {"always": own, "trust_header": named, "secret": named}.get(mode, [*own, *named])
    return Case(mode, own, named, draw(st.permutations(nginx)), draw(st.lists(paths, min_size=8, max_size=8)))


@given(st.lists(any_case(), min_size=5, max_size=5))
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_any_two_maps(judge: Judge, cases: list[Case]) -> None:
    """Whatever the two sides name, what arrives is the file's own bytes."""
    judge.check(*cases)


def test_nginx_has_been_asked(judge: Judge) -> None:
    """Of the files above nginx has sent a good part, so the judge has had something to judge."""
    if sum(judge.sent_by.values()) < 500:
        pytest.skip("only some of this module's tests have run")
    assert judge.sent_by["nginx"] > sum(judge.sent_by.values()) / 10, judge.sent_by


@pytest.mark.anyio
@pytest.mark.parametrize("named", ["ab", "a", "b", ""])
@pytest.mark.parametrize("is_redirect", [False, True])
@pytest.mark.parametrize("copies", [False, True])
async def test_one_middleware_in_another(tmp_path: Path, named: str, is_redirect: bool, copies: bool) -> None:
    """A mounted app has a middleware and a mapping of its own: the outer one does not read its redirects by its own."""
    pairs = {"a": (str(tmp_path / "a"), "/files"), "b": (str(tmp_path / "b"), "/files/b")}
    for folder in ("a/b", "b"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "f").write_text(folder)
    file, inner = tmp_path / "b" / "f", PathMap([pairs["b"]])
    app = AccelRedirectResponse(file, mapping=inner) if is_redirect else FileResponse(file)
    offer = (b"x-accel-mapping", str(PathMap([pairs[name] for name in named])).encode())
    mounted = AccelMiddleware(app, inner)

    async def between(scope: Scope, receive: Receive, send: Send) -> None:
        await mounted({**scope} if copies else scope, receive, send)

    answer = await ask(AccelMiddleware(between, [pairs["a"]]), offer)
    if "b" in named:
        assert (answer.header(b"x-accel-redirect"), answer.body) == (b"/files/b/f", b"")
    else:
        assert (answer.header(b"x-accel-redirect"), answer.body) == (None, b"b")
