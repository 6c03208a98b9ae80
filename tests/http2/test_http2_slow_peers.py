"""Peers that read, write or answer slowly, or not at all: bounded, and given up in the end."""

import resource
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from tests.http2.attacks import ECHO, HELLO, odd
from tests.http2.frames import (
    PREFACE,
    Setting,
    Type,
    block,
    data,
    headers,
    message,
    ping,
    rst_stream,
    settings,
    window_update,
)
from tests.http2.raw import RawClient, eventually, request_fields
from tests.http2.under_attack import CROWD, Neighbour, attacked
from tests.http2.under_attack import loop_name as loop_name

from penstock.transport.http2.limits import Limits

STALL: dict[str, Any] = {"stream_stall_s": 0.4}


def test_a_reader_that_opens_no_window_is_given_up() -> None:
    """Its stream is reset, the others of its connection go on."""
    with attacked(**STALL) as served, RawClient(served.address) as client:
        client.start()
        client.request(1, b"x", "/s/Flood")
        client.wait(lambda one: one.type == Type.RST_STREAM)

        eventually(lambda: served.service.inside == 0, "the writer ends")
        assert served.defended("stalled_streams") == 1
        client.send(window_update(0, 1 << 20))
        assert client.call(3, b"x").messages == [b"x"]


def test_answers_that_nobody_lets_out_are_dropped() -> None:
    """A window of nothing from the start, many calls with large answers."""
    with attacked(**STALL) as served, RawClient(served.address) as client:
        client.start((Setting.INITIAL_WINDOW_SIZE, 0))
        for stream in odd(CROWD):
            client.request(stream, b"50000", "/s/Big")
        for stream in odd(CROWD):
            assert client.answer(stream).reset is not None

        assert served.defended("stalled_streams") == CROWD
        assert served.streams <= 1


def test_a_reader_that_dribbles_is_given_up() -> None:
    """A byte of window every now and then is no progress."""
    with attacked(**STALL) as served, RawClient(served.address) as client:
        client.start((Setting.INITIAL_WINDOW_SIZE, 0))
        client.request(1, b"50000", "/s/Big")
        while client.so_far(1).reset is None:
            client.send(window_update(1, 1))
            client.read()
            time.sleep(0.01)

        assert served.defended("stalled_streams") == 1


def test_a_socket_that_is_never_read_is_given_up() -> None:
    """Windows wide open, but nobody takes the bytes: the connection is dropped."""
    with attacked(**STALL) as served, RawClient(served.address, source_buffer=4096) as client:
        client.start((Setting.INITIAL_WINDOW_SIZE, 2**31 - 1))
        client.send(window_update(0, 2**31 - 1 - 65_535))
        for stream in odd(3):
            client.request(stream, b"x", "/s/Flood")

        eventually(lambda: served.defended("stalled_connections") == 1, "it is given up")
        eventually(lambda: served.service.inside == 0, "the writers end")


def test_what_waits_for_a_slow_reader_is_bounded() -> None:
    """A producer is held back: it writes no more than windows and marks allow."""
    with attacked() as served, RawClient(served.address) as client:
        client.start()
        client.request(1, b"x", "/s/Flood")
        client.wait(lambda one: one.type == Type.DATA)
        seen = -1
        while seen != served.service.called["Flood"]:
            seen = served.service.called["Flood"]
            client.fence()

        assert served.service.called["Flood"] * 65_536 < 4 << 20


def test_pings_whose_answers_nobody_reads_end_the_connection() -> None:
    """What answers to a peer's own frames may pile up has a bound."""
    with attacked(**STALL) as served, RawClient(served.address, source_buffer=4096) as client:
        client.start()
        client.socket.settimeout(0.5)
        try:
            for _ in range(2_000):
                client.socket.sendall(ping() * 1_000)
        except OSError:
            pass

        client.socket.settimeout(20)
        eventually(lambda: served.connections == 1, "only the neighbour is left")


@pytest.mark.parametrize("sent", [b"", PREFACE[:7], PREFACE, PREFACE + settings()[:5]])
def test_whoever_says_nothing_is_closed_after_the_handshakes_time(sent: bytes) -> None:
    """Silent sockets, half prefaces, prefaces without SETTINGS; calls go on."""
    with attacked(handshake_timeout_ms=300) as served, ExitStack() as stack:
        clients = [stack.enter_context(RawClient(served.address)) for _ in range(100)]
        for client in clients:
            client.send(sent)
        for client in clients:
            for _ in client.frames():
                pass

        assert served.defended("handshake_timeout") == 100


