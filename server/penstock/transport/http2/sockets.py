"""Listening sockets, and who is at the other end of one that was accepted."""

import asyncio
import resource
import socket
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from urllib.parse import quote

from penstock.transport.addresses import UNIX, explain_bind_failure, remove_stale_socket
from penstock.transport.tls import ALPN
from penstock_runtime.errors import FailedPrecondition

BACKLOG = 1024
RESERVED_DESCRIPTORS = 64
MIN_CONNECTIONS = 16


def listen(address: str, *, reuse_port: bool) -> tuple[list[socket.socket], str]:
    """Sockets that listen on an address, and the address with its real port.

    FailedPrecondition says why it cannot be had. A name that means several addresses (localhost)
    has all of them, on one port.
    """
    remove_stale_socket(address)
    opened: list[socket.socket] = []
    try:
        if address.startswith(UNIX):
            opened.append(_listen_unix(address.removeprefix(UNIX)))
            return opened, address
        host, _, text = address.rpartition(":")
        port = int(text)
        for family, place in _places(host.strip("[]"), port):
            opened.append(_listen_tcp(family, place, port, reuse_port=reuse_port))
            port = opened[0].getsockname()[1]
    except (OSError, ValueError):
        for one in opened:
            one.close()
        raise FailedPrecondition(explain_bind_failure(address)) from None
    return opened, f"{host}:{port}"


def _places(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(place[0])) for family, _, _, _, place in found))


def _listen_tcp(
    family: socket.AddressFamily, host: str, port: int, *, reuse_port: bool
) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # As gRPC has it: [::] serves IPv4 as well.
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        opened.bind((host, port))
        opened.listen(BACKLOG)
        opened.setblocking(False)
    except OSError:
        opened.close()
        raise
    return opened


def _listen_unix(path: str) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.bind(path)
        opened.listen(BACKLOG)
        opened.setblocking(False)
    except OSError:
        opened.close()
        raise
    return opened


def remove_socket_files(addresses: Sequence[str]) -> None:
    """Remove the files of Unix sockets that are about to be closed."""
    for address in addresses:
        if address.startswith(UNIX):
            Path(address.removeprefix(UNIX)).unlink(missing_ok=True)


def peer_of(transport: asyncio.BaseTransport) -> str:
    """The peer as gRPC shows it: `ipv4:127.0.0.1:50000`, `ipv6:%5B::1%5D:50000`, `unix:`."""
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        return f"unix:{name or ''}"
    address = ip_address(str(name[0]).partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if isinstance(address, IPv6Address):
        return f"ipv6:{quote(f'[{name[0]}]', safe=':')}:{name[1]}"
    return f"ipv4:{address}:{name[1]}"


def has_h2(transport: asyncio.BaseTransport) -> bool:
    """Whether HTTP/2 was agreed on; without TLS it is a matter of course."""
    tls = transport.get_extra_info("ssl_object")
    return tls is None or tls.selected_alpn_protocol() == ALPN


def spare_descriptors() -> int:
    """How many connections this process may have, with some descriptors left for all else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(soft - RESERVED_DESCRIPTORS, MIN_CONNECTIONS)
