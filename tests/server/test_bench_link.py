"""One connection of the load generator, with a server of HTTP/2 frames at its other end."""

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat

import pytest

from penstock.bench.carrier import NOW
from penstock.bench.http2_carrier import Http2Carrier
from penstock.bench.http2_link import Link, Work
from penstock.bench.meter import Meter
from penstock.client.errors import InferenceError
from penstock.transport.http2.answers import HEAD, OK_TRAILERS
from penstock.transport.http2.client_requests import request_block
from penstock.transport.http2.events import Event, Message, Opened, Request
from penstock.transport.http2.limits import Limits
from penstock.transport.http2.server_connection import ServerConnection
from penstock.transport.http2.stream import Stream
from penstock_runtime.errors import Status

MS = 1_000_000
S = 1_000_000_000
BLOCK = request_block("/inference.GRPCInferenceService/ModelInfer", "localhost")


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = S

    def __call__(self) -> int:
        return self.now


class Peer:
    """The server's end: `requests` has the message of each stream that is open."""

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        self.sock = sock
        self.core = ServerConnection(limits, Stream)
        self.requests: dict[int, bytes] = {}
        self.streams: dict[int, Stream] = {}
        self.writes_seen = 0

    def read(self) -> list[Event]:
        """Take what was sent."""
        found: list[Event] = []
        while True:
            try:
                size = self.sock.recv_into(self.core.buffer())
            except BlockingIOError:
                return found
            if not size:
                return found
            self.writes_seen += 1
            events = self.core.received(size, 0)
            found += events
            for event in events:
                if isinstance(event, Opened | Request | Message):
                    self.streams[event.stream.id] = event.stream
                if isinstance(event, Request | Message):
                    self.requests[event.stream.id] = bytes(event.message)

    def write(self) -> None:
        """Send what is to be sent."""
        for piece in self.core.output():
            self.sock.sendall(piece)

    def answer(self, number: int, message: bytes = b"good") -> None:
        """Answer a stream with this message and OK."""
        self.core.respond(self.streams[number], message)
        self.write()


class Unreachable:
    """A socket whose host is not there any more."""

    def recv_into(self, _: object) -> int:
        raise OSError(errno.EHOSTUNREACH, "No route to host")

    send = sendmsg = recv_into

    def close(self) -> None:
        pass


class Bench:
    """A link, its meter and its clock, and the peer."""

    def __init__(self, link: Link, peer: Peer, meter: Meter, clock: Clock) -> None:
        self.link, self.peer, self.meter, self.clock = link, peer, meter, clock

    def call(self, *dues: int) -> None:
        """Begin these calls; the peer has them then."""
        self.link.launch(dues)
        self.link.flush()
        self.peer.read()

    def statuses(self) -> dict[str, int]:
        """How many calls failed with which status."""
        return {status: each.count for status, each in self.meter.errors.items()}


