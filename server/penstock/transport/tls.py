"""TLS for a listening port, the same for every transport: which files, checked and read, and a
context for those that bring their own HTTP/2.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

from penstock_runtime.errors import FailedPrecondition, InvalidArgument

# Forward secrecy and authenticated encryption: the rest of TLS 1.2 is forbidden to HTTP/2
# (RFC 9113, appendix A). The suites of TLS 1.3 need no list.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
ALPN = "h2"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one server; with `mutual` a client must show a certificate that `roots` signed.

    Paths that are empty are not given.
    """

    certificate: str
    key: str
    roots: str = ""
    mutual: bool = False

    def check(self) -> None:
        """InvalidArgument names the flag that is missing."""
        if not self.certificate or not self.key:
            missing = "--grpc-server-key" if self.certificate else "--grpc-server-cert"
            raise InvalidArgument(f"TLS needs a certificate and its key: give {missing} a PEM file")
        if self.mutual and not self.roots:
            raise InvalidArgument(
                "mutual TLS needs the certificates that sign clients: give --grpc-root-cert a PEM "
                "file"
            )

    def read(self) -> tuple[bytes, bytes, bytes | None]:
        """Certificate chain, key and roots as PEM; FailedPrecondition if they are unusable."""
        # Building a context finds files that do not belong together, and says so in words.
        self.context()
        roots = _read(self.roots, "root certificates") if self.roots else None
        return _read(self.certificate, "certificate"), _read(self.key, "key"), roots

    def context(self) -> ssl.SSLContext:
        """A server's context for HTTP/2; FailedPrecondition names the file that is unusable."""
        self.check()
        _read(self.certificate, "certificate")
        _read(self.key, "key")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        context.set_alpn_protocols([ALPN])
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        try:
            context.load_cert_chain(self.certificate, self.key, password=_refuse_password)
        except (ssl.SSLError, ValueError) as error:
            files = f"certificate {self.certificate} and key {self.key}"
            raise FailedPrecondition(f"{files} cannot be used: {_reason(error)}") from None
        if self.roots:
            self._trust(context)
        return context

    def _trust(self, context: ssl.SSLContext) -> None:
        _read(self.roots, "root certificates")
        try:
            context.load_verify_locations(self.roots)
        except ssl.SSLError as error:
            problem = f"root certificates {self.roots} cannot be used: {_reason(error)}"
            raise FailedPrecondition(problem) from None
        if self.mutual:
            context.verify_mode = ssl.CERT_REQUIRED


def _refuse_password() -> bytes:
    # OpenSSL would ask on the terminal, and the server would never start.
    raise ValueError("the key is encrypted; store it without a passphrase")


def _reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else ""
    return reason.replace("_", " ").lower() if reason else str(error) or "not valid PEM"


def _read(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FailedPrecondition(f"cannot read the {what} {path}: {error.strerror}") from None
