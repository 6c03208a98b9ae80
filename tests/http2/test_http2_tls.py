"""TLS on the gRPC port is the same on every transport: certificates, clients that must show one,
ALPN, and words for files that are no good.
"""

import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.http2.certificates import HOST, Certificates, make_certificates
from tests.http2.loops import on_each_loop
from tests.http2.on_loop import serve
from tests.http2.service import serving

from penstock.config import ServerOptions
from penstock.parts import tls_files
from penstock.transport.base import Call, Method
from penstock.transport.tls import TlsFiles
from penstock_runtime.errors import FailedPrecondition, InvalidArgument

BOTH = pytest.mark.parametrize("kind", ["grpcio", "http2"])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def echo(address: str, credentials: Any, data: bytes = b"x") -> bytes:
    """One call over TLS; the server's name is that of its certificate."""
    options = [("grpc.ssl_target_name_override", HOST), ("grpc.max_receive_message_length", -1)]
    with grpc.secure_channel(address, credentials, options) as channel:
        reply: bytes = channel.unary_unary("/s/Echo")(data, timeout=20)
    return reply


def client_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates.roots_file)
    context.check_hostname = True
    return context


def handshake(address: str, context: ssl.SSLContext) -> bytes:
    """Connect; the first bytes that the server sends once TLS is up."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), 20) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as wrapped,
    ):
        try:
            return wrapped.recv(9)
        except ConnectionResetError:
            return b""


@BOTH
@pytest.mark.parametrize("size", [1, 3 << 20])
def test_calls_travel_encrypted(kind: str, size: int, certificates: Certificates) -> None:
    """Small and large."""
    with serving(kind, tls=certificates.files()) as served:
        reply = echo(served.address, certificates.credentials(), bytes(size))

    assert reply == bytes(size)


@on_each_loop
async def test_streams_travel_encrypted_on_each_loop(certificates: Certificates) -> None:
    """More than fits a window, both ways."""
    sent = [bytes(size) for size in (0, 5, 100_000, 3 << 20)]
    options = {"tls": certificates.files(mutual=True)}

    async def mirror(messages: AsyncIterator[bytes], call: Call) -> None:
        async for one in messages:
            await call.write_many([bytes(one), b"and"])

    async with serve(Method("/s/M", stream=mirror), **options) as (address, _):
        name = [("grpc.ssl_target_name_override", HOST), ("grpc.max_receive_message_length", -1)]
        credentials = certificates.credentials(mutual=True)
        async with grpc.aio.secure_channel(address, credentials, name) as channel:
            got = [one async for one in channel.stream_stream("/s/M")(iter(sent), timeout=30)]

    assert got == [part for one in sent for part in (one, b"and")]


@BOTH
def test_plain_text_is_not_understood(kind: str, certificates: Certificates) -> None:
    """The connection ends; clients that speak TLS are served on."""
    with serving(kind, tls=certificates.files()) as served:
        with (
            grpc.insecure_channel(served.address) as channel,
            pytest.raises(grpc.RpcError) as error,
        ):
            channel.unary_unary("/s/Echo")(b"", timeout=20)
        reply = echo(served.address, certificates.credentials())

    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reply == b"x"


@BOTH
def test_mutual_tls_lets_in_only_who_shows_a_certificate(
    kind: str, certificates: Certificates
) -> None:
    """One that the roots signed."""
    with serving(kind, tls=certificates.files(mutual=True)) as served:
        reply = echo(served.address, certificates.credentials(mutual=True))
        with pytest.raises(grpc.RpcError) as error:
            echo(served.address, certificates.credentials())

    assert reply == b"x"
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


@BOTH
def test_http2_is_agreed_on_or_nothing_is_said(kind: str, certificates: Certificates) -> None:
    """With ALPN h2 the server's SETTINGS come; without it the connection ends."""
    willing, unwilling = client_context(certificates), client_context(certificates)
    willing.set_alpn_protocols(["http/1.1", "h2"])

    with serving(kind, tls=certificates.files()) as served:
        first, other = handshake(served.address, willing), b""
        try:
            other = handshake(served.address, unwilling)
        except ssl.SSLError:
            # Some servers end the handshake rather than the connection.
            other = b""

    assert first[3:4] == b"\x04"
    assert other == b""


