"""Our HTTP/2 channels against grpcio's server: what both must mean by the same bytes."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.http2.certificates import HOST, Certificates, make_certificates
from tests.http2.client_calls import calling
from tests.server.fake_server import FakeServer, failing, running

from penstock.client.channel import TLS
from penstock.client.errors import DETAILS, InferenceError
from penstock_protos import rpc_status
from penstock_runtime.errors import Status

KINDS = pytest.mark.parametrize("kind", ["threads", "tasks"])


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with running() as started:
        speak_bytes(started)
        yield started


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def speak_bytes(server: FakeServer) -> None:
    """A server that answers with what it got."""
    server.unary["ModelInfer"] = lambda data, _: data
    server.streams["ModelStreamInfer"] = lambda messages, _: messages


def secure(certificates: Certificates, *, mutual: bool) -> Any:
    """What grpcio's server is told for TLS."""
    pair = (certificates.server.key, certificates.server.certificate)
    roots = certificates.roots if mutual else None
    return grpc.ssl_server_credentials([pair], roots, require_client_auth=mutual)


@KINDS
@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 65_536, 5 << 20])
def test_messages_of_every_size_come_back(kind: str, fake: FakeServer, size: int) -> None:
    """Frames, windows and buffers have borders: none of them shows."""
    request = bytes(range(256)) * (size // 256) + bytes(size % 256)

    with calling(kind, fake.address) as caller:
        answers = [caller.unary(request) for _ in range(2)]

    assert [bytes(each) == request for each in answers] == [True, True]


@KINDS
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("size", [10, 5000, 3 << 20])
def test_compression_works_both_ways(kind: str, encoding: str, size: int) -> None:
    """The server inflates what we compressed, and we what it did."""
    compression = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}[encoding]
    request = bytes(size)

    with running(compression=compression) as server:
        speak_bytes(server)
        with calling(kind, server.address, compression=encoding) as caller:
            answer = caller.unary(request)
            call = caller.stream(request)
            streamed = caller.rest(call)

    assert bytes(answer) == request
    assert list(map(bytes, streamed)) == [request]


