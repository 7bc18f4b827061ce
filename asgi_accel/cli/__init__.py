"""The command `asgi-accel`: runs an app behind a proxy, prints the proxy's configuration, and checks a live site."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, TypeAlias

from asgi_accel.cli import check
from asgi_accel.cli.app import Found, add_app, given_app
from asgi_accel.cli.caddy import caddy
from asgi_accel.cli.nginx import nginx
from asgi_accel.cli.storage import CA, Storage, Storages

Commands: TypeAlias = "argparse._SubParsersAction[Any]"


def main(arguments: Sequence[str] | None = None) -> int:
    given = build_parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except ValueError as exc:
        sys.stderr.write(f"asgi-accel: {exc}\n")
        return 2


class _Parser(argparse.ArgumentParser):
    """Leaves alone what stands behind `--`, for a command that takes such."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.get_default("command") is None or "--" not in args:
            return super().parse_known_args(args, namespace)
        at = args.index("--")
        known, rest = super().parse_known_args(args[:at], namespace)
        known.command = args[at + 1 :]
        return known, rest


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asgi-accel",
        description="Run an app behind a proxy that sends its files, print its configuration, check a live site.",
    )
    parser.add_argument("--version", action="version", version=f"asgi-accel {version('asgi-accel')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for add in (_add_run, _add_nginx, _add_caddy, _add_check):
        add(commands)
    return parser


def _add_nginx(commands: Commands) -> None:
    parser = commands.add_parser(
        "nginx",
        help="print a configuration for nginx",
        description="Print a configuration for nginx, a file for /etc/nginx/conf.d/, from the mapping of your app.",
        epilog="example: asgi-accel nginx --app main:app --upstream 127.0.0.1:8000 --server-name www.example",
    )
    _add_upstream(parser)
    add = parser.add_argument
    several: dict[str, Any] = {"action": "append", "default": []}
    add("--listen", default="80", help="where nginx listens (default: %(default)s)")
    add("--server-name", metavar="NAMES", help="the names of the site")
    add("--client-max-body-size", metavar="SIZE", help="the largest upload, such as 100m (nginx's default: 1m)")
    add("--header", metavar="NAME", help="a header of the app that nginx must not drop", **several)
    add = parser.add_argument_group("object storage").add_argument
    add("--storage", metavar="PREFIX=URL", help="such as /bucket/=https://storage.example/archives/", **several)
    add("--storage-ca", metavar="FILE", default=CA, help="certificates to trust (default: %(default)s)")
    add("--hide-header", metavar="NAME", help="a header of the storage that clients must not see", **several)
    text = "the DNS server to ask for the storage; by default nginx asks once, when it starts"
    add("--resolver", metavar="ADDRESS", help=text)
    parser.set_defaults(run=_run_nginx)


def _run_nginx(given: argparse.Namespace) -> int:
    stored = [Storage.parse(text) for text in given.storage]
    if not stored and (given.hide_header or given.resolver):
        raise ValueError("--hide-header and --resolver are for --storage, which is not given")
    storages = Storages(stored, given.hide_header, given.storage_ca, given.resolver)
    found = _found(given, storages.prefixes)
    options: dict[str, Any] = {"listen": given.listen, "server_name": given.server_name, "headers": given.header}
    options |= {"secret": found.secret, "body_size": given.client_max_body_size, "storages": storages}
    return _print(nginx(found.mapping, given.upstream, **options))


def _add_caddy(commands: Commands) -> None:
    parser = commands.add_parser(
        "caddy",
        help="print a configuration for Caddy",
        description="Print a site for a Caddyfile, from the mapping of your app. For object storage, use nginx.",
        epilog="example: asgi-accel caddy --app main:app --upstream 127.0.0.1:8000",
    )
    _add_upstream(parser)
    parser.add_argument("--address", default=":80", help="the address of the site (default: %(default)s)")
    parser.set_defaults(run=_run_caddy)


def _run_caddy(given: argparse.Namespace) -> int:
    found = _found(given)
    return _print(caddy(found.mapping, given.upstream, address=given.address, secret=found.secret))


def _add_upstream(parser: argparse.ArgumentParser) -> None:
    """What every proxy must know of the app."""
    add_app(parser, required=True)
    add = parser.add_mutually_exclusive_group(required=True).add_argument
    add("--upstream", metavar="HOST:PORT", help="where the app listens")
    add("--unix", dest="upstream", metavar="PATH", type="unix:{}".format, help="the unix socket where the app listens")
    text = "the app has a secret: it is read from the environment, ACCEL_SECRET (with --app, from the app)"
    parser.add_argument("--secret", action="store_true", help=text)


def _found(given: argparse.Namespace, prefixes: Sequence[str] = ()) -> Found:
    found = given_app(given, prefixes)
    if not given.secret or found.secret:
        return found
    secret = os.environ.get("ACCEL_SECRET")
    if not secret:
        raise ValueError("--secret reads the environment variable ACCEL_SECRET, which is not set")
    return replace(found, secret=secret)


def _print(text: str) -> int:
    # The names of directories are bytes, whatever the terminal's encoding.
    sys.stdout.buffer.write(os.fsencode(text))
    return 0


def _add_run(commands: Commands) -> None:
    parser = commands.add_parser(
        "run",
        help="run an app behind a proxy",
        usage="%(prog)s [OPTIONS] APP [-- COMMAND ...]",
        description="Run an app behind a proxy of its own, nginx or Caddy. COMMAND starts the app, by default uvicorn: "
        "{app} in it is APP, and {socket} the unix socket where the app has to listen. The exit status is 0 after a "
        "signal (130 after a second one), 1 if the app or the proxy has failed, 2 if the arguments cannot work.",
        epilog="example: asgi-accel run main:app -- granian --interface asgi --uds {socket} {app}",
    )
    add = parser.add_argument
    add("app", metavar="APP", help="the app, as uvicorn takes it: module:attribute")
    add("--mapping", metavar="MAPPING", help="for an app that has none: it is wrapped in AccelMiddleware")
    add("--factory", action="store_true", help="APP is a function that makes the app")
    add("--reload", action="store_true", help="restart the app when its code changes (uvicorn only)")
    add("--host", help="where the proxy listens (default: 127.0.0.1, or with --domain everywhere)")
    add("--port", type=int, default=8000, help="0 picks a free one (default: %(default)s)")
    add("--proxy", choices=["nginx", "caddy"], help="by default nginx, or Caddy if there is no nginx")
    add("--domain", metavar="NAME", help="serve https on ports 80 and 443: Caddy gets and renews the certificate")
    help_allow = "proxies further out, whose X-Forwarded-For and -Proto count, as 10.0.0.0/8,::1 (default: none)"
    add("--forwarded-allow-ips", metavar="NETWORKS", type=networks, default=[], help=help_allow)
    add("--timeout", type=int, default=60, metavar="SECONDS", help="for the app to start (default: %(default)s)")
    help_end = "for what is in progress at the end (default: %(default)s)"
    add("--timeout-graceful-shutdown", type=int, default=10, metavar="SECONDS", help=help_end)
    add("--verbose", action="store_true", help="say why a file is left to the app")
    add("--print", action="store_true", help="print the whole configuration, and start nothing")
    parser.set_defaults(command=[], run=_run_run)


def networks(text: str) -> list[str]:
    return [str(ipaddress.ip_network(part.strip())) for part in text.split(",")]


def _run_run(given: argparse.Namespace) -> int:
    if not hasattr(os, "fork"):
        raise ValueError("asgi-accel run needs unix sockets, which Python does not have on Windows: use WSL")
    from asgi_accel.cli.run import run  # which needs what other systems do not have

    return run(given)


def _add_check(commands: Commands) -> None:
    parser = commands.add_parser(
        "check",
        help="ask a live site for a file, and say what is wrong",
        description="Ask a live site for a file that its app serves, and say what is right, what is wrong and what to "
        "change. It sends ten to twenty requests (GET, HEAD and OPTIONS), which change nothing. "
        "The exit status is 0 if nothing is wrong, 1 if something is, 2 if the site could not be asked.",
        epilog="example: asgi-accel check https://www.example/reports/7 --app main:app",
    )
    check.add_arguments(parser)
    parser.set_defaults(run=check.run)
