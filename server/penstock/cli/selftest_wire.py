"""Calls that the client would never make: bytes that are no message, compressed ones, streams."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from penstock.client.calls import INFERENCE
from penstock.client.channel import TLS, addresses_of, channel_options, grpc_target
from penstock.client.errors import from_failed_call


class Wire:
    """Raw bytes in, raw bytes out; failures are InferenceErrors."""

    def __init__(self, url: str, tls: TLS | None, timeout_s: float) -> None:
        addresses = addresses_of(url)
        target, options = grpc_target(addresses), channel_options(addresses, tls)
        if tls is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            credentials = grpc.ssl_channel_credentials(*tls.read())
            self._channel = grpc.secure_channel(target, credentials, options)
        self._timeout_s = timeout_s

    def unary(self, method: str, request: bytes, compressed: bool = False) -> bytes:
        """The answer of a unary method of the inference service."""
        compression = grpc.Compression.Gzip if compressed else None
        call = self._channel.unary_unary(INFERENCE + method)
        try:
            answer: bytes = call(request, timeout=self._timeout_s, compression=compression)
        except grpc.RpcError as failed:
            raise from_failed_call(failed) from failed
        return answer

    def first(self, path: str, request: bytes) -> bytes:
        """The first message that a streaming method sends; the call is then cancelled."""
        call = self._channel.unary_stream(path)(request, timeout=self._timeout_s)
        try:
            answer: bytes = next(call)
        except grpc.RpcError as failed:
            raise from_failed_call(failed) from failed
        finally:
            call.cancel()
        return answer

    def stream(self, requests: Sequence[bytes]) -> list[bytes]:
        """Every message that ModelStreamInfer sends for these requests."""
        method: Any = self._channel.stream_stream(INFERENCE + "ModelStreamInfer")
        try:
            return list(method(_each(requests), timeout=self._timeout_s))
        except grpc.RpcError as failed:
            raise from_failed_call(failed) from failed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()


def _each(requests: Sequence[bytes]) -> Iterator[bytes]:
    yield from requests
