"""Two cores that talk to each other, whatever is done on both sides: no word is lost or changed."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.transport.http2.client_connection import ClientConnection
from penstock.transport.http2.client_events import Answered, Responded, Trailers, Unprocessed
from penstock.transport.http2.client_requests import request_block
from penstock.transport.http2.events import Ended, Lost, Message, Opened, Request, Reset, Room
from penstock.transport.http2.frames import ErrorCode
from penstock.transport.http2.limits import Limits
from penstock.transport.http2.server_connection import ServerConnection

SIZES = st.sampled_from((0, 1, 5, 100, 199, 200, 1_000, 16_379, 16_384, 40_000, 70_000, 200_000))
STEPS = st.sampled_from((1, 8, 9, 10, 100, 5_000, 1 << 20))
SMALL = Limits(
    stream_window=70_000, connection_window=100_000, max_frame_size=16_384, max_concurrent_streams=5
)


@dataclass(slots=True)
class Call:
    """What both sides said and heard of one call."""

    asked: list[bytes] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)
    answered: list[bytes] = field(default_factory=list)
    got: list[bytes] = field(default_factory=list)
    client: Any = None
    server: Any = None
    asked_all: bool = False
    heard_all: bool = False
    status: int | None = None
    final: int | None = None
    cut: bool = False
    """Somebody reset it, or could not take it: what was on its way may be lost."""


class Pair(RuleBasedStateMachine):
    """A client and a server, and the bytes between them."""

    def __init__(self) -> None:
        super().__init__()
        self.client = ClientConnection(SMALL)
        self.server = ServerConnection(SMALL)
        self.upward, self.downward = bytearray(), bytearray()
        self.calls: dict[int, Call] = {}
        self.made = 0
        self.now_ns = 1
        self.leaving = False

    # -- what can be done ------------------------------------------------------------------------

    @precondition(lambda self: self.client.room > 0)
    @rule(size=SIZES, fresh=st.booleans())
    def ask_once(self, size: int, fresh: bool) -> None:
        """A unary call, with the usual head or one that was never seen."""
        call = Call(client=self.client.call(self._block(fresh), body := self._body(size)))
        call.asked.append(body)
        call.asked_all = True
        self.calls[call.client.id] = call

    @precondition(lambda self: self.client.room > 0)
    @rule()
    def ask(self) -> None:
        """A streaming call."""
        call = Call(client=self.client.open(self._block(False)))
        self.calls[call.client.id] = call

    @rule(number=st.integers(0, 9), sizes=st.lists(SIZES, max_size=4), end=st.booleans())
    def ask_more(self, number: int, sizes: list[int], end: bool) -> None:
        """Messages of a streaming call."""
        call = self._call(number)
        if call is None or call.asked_all or call.cut or call.final is not None:
            return
        bodies = [self._body(size) for size in sizes]
        if self.client.send_messages(call.client, bodies, end=end):
            call.asked += bodies
            call.asked_all = end

    @rule(number=st.integers(0, 9), sizes=st.lists(SIZES, max_size=4))
    def answer(self, number: int, sizes: list[int]) -> None:
        """Messages of an answer."""
        call = self._call(number)
        if call is None or call.server is None or call.status is not None:
            return
        bodies = [self._body(size) for size in sizes]
        if self.server.send_messages(call.server, bodies):
            call.answered += bodies

    @rule(number=st.integers(0, 9), kind=st.integers(0, 2), size=SIZES)
    def finish(self, number: int, kind: int, size: int) -> None:
        """The end of an answer: OK with a message, OK, or a status."""
        call = self._call(number)
        if call is None or call.server is None or call.status is not None:
            return
        kind = kind or int(bool(call.answered))
        if kind == 0:
            self.server.respond(call.server, body := self._body(size))
            call.answered.append(body)
        elif kind == 1:
            self.server.send_trailers(call.server)
        else:
            # What waits is dropped by a refusal.
            call.cut = call.cut or call.server.pending is not None
            self.server.refuse(call.server, 5, "not found")
        call.status = 5 if kind == 2 else 0

    @rule(number=st.integers(0, 9), ours=st.booleans())
    def reset(self, number: int, ours: bool) -> None:
        """One side gives a call up."""
        call = self._call(number)
        if call is None:
            return
        if ours:
            self.client.cancel(call.client)
        elif call.server is not None:
            self.server.reset(call.server, ErrorCode.CANCEL)
            call.status = -1
        call.cut = True

    @rule()
    def greet(self) -> None:
        """Both sides ping."""
        self.client.ping(b"upward--")
        self.server.ping(b"downward")

    @precondition(lambda self: self.made > 5)
    @rule()
    def leave(self) -> None:
        """The server drains."""
        self.leaving = True
        self.server.shutdown()

    @rule(step=STEPS)
    def carry_up(self, step: int) -> None:
        """Some bytes reach the server."""
        self._carry(self.client, self.upward, self.server, step, self._heard)

    @rule(step=STEPS)
    def carry_down(self, step: int) -> None:
        """Some bytes reach the client."""
        self._carry(self.server, self.downward, self.client, step, self._got)

    # -- what must hold --------------------------------------------------------------------------

    @invariant()
    def nothing_is_changed(self) -> None:
        """What was heard is the beginning of what was said."""
        for call in self.calls.values():
            assert call.heard == call.asked[: len(call.heard)]
            assert call.got == call.answered[: len(call.got)]

    def teardown(self) -> None:
        """Once all bytes have gone through, everything that was said was heard."""
        for _ in range(10_000):
            self.carry_up(1 << 20)
            self.carry_down(1 << 20)
            if not (self.upward or self.downward or self.client.out or self.server.out):
                break
        for call in self.calls.values():
            if call.cut:
                continue
            if call.status is None:
                assert call.heard == call.asked
                assert call.heard_all == call.asked_all
            else:
                assert call.final == call.status
            if call.final in (None, 0):
                assert call.got == call.answered
        super().teardown()

    # -- plumbing --------------------------------------------------------------------------------

    def _carry(self, source: Any, pipe: bytearray, target: Any, step: int, told: Any) -> None:
        pipe += b"".join(source.output())
        piece = bytes(pipe[:step])
        del pipe[:step]
        self.now_ns += 1_000_000
        at = 0
        while at < len(piece):
            buffer = target.buffer()
            size = min(len(buffer), len(piece) - at)
            buffer[:size] = piece[at : at + size]
            at += size
            for event in target.received(size, self.now_ns):
                assert not isinstance(event, Lost), event.error
                if hasattr(event, "stream"):
                    told(event, self.calls[event.stream.id])

    def _heard(self, event: Any, call: Call) -> None:
        call.server = event.stream
        if isinstance(event, Message | Request):
            call.heard.append(bytes(event.message))
            if isinstance(event, Message):
                self.server.consumed(event.stream, len(event.message))
        if isinstance(event, Request | Ended) or (isinstance(event, Message) and event.end):
            call.heard_all = True
        if isinstance(event, Reset):
            assert call.cut or call.final is not None
            call.status = -1 if call.status is None else call.status
        else:
            assert isinstance(event, Opened | Message | Request | Ended | Room)

    def _got(self, event: Any, call: Call) -> None:
        if isinstance(event, Message | Answered):
            call.got.append(bytes(event.message))
            if isinstance(event, Message):
                self.client.consumed(event.stream, len(event.message))
        if isinstance(event, Trailers):
            call.final = event.status
        elif isinstance(event, Answered):
            call.final = 0
        elif isinstance(event, Unprocessed):
            assert call.server is None or self.leaving
            call.cut = True
        elif isinstance(event, Reset):
            assert call.cut
        else:
            assert isinstance(event, Responded | Message | Room)

    def _call(self, number: int) -> Call | None:
        known = list(self.calls.values())[-10:]
        return known[number] if number < len(known) else None

    def _block(self, fresh: bool) -> bytes:
        metadata = [("x-id", str(self.made))] if fresh else []
        return request_block("/s/M", "a", metadata=metadata)

    def _body(self, size: int) -> bytes:
        self.made += 1
        return (self.made.to_bytes(4) * (size // 4 + 1))[:size]


TestPair = Pair.TestCase
TestPair.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
