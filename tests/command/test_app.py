"""`--app`: the app is imported as uvicorn does, and what its `AccelMiddleware` was given is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles

from asgi_accel import AccelMiddleware, PathMap
from asgi_accel.cli import main
from asgi_accel.cli.app import Found, check_prefixes, find, load, told

MAPPING = {"/mnt/storage": "/download"}
FOUND = Found(PathMap(MAPPING))
ACCEL = Middleware(AccelMiddleware, mapping=MAPPING)
PAGE = PlainTextResponse("a page")


def fastapi() -> FastAPI:
    app = FastAPI()
    app.add_middleware(GZipMiddleware)
    app.add_middleware(AccelMiddleware, mapping="/mnt/storage=/download")
    return app


class Wrapped:
    """As Quart and others have their ASGI app, to be wrapped."""

    asgi_app: Any

    def __init__(self) -> None:
        self.asgi_app = AccelMiddleware(PAGE, MAPPING)


class TestFound:
    """Where the middleware is found."""

    @pytest.mark.parametrize(
        "app",
        [
            fastapi(),
            Starlette(middleware=[Middleware(GZipMiddleware), ACCEL]),
            AccelMiddleware(PAGE, MAPPING),
            GZipMiddleware(AccelMiddleware(GZipMiddleware(Starlette()), MAPPING)),
            Starlette(routes=[Mount("/a", Starlette(routes=[Mount("/b", fastapi())]))]),
            Starlette(routes=[Mount("/a", routes=[], middleware=[ACCEL])]),
            Starlette(routes=[Host("files.example", fastapi())]),
            Starlette(routes=[Route("/a", PAGE, middleware=[ACCEL])]),
            Starlette(routes=[Route("/a", AccelMiddleware(PAGE, MAPPING))]),
            Router(middleware=[ACCEL]),
            Wrapped(),
            AccelMiddleware(fastapi(), MAPPING),
        ],
        ids=lambda app: type(app).__name__,
    )
    def test_where(self, app: Any) -> None:
        """Added to an app, wrapped around one, or further in; several that are alike are one."""
        assert find(app) == FOUND

    def test_running(self) -> None:
        """An app that has built its middlewares has one, still."""
        app = fastapi()
        app.middleware_stack = app.build_middleware_stack()
        assert find(app) == FOUND

    def test_what(self) -> None:
        """All that it was given is there."""
        app = AccelMiddleware(PAGE, MAPPING, secret="only the proxy knows")
        assert find(app) == Found(PathMap(MAPPING), "only the proxy knows")
        assert find(AccelMiddleware(PAGE, MAPPING, always=True)) == FOUND
        apache = AccelMiddleware(PAGE, MAPPING, sendfile_type="X-Sendfile")
        assert find(apache) == Found(PathMap(MAPPING), sendfile_type="x-sendfile")
        assert find(AccelMiddleware(PAGE, trust_header=True)) == Found(PathMap())

    def test_none(self) -> None:
        """There need not be one, and an app that contains itself ends."""
        app = Starlette()
        app.mount("/again", app)
        assert find(app) is None
        assert find(Starlette(middleware=[Middleware(lambda app: app)])) is None

    def test_different(self) -> None:
        """Several that differ are refused, with what they have."""
        other = AccelMiddleware(PAGE, {"/mnt/other": "/other"})
        with pytest.raises(ValueError, match=r"/mnt/other/=/other/.*/mnt/storage/=/download/"):
            find(Starlette(routes=[Mount("/other", other)], middleware=[ACCEL]))


class TestPrefixes:
    """A prefix that is a route, too, would be a silent 404."""

    @pytest.mark.parametrize(
        "route",
        [
            Route("/download/{name}", PAGE),
            Route("/download/", PAGE),
            WebSocketRoute("/download/live", PAGE),
            Mount("/download", StaticFiles(directory="/")),
            Mount("/download/public", PAGE),
        ],
        ids=lambda route: f"{type(route).__name__} {route.path}",
    )
    def test_is_a_route(self, route: Route | Mount) -> None:
        """A route below the prefix is named."""
        for app in (Starlette(routes=[route]), AccelMiddleware(Starlette(routes=[route]), MAPPING)):
            with pytest.raises(ValueError, match=f"'/download' is also the app's route '{route.path}'"):
                check_prefixes(app, ["/download"])

    @pytest.mark.parametrize("prefix", ["/bucket", "/bucket/"])
    def test_is_fetched(self, prefix: str) -> None:
        """Where nginx fetches from a storage, it answers a route that lacks only the prefix's slash, too: 404."""
        app = Starlette(routes=[Route("/bucket", PAGE)])
        with pytest.raises(ValueError, match="is also the app's route '/bucket'"):
            check_prefixes(app, [], [prefix])
        check_prefixes(Starlette(routes=[Route("/buckets", PAGE), Route("/bucket{name}", PAGE)]), [], [prefix])

    def test_of_fastapi(self) -> None:
        """Routes of routers that an app includes, and of apps that it mounts, are routes of its own."""
        router = APIRouter(prefix="/down")
        router.add_api_route("/load/{name}", lambda name: name)
        app, outer = FastAPI(), FastAPI()
        app.include_router(router, prefix="/the")
        outer.mount("/v1", app)
        with pytest.raises(ValueError, match=r"'/v1/the/down/load/\{name\}'"):
            check_prefixes(outer, ["/v1/the/down/load/"])
        check_prefixes(outer, ["/the/down/load/", "/v1/the/down/loa"])

    def test_is_none(self) -> None:
        """A route for all paths, one of a similar name and one above the prefix are none of its own."""
        routes = [
            Route("/{path:path}", PAGE),
            Route("/downloads/{name}", PAGE),
            Route("/download", PAGE),
            Route("/down", PAGE),
            Mount("/", StaticFiles(directory="/")),
        ]
        check_prefixes(Starlette(routes=routes), ["/download", "/"])


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that is not imported yet, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "module_of_a_test", raising=False)
    return tmp_path / "module_of_a_test.py"


