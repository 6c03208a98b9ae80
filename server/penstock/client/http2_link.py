"""One connection of our HTTP/2 client: the protocol core between an asyncio transport and calls."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from penstock.client.http2_exchange import Exchange
from penstock.client.http2_keepalive import Keepalive
from penstock.client.http2_status import error_of_reset, error_of_status, unavailable
from penstock.transport.http2.client_answers import ClientStream
from penstock.transport.http2.client_connection import ClientConnection
from penstock.transport.http2.client_events import Answered, Responded, Trailers, Unprocessed
from penstock.transport.http2.client_requests import request_block, timeout_field
from penstock.transport.http2.compression import LEVELS, compress
from penstock.transport.http2.events import (
    Event,
    GoAway,
    Lost,
    Message,
    Refused,
    Reset,
    Room,
    SettingsChanged,
)
from penstock.transport.http2.faults import ConnectionFault

logger = logging.getLogger("penstock.client")

_MOST_BLOCKS = 256
_LEAST_COMPRESSED = 1024
"""Bytes of a request below which compressing it gains nothing."""
_PING = b"penstock"


class LinkOwner(Protocol):
    """Whoever opened the link, and gives it calls."""

    def link_over(self, link: "Link") -> None:
        """The link takes no more calls; those that are open may still end well."""

    def link_gone(self, link: "Link") -> None:
        """The socket is closed."""

    def link_read(self) -> None:
        """Calls may have ended: there may be room for others."""

    def again(self, exchange: Exchange) -> None:
        """Send a call anew that the server did not look at."""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """What the requests of a link say, and after how much silence it is tested (None: never)."""

    authority: str
    scheme: str = "http"
    encoding: str = ""
    keepalive_s: float | None = None


class Link(asyncio.BufferedProtocol):
    """One connection; `established` is done once the server's settings are here, and fails with
    ConnectionError if they never come; `gone` is done once the socket is closed, and `reason` says
    why.
    """

    def __init__(self, owner: LinkOwner, settings: LinkSettings) -> None:
        self.connection = ClientConnection()
        self.leaving = False
        self._owner = owner
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self.established: asyncio.Future[None] = self._loop.create_future()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._transport: Any = None
        self._blocks: dict[tuple[str, bytes], bytes] = {}
        self._dirty = False
        self._paused = False
        self.reason = ""
        self._keepalive: Keepalive | None = None

    # -- calls -----------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many calls may be opened now."""
        return 0 if self.leaving else self.connection.room

    def start(self, exchange: Exchange) -> None:
        """Open a call; there must be room."""
        block = self._blocks.get((exchange.path, exchange.metadata))
        if block is None:
            block = self._new_block(exchange.path, exchange.metadata)
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

    def consumed(self, stream: ClientStream, size: int) -> None:
        """The application took so many bytes: the server may send as many more."""
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

    def _over(self) -> None:
        if not self.leaving:
            self.leaving = True
            self._owner.link_over(self)

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

    def _never_established(self) -> None:
        if not self.established.done():
            self.established.set_exception(ConnectionError(self.reason))
            # Nobody waits for it any more where connecting itself has failed.
            self.established.exception()

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

    def busy(self) -> bool:
        """Whether calls are open."""
        return bool(self.connection.streams)

    def ping(self) -> None:
        """Ask the server for a sign of life."""
        self.connection.ping(_PING)
        self._write_soon()

    # -- what the core tells ---------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        kind = type(event)
        handler = _HANDLERS.get(kind)
        if handler is not None:
            handler(self, event)

    def _answered(self, event: Answered) -> None:
        _call(event).answered(event.message)

    def _message(self, event: Message) -> None:
        _call(event).message(event.message)

    def _responded(self, event: Responded) -> None:
        _call(event).responded(event.head.metadata)

    def _trailers(self, event: Trailers) -> None:
        exchange = _call(event)
        exchange.trailing = event.metadata
        exchange.finish(error_of_status(event.status, event.text, event.metadata))

    def _refused(self, event: Refused) -> None:
        _call(event).finish(error_of_status(event.status, event.text, ()))

    def _reset(self, event: Reset) -> None:
        fault = self.connection.error
        if self.reason or fault is not None:
            self.reason = self.reason or _broken(fault)
            error = unavailable(self.reason)
        else:
            error = error_of_reset(event.code)
        _call(event).finish(error)

    def _unprocessed(self, event: Unprocessed) -> None:
        self._owner.again(_call(event))

    def _room(self, event: Room) -> None:
        _call(event).room()

    def _settings_changed(self, event: SettingsChanged) -> None:
        del event
        if not self.established.done():
            self.established.set_result(None)

    def _goaway(self, event: GoAway) -> None:
        del event
        self.leave()

    def _lost(self, event: Lost) -> None:
        if event.error.__cause__ is not None:
            logger.error("a defect of ours broke a connection", exc_info=event.error.__cause__)
        self.close(_broken(event.error))


def _call(event: Any) -> Exchange:
    exchange: Exchange = event.stream.tag
    return exchange


def _broken(fault: ConnectionFault | None) -> str:
    return f"the server broke the protocol: {fault}"


_HANDLERS: dict[type[Event], Any] = {
    Answered: Link._answered,
    Message: Link._message,
    Responded: Link._responded,
    Trailers: Link._trailers,
    Refused: Link._refused,
    Reset: Link._reset,
    Unprocessed: Link._unprocessed,
    Room: Link._room,
    SettingsChanged: Link._settings_changed,
    GoAway: Link._goaway,
    Lost: Link._lost,
}
