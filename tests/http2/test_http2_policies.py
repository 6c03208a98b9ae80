"""What the server does about peers that are silent, slow, too many or that ask too much, and how it
retires connections: over real sockets, with times that are short.
"""

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from tests.http2.frames import (
    ACK,
    MAX_WINDOW,
    Code,
    Frame,
    Setting,
    Type,
    block,
    data,
    headers,
    message,
    ping,
    split,
    window_update,
)
from tests.http2.raw import RawClient, eventually, request_fields
from tests.http2.service import Serving, serving

from penstock.transport.http2.server import Http2Transport


def figures(served: Serving) -> dict[str, float]:
    """What a scrape says; defences by their own names."""
    assert isinstance(served.transport, Http2Transport)
    return {
        sample.labels.get("name", family.name): sample.value
        for family in served.transport.families()
        for sample in family.samples
    }


def counted(served: Serving, name: str, least: int = 1) -> None:
    """Wait until a figure is that high."""
    eventually(lambda: figures(served).get(name, 0) >= least, f"{name}: {figures(served)}")


def all_closed(served: Serving) -> None:
    """Wait until the server has no connection and no task of a call."""
    eventually(lambda: figures(served)["penstock_http2_connections"] == 0, "connections closed")
    eventually(lambda: served.tasks() == 1, "no task is left")


def all_closed_after(client: RawClient, served: Serving) -> None:
    """Leave, and wait until nothing is left."""
    client.close()
    all_closed(served)


def goaways(client: RawClient) -> list[Frame]:
    """Every GOAWAY until the connection ends."""
    for _ in client.frames():
        pass
    return [frame for frame in client.seen if frame.type == Type.GOAWAY]


@pytest.mark.parametrize("said", [b"", b"PRI * HTTP/2.0\r\n\r\n"])
def test_who_does_not_speak_in_time_is_closed(said: bytes) -> None:
    """Silence, and half a preface; who speaks is served all the while."""
    with serving(handshake_timeout_ms=100) as served, RawClient(served.address) as other:
        other.start()
        with RawClient(served.address) as silent:
            silent.send(said)
            assert silent.goaway() is None or silent.eof
        counted(served, "handshake_timeout")
        assert other.call(1, b"x").messages == [b"x"]


@pytest.mark.parametrize("path", ["/s/Hang", "/s/HangStream", "/q/Hang"])
def test_a_peer_that_is_silent_is_pinged_and_then_given_up(path: str) -> None:
    """Its calls are cancelled with it."""
    options: dict[str, Any] = {"keepalive_time_ms": 100, "keepalive_timeout_ms": 150}
    with serving(**options) as served, RawClient(served.address) as client:
        client.start()
        client.request(1, b"", path)
        client.wait(lambda frame: frame.is_(Type.PING))
        for _ in client.frames():
            pass
        counted(served, "keepalive_timeout")
        eventually(lambda: served.service.cancelled == 1, "the handler is told")
        all_closed(served)


def test_a_peer_that_answers_pings_stays() -> None:
    """However long it says nothing else."""
    options: dict[str, Any] = {
        "keepalive_time_ms": 40,
        "keepalive_timeout_ms": 40,
        "max_pings_without_data": 0,
    }
    with serving(**options) as served, RawClient(served.address) as client:
        client.start()
        client.request(1, b"", "/q/Hang")
        for _ in range(5):
            asked = client.wait(lambda frame: frame.is_(Type.PING) and not frame.flags & ACK)
            client.send(ping(asked.payload, ACK))
        assert client.call(3, b"x").messages == [b"x"]
        assert "keepalive_timeout" not in figures(served)


def test_too_many_pings_end_the_connection_by_name() -> None:
    """As gRPC's servers do, so that its clients ping less."""
    with serving(max_ping_strikes=2) as served, RawClient(served.address) as client:
        client.start()
        client.send(*(ping() for _ in range(4)))
        (said,) = goaways(client)

        assert said.code == Code.ENHANCE_YOUR_CALM
        assert said.payload[8:] == b"too_many_pings"
        counted(served, "ping_strikes")


def test_pings_that_measure_a_long_answer_are_not_too_many() -> None:
    """Clients send one when data arrives and the one before was answered."""
    body = bytes(500_000)
    with serving(max_ping_strikes=1) as served, RawClient(served.address) as client:
        client.start()
        client.request(1, body)
        got, measuring = 0, False
        while got < len(message(body)):
            frame = client.read()
            assert frame is not None
            assert not frame.is_(Type.GOAWAY)
            if frame.is_(Type.PING):
                measuring = False
            elif frame.is_(Type.DATA):
                size = len(frame.payload)
                got += size
                client.send(b"" if measuring else ping())
                client.send(window_update(1, size), window_update(0, size))
                measuring = True

        assert client.call(3, b"x").messages == [b"x"]


