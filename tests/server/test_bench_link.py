"""One connection of the load generator, with a server of HTTP/2 frames at its other end."""

import errno
import socket

import pytest
from tests.server.bench_peer import MS, S, bench

from penstock.bench.carrier import NOW
from penstock.transport.http2.answers import HEAD, OK_TRAILERS


class Unreachable:
    """A socket whose host is not there any more."""

    def recv_into(self, _: object) -> int:
        raise OSError(errno.EHOSTUNREACH, "No route to host")

    send = sendmsg = recv_into

    def close(self) -> None:
        pass


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
