"""The transport on grpcio's asyncio server: generic handlers, no serialisers, no message limit.

Importing this module imports grpc, which reads its environment then: `quiet_grpc` comes first.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from penstock.status import Answer, translate
from penstock.transport.addresses import explain_bind_failure, remove_stale_socket
from penstock.transport.base import (
    Metadata,
    Method,
    Refusal,
    StreamHandler,
    UnaryHandler,
)
from penstock.transport.http2.grpc_timeout import LONGEST_NS
from penstock.transport.tls import TlsFiles
from penstock_runtime.errors import FailedPrecondition, PenstockError, Status
from penstock_runtime.observability.metrics import Family
from penstock_runtime.request import InferRequest, InferResponse

UNLIMITED = -1
COMPRESSION_LEVELS: Mapping[str, int] = {"none": 0, "low": 1, "medium": 2, "high": 3}
_CODES = {code.name: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class GrpcioOptions:
    """What the grpcio server is told; names, units and defaults are those of Triton's flags.

    `addresses` are `host:port` or `unix:/path`; port 0 takes a free one. A limit of 0 means none.
    """

    addresses: tuple[str, ...]
    reuse_port: bool = False
    tls: TlsFiles | None = None
    keepalive_time_ms: int = 7_200_000
    keepalive_timeout_ms: int = 20_000
    keepalive_permit_without_calls: bool = False
    max_pings_without_data: int = 2
    min_recv_ping_interval_without_data_ms: int = 300_000
    max_ping_strikes: int = 2
    max_connection_idle_ms: int = 0
    max_connection_age_ms: int = 0
    max_connection_age_grace_ms: int = 0
    handshake_timeout_ms: int = 20_000
    max_concurrent_streams: int = 0
    max_concurrent_rpcs: int = 0
    compression_level: str = "none"

    def channel_arguments(self) -> list[tuple[str, int]]:
        """The arguments of the server in grpc's own words."""
        arguments = {
            "grpc.so_reuseport": int(self.reuse_port),
            "grpc.max_receive_message_length": UNLIMITED,
            "grpc.max_send_message_length": UNLIMITED,
            "grpc.keepalive_time_ms": self.keepalive_time_ms,
            "grpc.keepalive_timeout_ms": self.keepalive_timeout_ms,
            "grpc.keepalive_permit_without_calls": int(self.keepalive_permit_without_calls),
            "grpc.http2.max_pings_without_data": self.max_pings_without_data,
            "grpc.http2.min_ping_interval_without_data_ms": (
                self.min_recv_ping_interval_without_data_ms
            ),
            "grpc.http2.max_ping_strikes": self.max_ping_strikes,
            "grpc.server_handshake_timeout_ms": self.handshake_timeout_ms,
        }
        limits = {
            "grpc.max_connection_idle_ms": self.max_connection_idle_ms,
            "grpc.max_connection_age_ms": self.max_connection_age_ms,
            "grpc.max_connection_age_grace_ms": self.max_connection_age_grace_ms,
            "grpc.max_concurrent_streams": self.max_concurrent_streams,
            "grpc.default_compression_level": COMPRESSION_LEVELS[self.compression_level],
        }
        arguments.update({name: value for name, value in limits.items() if value > 0})
        return list(arguments.items())