def test_a_byte_at_a_time_is_a_call_like_any_other() -> None:
    """A slow writer costs patience and nothing else."""
    raw = headers(1, ECHO) + data(1, HELLO, end=True)
    with attacked() as served, RawClient(served.address) as client:
        client.start()
        for at in range(len(raw)):
            client.send(raw[at : at + 1])
            client.socket.settimeout(20)

        assert client.answer(1).messages == [b"hello"]


def test_connections_beyond_the_cap_are_closed_at_once() -> None:
    """And served again as soon as others left."""
    with attacked(max_connections=10) as served, ExitStack() as stack:
        clients = [stack.enter_context(RawClient(served.address)) for _ in range(9)]
        for client in clients:
            client.start()
        with RawClient(served.address) as tenth:
            assert tenth.read() is None
        assert served.defended("too_many_connections") == 1
        clients[0].close()
        eventually(lambda: served.connections == 9, "one has left")

        with RawClient(served.address) as client:
            assert client.start().call(1, b"x").messages == [b"x"]


def test_a_peer_that_does_not_answer_pings_is_dropped() -> None:
    """A half-open connection frees its calls after keepalive's time."""
    keepalive = {"keepalive_time_ms": 200, "keepalive_timeout_ms": 200}
    with attacked(**keepalive) as served, RawClient(served.address) as client:
        client.start()
        client.request(1, b"x", "/s/Hang")
        client.request(3, b"x", "/q/Hang")
        eventually(lambda: served.service.inside == 2, "two calls inside")

        eventually(lambda: served.service.inside == 0, "nobody waits for them any more")
        assert served.defended("keepalive_timeout") == 1
        assert client.wait(lambda one: one.type == Type.PING)


def test_a_peer_that_answers_pings_stays() -> None:
    """A call may last as long as its caller is there."""
    keepalive = {"keepalive_time_ms": 100, "keepalive_timeout_ms": 200, "max_pings_without_data": 0}
    with attacked(**keepalive) as served, RawClient(served.address) as client:
        client.start()
        client.request(1, b"x", "/s/Hang")
        for _ in range(5):
            found = client.wait(lambda one: one.type == Type.PING)
            client.send(ping(found.payload, flags=1))

        assert served.service.inside == 1


def test_too_many_pings_are_answered_with_goaway() -> None:
    """As gRPC has it: two strikes for pings that come too soon without data."""
    with attacked(max_ping_strikes=2) as served, RawClient(served.address) as client:
        client.start()
        client.send(ping() * 5)
        said = client.goaway()

        assert said is not None
        assert (said.code, said.payload[8:]) == (11, b"too_many_pings")
        assert served.defended("ping_strikes") == 1


@pytest.mark.parametrize("path", ["/s/Hang", "/q/Hang", "/s/HangStream", "/s/Nothing"])
def test_calls_around_the_ping_that_ends_a_connection_end_as_well(path: str) -> None:
    """Those that came in the same bytes, before it and behind it."""
    with attacked(max_ping_strikes=2) as served, RawClient(served.address) as client:
        client.start()
        raw = block(request_fields(path))
        call = b"".join(headers(n, raw) + data(n, HELLO, end=True) for n in (1, 3))
        late = b"".join(headers(n, raw) + data(n, HELLO, end=True) for n in (5, 7))
        client.send(call + ping() * 9 + late + headers(9, raw))
        said = client.goaway()

        assert said is not None
        assert said.payload[8:] == b"too_many_pings"


def test_half_a_message_holds_no_more_than_came() -> None:
    """A length of 2 GiB is only a number: memory comes with the bytes."""
    with attacked() as served, RawClient(served.address) as client:
        client.start()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for stream in odd(CROWD):
            client.send(headers(stream, ECHO), data(stream, b"\0\x7f\xff\xff\xff" + bytes(1_000)))
        client.fence()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

        assert grown < 200 << 10, f"{grown} KiB"


