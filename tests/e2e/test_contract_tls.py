"""Flags of TLS on the gRPC port, by who is answered."""

import socket
from pathlib import Path

import grpc
import pytest
import trustme
from tests.e2e.asking import flagged
from tests.e2e.running import Running, ServerThread
from tritonclient.grpc import service_pb2, service_pb2_grpc


class Certificates:
    """An authority, what it signed for 127.0.0.1, and a caller of its own."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        server, caller = authority.issue_cert("127.0.0.1"), authority.issue_cert("caller")
        self.root = authority.cert_pem.bytes()
        self.caller = (caller.private_key_pem.bytes(), caller.cert_chain_pems[0].bytes())
        authority.cert_pem.write_to_path(folder / "root")
        server.private_key_pem.write_to_path(folder / "key")
        server.cert_chain_pems[0].write_to_path(folder / "cert")
        self.flags = (
            f"--grpc-server-cert={folder / 'cert'}",
            f"--grpc-server-key={folder / 'key'}",
            f"--grpc-root-cert={folder / 'root'}",
        )

    def live(self, running: Running, *caller: bytes) -> bool:
        """Whether the server answers this caller."""
        trusted = grpc.ssl_channel_credentials(self.root, *caller)
        with grpc.secure_channel(running.target, trusted) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            try:
                return bool(stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=5).live)
            except grpc.RpcError:
                return False


@pytest.mark.parametrize("mutual", [False, True])
def test_the_port_speaks_tls(tmp_path: Path, mutual: bool) -> None:
    """--grpc-use-ssl with --grpc-server-cert and --grpc-server-key; --grpc-use-ssl-mutual asks for
    a certificate that --grpc-root-cert signed.
    """
    (tmp_path / "models").mkdir()
    made = Certificates(tmp_path)
    flag = "--grpc-use-ssl-mutual" if mutual else "--grpc-use-ssl"
    with ServerThread(flagged(tmp_path / "models", flag, *made.flags)) as running:
        assert made.live(running, *made.caller)
        assert made.live(running) is not mutual
        with socket.create_connection(running.target.split(":"), 5) as plain:  # type: ignore[arg-type]
            plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            assert b"\x04\x00\x00\x00" not in plain.recv(100)
