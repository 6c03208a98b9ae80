"""The client's blocking channel on our own HTTP/2: threads wait, a loop in the background works."""

import ssl
from threading import Lock

from penstock.client.base import Buffer, Metadata
from penstock.client.channel import ChannelSettings
from penstock.client.http2_channel import MetadataBlocks, deadline_of
from penstock.client.http2_exchange import ThreadExchange
from penstock.client.http2_pool import ConnectionPool
from penstock.client.http2_status import cancelled
from penstock.client.http2_targets import targets_of
from penstock.client.http2_thread_streaming import Http2Call, ThreadStream
from penstock.client.http2_tls import tls_context
from penstock.client.loop_thread import LoopThread


class Http2Channel:
    """Calls of any thread over our own HTTP/2; connected to by the first call."""

    def __init__(self, settings: ChannelSettings) -> None:
        self._open = False
        targets_of(settings.addresses)
        context = None if settings.tls is None else tls_context(settings.tls)
        self._blocks = MetadataBlocks()
        self._closer = Lock()
        self._thread = LoopThread.shared()
        try:
            self._pool = self._thread.run(_pool(settings, context))
        except BaseException:
            # An interrupt of the thread that waits: nobody will ever close this channel.
            self._thread.release(wait=False)
            raise
        self._post = self._thread.post
        self._open = True

    def unary(
        self,
        method: str,
        request: bytes,
        timeout_s: float | None,
        metadata: Metadata,
        wait: bool = False,
    ) -> Buffer:
        """The answer to one request."""
        self._check_open()
        exchange = ThreadExchange(
            method, request, self._blocks.of(metadata), deadline_of(timeout_s), wait
        )
        self._post(self._pool.start, exchange)
        try:
            exchange.lock.acquire()
        except BaseException:
            # An interrupt of the thread that waits: the server need not go on.
            self._post(exchange.abandon, cancelled())
            raise
        return exchange.result()

    def stream(
        self, method: str, request: bytes, timeout_s: float | None, metadata: Metadata
    ) -> Http2Call:
        """The answers to one request."""
        return self._call(method, request, timeout_s, metadata)

    def call(self, method: str, timeout_s: float | None, metadata: Metadata) -> Http2Call:
        """A call whose requests follow one by one."""
        return self._call(method, None, timeout_s, metadata)

    def _call(
        self, method: str, request: bytes | None, timeout_s: float | None, metadata: Metadata
    ) -> Http2Call:
        self._check_open()
        exchange = ThreadStream(method, request, self._blocks.of(metadata), deadline_of(timeout_s))
        self._post(self._pool.start, exchange)
        return Http2Call(exchange, self._thread)

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("the client is closed")
        self._thread.check()

    def close(self) -> None:
        """End every open call as CANCELLED, close every connection, and end the loop if no other
        client needs it.
        """
        # Never given back: one thread closes, however many want to, now or later.
        if not self._closer.acquire(blocking=False):
            return
        self._open = False
        if self._thread.forked:
            return
        try:
            self._thread.run(_close(self._pool))
        finally:
            self._thread.release()

    def __del__(self) -> None:
        # Whoever drops a client without closing it must not keep its connections for ever; but
        # nothing may be waited for here, since this may be any thread, the loop's own too.
        if self._open and not self._thread.forked:
            self._open = False
            self._post(self._pool.close)
            self._thread.release(wait=False)


async def _pool(settings: ChannelSettings, context: ssl.SSLContext | None) -> ConnectionPool:
    return ConnectionPool(settings, context)


async def _close(pool: ConnectionPool) -> None:
    pool.close()
    await pool.closed()
