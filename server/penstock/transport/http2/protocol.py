"""One connection of the server: bytes between a socket and the protocol's core, and the core's
events to whom they concern.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, cast

from penstock.transport.http2.appetite import Appetite
from penstock.transport.http2.call import ServerCall
from penstock.transport.http2.events import (
    Drained,
    Ended,
    Event,
    GoAway,
    Lost,
    Message,
    Opened,
    PingAcked,
    Pinged,
    Refused,
    Request,
    Reset,
    Room,
    SettingsChanged,
)
from penstock.transport.http2.faults import ConnectionFault
from penstock.transport.http2.frames import ErrorCode
from penstock.transport.http2.hub import Hub
from penstock.transport.http2.lifetime import PING, Lifetime
from penstock.transport.http2.sockets import has_h2, peer_of

_log = logging.getLogger("penstock.transport")

MANY_CALLS = 128
"""Calls on a connection whose socket takes nothing, beyond which nothing is read from it."""
TOO_MANY_PINGS = "too_many_pings"


class ServerProtocol(Lifetime):
    """Between one transport of asyncio's and one `ServerConnection`."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self.peer = ""
        self.high_water = hub.limits.high_water
        self.dirty = False
        self.bytes_in = self.bytes_out = 0
        self.link.owner = self
        self._waiters: list[asyncio.Future[None]] = []
        self._reading = True
        self._calmed = False
        self._on_event: dict[type[Event], Callable[[Any], None]] = {
            Opened: self._opened,
            Message: self._message,
            Ended: self._ended,
            Reset: self._gone,
            Refused: self._gone,
            Room: self._room,
            Pinged: lambda _: self._pinged(),
            PingAcked: self._acknowledged,
            GoAway: _ignore,
            SettingsChanged: _ignore,
            Drained: _ignore,
            Lost: lambda event: self._broken(event.error),
        }

    # -- the socket ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless it is not for HTTP/2."""
        # Not an isinstance: uvloop's transports are no asyncio.Transport.
        self._transport = transport = cast(asyncio.Transport, transport)
        hub = self._hub
        if hub.stopping or not has_h2(transport):
            hub.counts["without_h2"] += not hub.stopping
            transport.abort()
            return
        self.peer = peer_of(transport)
        self._appetite = Appetite(transport)
        hub.watch(self)
        self.flush()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 (asyncio's protocol)
        """Where the socket's next bytes go."""
        return self.link.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came: everything that they cause happens now, answers that are there leave at once.

        Every quick call passes here, so what `Dispatch` does for others is done in place.
        """
        if self._closed_ns is not None:
            return
        hub = self._hub
        now_ns = self._heard_ns = time.monotonic_ns()
        self.bytes_in += nbytes
        # Answers given meanwhile need not be scheduled.
        self.dirty = True
        quick = hub.quick
        on_event = self._on_event
        for event in self.link.received(nbytes, now_ns):
            if type(event) is not Request:
                on_event[type(event)](event)
                continue
            call: ServerCall = event.stream
            head = call.head
            submit = quick.get(head.path)
            if submit is None:
                hub.dispatch.request(call, event.message, now_ns)
                continue
            call.request = call.response = call.on_cancel = call.load = call.task = None
            call.inbox = call.room = None
            call.trailing = b""
            timeout_ns = head.timeout_ns
            if timeout_ns is None:
                call.deadline_ns = call.bucket = None
            elif timeout_ns > 0:
                deadline_ns = call.deadline_ns = now_ns + timeout_ns
                hub.deadlines.add(call, deadline_ns, now_ns)
            else:
                hub.dispatch.request(call, event.message, now_ns)
                continue
            try:
                submit(event.message, call)
            except Exception as error:
                call.fail(error)
        self._appetite.follow(self.link.awaited)
        self.flush()

    def eof_received(self) -> bool:
        """The peer is gone; nobody is to be answered any more."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's protocol)
        """The socket is gone, and with it whoever waited on the other side."""
        self._closed_ns = time.monotonic_ns()
        for event in self.link.lost():
            self._on_event[type(event)](event)
        self._wake()
        self._hub.forget(self)

    def pause_writing(self) -> None:
        """The socket takes less than there is: everything else waits in the core, which counts."""
        self._paused_ns = time.monotonic_ns()

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._paused_ns = None
        if not self._reading and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()
        # Not now: asyncio's transport, which calls this, takes it amiss if it is closed meanwhile,
        # and tells its protocol of the end twice.
        self.schedule()

    # -- writing ---------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Write before the loop's turn ends."""
        self.dirty = True
        self._hub.schedule(self)

    def flush(self) -> None:
        """Write what there is, unless the socket is full."""
        self.dirty = False
        link, transport = self.link, self._transport
        if transport is None or self._closed_ns is not None:
            return
        while link.out and self._paused_ns is None:
            chunks = link.output()
            if len(chunks) == 1:
                self.bytes_out += len(chunks[0])
                transport.write(chunks[0])
            else:
                self.bytes_out += sum(map(len, chunks))
                transport.writelines(chunks)
        if link.rooms:
            rooms, link.rooms = link.rooms, []
            for stream in rooms:
                cast(ServerCall, stream).make_room()
        if self._waiters and not link.out:
            self._wake()
        if self._paused_ns is not None and self._reading and len(link.streams) > MANY_CALLS:
            self._reading = False
            transport.pause_reading()
        if (link.closing or link.drained) and not link.out:
            self._hang_up()

    async def flushed(self) -> None:
        """Return once all that is in the core's hands was written, or never will be."""
        waiter = self._hub.loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- events ----------------------------------------------------------------------------------

    def _opened(self, event: Opened) -> None:
        self._hub.dispatch.opened(_call(event), self._heard_ns)

    def _message(self, event: Message) -> None:
        self._hub.dispatch.message(_call(event), event.message, event.end)

    def _ended(self, event: Ended) -> None:
        self._hub.dispatch.ended(_call(event))

    def _gone(self, event: Reset | Refused) -> None:
        call = _call(event)
        # A call that was refused before it was reported was never prepared.
        if hasattr(call, "task"):
            call.gone()

    def _room(self, event: Room) -> None:
        _call(event).make_room()

    def _pinged(self) -> None:
        link = self.link
        if self._calmed or link.closing:
            return
        # All that left counts, whenever it was asked for: clients measure the way of a long answer.
        sent, self._pieces_at_ping = link.pieces != self._pieces_at_ping, link.pieces
        if self._watch.pinged(self._heard_ns, calls=len(link.streams), sent=sent):
            self._hub.counts["ping_strikes"] += 1
            # Not now: the events behind this one may be of calls that nobody has prepared yet.
            self._calmed = True
            self._hub.loop.call_soon(self.close, ErrorCode.ENHANCE_YOUR_CALM, TOO_MANY_PINGS)

    def _acknowledged(self, event: PingAcked) -> None:
        if event.data == PING:
            self._watch.acknowledged()

    def _broken(self, error: ConnectionFault) -> None:
        self._hub.counts["goaways"] += 1
        if error.__cause__ is not None:
            _log.error("HTTP/2 with %s ended by a defect", self.peer, exc_info=error.__cause__)
        else:
            _log.debug("HTTP/2 with %s ended: %s", self.peer, error.text)


def _call(event: Any) -> ServerCall:
    call: ServerCall = event.stream
    return call


def _ignore(event: Event) -> None:
    """Nothing follows from this for a server."""