@KINDS
def test_metadata_travels_both_ways(kind: str, fake: FakeServer) -> None:
    """Text and bytes, to the server and back, before and after the answers."""
    seen: list[Any] = []

    def handle(messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        seen.extend(context.invocation_metadata())
        context.send_initial_metadata((("x-first", "1"), ("x-raw-bin", b"\xff\0")))
        context.set_trailing_metadata((("x-last", "2"),))
        yield from messages

    fake.streams["ModelStreamInfer"] = handle
    with calling(kind, fake.address) as caller:
        metadata = (("x-tenant", "blue"), ("x-id-bin", b"\0\xfe"))
        channel = caller.channel
        call = caller.run(
            lambda: channel.stream(
                "/inference.GRPCInferenceService/ModelStreamInfer", b"x", 20, metadata
            )
        )
        caller.rest(call)

    assert set(metadata) <= set(map(tuple, seen))
    assert dict(call.initial_metadata) == {"x-first": "1", "x-raw-bin": b"\xff\0"}
    assert dict(call.trailing_metadata) == {"x-last": "2"}


@KINDS
def test_an_error_brings_its_details(kind: str, fake: FakeServer) -> None:
    """Status, text beyond ASCII, and the details behind them."""
    status = rpc_status.Status()
    status.details.add(
        type_url="type.googleapis.com/google.rpc.ErrorInfo",
        value=rpc_status.ErrorInfo(reason="WRONG_SHAPE").SerializeToString(),
    )
    trailing = (DETAILS, status.SerializeToString())
    fake.unary["ModelInfer"] = failing(
        grpc.StatusCode.NOT_FOUND, "kein Modell „grün“, 100 %", 9, trailing
    )

    with calling(kind, fake.address) as caller, pytest.raises(InferenceError) as raised:
        caller.unary()

    assert raised.value.status is Status.NOT_FOUND
    assert raised.value.message == "kein Modell „grün“, 100 %"
    assert raised.value.reason == "WRONG_SHAPE"


@KINDS
def test_an_unknown_method_is_unimplemented(kind: str, fake: FakeServer) -> None:
    """A refusal in the head alone reads like any other."""
    with calling(kind, fake.address) as caller:
        with pytest.raises(InferenceError) as raised:
            caller.run(lambda: caller.channel.unary("/s/ServerReady", b"", 20, ()))

        assert raised.value.status is Status.UNIMPLEMENTED
        assert caller.unary(b"still here") == b"still here"


@KINDS
def test_requests_and_answers_interleave(kind: str, fake: FakeServer) -> None:
    """A stream is a conversation: each answer comes before the next request is made."""
    heard: list[bytes] = []

    with calling(kind, fake.address) as caller:
        call = caller.call()
        for number in range(20):
            caller.run(lambda: call.send(b"%d" % len(heard)))
            heard.append(bytes(caller.next(call)))
            assert heard[-1] == b"%d" % number
        caller.run(call.done_sending)

        assert caller.rest(call) == []


@KINDS
def test_a_unix_socket_is_an_address(kind: str, tmp_path: Path) -> None:
    """Both ways of writing it lead there."""
    path = tmp_path / "s"

    with running(f"unix:{path}") as server:
        speak_bytes(server)
        for address in (f"unix:{path}", f"unix://{path}"):
            with calling(kind, address) as caller:
                assert caller.unary(b"hi") == b"hi"


@KINDS
def test_an_abstract_unix_socket_is_an_address(kind: str) -> None:
    """On every kind of loop."""
    address = f"unix-abstract:penstock-{os.getpid()}-{kind}"

    with running(address) as server, calling(kind, address) as caller:
        speak_bytes(server)
        assert caller.unary(b"hi") == b"hi"


@KINDS
def test_a_server_that_comes_later_is_waited_for(kind: str, tmp_path: Path) -> None:
    """A call that waits finds the server once it is there; one that does not fails at once."""
    path = tmp_path / "s"

    with calling(kind, f"unix:{path}") as caller:
        with pytest.raises(InferenceError, match="UNAVAILABLE: failed to connect"):
            caller.unary()
        with pytest.raises(InferenceError, match="before there was a connection"):
            caller.unary(timeout_s=0.05, wait=True)
        with running(f"unix:{path}") as server:
            speak_bytes(server)
            assert caller.unary(b"hi", wait=True) == b"hi"


@KINDS
def test_a_server_that_comes_back_is_found(kind: str, tmp_path: Path) -> None:
    """A channel outlives its connections."""
    path = tmp_path / "s"

    with calling(kind, f"unix:{path}") as caller:
        for _ in range(2):
            with running(f"unix:{path}") as server:
                speak_bytes(server)
                assert caller.unary(b"hi", wait=True) == b"hi"
            path.unlink(missing_ok=True)
            caller.settle()


@KINDS
@pytest.mark.parametrize("mutual", [False, True])
def test_tls_is_spoken_with_or_without_a_certificate_of_ours(
    kind: str, mutual: bool, certificates: Certificates
) -> None:
    """The server is checked by its name; it may ask who we are."""
    own = certificates.client
    tls = TLS(
        certificates.roots_file,
        own.key_file if mutual else None,
        own.certificate_file if mutual else None,
        server_name=HOST,
    )

    with running(credentials=secure(certificates, mutual=mutual)) as server:
        speak_bytes(server)
        with calling(kind, server.address, tls=tls) as caller:
            large = bytes(2 << 20)
            assert caller.unary(b"hi") == b"hi"
            assert bytes(caller.unary(large)) == large


@KINDS
@pytest.mark.parametrize("mistake", ["another name", "another authority", "no certificate"])
def test_tls_that_does_not_fit_is_unavailable(
    kind: str, mistake: str, certificates: Certificates, tmp_path: Path
) -> None:
    """Nothing is sent to a server that is not who it should be, nor taken from one of us."""
    roots = certificates.roots_file
    if mistake == "another authority":
        roots = make_certificates(tmp_path).roots_file
    tls = TLS(roots, server_name="other.example" if mistake == "another name" else HOST)
    mutual = mistake == "no certificate"

    with running(credentials=secure(certificates, mutual=mutual)) as server:
        speak_bytes(server)
        with calling(kind, server.address, tls=tls) as caller:
            with pytest.raises(InferenceError) as raised:
                caller.unary()

            assert raised.value.status is Status.UNAVAILABLE
        assert not server.calls


@KINDS
def test_metadata_that_cannot_be_sent_is_the_callers_error(kind: str, fake: FakeServer) -> None:
    """Nothing is sent, and the channel goes on."""
    with calling(kind, fake.address) as caller:
        with pytest.raises(ValueError, match="X-Big"):
            caller.unary(metadata=(("X-Big", "1"),))

        assert caller.unary(b"hi") == b"hi"


@KINDS
def test_many_calls_share_a_connection(kind: str, fake: FakeServer) -> None:
    """Answers find their calls, also when hundreds are open."""
    with calling(kind, fake.address) as caller:
        calls = [caller.stream(b"%d" % number) for number in range(300)]
        answers = [caller.rest(call) for call in calls]

    assert answers == [[b"%d" % number] for number in range(300)]


@pytest.mark.parametrize("address", ["localhost", "localhost:", "localhost:99999", ":8001"])
def test_an_address_without_a_port_is_refused(address: str) -> None:
    """The error says what is expected, before anything is opened."""
    for kind in ("threads", "tasks"):
        with (
            pytest.raises(ValueError, match="expected host:port"),
            contextlib.ExitStack() as stack,
        ):
            stack.enter_context(calling(kind, address))
