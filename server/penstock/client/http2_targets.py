"""Where our own HTTP/2 connects to: addresses as gRPC writes them, and what names stand for."""

import asyncio
import socket
import ssl
from dataclasses import dataclass

UNIX, UNIX_ABSTRACT, DNS = "unix:", "unix-abstract:", "dns:"
_HUNG_UP = (ConnectionResetError, ConnectionAbortedError)
_LITERALS = ("ipv4:", "ipv6:", "passthrough:///")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One socket to connect to: a path (abstract ones begin with NUL), or host and port.

    `name` is what the server is called, where `host` is an address that the name stood for.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    name: str = ""

    @property
    def server_name(self) -> str:
        """The name that the server's certificate must bear."""
        return self.name or self.host or "localhost"

    @property
    def authority(self) -> str:
        """What requests say of where they go."""
        return "localhost" if self.path else _joined(self.server_name, self.port)

    def __str__(self) -> str:
        if self.path:
            return UNIX + self.path.replace("\0", "@")
        return _joined(self.host, self.port)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Target:
    """One address of a client; the name in one that begins with `dns:` may be many servers."""

    endpoint: Endpoint
    many: bool = False


def targets_of(addresses: tuple[str, ...]) -> tuple[Target, ...]:
    """The targets that the addresses name; ValueError for one without a port."""
    found = [each for address in addresses for each in _parse(address)]
    return tuple(dict.fromkeys(found))


def _parse(address: str) -> list[Target]:
    if address.startswith(UNIX_ABSTRACT):
        return [Target(Endpoint(path="\0" + address.removeprefix(UNIX_ABSTRACT)))]
    if address.startswith(UNIX):
        path = address.removeprefix(UNIX)
        return [Target(Endpoint(path=path[2:] if path.startswith("//") else path))]
    if address.startswith(DNS):
        # dns:name:port, or dns://resolver/name:port whose resolver nobody names in practice.
        return [Target(_host_and_port(address.removeprefix(DNS).rpartition("/")[2]), many=True)]
    for prefix in _LITERALS:
        address = address.removeprefix(prefix)
    return [Target(_host_and_port(address))]


def _host_and_port(address: str) -> Endpoint:
    host, separator, port = address.rpartition(":")
    if not (separator and host and port.isdigit() and int(port) < 1 << 16):
        raise ValueError(f"address {address!r} has no port, expected host:port")
    return Endpoint(host.removeprefix("[").removesuffix("]"), int(port))


def why_not(endpoint: Endpoint, error: OSError | ValueError, *, secure: bool = False) -> str:
    """Why there is no connection, or no address to connect to; `secure` if it was to have TLS."""
    text = str(error)
    if isinstance(error, ssl.SSLError) or (secure and isinstance(error, _HUNG_UP)):
        return f"TLS with {endpoint} failed: {text or 'the server closed the connection'}"
    if isinstance(error, OSError):
        return f"{endpoint}: {text or 'the server closed the connection'}"
    return f"{endpoint} can be no name of a server: {text}"


async def resolve(target: Target) -> tuple[Endpoint, ...]:
    """Every endpoint behind a target: of a `dns:` one, all addresses of its name. OSError if the
    name is not known, ValueError if it can be none.
    """
    if not target.many:
        return (target.endpoint,)
    host, port = target.endpoint.host, target.endpoint.port
    loop = asyncio.get_running_loop()
    known = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A name such as localhost has both kinds of address; IPv4 is the one that servers bind.
    hosts = [str(each[4][0]) for each in known if each[0] == socket.AF_INET]
    hosts = hosts or [str(each[4][0]) for each in known]
    return tuple(Endpoint(each, port, name=host) for each in dict.fromkeys(hosts))
