"""Connections that are opened and then say nothing."""

import contextlib
import socket
from collections.abc import Iterator, Sequence

_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_ACKNOWLEDGED = b"\x00\x00\x00\x04\x01\x00\x00\x00\x00"
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS
_TIMEOUT_S = 10.0


@contextlib.contextmanager
def idle_connections(url: str, count: int) -> Iterator[Sequence[socket.socket]]:
    """So many HTTP/2 connections without a call, open until the end of the block."""
    host, _, port = url.rpartition(":")
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            made = socket.create_connection((host, int(port)), _TIMEOUT_S)
            stack.enter_context(made)
            made.sendall(_HELLO)
            made.recv(4096)
            made.sendall(_ACKNOWLEDGED)
            made.setblocking(False)
            opened.append(made)
        yield opened


def lost(connections: Sequence[socket.socket]) -> int:
    """How many of them the server has closed."""
    return sum(_is_closed(each) for each in connections)


def _is_closed(connection: socket.socket) -> bool:
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True
