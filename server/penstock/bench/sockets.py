"""Connections for HTTP/2: TCP or Unix, plain or TLS, non-blocking once they stand."""

import socket
import ssl
from dataclasses import dataclass

from penstock.client.channel import TLS, addresses_of
from penstock.client.errors import InferenceError
from penstock.client.http2_targets import Endpoint, targets_of, why_not
from penstock.client.http2_tls import check_protocol, tls_context
from penstock_runtime.errors import Status


def endpoints_of(url: str) -> tuple[Endpoint, ...]:
    """Where to connect, for `host:port` or `unix:/path`, several with commas.

    ValueError names an address that is neither.
    """
    return tuple(target.endpoint for target in targets_of(addresses_of(url)))


@dataclass(frozen=True, slots=True)
class Secure:
    """How connections speak TLS, made once of its files; `name` overrides the one checked."""

    context: ssl.SSLContext
    name: str

    @classmethod
    def of(cls, tls: TLS) -> "Secure":
        """OSError or FailedPrecondition name a file that is not what it should be."""
        return cls(tls_context(tls), tls.server_name)


def connect(endpoint: Endpoint, secure: Secure | None, timeout_s: float) -> socket.socket:
    """A connection that stands and does not block. InferenceError says why there is none."""
    try:
        plain = _dial(endpoint, timeout_s)
        try:
            made = plain if secure is None else _secure(plain, endpoint, secure)
        except BaseException:
            plain.close()
            raise
    except (OSError, ValueError) as error:
        why = why_not(endpoint, error, secure=secure is not None)
        raise InferenceError(Status.UNAVAILABLE, f"failed to connect: {why}") from error
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


def _secure(plain: socket.socket, endpoint: Endpoint, secure: Secure) -> ssl.SSLSocket:
    name = secure.name or endpoint.server_name
    made = secure.context.wrap_socket(plain, server_hostname=name)
    try:
        check_protocol(made)
    except ConnectionError:
        made.close()
        raise
    return made
