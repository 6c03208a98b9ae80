"""Certificates for tests, made when they are needed."""

from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme

from penstock.transport.tls import TlsFiles

HOST = "localhost"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as PEM and as files."""

    certificate: bytes
    key: bytes
    certificate_file: str
    key_file: str


@dataclass(frozen=True, slots=True)
class Certificates:
    """Those of one authority: its own, a server's and a client's."""

    roots: bytes
    roots_file: str
    server: Pair
    client: Pair

    def files(self, *, mutual: bool = False) -> TlsFiles:
        """What a server is told."""
        roots = self.roots_file if mutual else ""
        return TlsFiles(self.server.certificate_file, self.server.key_file, roots, mutual)

    def credentials(self, *, mutual: bool = False) -> grpc.ChannelCredentials:
        """What a client shows and trusts."""
        own = (self.client.key, self.client.certificate) if mutual else (None, None)
        return grpc.ssl_channel_credentials(self.roots, *own)


def make_certificates(folder: Path) -> Certificates:
    """An authority and what it signed, in files of this folder."""
    authority = trustme.CA()
    roots = authority.cert_pem.bytes()
    (folder / "roots.pem").write_bytes(roots)
    return Certificates(
        roots,
        str(folder / "roots.pem"),
        _issue(authority, folder, HOST),
        _issue(authority, folder, "client.example"),
    )


def _issue(authority: trustme.CA, folder: Path, name: str) -> Pair:
    issued = authority.issue_cert(name)
    certificate = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    key = issued.private_key_pem.bytes()
    files = folder / f"{name}.pem", folder / f"{name}.key"
    files[0].write_bytes(certificate)
    files[1].write_bytes(key)
    return Pair(certificate, key, str(files[0]), str(files[1]))
