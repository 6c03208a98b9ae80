"""How a connection of the server lives on and ends: what time demands of it, and the ways to close
it, from the politest to none at all.
"""

import asyncio
import time
from typing import cast

from penstock.status import CODES
from penstock.transport.http2.appetite import Appetite
from penstock.transport.http2.call import Link, ServerCall
from penstock.transport.http2.frames import ErrorCode
from penstock.transport.http2.hub import Hub
from penstock.transport.http2.unfinished import Unfinished
from penstock.transport.http2.watch import Action, ConnectionWatch
from penstock_runtime.errors import Status

LINGER_NS = 1_000_000_000
"""For how long what the peer still sends is read and dropped: closing at once would send a TCP
reset, which overtakes our last words."""
RESOURCE_EXHAUSTED = CODES[Status.RESOURCE_EXHAUSTED]
UNAVAILABLE = CODES[Status.UNAVAILABLE]
CUT_OFF = "Cancelling all calls"
STALLED = "the rest of a request message did not come"
PING = b"penstock"


class Lifetime(asyncio.BufferedProtocol):
    """The part of a connection that looks at the clock."""

    def __init__(self, hub: Hub) -> None:
        now_ns = time.monotonic_ns()
        self.link = Link(hub.limits, hub.call_type, hub.read_buffer)
        self._hub = hub
        self._transport: asyncio.Transport | None = None
        self._appetite = Appetite()
        self._watch = ConnectionWatch(hub.policy, now_ns)
        self._heard_ns = now_ns
        self._paused_ns: int | None = None
        """Since when the socket takes nothing."""
        self._pieces_at_look = 0
        self._pieces_at_ping = 0
        """What had been sent of answers when the time was looked at, and when the peer pinged."""
        self._unwritten = 0
        self._unfinished = Unfinished(hub.policy.stall_ns, hub.limits.stall_progress)
        self._retired_ns: int | None = None
        """When the peer was asked to go elsewhere."""
        self._closed_ns: int | None = None
        """When the last word was said."""

    def flush(self) -> None:
        """Write what there is, unless the socket is full."""
        raise NotImplementedError

    # -- time ------------------------------------------------------------------------------------

    def look(self, now_ns: int) -> None:
        """Do what the time demands; asked every now and then."""
        if self._closed_ns is not None:
            self._look_at_the_end(now_ns, self._closed_ns)
            return
        # What came meanwhile of a frame counts, though it was not worth waking for.
        self._appetite.calm()
        if self._paused_ns is not None:
            self._look_at_socket(now_ns, self._paused_ns)
        else:
            self._look_at_streams(now_ns)
        hub, link = self._hub, self.link
        action = self._watch.look(
            now_ns,
            spoke=link.established,
            heard_ns=self._heard_ns if self._paused_ns is None else now_ns,
            calls=len(link.streams),
            mark=link.history.last,
            sent=link.pieces != self._pieces_at_look,
        )
        self._pieces_at_look = link.pieces
        if action is Action.PING:
            link.ping(PING)
        elif action is not Action.NOTHING:
            hub.counts[self._watch.why] += 1
            {Action.RETIRE: self.retire, Action.CUT: self.cut, Action.DROP: self.abort}[action]()
        if (
            self._retired_ns is not None
            and now_ns - self._retired_ns >= hub.policy.keepalive_timeout_ns
        ):
            # A peer that does not say that it knows must not stay for ever.
            link.settle()
        if link.out:
            self.flush()

    def _look_at_socket(self, now_ns: int, since_ns: int) -> None:
        """Give up on a peer that takes nothing at all although there is something for it."""
        if self._moves():
            self._paused_ns = now_ns
        elif now_ns - since_ns >= self._hub.policy.stall_ns:
            self._hub.counts["stalled_connections"] += 1
            self.abort()

    def _look_at_the_end(self, now_ns: int, since_ns: int) -> None:
        """Close for good once the last word has left, or does not leave."""
        if self._moves():
            self._closed_ns = now_ns
        elif now_ns - since_ns >= (self._hub.policy.stall_ns if self._unwritten else LINGER_NS):
            self.abort()

    def _moves(self) -> bool:
        before, transport = self._unwritten, self._transport
        self._unwritten = transport.get_write_buffer_size() if transport is not None else 0
        return before != self._unwritten

    def _look_at_streams(self, now_ns: int) -> None:
        """Give up on streams whose peer neither takes what it asked for nor sends what it began."""
        hub, link = self._hub, self.link
        stall_ns = hub.policy.stall_ns
        for stream in link.stalled(now_ns, stall_ns):
            hub.counts["stalled_streams"] += 1
            link.reset(stream, ErrorCode.CANCEL)
            cast(ServerCall, stream).gone()
        scarce = hub.arrivals.scarce
        for call in self._unfinished.late(self._awaited(), now_ns, scarce=scarce):
            hub.counts["stalled_requests"] += 1
            call.cut(RESOURCE_EXHAUSTED, STALLED)

    def _awaited(self) -> list[ServerCall]:
        """Calls that their peer may go on with: without a window it is we who stop it, except
        within a frame, which took its part of the window when it began.
        """
        open_there, interrupted = self.link.recv_window > 0, self.link.interrupted
        return [
            call
            for call in self._calls()
            if call.assembler is not None
            and ((open_there and call.recv_window > 0) or call is interrupted)
        ]

    # -- the end ---------------------------------------------------------------------------------

    def retire(self) -> None:
        """Ask the peer to go elsewhere with new calls; those inside go on."""
        self._hub.counts["goaways"] += 1
        if self._retired_ns is None:
            self._retired_ns = time.monotonic_ns()
        self.link.shutdown()
        self.flush()

    def cut(self) -> None:
        """End all calls and the connection."""
        for call in self._calls():
            call.cut(UNAVAILABLE, CUT_OFF)
        self.close(ErrorCode.NO_ERROR, "")

    def close(self, code: int, text: str) -> None:
        """Say why, and nothing more."""
        if self._closed_ns is None and not self.link.closing:
            self._hub.counts["goaways"] += 1
            calls = self._calls()
            self.link.close(code, text)
            for call in calls:
                call.gone()
        self.flush()

    def abort(self) -> None:
        """Let go of the socket at once."""
        if self._transport is not None:
            self._transport.abort()

    def _hang_up(self) -> None:
        """All is said: the peer closes the socket, or soon we do."""
        transport = self._transport
        if transport is None or self._closed_ns is not None:
            return
        self._closed_ns = time.monotonic_ns()
        if not transport.can_write_eof():
            transport.close()
            return
        # Something unread is on its way more often than not, if only credit for our last answer.
        try:
            transport.write_eof()
        except OSError:
            # The peer went first.
            transport.abort()

    def _calls(self) -> list[ServerCall]:
        return [cast(ServerCall, stream) for stream in self.link.streams.values()]
