"""The client's channel for asyncio on our own HTTP/2."""

import asyncio
import time

from penstock.client.base import Buffer, Metadata
from penstock.client.channel import ChannelSettings
from penstock.client.http2_exchange import TaskExchange
from penstock.client.http2_pool import ConnectionPool
from penstock.client.http2_status import cancelled
from penstock.client.http2_streaming import AsyncHttp2Call, TaskStream
from penstock.client.http2_targets import targets_of
from penstock.client.http2_tls import tls_context
from penstock.transport.http2.client_requests import field

_NS = 1_000_000_000
_MOST_BLOCKS = 256


class MetadataBlocks:
    """Metadata as header blocks; what was seen before is not encoded again."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[str, str | bytes], ...], bytes] = {}

    def of(self, metadata: Metadata) -> bytes:
        """The header block; ValueError for names and values that gRPC forbids."""
        key = tuple(metadata)
        block = self._known.get(key)
        if block is None:
            if len(self._known) >= _MOST_BLOCKS:
                self._known.clear()
            block = self._known[key] = b"".join([field(name, value) for name, value in key])
        return block


def deadline_of(timeout_s: float | None) -> int | None:
    """The monotonic nanosecond that lies so many seconds ahead."""
    return None if timeout_s is None else time.monotonic_ns() + int(timeout_s * _NS)


class AsyncHttp2Channel:
    """Calls of the tasks of one loop over our own HTTP/2; connected to by the first call."""

    def __init__(self, settings: ChannelSettings) -> None:
        targets_of(settings.addresses)
        self._settings = settings
        self._blocks = MetadataBlocks()
        self._opened: ConnectionPool | None = None

    async def unary(
        self,
        method: str,
        request: bytes,
        timeout_s: float | None,
        metadata: Metadata,
        wait: bool = False,
    ) -> Buffer:
        """The answer to one request."""
        pool = self._pool
        future: asyncio.Future[Buffer] = asyncio.get_running_loop().create_future()
        exchange = TaskExchange(
            future, method, request, self._blocks.of(metadata), deadline_of(timeout_s), wait
        )
        pool.start(exchange)
        try:
            return await future
        except asyncio.CancelledError:
            exchange.abandon(cancelled())
            raise

    def stream(
        self, method: str, request: bytes, timeout_s: float | None, metadata: Metadata
    ) -> AsyncHttp2Call:
        """The answers to one request."""
        return self._call(method, request, timeout_s, metadata)

    def call(self, method: str, timeout_s: float | None, metadata: Metadata) -> AsyncHttp2Call:
        """A call whose requests follow one by one."""
        return self._call(method, None, timeout_s, metadata)

    def _call(
        self, method: str, request: bytes | None, timeout_s: float | None, metadata: Metadata
    ) -> AsyncHttp2Call:
        exchange = TaskStream(method, request, self._blocks.of(metadata), deadline_of(timeout_s))
        self._pool.start(exchange)
        return AsyncHttp2Call(exchange)

    @property
    def _pool(self) -> ConnectionPool:
        # Opened by the first call, since connections belong to the loop that runs by then.
        if self._opened is None:
            tls = self._settings.tls
            context = None if tls is None else tls_context(tls)
            self._opened = ConnectionPool(self._settings, context)
        return self._opened

    async def close(self) -> None:
        """End every open call as CANCELLED, and close every connection."""
        if self._opened is not None:
            pool, self._opened = self._opened, None
            pool.close()
            await pool.closed()