HEAD = "from asgi_accel import AccelMiddleware\nfrom starlette.applications import Starlette\n"
APP = f"{HEAD}app = AccelMiddleware(Starlette(), {MAPPING})\n"


class TestTold:
    """A mapping for an app that has none, as `asgi-accel run --mapping` takes it."""

    def test_given(self) -> None:
        """It is the app's, with the secret of a middleware that has no mapping."""
        assert told(Starlette(), "main:app", "/mnt/storage=/download") == FOUND
        secret = AccelMiddleware(PAGE, secret="x")
        assert told(secret, "main:app", "/mnt/storage=/download") == Found(PathMap(MAPPING), "x")

    def test_both(self) -> None:
        """An app that has a mapping takes no other."""
        with pytest.raises(ValueError, match="'main:app' has an AccelMiddleware with a mapping"):
            told(fastapi(), "main:app", "/mnt=/x")


class TestLoad:
    """The import."""

    @pytest.mark.parametrize(
        ("text", "name", "factory"),
        [
            (APP, "app", False),
            (f"{APP}class site:\n    inner = app\n", "site.inner", False),
            (f"{APP}def make():\n    return app\n", "make", True),
            (f"{APP}def make():\n    return app\n", "make", False),
        ],
    )
    def test_names(self, module: Path, text: str, name: str, factory: bool) -> None:
        """An app, one in something else, and a function that makes one, which is told as uvicorn tells it."""
        module.write_text(text)
        assert find(load(f"module_of_a_test:{name}", factory=factory)) == FOUND

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
            ("app = (", "SyntaxError"),
            ("a = 1\napp = a / 0", "ZeroDivisionError: division by zero"),
            ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
            ("raise SystemExit(3)", "SystemExit: 3"),
            ("other = 1", "has no attribute 'app'"),
        ],
    )
    def test_error(self, module: Path, capsys: pytest.CaptureFixture[str], text: str, named: str) -> None:
        """What is wrong with the app is said in one line, with where it was looked for."""
        module.write_text(text)
        assert main(["nginx", "--app", "module_of_a_test:app", "--upstream", "127.0.0.1:8000"]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith(f"asgi-accel: the app 'module_of_a_test:app' cannot be imported from {Path.cwd()}")
        assert named in output.err
        assert output.err.count("\n") == 1

    def test_factory_that_needs_more(self, module: Path) -> None:
        """A factory is called without arguments."""
        module.write_text("def make(settings):\n    return settings\n")
        with pytest.raises(ValueError, match="missing 1 required positional argument: 'settings'"):
            load("module_of_a_test:make", factory=True)

    @pytest.mark.parametrize("app", ["main", "main:", ":app", ""])
    def test_bad_name(self, app: str) -> None:
        """Text that is not a module and a name is refused with an example."""
        with pytest.raises(ValueError, match="such as main:app"):
            load(app)


class TestCommand:
    """The commands with `--app`."""

    @pytest.mark.parametrize("command", ["nginx", "caddy"])
    def test_same(self, module: Path, capsysbinary: pytest.CaptureFixture[bytes], command: str) -> None:
        """They print what they print with the mapping as text, and what the app prints stays out of it."""
        module.write_text(f"print('the app starts')\n{APP}")
        upstream = ["--upstream", "127.0.0.1:8000"]
        assert main([command, "--app", "module_of_a_test:app", *upstream]) == 0
        by_app = capsysbinary.readouterr()
        assert main([command, "--mapping", "/mnt/storage=/download", *upstream]) == 0
        assert by_app.out == capsysbinary.readouterr().out
        assert b"the app starts" in by_app.err

    def test_secret(
        self, module: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The app's secret is printed, whatever the environment has."""
        monkeypatch.setenv("ACCEL_SECRET", "another")
        module.write_text(f"{HEAD}app = AccelMiddleware(Starlette(), {MAPPING}, secret='of the app')\n")
        for more in ([], ["--secret"]):
            assert main(["nginx", "--app", "module_of_a_test:app", "--upstream", "a:1", *more]) == 0
            assert b'X-Accel-Secret "of the app";' in capsysbinary.readouterr().out

    @pytest.mark.parametrize(
        ("made", "named"),
        [
            ("Starlette()", "has no AccelMiddleware: add one, or give --mapping"),
            ("AccelMiddleware(Starlette(), trust_header=True)", "has no mapping="),
            ("AccelMiddleware(Starlette(), secret='x')", "has no mapping="),
            (f"AccelMiddleware(Starlette(), {MAPPING}, sendfile_type='X-Sendfile')", "see docs/proxies.md"),
            (f"AccelMiddleware(AccelMiddleware(Starlette(), {MAPPING}), {{'/b': '/b'}})", "differ"),
            (
                f"AccelMiddleware(Router([Mount('/download', Starlette())]), {MAPPING})",
                "'/download' is also the app's route",
            ),
            (
                f"AccelMiddleware(Router([Mount('/bucket', Starlette())]), {MAPPING})",
                "'/bucket/' is also the app's route",
            ),
            ("Starlette(middleware=[Middleware(AccelMiddleware)])", "AccelMiddleware has no mapping"),
            ("Starlette(middleware=[Middleware(AccelMiddleware, maping={})])", "unexpected keyword argument 'maping'"),
        ],
    )
    def test_refused(self, module: Path, capsys: pytest.CaptureFixture[str], made: str, named: str) -> None:
        """An app without a mapping that nginx could have is refused with what to do."""
        imports = "from starlette.routing import Mount, Router\nfrom starlette.middleware import Middleware\n"
        module.write_text(f"{HEAD}{imports}app = {made}\n")
        given = ["--app", "module_of_a_test:app", "--upstream", "127.0.0.1:8000"]
        assert main(["nginx", *given, "--storage", "/bucket/=http://127.0.0.1:9000/"]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert named in output.err
        assert output.err.count("\n") == 1

    @pytest.mark.parametrize("given", [[], ["--app", "a:b", "--mapping", "/a=/b"]])
    def test_one_of_them(self, capsys: pytest.CaptureFixture[str], given: list[str]) -> None:
        """The mapping is given in one way."""
        with pytest.raises(SystemExit) as stopped:
            main(["nginx", "--upstream", "a:1", *given])
        assert stopped.value.code == 2
        assert "--mapping" in capsys.readouterr().err

    def test_as_installed(self, module: Path) -> None:
        """The command that pip installs finds the app in the working directory."""
        module.write_text(APP)
        command = str(Path(sys.executable).with_name("asgi-accel"))
        given = ["--app", "module_of_a_test:app", "--unix", "/run/app.sock"]
        printed = subprocess.run([command, "caddy", *given], capture_output=True, text=True, check=True)
        assert "`/mnt/storage/=/download/`" in printed.stdout

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The command says its version."""
        with pytest.raises(SystemExit) as stopped:
            main(["--version"])
        assert stopped.value.code == 0
        assert capsys.readouterr().out.startswith("asgi-accel 1.")
