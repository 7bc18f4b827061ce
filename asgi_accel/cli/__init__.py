"""The command `asgi-accel`: writes the proxy's configuration and checks a live site."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from asgi_accel.cli import check
from asgi_accel.cli.caddy import caddy
from asgi_accel.cli.nginx import nginx
from asgi_accel.mapping import PathMap

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def main(arguments: Sequence[str] | None = None) -> int:
    given = build_parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except ValueError as exc:
        sys.stderr.write(f"asgi-accel: {exc}\n")
        return 2


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asgi-accel",
        description="Set up the proxy that sends the files of an ASGI app, and check a live site.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_nginx, _add_caddy, _add_check):
        add(commands)
    return parser


def _add_nginx(commands: Commands) -> None:
    parser = commands.add_parser(
        "nginx",
        help="print a server block for nginx",
        description="Print a server block for nginx, to include in http { }, from the mapping that the app uses.",
        epilog="example: asgi-accel nginx --mapping '/mnt/storage/=/download/' --upstream 127.0.0.1:8000",
    )
    _add_app(parser)
    parser.add_argument("--listen", default="80", help="where nginx listens (default: %(default)s)")
    parser.add_argument("--server-name", metavar="NAMES", help="the names of the site")
    parser.add_argument(
        "--header", metavar="NAME", action="append", default=[], help="a header of the app's that nginx shall not drop"
    )
    parser.set_defaults(run=_run_nginx)


def _run_nginx(given: argparse.Namespace) -> int:
    return _print(
        nginx(
            PathMap.parse(given.mapping),
            given.upstream,
            listen=given.listen,
            server_name=given.server_name,
            secret=_secret(given),
            headers=given.header,
        )
    )


def _add_caddy(commands: Commands) -> None:
    parser = commands.add_parser(
        "caddy",
        help="print a site for Caddy",
        description="Print a site for a Caddyfile, from the mapping that the app uses.",
        epilog="example: asgi-accel caddy --mapping '/mnt/storage/=/download/' --upstream 127.0.0.1:8000",
    )
    _add_app(parser)
    parser.add_argument("--address", default=":80", help="the address of the site (default: %(default)s)")
    parser.set_defaults(run=_run_caddy)


def _run_caddy(given: argparse.Namespace) -> int:
    mapping = PathMap.parse(given.mapping)
    return _print(caddy(mapping, given.upstream, address=given.address, secret=_secret(given)))


def _add_app(parser: argparse.ArgumentParser) -> None:
    """What any proxy must be told of the app."""
    parser.add_argument("--mapping", required=True, metavar="MAPPING", help="the mapping that the app uses, as text")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--upstream", metavar="HOST:PORT", help="where the app listens")
    where.add_argument(
        "--unix", dest="upstream", metavar="PATH", type="unix:{}".format, help="the unix socket where the app listens"
    )
    parser.add_argument(
        "--secret", action="store_true", help="the app has a secret: it is read from the environment, ACCEL_SECRET"
    )


def _secret(given: argparse.Namespace) -> str | None:
    secret = os.environ.get("ACCEL_SECRET") if given.secret else None
    if given.secret and not secret:
        raise ValueError("--secret reads the environment variable ACCEL_SECRET, which is not set")
    return secret


def _print(text: str) -> int:
    # The names of directories are bytes, whatever the terminal's encoding.
    sys.stdout.buffer.write(os.fsencode(text))
    return 0


def _add_check(commands: Commands) -> None:
    parser = commands.add_parser(
        "check",
        help="ask a live site for a file, and say what is wrong",
        description="Ask a live site for a file that its app serves, and say what is right, what is wrong and what to "
        "change. It sends seven GET and HEAD requests, and with --mapping one more and two for each pair. "
        "The exit status is 0 where nothing is wrong, 1 where something is, 2 where it could not look.",
        epilog="example: asgi-accel check https://www.example/reports/7 --header 'Cookie: session=...'",
    )
    check.add_arguments(parser)
    parser.set_defaults(run=check.run)