@contextmanager
def bench(
    *,
    streamed: bool = False,
    body: bytes = b"ask",
    timeout_s: float = 5.0,
    limits: Limits | None = None,
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> Iterator[Bench]:
    """A link whose window is open, connected and greeted."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    ours.setblocking(False)
    theirs.setblocking(False)
    meter, clock = Meter(), Clock()
    meter.open(0)
    work = Work(repeat(BLOCK), repeat(body), timeout_s, streamed)
    with ours, theirs:
        link = Link(ours, work, meter, clock=clock)
        peer = Peer(theirs, limits or Limits())
        link.flush()
        peer.read()
        peer.write()
        link.read()
        link.flush()
        peer.read()
        assert link.ready
        yield Bench(link, peer, meter, clock)


def test_a_call_of_a_closed_loop_counts_from_when_it_is_written() -> None:
    """Between its launch and its writing no time passes for it."""
    with bench() as b:
        b.link.launch([NOW])
        b.clock.now += 50 * MS
        b.link.flush()
        b.peer.read()
        b.clock.now += 7 * MS
        b.peer.answer(1)
        b.link.read()

        assert b.meter.latencies.histogram.most == 7 * MS
        assert b.peer.requests == {1: b"ask"}
        assert b.link.in_flight == 0


def test_a_call_of_an_open_loop_counts_from_when_it_was_due() -> None:
    """And how late it was written is known."""
    with bench() as b:
        b.clock.now += 9 * MS
        b.call(S)
        b.peer.answer(1)
        b.link.read()

        assert b.meter.latencies.histogram.most == 9 * MS
        assert b.meter.lateness.histogram.most == 9 * MS


def test_calls_of_one_turn_are_one_write() -> None:
    """However many there are: what they cost is shared."""
    # Sockets of this kind keep writes apart.
    with bench(kind=socket.SOCK_SEQPACKET) as b:
        before = b.peer.writes_seen
        b.call(*[NOW] * 50)

        assert b.peer.writes_seen == before + 1
        assert len(b.peer.requests) == 50


def test_a_refusal_has_its_status_and_text() -> None:
    """The first text of each status is kept, and all are counted."""
    with bench() as b:
        b.call(NOW, NOW, NOW)
        for number, text in ((1, "queue full"), (3, "still full")):
            b.peer.core.refuse(b.peer.streams[number], 14, text, ())
        b.peer.core.refuse(b.peer.streams[5], 3, "bad", ())
        b.peer.write()
        b.link.read()

        assert b.statuses() == {"UNAVAILABLE": 2, "INVALID_ARGUMENT": 1}
        assert b.meter.errors["UNAVAILABLE"].first == "queue full"
        assert b.meter.completed == 0


@pytest.mark.parametrize(
    ("code", "status"),
    [(8, "CANCELLED"), (7, "UNAVAILABLE"), (2, "INTERNAL"), (11, "RESOURCE_EXHAUSTED")],
)
def test_a_reset_is_a_status(code: int, status: str) -> None:
    """As gRPC maps them."""
    with bench() as b:
        b.call(NOW)
        b.peer.core.reset(b.peer.streams[1], code)
        b.peer.write()
        b.link.read()

        assert b.statuses() == {status: 1}


def test_ok_without_a_response_is_a_failure() -> None:
    """A call that succeeded has exactly one response."""
    with bench() as b:
        b.call(NOW)
        stream = b.peer.streams[1]
        b.peer.core.send_head(stream, HEAD)
        b.peer.core.send_trailers(stream, OK_TRAILERS)
        b.peer.write()
        b.link.read()

        assert b.statuses() == {"INTERNAL": 1}


def test_large_messages_pass_in_pieces() -> None:
    """Both ways, through a socket that takes less than all of it at once."""
    body = bytes(3_000_000)
    with bench(body=body) as b:
        b.link.launch([NOW])
        for _ in range(2000):
            b.link.flush()
            b.peer.read()
            b.peer.write()
            b.link.read()
            if 1 in b.peer.requests:
                break
        assert b.peer.requests[1] == body
        b.peer.core.respond(b.peer.streams[1], bytes(100_000))
        for _ in range(2000):
            for piece in b.peer.core.output():
                b.peer.sock.setblocking(True)
                b.peer.sock.sendall(piece[:50_000])
                b.link.read()
                b.peer.sock.sendall(piece[50_000:])
                b.peer.sock.setblocking(False)
                b.link.read()
            b.link.flush()
            b.peer.read()
            if not b.link.in_flight:
                break

        assert b.meter.completed == 1


def test_a_lost_connection_fails_its_calls() -> None:
    """They are UNAVAILABLE, once each, and the link takes no more."""
    with bench() as b:
        b.call(NOW, NOW)
        b.peer.sock.close()
        b.link.read()

        assert b.statuses() == {"UNAVAILABLE": 2}
        assert (b.link.open, b.link.room, b.link.leaving) == (False, 0, True)


def test_a_server_that_breaks_the_rules_is_left() -> None:
    """Its calls fail and say so, nothing raises."""
    with bench() as b:
        b.call(NOW, NOW)
        b.peer.sock.sendall(b"\x00\x00\x00\x00\x00\x00\x00\x00\x00")
        b.link.read()

        assert b.statuses() == {"UNAVAILABLE": 2}
        assert b.meter.errors["UNAVAILABLE"].first == (
            "the server broke the protocol: DATA on stream 0"
        )
        assert not b.link.open


@pytest.mark.parametrize("reading", [True, False])
def test_a_socket_that_fails_in_any_way_fails_its_calls(reading: bool) -> None:
    """A host that cannot be reached any more ends a connection, not the run."""
    with bench() as b:
        b.call(NOW)
        b.link.sock = Unreachable()  # type: ignore[assignment]
        if reading:
            b.link.read()
        else:
            b.link.launch([NOW])
            b.link.flush()

        assert b.statuses() == {"UNAVAILABLE": 1 if reading else 2}
        assert b.meter.errors["UNAVAILABLE"].first.endswith("No route to host")
        assert not b.link.open


def test_a_server_that_leaves_gets_no_more_calls_and_may_answer_those_it_has() -> None:
    """After GOAWAY the link is left, but not closed."""
    with bench() as b:
        b.call(NOW)
        b.peer.core.shutdown()
        b.peer.write()
        b.link.read()

        assert b.link.leaving
        assert b.link.open
        b.peer.answer(1)
        b.link.read()
        assert b.meter.completed == 1


def test_calls_past_their_deadline_are_cancelled() -> None:
    """With DEADLINE_EXCEEDED, to a tick; the younger ones go on."""
    with bench(timeout_s=1.0) as b:
        b.call(NOW)
        b.link.expire(b.clock.now)
        b.clock.now += S // 2
        b.call(NOW)
        for _ in range(7):
            b.clock.now += S // 10
            b.link.expire(b.clock.now)
        b.link.flush()
        b.peer.read()

        assert b.statuses() == {"DEADLINE_EXCEEDED": 1}
        assert b.link.in_flight == 1
        assert 1 not in b.peer.core.streams


def test_a_stream_is_its_first_response_the_gaps_and_its_end() -> None:
    """Three responses, 5 ms apart, and an end 2 ms later."""
    with bench(streamed=True) as b:
        b.call(NOW)
        stream = b.peer.streams[1]
        b.peer.core.send_head(stream, HEAD)
        for _ in range(3):
            b.clock.now += 5 * MS
            b.peer.core.send_messages(stream, [b"\x12\x00"])
            b.peer.write()
            b.link.read()
        b.clock.now += 2 * MS
        b.peer.core.send_trailers(stream, OK_TRAILERS)
        b.peer.write()
        b.link.read()

        assert b.meter.first.histogram.most == 5 * MS
        assert (b.meter.gaps.histogram.count, b.meter.gaps.histogram.most) == (2, 5 * MS)
        assert b.meter.latencies.histogram.most == 17 * MS
        assert (b.meter.messages, b.meter.completed) == (3, 1)


def test_an_error_inside_a_stream_is_a_failure() -> None:
    """Servers without true statuses put it into a message and end with OK."""
    with bench(streamed=True) as b:
        b.call(NOW)
        stream = b.peer.streams[1]
        b.peer.core.send_head(stream, HEAD)
        b.peer.core.send_messages(stream, [b"\n\x04oops"])
        b.peer.core.send_trailers(stream, OK_TRAILERS)
        b.peer.write()
        b.link.read()

        assert b.statuses() == {"UNKNOWN": 1}
        assert b.meter.errors["UNKNOWN"].first == "oops"


# -- several connections ---------------------------------------------------------------------------


@contextmanager
def carrier_of(connections: int) -> Iterator[tuple[Http2Carrier, list[Bench], list[bool]]]:
    """A carrier over links that the test answers; with `refused[0]` no more can be opened."""
    opened: list[Bench] = []
    refused = [False]
    meter = Meter()
    meter.open(0)

    def dial(_: int) -> Link:
        if refused[0]:
            raise InferenceError(Status.UNAVAILABLE, "failed to connect")
        context = bench()
        made = context.__enter__()
        contexts.append(context)
        made.meter = made.link._meter = meter
        opened.append(made)
        return made.link

    contexts: list[object] = []
    carrier = Http2Carrier(dial, connections, meter)
    try:
        yield carrier, opened, refused
    finally:
        carrier.close()
        for each in contexts:
            each.__exit__(None, None, None)  # type: ignore[attr-defined]


def in_flight_of(opened: Sequence[Bench]) -> list[int]:
    """Calls in flight of each connection."""
    return [each.link.in_flight for each in opened]


def test_calls_are_spread_evenly_over_the_connections() -> None:
    """The fullest never has more than one call above the emptiest."""
    with carrier_of(3) as (carrier, opened, _):
        carrier.launch([NOW] * 10)
        assert sorted(in_flight_of(opened)) == [3, 3, 4]

        carrier.poll(0)
        opened[0].peer.read()
        for number in list(opened[0].peer.streams):
            opened[0].peer.answer(number)
        opened[0].link.read()
        carrier.launch([NOW] * 2)
        carrier.launch([NOW])

        assert max(in_flight_of(opened)) - min(in_flight_of(opened)) <= 1
        assert carrier.in_flight == sum(in_flight_of(opened))


def test_a_lost_connection_is_opened_anew() -> None:
    """Its place is taken by the next, and the others never noticed."""
    with carrier_of(2) as (carrier, opened, _):
        carrier.launch([NOW, NOW])
        opened[0].peer.sock.close()
        carrier.poll(0)

        assert len(opened) == 3
        assert carrier.in_flight == 1
        carrier.launch([NOW])
        assert in_flight_of(opened[1:]) == [1, 1]


def test_without_any_connection_calls_fail_and_the_loop_goes_on() -> None:
    """Each is UNAVAILABLE; a connection is tried again later."""
    with carrier_of(2) as (carrier, opened, refused):
        refused[0] = True
        for each in opened:
            each.peer.sock.close()
        carrier.poll(0)
        assert carrier.room > 1000

        carrier.launch([NOW] * 5)

        assert carrier.meter.errors["UNAVAILABLE"].count == 5
        assert carrier.in_flight == 0


def test_abandoned_calls_fail() -> None:
    """At the end of a run nothing is in flight."""
    with carrier_of(2) as (carrier, _, _):
        carrier.launch([NOW] * 5)
        carrier.abandon()

        assert carrier.in_flight == 0
        assert carrier.meter.errors["DEADLINE_EXCEEDED"].count == 5
