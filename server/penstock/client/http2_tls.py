"""The client's TLS: whom it trusts, who it is, and that it speaks HTTP/2."""

import ssl
from typing import Any

from penstock.client.channel import TLS

_ALPN = "h2"


def tls_context(tls: TLS) -> ssl.SSLContext:
    """The context for connections with these files; OSError or SSLError if they cannot be read."""
    roots = None if tls.root_certificates is None else str(tls.root_certificates)
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=roots)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([_ALPN])
    if tls.certificate_chain is not None:
        key = None if tls.private_key is None else str(tls.private_key)
        context.load_cert_chain(str(tls.certificate_chain), key)
    return context


def check_protocol(tls_object: Any) -> None:
    """Refuse a server that did not agree on HTTP/2 in its handshake, with ConnectionError."""
    chosen = tls_object.selected_alpn_protocol()
    if chosen != _ALPN:
        raise ConnectionError(
            f"the server chose protocol {chosen!r} in its TLS handshake, expected {_ALPN!r}"
        )
