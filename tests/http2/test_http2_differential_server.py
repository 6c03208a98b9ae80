"""The whole server on both transports: real models, right and wrong requests, the same answers."""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.e2e.running import MODELS, ServerThread, options
from tests.http2.differential import Result, of_call
from tritonclient.grpc import service_pb2

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
SERVICE = "/inference.GRPCInferenceService/"
INFER, STREAM = f"{SERVICE}ModelInfer", f"{SERVICE}ModelStreamInfer"
TRANSPORTS = ("grpcio", "http2")
Channels = tuple[Any, Any]


@pytest.fixture(scope="module")
def channels() -> Iterator[Channels]:
    """A grpcio client of a server on each transport."""
    with ExitStack() as stack:
        yield tuple(
            stack.enter_context(
                grpc.insecure_channel(
                    stack.enter_context(
                        ServerThread(options([MODELS], transport=transport))
                    ).target,
                    options=UNLIMITED,
                )
            )
            for transport in TRANSPORTS
        )


def infer(**more: Any) -> Any:
    """A request that the model `simple` answers."""
    request = service_pb2.ModelInferRequest(model_name="simple", id="7", **more)
    for name in ("INPUT0", "INPUT1"):
        request.inputs.add(name=name, datatype="INT32", shape=(1, 16))
        request.raw_input_contents.append(bytes(range(64)))
    return request


def bytes_of(**more: Any) -> bytes:
    """The same as it travels."""
    raw: bytes = infer(**more).SerializeToString()
    return raw


def _tag(field: int, raw: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(raw)) + raw


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def _tensor(contents: bytes) -> bytes:
    name, kind, shape = _tag(1, b"INPUT0"), _tag(2, b"BYTES"), _tag(3, b"\x01\x10")
    return _tag(1, b"simple_string") + _tag(5, name + kind + shape + _tag(5, contents))


GOOD = bytes_of()
HOSTILE = {
    "a good request": GOOD,
    "1: noise": bytes(range(255, 0, -1)) * 9,
    "2: bad UTF-8 in the model's name": _tag(1, b"sim\xffple"),
    "2: bad UTF-8 in the id": GOOD + _tag(3, b"\xc3"),
    "2: bad UTF-8 in a parameter's key": GOOD + _tag(4, _tag(1, b"\xff") + _tag(2, b"\x08\x01")),
    "3: a field that is cut short": GOOD[:-3],
    "3: a length past the end": GOOD + b"\x3a\xff\xff\xff\xff\x07",
    "3: a varint without end": GOOD + b"\xff" * 11,
    "3: a group": GOOD + b"\x0b\x0c",
    "4: an empty message": b"",
    "5: unknown fields": GOOD + _tag(2000, b"what") + b"\xf8\x7f\x01",
    "11: a bomb of empty inputs": b"\x2a\x00" * 2_000_000,
    "12: a bomb of empty elements": _tensor(b"\x42\x00" * 2_000_000),
    "13: a million dimensions": _tag(1, b"simple") + _tag(5, b"\x18\x01" * 1_000_000),
    "14: a million parameters": _tag(1, b"simple") + b"\x22\x00" * 1_000_000,
    "15: a million outputs": GOOD + b"\x32\x00" * 1_000_000,
    "21: an unknown model": infer(model_version="")
    .SerializeToString()
    .replace(b"simple", b"sample"),
    "22: an unknown version": bytes_of(model_version="9"),
    "22: a version that is none": bytes_of(model_version="-1"),
}
RPCS = (
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "RepositoryIndex",
    "SystemSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "TraceSetting",
    "LogSettings",
    "NoSuchMethod",
)


def same(channels: Channels, path: str, messages: Sequence[bytes] | bytes, **how: Any) -> Result:
    """What both transports answer; fails where they differ."""
    results = []
    for channel in channels:
        streamed = not isinstance(messages, bytes)
        method = (channel.stream_stream if streamed else channel.unary_unary)(path)
        result = of_call(method, messages, timeout=60, **how)
        results.append(replace(result, text=re.sub("log id [0-9a-f]+", "log id", result.text)))
    assert results[1] == results[0], "\n".join(map(str, results))
    return results[0]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_is_answered_alike(name: str, streamed: bool, channels: Channels) -> None:
    """Status, text, details and messages, for one request and for one in a stream."""
    raw = HOSTILE[name]

    result = same(channels, STREAM, [raw, GOOD]) if streamed else same(channels, INFER, raw)

    if name.startswith(("a good", "5")):
        assert result.status == 0
    elif not streamed:
        assert result.status in (3, 5, 8), result


@pytest.mark.parametrize("rpc", RPCS)
@pytest.mark.parametrize("body", [b"", b"\x0a\x01x", b"\xff"])
def test_every_method_answers_alike(rpc: str, body: bytes, channels: Channels) -> None:
    """Those that are served, refused and not there, with requests good and bad."""
    same(channels, f"{SERVICE}{rpc}", body)


@pytest.mark.parametrize("path", ["/no.Service/Method", "/inference.GRPCInferenceService/", "/x"])
def test_what_is_not_there_is_unimplemented(path: str, channels: Channels) -> None:
    """Whether the service or the method is unknown."""
    assert same(channels, path, b"").status == 12


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_answered_alike(compression: Any, channels: Channels) -> None:
    """One call and a stream."""
    unary = same(channels, INFER, GOOD, compression=compression)
    stream = same(channels, STREAM, [GOOD] * 3, compression=compression)

    assert (unary.status, stream.status, len(stream.messages)) == (0, 0, 3)


@pytest.mark.parametrize("size", [1, 50_000, 5_000_000])
def test_large_tensors_come_back_alike(size: int, channels: Channels) -> None:
    """Echoes of BYTES elements, below and above every window."""
    request = service_pb2.ModelInferRequest(model_name="simple_identity")
    request.inputs.add(name="INPUT0", datatype="BYTES", shape=(1, 1))
    request.raw_input_contents.append(size.to_bytes(4, "little") + bytes(size))

    result = same(channels, INFER, request.SerializeToString())

    assert result.status == 0, result


@pytest.mark.parametrize("count", [0, 1, 200])
def test_decoupled_streams_are_alike(count: int, channels: Channels) -> None:
    """Many answers to one request, and none."""
    request = service_pb2.ModelInferRequest(model_name="repeat_int32")
    for name, kind, values in (("IN", "INT32", b"\x05\0\0\0"), ("DELAY", "UINT32", b"\0\0\0\0")):
        request.inputs.add(name=name, datatype=kind, shape=(count,))
        request.raw_input_contents.append(values * count)
    request.inputs.add(name="WAIT", datatype="UINT32", shape=(1,))
    request.raw_input_contents.append(b"\0\0\0\0")

    result = same(channels, STREAM, [request.SerializeToString()])

    assert result.status == 0, result


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_requests_are_answered_alike(data: st.DataObject, channels: Channels) -> None:
    """A good request with bytes changed, cut out or put in."""
    raw = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(raw) - 1)))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))

    same(channels, INFER, bytes(raw))
