"""Connections for HTTP/2: TCP or Unix, plain or TLS, non-blocking once they stand."""

import socket
import ssl
from dataclasses import dataclass

from penstock.client.channel import TLS, addresses_of
from penstock.client.errors import InferenceError
from penstock_runtime.errors import Status

_DEFAULT_PORT = 8001


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect: a path (Unix; abstract ones begin with NUL), or a host and a port."""

    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def authority(self) -> str:
        """What calls send as :authority."""
        if self.path:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else self.authority


def endpoints_of(url: str) -> tuple[Endpoint, ...]:
    """The endpoints of `host:port`, `unix:/path` or `dns:///host:port`, several with commas.

    ValueError names an address that is none of these.
    """
    return tuple(_endpoint(address) for address in addresses_of(url))


def _endpoint(address: str) -> Endpoint:
    if address.startswith("unix-abstract:"):
        return Endpoint(path="\0" + address.removeprefix("unix-abstract:"))
    if address.startswith("unix:"):
        return Endpoint(path=address.removeprefix("unix:").replace("///", "/", 1))
    rest = address
    for scheme in ("dns:///", "dns:", "ipv4:", "ipv6:"):
        rest = rest.removeprefix(scheme)
    host, separator, port = rest.rpartition(":")
    if not separator or not port.isdigit() or not host:
        raise ValueError(f"address {address!r}, expected host:port or unix:/path")
    return Endpoint(host=host.removeprefix("[").removesuffix("]"), port=int(port))


def connect(endpoint: Endpoint, tls: TLS | None, timeout_s: float) -> socket.socket:
    """A connection that stands and does not block. InferenceError says why there is none."""
    try:
        plain = _dial(endpoint, timeout_s)
        try:
            made = plain if tls is None else _secure(plain, endpoint, tls)
        except BaseException:
            plain.close()
            raise
    except ssl.SSLError as error:
        text = f"TLS with {endpoint} failed: {error.reason or error}"
        raise InferenceError(Status.UNAVAILABLE, text) from error
    except OSError as error:
        text = f"failed to connect to {endpoint}: {error.strerror or error}"
        raise InferenceError(Status.UNAVAILABLE, text) from error
    made.setblocking(False)
    return made


def _dial(endpoint: Endpoint, timeout_s: float) -> socket.socket:
    if not endpoint.path:
        made = socket.create_connection((endpoint.host, endpoint.port), timeout_s)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made
    made = socket.socket(socket.AF_UNIX)
    try:
        made.settimeout(timeout_s)
        made.connect(endpoint.path)
    except OSError:
        made.close()
        raise
    return made


def _secure(plain: socket.socket, endpoint: Endpoint, tls: TLS) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=tls.root_certificates)
    if tls.certificate_chain is not None:
        context.load_cert_chain(tls.certificate_chain, tls.private_key)
    context.set_alpn_protocols(["h2"])
    name = tls.server_name or endpoint.host or "localhost"
    made = context.wrap_socket(plain, server_hostname=name)
    if made.selected_alpn_protocol() != "h2":
        made.close()
        raise OSError(f"{endpoint} does not offer HTTP/2 (ALPN h2)")
    return made