@pytest.mark.parametrize(
    ("options", "why"),
    [({"max_connection_age_ms": 100}, "max_age"), ({"max_connection_idle_ms": 100}, "max_idle")],
)
def test_a_connection_is_retired_in_two_steps(options: dict[str, Any], why: str) -> None:
    """First that no calls should come, then which ones came, and at last the end."""
    with serving(**options) as served, RawClient(served.address) as client:
        client.start()
        client.wait(lambda frame: frame.is_(Type.GOAWAY))
        asked = client.wait(lambda frame: frame.is_(Type.PING))
        client.request(1, b"late")
        client.send(ping(asked.payload, ACK))
        answer = client.answer(1)
        said = goaways(client)

        assert answer.messages == [b"late"]
        assert [frame.code for frame in said] == [0, 0]
        assert [int.from_bytes(frame.payload[:4]) for frame in said] == [MAX_WINDOW, 1]
        counted(served, why)
        all_closed(served)


def test_a_client_that_never_answers_the_ping_of_a_shutdown_is_drained_too() -> None:
    """It had the time of a keepalive to do so; calls that it began go on, later ones do not."""
    options: dict[str, Any] = {"max_connection_age_ms": 100, "keepalive_timeout_ms": 300}
    with serving(**options) as served, RawClient(served.address) as client:
        client.start()
        client.wait(lambda frame: frame.is_(Type.GOAWAY))
        client.request(1, b"", "/s/Double")
        client.send(headers(3, block(request_fields("/s/Double"))))
        final = client.wait(lambda frame: frame.is_(Type.GOAWAY))
        client.request(5, b"too late")
        client.fence()
        client.send(data(3, message(b"x"), end=True))
        goaways(client)

        assert int.from_bytes(final.payload[:4]) == 3
        assert client.so_far(3).messages == [b"x", b"x"]
        assert client.so_far(5).frames == []
        all_closed(served)


def test_last_words_arrive_although_the_client_still_sends() -> None:
    """What nobody reads any more would make a TCP reset of a socket that is closed at once."""
    options: dict[str, Any] = {"max_connection_age_ms": 100, "max_connection_age_grace_ms": 100}
    with serving(**options) as served, RawClient(served.address) as client:
        client.start()
        client.send(headers(1, block(request_fields("/s/Drain"))))
        client.fence()
        piece = data(1, message(bytes(16_000)))
        while served.figure("penstock_http2_streams"):
            client.socket.sendall(piece)
        client.socket.sendall(piece * 20)
        received = b""
        while chunk := client.socket.recv(1 << 16):
            received += chunk

        said = [frame for frame in split(received) if frame.is_(Type.GOAWAY)]
        assert [frame.code for frame in said] == [0, 0]
        all_closed(served)


def test_calls_of_an_old_connection_end_with_its_grace() -> None:
    """UNAVAILABLE, which a client may try elsewhere."""
    options: dict[str, Any] = {"max_connection_age_ms": 100, "max_connection_age_grace_ms": 100}
    with serving(**options) as served, RawClient(served.address) as client:
        client.start()
        client.request(1, b"", "/s/Hang")
        answer = client.answer(1)

        assert answer.status == 14
        eventually(lambda: served.service.cancelled == 1, "the handler is told")
        all_closed(served)


def test_connections_beyond_the_cap_are_closed_at_once() -> None:
    """The older ones stay; when one goes another may come."""
    with serving(max_connections=2) as served, ExitStack() as stack:
        first, second = (stack.enter_context(RawClient(served.address)) for _ in range(2))
        first.start()
        second.start()
        with RawClient(served.address) as third:
            assert third.read() is None
        counted(served, "too_many_connections")
        first.close()
        eventually(
            lambda: figures(served)["penstock_http2_connections"] == 1, "the first is forgotten"
        )
        with RawClient(served.address) as fourth:
            fourth.start()
            assert fourth.call(1, b"x").messages == [b"x"]
        assert second.call(1, b"x").messages == [b"x"]


@contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """Let this process open only a few files more than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as probe:
        lowest = probe.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_server_without_descriptors_serves_on_and_recovers() -> None:
    """Connections that are there are served, and new ones once descriptors are free again."""
    with serving() as served, RawClient(served.address) as client, ExitStack() as stack:
        client.start()
        with few_descriptors(12):
            while True:
                try:
                    stack.enter_context(RawClient(served.address))
                except OSError:
                    break
            assert client.call(1, b"x").messages == [b"x"]
        stack.close()
        assert client.call(3, b"y").messages == [b"y"]
        with RawClient(served.address) as fresh:
            fresh.start()
            assert fresh.call(1, b"z").messages == [b"z"]
        counted(served, "accept_errors")


def test_a_reader_that_takes_nothing_off_its_socket_is_given_up() -> None:
    """Windows wide open and a socket that is never read: nothing piles up, and then it ends."""
    options: dict[str, Any] = {"stream_stall_s": 0.3}
    with serving(**options) as served, RawClient(served.address, source_buffer=4096) as client:
        client.start((Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW))
        client.send(window_update(0, MAX_WINDOW - 65_535))
        client.request(1, b"", "/s/Flood")
        counted(served, "stalled_connections")
        eventually(lambda: served.service.cancelled == 1, "the handler is told")

        assert served.service.called["Flood"] < 400
        all_closed(served)


def test_a_reader_that_opens_no_window_loses_its_stream_alone() -> None:
    """Other calls of the connection are answered as ever."""
    options: dict[str, Any] = {"stream_stall_s": 0.3}
    with serving(**options) as served, RawClient(served.address) as client:
        client.start()
        client.send(window_update(0, 1 << 20))
        client.request(1, b"", "/s/Flood")
        answer = client.answer(1)

        assert answer.reset == Code.CANCEL
        counted(served, "stalled_streams")
        eventually(lambda: served.service.cancelled == 1, "the handler is told")
        assert served.service.called["Flood"] < 20
        assert client.call(3, b"x").messages == [b"x"]


@pytest.mark.parametrize("size", [2_000, 1 << 20])
def test_a_request_that_does_not_go_on_is_refused(size: int) -> None:
    """Half a message holds memory; one that comes in small pieces but steadily is served."""
    options: dict[str, Any] = {"stream_stall_s": 0.4}
    with serving(**options) as served, RawClient(served.address) as client:
        client.start()
        half = message(bytes(size))[: size // 2]
        client.send(headers(1, block(request_fields())), data(1, half))
        client.send(headers(3, block(request_fields())))
        for start in range(0, 40_000, 2_000):
            client.send(data(3, message(bytes(39_995))[start : start + 2_000]))
            time.sleep(0.05)
        client.send(data(3, end=True))

        assert client.answer(3).messages == [bytes(39_995)]
        assert client.answer(1).status == 8
        counted(served, "stalled_requests")
        all_closed_after(client, served)


def test_an_old_connection_ends_behind_its_last_answer() -> None:
    """However slowly that is read."""
    options: dict[str, Any] = {"max_connection_age_ms": 100}
    with serving(**options) as served, RawClient(served.address, source_buffer=4096) as client:
        client.start((Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW))
        client.send(window_update(0, MAX_WINDOW - 65_535))
        asked = client.wait(lambda frame: frame.is_(Type.PING) and not frame.flags & ACK)
        client.request(1, b"3000000", "/s/Big")
        client.send(ping(asked.payload, ACK))
        time.sleep(1.5)

        assert client.answer(1).messages == [bytes(3_000_000)]
        all_closed(served)


def test_requests_are_not_read_while_answers_pile_up() -> None:
    """A peer that asks for much and reads nothing is stopped by its own socket."""
    with serving() as served, RawClient(served.address, source_buffer=4096) as client:
        client.start((Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW))
        client.send(window_update(0, MAX_WINDOW - 65_535))
        client.socket.settimeout(0.5)
        stream, blocked = 1, False
        while not blocked and stream < 20_000:
            try:
                client.request(stream, bytes(60_000), "/q/Echo")
            except TimeoutError:
                blocked = True
            stream += 2

        assert blocked
        assert figures(served)["penstock_http2_streams"] < 1_000


@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\x00" * 64]
)
def test_other_protocols_are_told_nothing_and_closed(noise: bytes) -> None:
    """HTTP/1.1, TLS on a plain port, noise; nothing is left."""
    with serving() as served:
        with RawClient(served.address) as client:
            client.send(noise)
            for _ in client.frames():
                pass
        all_closed(served)
