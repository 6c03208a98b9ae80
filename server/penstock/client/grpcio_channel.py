"""The client's channels on grpcio, blocking and asyncio: all that the client knows of it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio

from penstock.client.base import Metadata
from penstock.client.channel import ChannelSettings, channel_options, grpc_target
from penstock.client.errors import InferenceError, from_failed_call
from penstock_runtime.errors import Status

_COMPRESSION = {
    "": grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}


class GrpcioChannel:
    """A channel of grpcio for threads."""

    def __init__(self, settings: ChannelSettings) -> None:
        target, options = grpc_target(settings.addresses), _options(settings)
        compression = _COMPRESSION[settings.compression]
        if settings.tls is None:
            self._channel = grpc.insecure_channel(target, options, compression)
        else:
            credentials = grpc.ssl_channel_credentials(*settings.tls.read())
            self._channel = grpc.secure_channel(target, credentials, options, compression)
        self._methods: dict[str, Any] = {}

    def unary(
        self,
        method: str,
        request: bytes,
        timeout_s: float | None,
        metadata: Metadata,
        wait: bool = False,
    ) -> bytes:
        """The answer to one request."""
        call = self._methods.get(method)
        if call is None:
            call = self._methods[method] = self._channel.unary_unary(method)
        try:
            answer: bytes = call(request, timeout=timeout_s, metadata=metadata, wait_for_ready=wait)
        except grpc.RpcError as failed:
            raise from_failed_call(failed) from failed
        return answer

    def stream(
        self, method: str, request: bytes, timeout_s: float | None, metadata: Metadata
    ) -> "_Answers":
        """The answers to one request."""
        # A client stream of one message is, on the wire, one message: no sender thread is needed.
        call = self._channel.unary_stream(method)
        return _Answers(call(request, timeout=timeout_s, metadata=metadata))

    def close(self) -> None:
        """End every open call as CANCELLED."""
        self._channel.close()


class _Answers(Iterator[bytes]):
    # grpcio's call ends by itself once nothing refers to it any more.
    def __init__(self, call: Any) -> None:
        self._call = call

    def __next__(self) -> bytes:
        try:
            answer: bytes = next(self._call)
        except grpc.RpcError as failed:
            raise from_failed_call(failed) from failed
        return answer

    def cancel(self) -> None:
        self._call.cancel()


class AsyncGrpcioChannel:
    """A channel of grpcio for the tasks of one loop."""

    def __init__(self, settings: ChannelSettings) -> None:
        self._target, self._options = grpc_target(settings.addresses), _options(settings)
        self._settings = settings
        self._opened: Any = None
        self._methods: dict[str, Any] = {}

    async def unary(
        self,
        method: str,
        request: bytes,
        timeout_s: float | None,
        metadata: Metadata,
        wait: bool = False,
    ) -> bytes:
        """The answer to one request."""
        call = self._methods.get(method)
        if call is None:
            call = self._methods[method] = self._channel.unary_unary(method)
        rpc = call(request, timeout=timeout_s, metadata=metadata, wait_for_ready=wait)
        try:
            answer: bytes = await rpc
        except grpc.RpcError as failed:
            raise from_failed_call(failed) from failed
        finally:
            # Nothing for a call that is done; grpcio never ends one that was abandoned.
            rpc.cancel()
        return answer

    def stream(
        self, method: str, request: bytes, timeout_s: float | None, metadata: Metadata
    ) -> "_AsyncAnswers":
        """The answers to one request."""
        call = self._channel.unary_stream(method)
        return _AsyncAnswers(call(request, timeout=timeout_s, metadata=metadata))

    @property
    def _channel(self) -> Any:
        # Opened by the first call, since a channel belongs to the loop that runs by then.
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> Any:
        compression = _COMPRESSION[self._settings.compression]
        if self._settings.tls is None:
            return grpc.aio.insecure_channel(self._target, self._options, compression)
        credentials = grpc.ssl_channel_credentials(*self._settings.tls.read())
        return grpc.aio.secure_channel(self._target, credentials, self._options, compression)

    async def close(self) -> None:
        """End every open call as CANCELLED."""
        if self._opened is not None:
            await self._opened.close()
            self._opened = None
            self._methods.clear()


class _AsyncAnswers(AsyncIterator[bytes]):
    def __init__(self, call: Any) -> None:
        self._call = call
        self._answers = aiter(call)
        self._cancelled = False

    async def __anext__(self) -> bytes:
        try:
            answer: bytes = await anext(self._answers)
        except grpc.RpcError as failed:
            raise from_failed_call(failed) from failed
        except asyncio.CancelledError:
            # grpcio says the same for a call that we ended and for a task that others end.
            if self._cancelled:
                raise InferenceError(Status.CANCELLED, "the stream was cancelled") from None
            self.cancel()
            raise
        return answer

    def cancel(self) -> None:
        self._cancelled = True
        self._call.cancel()


def _options(settings: ChannelSettings) -> list[tuple[str, Any]]:
    options = channel_options(settings.addresses, settings.tls)
    if settings.keepalive_s is not None:
        options.append(("grpc.keepalive_time_ms", int(settings.keepalive_s * 1000)))
    return options