class GrpcioCall:
    """One call; metadata and deadline cross into grpc's core only when someone asks."""

    __slots__ = (
        "_context",
        "_metadata",
        "_task",
        "failure",
        "method",
        "permit",
        "request",
        "response",
        "write",
    )

    write: Callable[[bytes], Awaitable[None]]

    def __init__(self, method: str, context: Any) -> None:
        self.method = method
        self.request: InferRequest | None = None
        self.response: InferResponse | None = None
        self.failure: Answer | None = None
        self._context = context
        self._metadata: dict[str, str] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def peer(self) -> str:
        """Where the call comes from."""
        peer: str = self._context.peer()
        return peer

    @property
    def metadata(self) -> Mapping[str, str]:
        """The caller's metadata without binary values."""
        if self._metadata is None:
            pairs = self._context.invocation_metadata() or ()
            self._metadata = {key: value for key, value in pairs if isinstance(value, str)}
        return self._metadata

    @property
    def deadline_ns(self) -> int | None:
        """The monotonic time after which the caller does not wait any more."""
        remaining = self._context.time_remaining()
        if remaining is None:
            return None
        return time.monotonic_ns() + int(min(remaining * 1e9, LONGEST_NS))

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Send this at the end of a call that succeeds."""
        self._context.set_trailing_metadata(tuple(metadata))

    def open_stream(self, task: "asyncio.Task[None] | None") -> None:
        """Make `write` work, and `abort`, which has to interrupt this task."""
        # grpc's own method: one frame less on the path of every message.
        self.write = self._context.write
        self._task = task

    async def write_many(self, messages: Sequence[bytes]) -> None:
        """Send several messages of a streaming call."""
        for message in messages:
            await self.write(message)

    def abort(self, error: PenstockError) -> None:
        """End a streaming call with this error although its handler waits."""
        if self.failure is None and self._task is not None:
            self.failure = translate(error)
            self._task.cancel()


class GrpcioTransport:
    """grpc.aio behind the seam."""

    def __init__(self, methods: Sequence[Method], options: GrpcioOptions) -> None:
        self._options = options
        self._handlers = {method.path: _handler(method) for method in methods}
        self._server: Any = None

    async def start(self) -> Sequence[str]:
        """Bind every address and accept calls; the addresses with their real ports."""
        options = self._options
        self._server = grpc.aio.server(
            handlers=(_Table(self._handlers),),
            options=options.channel_arguments(),
            maximum_concurrent_rpcs=options.max_concurrent_rpcs or None,
        )
        credentials = _credentials(options.tls) if options.tls is not None else None
        bound = [self._bind(address, credentials) for address in options.addresses]
        await self._server.start()
        return tuple(bound)

    def _bind(self, address: str, credentials: Any) -> str:
        remove_stale_socket(address)
        try:
            if credentials is not None:
                port = self._server.add_secure_port(address, credentials)
            else:
                port = self._server.add_insecure_port(address)
        except RuntimeError:
            port = 0
        if port == 0:
            raise FailedPrecondition(explain_bind_failure(address))
        if address.startswith("unix:"):
            return address
        return f"{address.rpartition(':')[0]}:{port}"

    async def stop(self, grace_s: float) -> None:
        """Accept nothing more, let what is inside go on for `grace_s`, then cut it off."""
        if self._server is not None:
            await self._server.stop(grace_s)

    def families(self) -> Sequence[Family]:
        """Nothing: gRPC keeps its counts to itself."""
        return ()


def _credentials(tls: TlsFiles) -> Any:
    certificate, key, roots = tls.read()
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=roots, require_client_auth=tls.mutual
    )


class _Table(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the method of a call by its full name."""

    def __init__(self, handlers: Mapping[str, Any]) -> None:
        self._find = handlers.get

    def service(self, details: Any) -> Any:
        return self._find(details.method)


def _handler(method: Method) -> Any:
    if method.unary is not None:
        return grpc.unary_unary_rpc_method_handler(_unary(method.path, method.unary))
    if method.stream is not None:
        return grpc.stream_stream_rpc_method_handler(_stream(method.path, method.stream))
    raise ValueError(f"{method.path} has no handler")


def _unary(path: str, handler: UnaryHandler) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def serve(data: bytes, context: Any) -> bytes:
        try:
            return await handler(data, GrpcioCall(path, context))
        except Refusal as refusal:
            await _refuse(context, refusal.answer)
            raise

    return serve


def _stream(
    path: str, handler: StreamHandler
) -> Callable[[AsyncIterator[bytes], Any], Awaitable[None]]:
    async def serve(messages: AsyncIterator[bytes], context: Any) -> None:
        call = GrpcioCall(path, context)
        task = asyncio.current_task()
        call.open_stream(task)
        try:
            await handler(messages, call)
            return
        except Refusal as refusal:
            answer = refusal.answer
        except asyncio.CancelledError:
            # Ours, not the client's: swallowing the client's would leak the call.
            if call.failure is None or task is None:
                raise
            task.uncancel()
            answer = call.failure
        await _refuse(context, answer)

    return serve


async def _refuse(context: Any, answer: Answer) -> None:
    # Raises, always: that is how grpc learns that the handler is done.
    await context.abort(_code(answer.status), answer.text, answer.trailing)


def _code(status: Status) -> Any:
    return _CODES[status.value]
