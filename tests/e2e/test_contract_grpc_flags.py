"""Flags of the gRPC port, as `penstock serve` takes them, by what a connection sees of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.asking import flagged, stub_of, tensors, write
from tests.e2e.running import Running, ServerThread
from tests.http2.frames import Code, Setting, Type, ping
from tests.http2.raw import RawClient, eventually
from tritonclient.grpc import service_pb2, service_pb2_grpc

CODE = """
import json
import threading

import numpy as np

from penstock import BYTES, FP32, Context, model

gate = threading.Event()


@model
def held(X: FP32[-1], context: Context) -> tuple[FP32[-1].named("Y"), BYTES[1].named("SEEN")]:
    if X[0] < 0:
        gate.wait(20)
    return X, np.array([json.dumps(dict(context.parameters), sort_keys=True)], object)
"""
INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    write(made, "held", CODE)
    return made


@contextmanager
def serving(root: Path, *flags: str) -> Iterator[Running]:
    """A server with these flags; whatever its model holds is let go at the end."""
    with ServerThread(flagged(root, "--transport=http2", *flags)) as running:
        try:
            yield running
        finally:
            gate(running).set()


def gate(running: Running) -> Any:
    """What the model waits for when it is asked with a negative number."""
    model = running.server.core.model("held")
    return model._loaded._target.__globals__["gate"]  # type: ignore[attr-defined]


def request(value: float = 1, length: int = 1) -> Any:
    """A request; a negative number is held."""
    made = service_pb2.ModelInferRequest(model_name="held")
    made.inputs.add(name="X", datatype="FP32", shape=[length])
    made.raw_input_contents.append(np.full(length, value, np.float32).tobytes())
    return made


def hold(running: Running, stub: Any, length: int = 1) -> Any:
    """A call whose answer does not come before the gate is open."""
    before = running.server.core.inflight
    call = stub.ModelInfer.future(request(-1, length), timeout=20)
    eventually(lambda: running.server.core.inflight > before, "the call is inside")
    return call


def test_calls_beyond_their_limit_are_refused(root: Path) -> None:
    """--grpc-max-concurrent-rpcs."""
    with serving(root, "--grpc-max-concurrent-rpcs=1") as running, stub_of(running) as stub:
        inside = hold(running, stub)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(request(), timeout=20)
        gate(running).set()

        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert inside.result(20).model_name == "held"


def test_a_connection_is_told_how_many_calls_it_may_have(root: Path) -> None:
    """--grpc-max-concurrent-streams."""
    flag = "--grpc-max-concurrent-streams=3"
    with serving(root, flag) as running, RawClient(running.target) as client:
        client.start()

        assert client.peer_settings[Setting.MAX_CONCURRENT_STREAMS] == 3


def test_connections_beyond_their_limit_are_closed(root: Path) -> None:
    """--grpc-max-connections."""
    with serving(root, "--grpc-max-connections=1") as running, RawClient(running.target) as first:
        first.start()
        with RawClient(running.target) as second:
            second.goaway()

            assert second.eof
        assert first.call(1, b"", LIVE).status == 0


def test_bytes_in_flight_have_a_limit(root: Path) -> None:
    """--max-inflight-bytes: what is inside is answered, what has no room may come again."""
    with serving(root, "--max-inflight-bytes=4096") as running, stub_of(running) as stub:
        inside = hold(running, stub, 800)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(request(1, 800), timeout=20)
        gate(running).set()

        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert inside.result(20).model_name == "held"


def test_a_stream_has_so_many_requests_in_flight(root: Path) -> None:
    """--stream-max-inflight: the others are not read before there is room."""
    with serving(root, "--stream-max-inflight=2") as running, stub_of(running) as stub:
        answers = stub.ModelStreamInfer(iter([request(-1) for _ in range(5)]), timeout=20)
        eventually(lambda: running.server.core.inflight == 2, "two are inside")
        alone = hold(running, stub)
        inside = running.server.core.inflight
        gate(running).set()

        assert inside == 3
        assert len(list(answers)) == 5
        assert alone.result(20).model_name == "held"


def test_watches_have_a_limit(root: Path) -> None:
    """--max-health-watchers."""
    path = "/grpc.health.v1.Health/Watch"
    with (
        serving(root, "--max-health-watchers=1") as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        watch = channel.unary_stream(path)(b"", timeout=20)
        assert next(watch) == b"\x08\x01"
        with pytest.raises(grpc.RpcError) as refused:
            next(channel.unary_stream(path)(b"", timeout=20))

        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_silent_peer_is_pinged_and_given_up(root: Path) -> None:
    """--grpc-keepalive-time, --grpc-keepalive-timeout; without calls where that is permitted."""
    flags = (
        "--grpc-keepalive-time=200",
        "--grpc-keepalive-timeout=200",
        "--grpc-keepalive-permit-without-calls=true",
    )
    with serving(root, *flags) as running, RawClient(running.target) as client:
        client.start()
        client.wait(lambda frame: frame.is_(Type.PING))
        client.goaway()

        assert client.eof


def test_pings_without_data_have_a_number(root: Path) -> None:
    """--grpc-http2-max-pings-without-data=0: as many as there is silence for."""
    flags = (
        "--grpc-keepalive-time=20",
        "--grpc-keepalive-permit-without-calls=true",
        "--grpc-http2-max-pings-without-data=0",
    )
    with serving(root, *flags) as running, RawClient(running.target) as client:
        client.start()
        for _ in range(5):
            asked = client.wait(lambda frame: frame.is_(Type.PING) and not frame.flags & 1)
            client.send(ping(asked.payload, 1))


@pytest.mark.parametrize(
    ("flags", "ends"),
    [
        (("--grpc-http2-max-ping-strikes=2",), True),
        (("--grpc-http2-max-ping-strikes=0",), False),
        (
            (
                "--grpc-http2-min-recv-ping-interval-without-data=0",
                "--grpc-keepalive-permit-without-calls=true",
            ),
            False,
        ),
    ],
)
def test_pings_of_a_peer_have_a_distance_and_strikes(
    root: Path, flags: tuple[str, ...], ends: bool
) -> None:
    """--grpc-http2-max-ping-strikes and --grpc-http2-min-recv-ping-interval-without-data."""
    with serving(root, *flags) as running, RawClient(running.target) as client:
        client.start()
        client.send(*(ping(bytes([number] * 8)) for number in range(10)))
        if ends:
            said = client.goaway()
            assert said is not None
            assert (said.code, said.payload[8:]) == (Code.ENHANCE_YOUR_CALM, b"too_many_pings")
        else:
            client.wait(lambda frame: frame.is_(Type.PING, 1) and frame.payload == bytes([9] * 8))
            assert client.call(1, b"", LIVE).status == 0


def test_a_connection_is_renewed_at_its_age_and_its_calls_have_a_grace(root: Path) -> None:
    """--grpc-max-connection-age, --grpc-max-connection-age-grace."""
    flags = ("--grpc-max-connection-age=300", "--grpc-max-connection-age-grace=100")
    with serving(root, *flags) as running, RawClient(running.target) as client:
        client.start()
        client.request(1, request(-1).SerializeToString(), INFER)
        said = client.wait(lambda frame: frame.is_(Type.GOAWAY))

        assert said.code == Code.NO_ERROR
        assert client.answer(1).status in (None, grpc.StatusCode.UNAVAILABLE.value[0])
        client.goaway()
        assert client.eof


@pytest.mark.parametrize("flag", ["--grpc-handshake-timeout=200", "--grpc-max-connection-idle=200"])
def test_a_connection_that_does_nothing_is_closed(root: Path, flag: str) -> None:
    """Before it spoke HTTP/2, or without calls after it did."""
    with serving(root, flag) as running, RawClient(running.target) as client:
        if "idle" in flag:
            client.start()
            assert client.wait(lambda frame: frame.is_(Type.GOAWAY)).code == Code.NO_ERROR
        else:
            client.goaway()
            assert client.eof


@pytest.mark.parametrize(("level", "encoding"), [("none", None), ("high", "gzip")])
def test_answers_are_compressed_at_the_level(root: Path, level: str, encoding: str | None) -> None:
    """--grpc-infer-response-compression-level, for who accepts it."""
    flag = f"--grpc-infer-response-compression-level={level}"
    with serving(root, flag) as running, RawClient(running.target) as client:
        client.start()
        accepts = (b"grpc-accept-encoding", b"identity,gzip")
        client.request(1, request(1, 10_000).SerializeToString(), INFER, accepts)
        answer = client.answer(1)

        assert answer.head is not None
        assert answer.head.get("grpc-encoding") == encoding
        assert (len(answer.body) < 10_000) == (encoding is not None)


def test_headers_that_match_become_parameters(root: Path) -> None:
    """--grpc-header-forward-pattern: any case, part of a name; a reserved one is refused."""
    one = tensors(X=np.ones(1, np.float32))
    with (
        serving(root, "--grpc-header-forward-pattern=SPECIAL|triton_") as running,
        triton.InferenceServerClient(running.target) as client,
    ):
        result = client.infer("held", one, headers={"my-special-one": "1", "other": "2"})
        with pytest.raises(triton.InferenceServerException) as refused:
            client.infer("held", one, headers={"triton_mine": "1"})

    assert result.as_numpy("SEEN").tolist() == [b'{"my-special-one": "1"}']
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    text = "Header 'triton_mine' is reserved for Triton usage and cannot be forwarded."
    assert refused.value.message() == text


def test_two_servers_share_a_port_that_both_say_may_be_shared(root: Path) -> None:
    """--grpc-port, --reuse-grpc-port."""
    with serving(root, "--reuse-grpc-port=true") as first:
        port = first.target.rpartition(":")[2]
        with serving(root, f"--grpc-port={port}", "--reuse-grpc-port") as second:
            assert second.target == first.target == f"127.0.0.1:{port}"


def test_a_server_listens_at_every_address(root: Path, tmp_path: Path) -> None:
    """--grpc-address, several times: hosts and sockets."""
    path = f"unix:{tmp_path / 'socket'}"
    with serving(root, f"--grpc-address={path}") as running:
        for address in running.server.grpc_addresses:
            with grpc.insecure_channel(address) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=20).live
        assert len(running.server.grpc_addresses) == 2