def test_whoever_claims_all_memory_and_dribbles_keeps_nobody_out() -> None:
    """It has to fill what it claimed at a pace, while others wait for it."""
    with (
        attacked(**STALL, max_arriving_bytes=64 << 20) as served,
        RawClient(served.address) as client,
        RawClient(served.address) as other,
    ):
        client.start()
        other.start((Setting.INITIAL_WINDOW_SIZE, 1 << 20))
        other.send(window_update(0, 1 << 24))
        client.send(headers(1, ECHO), data(1, b"\0" + (64 << 20).to_bytes(4)))
        client.fence()
        kept_out = other.call(1, bytes(300_000))
        eventually(lambda: dribbled(client), "it is given up")

        assert kept_out.status == 8
        assert client.so_far(1).status == 8
        assert served.defended("stalled_requests") == 1
        assert other.call(3, bytes(300_000)).messages == [bytes(300_000)]


def dribbled(client: RawClient) -> bool:
    """Send some more of the first call's message; whether that was answered."""
    client.send(data(1, bytes(1_100)))
    client.fence()
    return client.so_far(1).status is not None


def test_whoever_claims_little_may_dribble() -> None:
    """The same pace, and nobody waits for what it claimed."""
    with (
        attacked(**STALL, max_arriving_bytes=1 << 30) as served,
        RawClient(served.address) as client,
    ):
        client.start()
        client.send(headers(1, ECHO), data(1, b"\0" + (64 << 20).to_bytes(4)))
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            time.sleep(0.01)

            assert not dribbled(client)


def test_a_call_that_we_hold_up_ourselves_is_not_given_up() -> None:
    """The connection's window is closed by what other calls do not read."""
    limits = replace(
        Limits(), connection_window=65_535, stream_window=65_535, connection_held=100_000
    )
    with attacked(**STALL, limits=limits) as served, RawClient(served.address) as client:
        client.start()
        piece, left, stream = message(bytes(16_000)), 65_535, -1
        while left >= len(piece):
            stream += 2
            client.send(headers(stream, block(request_fields("/s/HangStream"))))
            for _ in range(min(3, left // len(piece))):
                client.send(data(stream, piece))
                left -= len(piece)
            left += granted(client)
        body = message(bytes(60_000))
        client.send(headers(99, ECHO), data(99, body[:left]))
        time.sleep(1.2)
        client.fence()
        held_up = client.so_far(99).status

        client.send(*map(rst_stream, range(1, stream + 1, 2)))
        client.wait(lambda one: one.type == Type.WINDOW_UPDATE and not one.stream)
        client.send(data(99, body[left:], end=True))

        assert left < len(body)
        assert held_up is None
        assert client.answer(99).messages == [bytes(60_000)]
        assert served.defended("stalled_requests") == 0


def granted(client: RawClient) -> int:
    """What the server gave back on the connection since this was last asked."""
    # Credit is given at the end of a read, behind what answers the frames in it.
    client.fence()
    client.fence()
    seen, client.seen = client.seen, []
    updates = [one for one in seen if one.type == Type.WINDOW_UPDATE and not one.stream]
    return sum(int.from_bytes(one.payload) for one in updates)


FEW = """
    import resource, sys, threading
    sys.path[:0] = {path!r}
    from tests.http2.service import serving
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with serving("http2") as served:
        print(served.address, flush=True)
        sys.stdin.readline()
        starved = "socket.accept() out of system resource"
        served.problems = [one for one in served.problems if one["message"] != starved]
"""


def serves(address: str) -> bool:
    """Whether a new connection is taken and served."""
    with RawClient(address) as client:
        client.send(PREFACE, settings())
        client.request(1, b"x")
        return client.answer(1).messages == [b"x"]


def test_a_server_without_descriptors_recovers() -> None:
    """200 connections to a process that may have 64: those inside are served."""
    program = textwrap.dedent(FEW.format(path=sys.path))
    server = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        with ExitStack() as stack, Neighbour(address):
            for _ in range(80):
                stack.enter_context(RawClient(address)).send(PREFACE, settings())
            for _ in range(120):
                # The system's queue is full some time: nobody waits for these to get through.
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                host, _, port = address.rpartition(":")
                waiting.connect_ex((host, int(port)))

        eventually(lambda: serves(address), "the crowd is forgotten")
        assert server.poll() is None
        server.communicate("\n", timeout=30)
        assert server.returncode == 0
