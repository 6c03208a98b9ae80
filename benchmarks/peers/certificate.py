"""A certificate for this machine, signed by an authority that lives as long as its folder."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.peers.process import PeerError


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files: the authority, the server's certificate, and the server's key."""

    root: Path
    chain: Path
    key: Path


def make_certificate(folder: Path) -> Certificate:
    """Write one for 127.0.0.1. PeerError if the package that makes it is missing."""
    if find_spec("trustme") is None:
        raise PeerError("certificates are made with trustme, which is not installed")
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    made = Certificate(folder / "root.pem", folder / "chain.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(str(made.root))
    issued.private_key_pem.write_to_path(str(made.key))
    made.chain.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    return made
