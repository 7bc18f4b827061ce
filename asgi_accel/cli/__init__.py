"""The command `asgi-accel`: runs an app behind a proxy, prints the proxy's configuration, and checks a live site.

The arguments are a table, templates/arguments.json.
"""

import argparse
import ipaddress
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import takewhile
from typing import Any

from asgi_accel.cli import check
from asgi_accel.cli.app import Found, given_app
from asgi_accel.cli.caddy import caddy
from asgi_accel.cli.nginx import nginx
from asgi_accel.cli.storage import Storage, Storages
from asgi_accel.cli.values import TEMPLATES


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        return COMMANDS[given.command](given)
    except ValueError as exc:
        sys.stderr.write(f"asgi-accel: {exc}\n")
        return 2


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """What the arguments say. `run` leaves alone what stands behind `--`: `server`, which starts the app."""
    own = list(takewhile("--".__ne__, arguments)) if arguments[:1] == ["run"] else arguments
    return build_parser().parse_args(own, argparse.Namespace(server=arguments[len(own) + 1 :]))


def build_parser() -> argparse.ArgumentParser:
    about = "Run an app behind a proxy that sends its files, print its configuration, check a live site."
    parser = argparse.ArgumentParser(prog="asgi-accel", description=about)
    parser.add_argument("--version", action="version", version=f"asgi-accel {version('asgi-accel')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, told in json.loads((TEMPLATES / "arguments.json").read_text()).items():
        _add(commands.add_parser(name, **told["about"]), told["arguments"])
    return parser


def _add(parser: argparse._ActionsContainer, arguments: list[dict[str, Any]]) -> None:
    """Add arguments, and groups of them: of some only one may be given."""
    for one in arguments:
        if "either" in one:
            _add(parser.add_mutually_exclusive_group(required=one["required"]), one["either"])
        elif "title" in one:
            _add(parser.add_argument_group(one["title"]), one["arguments"])
        else:
            options = {**one, "type": TYPES[one["type"]]} if "type" in one else dict(one)
            parser.add_argument(*options.pop("names").split(), **options)


def _run_nginx(given: argparse.Namespace) -> int:
    stored = [Storage.parse(text) for text in given.storage]
    storages = Storages(stored, given.hide_header, given.storage_ca, given.resolver)
    found = _found(given, storages.prefixes)
    options: dict[str, Any] = {"listen": given.listen, "server_name": given.server_name, "headers": given.header}
    options |= {"secret": found.secret, "body_size": given.client_max_body_size, "storages": storages}
    return _print(nginx(found.mapping, given.upstream, **options))


def _run_caddy(given: argparse.Namespace) -> int:
    found = _found(given)
    return _print(caddy(found.mapping, given.upstream, address=given.address, secret=found.secret))


def _found(given: argparse.Namespace, prefixes: Sequence[str] = ()) -> Found:
    found = given_app(given, prefixes)
    if not given.secret or found.secret:
        return found
    if not (secret := os.environ.get("ACCEL_SECRET")):
        raise ValueError("--secret reads the environment variable ACCEL_SECRET, which is not set")
    return replace(found, secret=secret)


def _print(text: str) -> int:
    # The names of directories are bytes, whatever the terminal's encoding.
    sys.stdout.buffer.write(os.fsencode(text))
    return 0


def networks(text: str) -> list[str]:
    return [str(ipaddress.ip_network(part.strip())) for part in text.split(",")]


def _run_run(given: argparse.Namespace) -> int:
    if not hasattr(os, "fork"):
        raise ValueError("asgi-accel run needs unix sockets, which Python does not have on Windows: use WSL")
    from asgi_accel.cli.run import run  # which needs what other systems do not have

    return run(given)


TYPES: dict[str, Callable[[str], Any]] = {
    "header": check.header,
    "int": int,
    "networks": networks,
    "seconds": check.seconds,
    "socket": "unix:{}".format,
}
COMMANDS = {"run": _run_run, "nginx": _run_nginx, "caddy": _run_caddy, "check": check.run}
