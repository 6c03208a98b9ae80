"""Connections for HTTP/2: TCP or Unix, plain or TLS, non-blocking once they stand."""

import socket
import ssl

from penstock.client.channel import TLS, addresses_of
from penstock.client.errors import InferenceError
from penstock.client.http2_targets import Endpoint, targets_of
from penstock.client.http2_tls import check_protocol, tls_context
from penstock_runtime.errors import Status


def endpoints_of(url: str) -> tuple[Endpoint, ...]:
    """Where to connect, for `host:port` or `unix:/path`, several with commas.

    ValueError names an address that is neither.
    """
    return tuple(target.endpoint for target in targets_of(addresses_of(url)))


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
    context = tls_context(tls)
    name = tls.server_name or endpoint.server_name
    made = context.wrap_socket(plain, server_hostname=name)
    try:
        check_protocol(made)
    except ConnectionError:
        made.close()
        raise
    return made
