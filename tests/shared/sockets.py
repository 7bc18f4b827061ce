"""What tests say to a server when no HTTP client would: a websocket, and requests byte by byte."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Event, RejectConnection, Request, TextMessage

SECONDS = 20


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        yield connection


def converse(port: int, host: str, path: str, text: str) -> str:
    """Open a websocket, send a text, and return the text that comes back, or the status of a refusal."""
    client = WSConnection(ConnectionType.CLIENT)
    with connected(port) as connection:
        connection.sendall(client.send(Request(host=host, target=path)))
        while True:
            client.receive_data(connection.recv(65536) or None)
            for event in client.events():
                if isinstance(event, AcceptConnection):
                    connection.sendall(client.send(TextMessage(data=text)))
                else:
                    return _answer(event)


def _answer(event: Event) -> str:
    if isinstance(event, RejectConnection):
        return str(event.status_code)
    assert isinstance(event, TextMessage), event
    return event.data


def first_line(port: int, request: str) -> str:
    """The status line of the answer to a request as it stands here."""
    with connected(port) as connection:
        connection.sendall(request.replace("\n", "\r\n").encode())
        with connection.makefile("rb") as answer:
            return answer.readline().decode().strip()
