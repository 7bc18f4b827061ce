"""The public API as version 1 promises it: what is written here changes only with a new major version, or grows."""

from __future__ import annotations

import argparse
import inspect
import re
from importlib.metadata import version
from pathlib import Path

import asgi_accel
from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap
from asgi_accel.cli import build_parser

ROOT = Path(__file__).parent.parent.parent


def parameters(named: object) -> str:
    """A signature without its annotations, which may become more exact."""
    assert inspect.isroutine(named) or inspect.isclass(named)
    signature = inspect.signature(named)
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


class TestNames:
    """What can be imported and called."""

    def test_exports(self) -> None:
        """Three classes and two functions."""
        functions = ["content_disposition", "offered"]
        assert asgi_accel.__all__ == ["AccelMiddleware", "AccelRedirectResponse", "PathMap", *functions]
        assert parameters(asgi_accel.content_disposition) == "(filename, type='attachment')"
        assert parameters(asgi_accel.offered) == "(request_or_scope)"

    def test_middleware(self) -> None:
        assert parameters(AccelMiddleware) == (
            "(app, mapping=None, *, always=False, trust_header=False, secret=None, sendfile_type='X-Accel-Redirect', "
            "hold=0.1)"
        )

    def test_response(self) -> None:
        assert parameters(AccelRedirectResponse) == (
            "(path, status_code=200, headers=None, media_type=None, background=None, *, "
            "filename=None, content_disposition_type='attachment', mapping=None, query=None, "
            "buffering=None, limit_rate=None, expires=None, charset=None, fallback=None)"
        )

    def test_map(self) -> None:
        assert parameters(PathMap) == "(pairs=())"
        assert parameters(PathMap.parse) == "(text)"
        assert parameters(PathMap.uri) == "(self, path)"
        assert parameters(PathMap.path) == "(self, uri)"
        public = {name for name in vars(PathMap) if not name.startswith("_")}
        assert public == {"parse", "uri", "path"}

    def test_attributes(self) -> None:
        """Nothing else of the middleware and the response is public, but what they inherit and ASGI asks for."""
        assert {name for name in vars(AccelMiddleware) if not name.startswith("_")} == set()
        assert set(vars(AccelMiddleware(_app, {"/a": "/a"}))) - {"app"} == {"_hold", "_trust"}
        assert {name for name in vars(AccelRedirectResponse) if not name.startswith("_")} == set()


async def _app(scope: object, receive: object, send: object) -> None:
    raise NotImplementedError


class TestCommand:
    """What a script may call."""

    def test_options(self) -> None:
        (commands,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
        options = {
            name: sorted(option for action in parser._actions for option in action.option_strings or [action.dest])
            for name, parser in commands.choices.items()
        }
        app = ["--app", "--factory", "--help", "--mapping", "-h"]
        proxy = [*app, "--secret", "--unix", "--upstream"]
        site = ["--client-max-body-size", "--header", "--listen", "--server-name"]
        storage = ["--hide-header", "--resolver", "--storage", "--storage-ca"]
        run = ["--domain", "--factory", "--forwarded-allow-ips", "--help", "--host", "--mapping", "--port", "--print"]
        run += ["--proxy", "--reload", "--timeout", "--timeout-graceful-shutdown", "--verbose", "-h", "app"]
        assert options == {
            "run": run,
            "nginx": sorted([*proxy, *site, *storage]),
            "caddy": sorted([*proxy, "--address"]),
            "check": sorted([*app, "--ca", "--header", "--json", "--timeout", "url"]),
        }


class TestVersion:
    """The version stands in pyproject.toml; nothing else disagrees."""

    def test_changelog(self) -> None:
        """A release has its version and date on top of the changelog. What is not released yet says so in both."""
        here = version("asgi-accel")
        assert f'\nversion = "{here}"\n' in (ROOT / "pyproject.toml").read_text()
        headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
        releases = [re.fullmatch(r"(\d+\.\d+\.\d+) - \d{4}-\d{2}-\d{2}", heading) for heading in headings]
        versions = [tuple(map(int, release[1].split("."))) for release in releases if release]
        assert versions == sorted(set(versions), reverse=True)
        next_version = re.fullmatch(r"(\d+\.\d+\.\d+)\.dev0", here)
        if next_version:
            assert headings[0] == "Unreleased"
            assert tuple(map(int, next_version[1].split("."))) > versions[0]
        else:
            assert headings[0].startswith(f"{here} - ")
        assert len(versions) == len(headings) - (1 if next_version else 0), "a heading is no version with its date"
