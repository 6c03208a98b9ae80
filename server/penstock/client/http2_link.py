"""One connection of our HTTP/2 client: the protocol core between an asyncio transport and calls."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penstock.client.errors import InferenceError
from penstock.client.http2_exchange import Exchange
from penstock.client.http2_keepalive import Keepalive
from penstock.client.http2_link_events import LinkEvents, LinkOwner
from penstock.client.http2_status import unavailable
from penstock.transport.http2.appetite import Appetite
from penstock.transport.http2.client_answers import ClientStream
from penstock.transport.http2.client_requests import request_block, timeout_field
from penstock.transport.http2.compression import LEVELS, compress
from penstock_runtime.errors import Status

_MOST_BLOCKS = 256
_LEAST_COMPRESSED = 1024
"""Bytes of a request below which compressing it gains nothing."""
_PING = b"penstock"


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """What the requests of a link say, and after how much silence it is tested (None: never)."""

    authority: str
    scheme: str = "http"
    encoding: str = ""
    keepalive_s: float | None = None


class Link(LinkEvents, asyncio.BufferedProtocol):
    """One connection; `gone` is done once its socket is closed."""

    def __init__(self, owner: LinkOwner, settings: LinkSettings) -> None:
        super().__init__(owner)
        self._settings = settings
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._transport: Any = None
        self._blocks: dict[tuple[str, bytes], bytes] = {}
        self._dirty = False
        self._paused = False
        self._keepalive: Keepalive | None = None
        self._appetite = Appetite()

    # -- calls -----------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many calls may be opened now."""
        return 0 if self.leaving else self.connection.room

    def start(self, exchange: Exchange) -> None:
        """Open a call; there must be room."""
        block = self._blocks.get((exchange.path, exchange.metadata))
        if block is None:
            try:
                block = self._new_block(exchange.path, exchange.metadata)
            except ValueError as error:
                exchange.finish(InferenceError(Status.INTERNAL, str(error)))
                return
        if exchange.deadline_ns is not None:
            block += timeout_field(exchange.deadline_ns - time.monotonic_ns())
        request = exchange.request
        exchange.attempts += 1
        exchange.link = self
        if request is None:
            exchange.stream = self.connection.open(block, exchange, held_back=True)
        else:
            request, compressed = self._compressed(request)
            exchange.stream = self.connection.call(
                block, request, exchange, compressed=compressed, held_back=exchange.held_back
            )
        exchange.opened()
        self._write_soon()
        if self.connection.exhausted:
            self.leave()

    def _new_block(self, path: str, metadata: bytes) -> bytes:
        settings = self._settings
        if len(self._blocks) >= _MOST_BLOCKS:
            self._blocks.clear()
        block = request_block(
            path, settings.authority, scheme=settings.scheme, encoding=settings.encoding
        )
        block = self._blocks[path, metadata] = block + metadata
        return block

    def _compressed(self, message: bytes) -> tuple[bytes, bool]:
        encoding = self._settings.encoding
        if not encoding or len(message) < _LEAST_COMPRESSED:
            return message, False
        smaller = compress(message, encoding, LEVELS["low"])
        return (message, False) if smaller is None else (smaller, True)

    def send(self, stream: ClientStream, messages: Sequence[bytes], end: bool) -> None:
        """Send more requests of a call, or say that there are no more."""
        for each in messages:
            message, compressed = self._compressed(each)
            self.connection.send_messages(stream, (message,), compressed=compressed)
        if end:
            self.connection.end(stream)
        self._write_soon()

    def crowded(self, stream: ClientStream) -> bool:
        """Whether so much waits to be sent that the sender should wait for room."""
        return stream.pending is not None and stream.filled

    def consumed(self, stream: ClientStream, sizes: Sequence[int]) -> None:
        """The application took messages of these sizes: the server may send as many more."""
        for size in sizes:
            self.connection.consumed(stream, size)
        if self.connection.out:
            self._write_soon()

    def cancel(self, stream: ClientStream) -> None:
        """End a call in the server."""
        self.connection.cancel(stream)
        self._write_soon()
        self._loop.call_soon(self._settle)

    def calls(self) -> list[Exchange]:
        """The calls that are open."""
        streams: list[Any] = list(self.connection.streams.values())
        return [stream.tag for stream in streams]

    # -- the end ---------------------------------------------------------------------------------

    def leave(self) -> None:
        """Take no more calls, and close once those that are open have ended."""
        self._over()
        self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        """Calls may have ended: make use of it."""
        if self.leaving and not self.connection.streams:
            self.close("the connection was left")
        self._owner.link_read()

    def close(self, reason: str) -> None:
        """Say goodbye and close the socket; open calls fail as UNAVAILABLE with this reason."""
        self.reason = self.reason or reason
        for exchange in self.calls():
            exchange.finish(unavailable(self.reason))
        self._never_established()
        self._over()
        if self._transport is None:
            self._end()
        elif not self._transport.is_closing():
            self.connection.close()
            self._paused = False
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        """Close the socket without waiting for what is still to be written."""
        if self._transport is not None:
            self._transport.abort()

    def _end(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)
            self._owner.link_gone(self)

    # -- asyncio's side --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open: the preface goes out."""
        self._transport = transport
        self._appetite = Appetite(transport)
        self._flush()
        if self._settings.keepalive_s is not None:
            self._keepalive = Keepalive(self._settings.keepalive_s, self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        del sizehint
        return self.connection.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes are here."""
        now = time.monotonic_ns()
        if self._keepalive is not None:
            self._keepalive.heard_ns = now
        for event in self.connection.received(nbytes, now):
            self._take(event)
        self._appetite.follow(self.connection.awaited)
        self._settle()
        if self.connection.out and not self._dirty:
            self._flush()

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._paused = True

    def resume_writing(self) -> None:
        """The socket takes more again."""
        self._paused = False
        self._flush()

    def eof_received(self) -> None:
        """The server closed its side: the socket is closed."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self.reason = self.reason or f"the connection was lost: {exc or 'closed by the server'}"
        if self._keepalive is not None:
            self._keepalive.end()
        self._never_established()
        events = self.connection.lost()
        self._over()
        for event in events:
            self._take(event)
        self._transport = None
        self._end()

    def _write_soon(self) -> None:
        if not self._dirty:
            self._dirty = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._dirty = False
        connection, transport = self.connection, self._transport
        if transport is None:
            return
        while connection.out and not self._paused:
            pieces = connection.output()
            if len(pieces) == 1:
                transport.write(pieces[0])
            else:
                transport.writelines(pieces)
        if connection.rooms:
            streams: list[Any] = connection.rooms[:]
            connection.rooms.clear()
            for stream in streams:
                stream.tag.room()

    # -- keepalive's side ------------------------------------------------------------------------

    def give_up(self, reason: str) -> None:
        """Close the socket at once: the server would never take what is still to be written."""
        self.close(reason)
        self.abort()

    def busy(self) -> bool:
        """Whether calls are open."""
        return bool(self.connection.streams)

    def ping(self) -> None:
        """Ask the server for a sign of life; what came of a frame is one."""
        self._appetite.calm()
        self.connection.ping(_PING)
        self._write_soon()
