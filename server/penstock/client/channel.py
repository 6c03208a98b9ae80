"""Where a client's channel leads and how it behaves: targets, options, service config. Opens
nothing.
"""

import ipaddress
import json
import math
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

HEALTH_SERVICE = "inference.GRPCInferenceService"
TRANSPORT_VARIABLE = "PENSTOCK_CLIENT_TRANSPORT"
COMPRESSIONS = ("", "gzip", "deflate")
Options = list[tuple[str, Any]]

# No message limit in either direction; and a server that comes back is found within seconds, where
# gRPC by default would wait up to two minutes.
_OPTIONS: Options = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5000),
]


@dataclass(frozen=True, slots=True)
class TLS:
    """Files of a secure channel: the authorities to trust (none: the system's), and for mutual TLS
    the client's key and certificate. `server_name` overrides the name that is checked.
    """

    root_certificates: str | Path | None = None
    private_key: str | Path | None = None
    certificate_chain: str | Path | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if self.private_key is not None and self.certificate_chain is None:
            raise ValueError(
                f"private_key is {str(self.private_key)!r}, expected certificate_chain beside it"
            )

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The contents of root certificates, key and chain, as gRPC takes them."""
        return _read(self.root_certificates), _read(self.private_key), _read(self.certificate_chain)


class Carrier(Enum):
    """What carries the calls: the grpcio library, or our own HTTP/2."""

    GRPCIO = "grpcio"
    HTTP2 = "http2"


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """Where a channel leads and how it behaves.

    `compression` of requests is gzip, deflate or none (""); `keepalive_s` is how long a connection
    with open calls may be silent before it is tested (None: it never is).
    """

    addresses: tuple[str, ...]
    tls: TLS | None = None
    carrier: Carrier = Carrier.GRPCIO
    compression: str = ""
    keepalive_s: float | None = None

    @classmethod
    def of(
        cls,
        target: str | Sequence[str],
        tls: TLS | None,
        transport: str | None,
        compression: str,
        keepalive_s: float | None,
    ) -> "ChannelSettings":
        """The settings that a client's arguments mean; ValueError for what makes no sense."""
        if compression not in COMPRESSIONS:
            raise ValueError(f"compression is {compression!r}, expected gzip, deflate or ''")
        if keepalive_s is not None and not 0 < keepalive_s < math.inf:
            raise ValueError(f"keepalive_s is {keepalive_s}, expected more than 0, or None")
        addresses = addresses_of(target)
        return cls(addresses, tls, carrier_of(transport), compression, keepalive_s)


def carrier_of(transport: str | None) -> Carrier:
    """The carrier of that name; None takes the environment's, and grpcio without one."""
    name = transport or os.environ.get(TRANSPORT_VARIABLE) or Carrier.GRPCIO.value
    try:
        return Carrier(name)
    except ValueError:
        raise ValueError(f"transport is {name!r}, expected grpcio or http2") from None


def _read(path: str | Path | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def addresses_of(target: str | Sequence[str]) -> tuple[str, ...]:
    """The addresses of a target: several may be given as a sequence or with commas between."""
    parts = target.split(",") if isinstance(target, str) else target
    addresses = tuple(part.strip() for part in parts if part.strip())
    if not addresses:
        raise ValueError("target names no address, expected host:port or unix:/path")
    return addresses


def grpc_target(addresses: Sequence[str]) -> str:
    """The addresses as one gRPC target; names are resolved when there are several addresses."""
    if len(addresses) == 1:
        return addresses[0]
    literal = [each for address in addresses for each in _literals(address)]
    families = {family for family, _ in literal}
    if len(families) > 1:
        raise ValueError(f"addresses {', '.join(addresses)} mix IPv4 and IPv6, expected one kind")
    return f"{families.pop()}:{','.join(text for _, text in literal)}"


def _literals(address: str) -> list[tuple[str, str]]:
    """(family, host:port) of every IP address behind one address."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit():
        raise ValueError(f"address {address!r} has no port, expected host:port")
    host = host.removeprefix("[").removesuffix("]")
    try:
        found = {str(ipaddress.ip_address(host))}
    except ValueError:
        known = _look_up(address, host, int(port))
        # A name such as localhost has both kinds of address; IPv4 is the one that servers bind.
        found = {str(each[4][0]) for each in known if each[0] == socket.AF_INET}
        found = found or {str(each[4][0]) for each in known}
    return [("ipv6", f"[{ip}]:{port}") if ":" in ip else ("ipv4", f"{ip}:{port}") for ip in found]


def _look_up(address: str, host: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise ValueError(f"{address} can be no name of a server: {error}") from None


def channel_options(addresses: Sequence[str], tls: TLS | None = None) -> Options:
    """gRPC channel arguments; over several addresses calls go round those that say SERVING."""
    options = list(_OPTIONS)
    if tls is not None and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    if len(addresses) > 1 or addresses[0].startswith("dns:"):
        options.append(("grpc.service_config", json.dumps(service_config())))
    return options


def service_config() -> dict[str, object]:
    """Balance over the addresses, and watch the health of each; retries are the client's own."""
    return {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": HEALTH_SERVICE},
    }
