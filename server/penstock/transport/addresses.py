"""Addresses to listen on: how flags become addresses, and why one could not be bound, in words."""

import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

UNIX = "unix:"


def listen_addresses(hosts: Sequence[str], port: int) -> tuple[str, ...]:
    """`host`, `host:port`, `[v6]:port` or `unix:/path`: those without a port get this one."""
    return tuple(_with_port(host.strip(), port) for host in hosts)


def _with_port(host: str, port: int) -> str:
    if host.startswith(UNIX):
        return host
    if host.startswith("["):
        return host if "]:" in host else f"{host}:{port}"
    if host.count(":") > 1:
        return f"[{host}]:{port}"
    return host if ":" in host else f"{host}:{port}"


def remove_stale_socket(address: str) -> None:
    """Remove the socket file that a killed server left behind; one that answers stays."""
    if not address.startswith(UNIX):
        return
    path = Path(address.removeprefix(UNIX))
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            return


def explain_bind_failure(address: str, flag: str = "--grpc-port") -> str:
    """Why an address could not be bound, and what to do, in plain words."""
    if address.startswith(UNIX):
        return (
            f"cannot listen on {address}: is its directory there and writable, "
            "and no other server on it?"
        )
    host, _, port = address.rpartition(":")
    try:
        problem = _bind_errno(host.strip("[]"), int(port))
    except (ValueError, socket.gaierror):
        return f"cannot listen on {address}: expected host:port with a host of this machine"
    if problem == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is in use by another process; "
            f"stop that process or choose another port with {flag}"
        )
    if problem == errno.EACCES:
        return f"port {port} needs privileges; choose one above 1023 with {flag}"
    if problem == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine"
    return f"cannot listen on {address}: {os.strerror(problem) if problem else 'unknown reason'}"


def _bind_errno(host: str, port: int) -> int:
    family, kind, protocol, _, place = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        try:
            probe.bind(place)
            probe.listen()
        except OSError as error:
            return error.errno or 0
    return 0