@BOTH
def test_old_versions_of_tls_are_refused(kind: str, certificates: Certificates) -> None:
    """1.2 is the oldest that HTTP/2 may use."""
    old = client_context(certificates)
    old.set_alpn_protocols(["h2"])
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1

    with serving(kind, tls=certificates.files()) as served, pytest.raises((ssl.SSLError, OSError)):
        handshake(served.address, old)


def test_a_tls_client_that_stays_silent_is_let_go(certificates: Certificates) -> None:
    """The time for the handshake is that for HTTP/2."""
    with serving("http2", tls=certificates.files(), handshake_timeout_ms=200) as served:
        host, _, port = served.address.rpartition(":")
        with socket.create_connection((host, int(port)), 20) as silent:
            assert silent.recv(1) == b""


def broken(certificates: Certificates, folder: Path) -> list[tuple[TlsFiles, str]]:
    """Files that cannot be used, and what is said of them."""
    good = certificates.server
    (folder / "noise.pem").write_bytes(b"no certificate")
    noise, nowhere = str(folder / "noise.pem"), str(folder / "nowhere.pem")
    return [
        (TlsFiles(nowhere, good.key_file), "cannot read the certificate .*nowhere"),
        (TlsFiles(good.certificate_file, nowhere), "cannot read the key .*nowhere"),
        (TlsFiles(noise, good.key_file), "cannot be used"),
        (TlsFiles(good.certificate_file, certificates.client.key_file), "key values mismatch"),
        (TlsFiles(good.certificate_file, good.key_file, nowhere), "cannot read the root"),
        (TlsFiles(good.certificate_file, good.key_file, noise), "root certificates .*cannot be"),
    ]


@BOTH
def test_files_that_cannot_be_used_are_named(
    kind: str, certificates: Certificates, tmp_path: Path
) -> None:
    """The server does not start."""
    for files, part in broken(certificates, tmp_path):
        with pytest.raises(FailedPrecondition, match=part), serving(kind, tls=files):
            pass


def test_an_encrypted_key_is_refused_rather_than_asked_for(
    certificates: Certificates, tmp_path: Path
) -> None:
    """Nobody sits at a server's terminal."""
    key = tmp_path / "encrypted.key"
    key.write_bytes(encrypted(certificates.server.key))

    with pytest.raises(FailedPrecondition, match="the key is encrypted"):
        TlsFiles(certificates.server.certificate_file, str(key)).context()


def encrypted(key: bytes) -> bytes:
    """The same key under a passphrase."""
    from cryptography.hazmat.primitives import serialization as form

    loaded = form.load_pem_private_key(key, None)
    return loaded.private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"secret")
    )


def test_flags_that_belong_together_are_asked_for() -> None:
    """As Triton has them: mutual TLS is TLS, and files alone switch nothing on."""
    assert tls_files(ServerOptions(grpc_server_cert="c", grpc_server_key="k")) is None
    assert tls_files(
        ServerOptions(
            grpc_use_ssl_mutual=True,
            grpc_server_cert="c",
            grpc_server_key="k",
            grpc_root_cert="r",
        )
    ) == TlsFiles("c", "k", "r", mutual=True)
    with pytest.raises(InvalidArgument, match="--grpc-server-cert"):
        tls_files(ServerOptions(grpc_use_ssl=True))
    with pytest.raises(InvalidArgument, match="--grpc-server-key"):
        tls_files(ServerOptions(grpc_use_ssl=True, grpc_server_cert="c"))
    with pytest.raises(InvalidArgument, match="--grpc-root-cert"):
        tls_files(
            ServerOptions(grpc_use_ssl_mutual=True, grpc_server_cert="c", grpc_server_key="k")
        )
