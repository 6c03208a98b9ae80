"""The client's TLS: whom it trusts, who it is, and that it speaks HTTP/2."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penstock.client.channel import TLS
from penstock_runtime.errors import FailedPrecondition

_ALPN = "h2"


def tls_context(tls: TLS) -> ssl.SSLContext:
    """The context for connections with these files. OSError names one that cannot be read,
    FailedPrecondition one that holds something else.
    """
    roots = None if tls.root_certificates is None else str(tls.root_certificates)
    with _naming(tls.root_certificates):
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=roots)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([_ALPN])
    if tls.certificate_chain is not None:
        key = None if tls.private_key is None else str(tls.private_key)
        with _naming(tls.certificate_chain, tls.private_key):
            context.load_cert_chain(str(tls.certificate_chain), key, _refuse_password)
    return context


@contextmanager
def _naming(*paths: str | Path | None) -> Iterator[None]:
    # OpenSSL does not say which file it was.
    files = [Path(path) for path in paths if path is not None]
    for file in files:
        file.open("rb").close()
    try:
        yield
    except (ssl.SSLError, ValueError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else ""
        names = " and ".join(map(str, files))
        raise FailedPrecondition(f"{names} cannot be used: {reason or error}") from None


def _refuse_password() -> bytes:
    # OpenSSL would ask for it on the terminal.
    raise ValueError("the key is encrypted; store it without a passphrase")


def check_protocol(tls_object: Any) -> None:
    """Refuse a server that did not agree on HTTP/2 in its handshake, with ConnectionError."""
    chosen = tls_object.selected_alpn_protocol()
    if chosen != _ALPN:
        raise ConnectionError(
            f"the server chose protocol {chosen!r} in its TLS handshake, expected {_ALPN!r}"
        )
