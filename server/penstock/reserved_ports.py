"""Ports that several processes will share: held, without listening, from before the first of them
opens its own to after the last has closed it.
"""

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from penstock.transport.addresses import explain_bind_failure
from penstock_runtime.errors import FailedPrecondition

TRIES = 16

_Place = tuple[socket.AddressFamily, str]


@contextmanager
def reserved(
    addresses: Sequence[str], *, shared: bool = False, flag: str = "--grpc-port"
) -> Iterator[tuple[str, ...]]:
    """Hold these `host:port` for the time of the block; the same with real ports.

    FailedPrecondition if one cannot be had, or if someone else has it: unless it is `shared` with
    processes that are not ours.
    """
    with ExitStack() as stack:
        yield tuple(_reserve(address, shared, flag, stack) for address in addresses)


def _reserve(address: str, shared: bool, flag: str, stack: ExitStack) -> str:
    host, _, text = address.rpartition(":")
    try:
        port = int(text)
        places = _places(host.strip("[]"), port)
        if port and not shared:
            _bind(places, port, share=False)[1].close()
        port, held = _bind_any(places) if port == 0 else _bind(places, port, share=True)
    except (OSError, ValueError):
        raise FailedPrecondition(explain_bind_failure(address, flag)) from None
    stack.enter_context(held)
    return f"{host}:{port}"


def _places(host: str, port: int) -> list[_Place]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(place[0])) for family, _, _, _, place in found))


def _bind_any(places: Sequence[_Place]) -> tuple[int, ExitStack]:
    """A port that is free at all of the places, which the first of them chooses."""
    for _ in range(TRIES):
        try:
            return _bind(places, 0, share=True)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return _bind(places, 0, share=True)


def _bind(places: Sequence[_Place], port: int, *, share: bool) -> tuple[int, ExitStack]:
    stack = ExitStack()
    try:
        for family, host in places:
            held = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            # Connections that linger after a server that is gone do not count.
            option = socket.SO_REUSEPORT if share else socket.SO_REUSEADDR
            held.setsockopt(socket.SOL_SOCKET, option, 1)
            if family == socket.AF_INET6:
                held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            held.bind((host, port))
            port = held.getsockname()[1]
    except OSError:
        stack.close()
        raise
    return port, stack
