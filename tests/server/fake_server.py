"""A gRPC server on the loopback whose every method is a function of bytes, for tests of clients."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from penstock.codec.decode import decode_request
from penstock.codec.encode import encode_response, encode_stream_response
from penstock.rpc import TABLE, Kind
from penstock_protos import health as health_pb
from penstock_runtime.request import InferResponse
from penstock_runtime.tensor import materialize

Unary = Callable[[bytes, Any], bytes]
Streaming = Callable[[Iterator[bytes], Any], Iterator[bytes]]
_KINDS = {rpc.path: rpc.kind for rpc in TABLE}


class FakeServer:
    """Answers by the short names of methods; `calls` counts them.

    `metadata` and `time_remaining` (seconds) are those of the last call; `health` is what a watch
    of this server says.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        credentials: Any = None,
        compression: Any = None,
    ) -> None:
        self.unary: dict[str, Unary] = {"ModelInfer": echo}
        self.streams: dict[str, Streaming] = {
            "ModelStreamInfer": count_up,
            "Watch": self._watch,
        }
        self.health = health_pb.HealthCheckResponse.SERVING
        self.calls: Counter[str] = Counter()
        self.metadata: dict[str, str] = {}
        self.time_remaining: float | None = None
        self._stopped = threading.Event()
        options = [("grpc.max_receive_message_length", -1)]
        self._grpc = grpc.server(ThreadPoolExecutor(8), options=options, compression=compression)
        self._grpc.add_generic_rpc_handlers((_Handlers(self),))
        if credentials is None:
            self.port: int = self._grpc.add_insecure_port(address)
        else:
            self.port = self._grpc.add_secure_port(address, credentials)
        self.address = address if address.startswith("unix:") else f"127.0.0.1:{self.port}"
        self._grpc.start()

    def stop(self) -> None:
        """End at once."""
        self._stopped.set()
        self._grpc.stop(None).wait()

    def note(self, name: str, context: Any) -> None:
        """Remember that a method was called, and how."""
        if name == "Watch":
            return
        self.calls[name] += 1
        self.metadata = dict(context.invocation_metadata())
        self.time_remaining = context.time_remaining()

    def _watch(self, _: Iterator[bytes], context: Any) -> Iterator[bytes]:
        left = threading.Event()
        context.add_callback(left.set)
        yield health_pb.HealthCheckResponse(status=self.health).SerializeToString()
        while not (left.is_set() or self._stopped.is_set()):
            left.wait(0.02)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2]
        if _KINDS.get(details.method) is Kind.STREAM:
            return grpc.stream_stream_rpc_method_handler(self._stream(name))
        return grpc.unary_unary_rpc_method_handler(self._unary(name))

    def _unary(self, name: str) -> Unary:
        def handle(data: bytes, context: Any) -> bytes:
            self._server.note(name, context)
            return self._server.unary.get(name, unimplemented)(data, context)

        return handle

    def _stream(self, name: str) -> Streaming:
        def handle(messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
            self._server.note(name, context)
            yield from self._server.streams[name](messages, context)

        return handle


@contextmanager
def running(
    address: str = "127.0.0.1:0", credentials: Any = None, compression: Any = None
) -> Iterator[FakeServer]:
    """A server for the time of a block."""
    server = FakeServer(address, credentials, compression)
    try:
        yield server
    finally:
        server.stop()


def echo(data: bytes, _: Any) -> bytes:
    """Every input as an output of the same name."""
    return encode_response(_echo(data))


def _echo(data: bytes) -> InferResponse:
    request = decode_request(data, 0)
    outputs = tuple(map(materialize, request.inputs))
    return InferResponse(
        request.model_name, "7", request.id, outputs, parameters=request.parameters
    )


def count_up(messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
    """The echo of each request three times, and the empty message that ends it."""
    for data in messages:
        response = _echo(data)
        for _ in range(3):
            yield encode_stream_response(response, final=False)
        end = InferResponse(response.model_name, "7", response.id, empty=True)
        yield encode_stream_response(end, final=True)


def failing(
    code: Any, text: str, times: int = 10**9, *trailing: tuple[str, str | bytes], then: Unary = echo
) -> Unary:
    """A method that fails so many times and then works."""
    left = [times]

    def handle(data: bytes, context: Any) -> bytes:
        if left[0] <= 0:
            return then(data, context)
        left[0] -= 1
        context.set_trailing_metadata(trailing)
        context.abort(code, text)
        raise AssertionError("abort raises")

    return handle


def unimplemented(_: bytes, context: Any) -> bytes:
    """What a method answers that the test did not mean to be called."""
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "not in this test")
    raise AssertionError("abort raises")
