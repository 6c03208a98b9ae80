"""Large messages wake the server for large pieces only, and nothing waits for that."""

import random
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.http2.core import connected, data, headers, open_stream, prefixed, written
from tests.http2.frames import Setting, Type, block, header, message, window_update
from tests.http2.frames import data as data_frame
from tests.http2.frames import headers as headers_frame
from tests.http2.raw import RawClient, eventually, request_fields
from tests.http2.service import Serving, serving

from penstock.transport.http2.appetite import LEAST_BYTES, MOST_BYTES, Appetite
from penstock.transport.http2.connection import HEAD
from penstock.transport.http2.content import WIDE
from penstock.transport.http2.frames import DATA, ErrorCode

MIB = 1 << 20
BODY = random.Random(7).randbytes(3 * MIB)
PIECE = 48 * 1024

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux waits for so many bytes")


class Noted:
    """A transport and its socket that note what they are asked for."""

    def __init__(self, family: int = socket.AF_INET, secure: object = None) -> None:
        self.family = family
        self.asked: list[int] = []
        self._secure = secure

    def get_extra_info(self, name: str) -> Any:
        return {"socket": self, "ssl_object": self._secure}.get(name)

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        self.asked.append(value)


@linux
@given(st.lists(st.integers(0, 5 * MIB), max_size=20))
def test_a_socket_never_waits_for_more_than_the_open_frame_brings(lefts: list[int]) -> None:
    """Or a peer and we would wait for each other; and nothing is said twice."""
    noted = Noted()
    appetite = Appetite(noted)
    for left in lefts:
        appetite.follow(left)
        waits_for = noted.asked[-1] if noted.asked else 1
        assert waits_for == (min(left, MOST_BYTES) if left >= LEAST_BYTES else 1)
    assert all(one != other for one, other in zip(noted.asked, noted.asked[1:], strict=False))


@linux
def test_a_calmed_socket_wakes_for_anything() -> None:
    """Until the next piece of a frame was read."""
    noted = Noted()
    appetite = Appetite(noted)
    appetite.follow(MIB)
    appetite.calm()
    appetite.calm()
    assert noted.asked == [MIB, 1]


@pytest.mark.parametrize(
    "noted", [Noted(socket.AF_UNIX), Noted(secure=object())], ids=["unix", "TLS"]
)
def test_only_plain_tcp_is_told(noted: Noted) -> None:
    """TLS's bytes are not those of frames, and Unix sockets wake as they like."""
    Appetite(noted).follow(MIB)
    assert not noted.asked


def test_a_tls_socket_of_a_blocking_client_is_not_told() -> None:
    """It has no transport to say so."""
    context = ssl.create_default_context()
    with socket.socket() as plain, context.wrap_socket(plain, server_hostname="x") as secure:
        assert repr(Appetite(secure)) == repr(Appetite())
        Appetite(secure).follow(MIB)
        assert secure.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


def test_a_socket_that_is_closed_meanwhile_is_no_error() -> None:
    """Who closed it will be known soon enough."""
    gone = socket.socket()
    appetite = Appetite(gone)
    gone.close()
    appetite.follow(MIB)


def test_between_wide_frames_hardly_more_than_a_header_is_read() -> None:
    """The rest goes right into the message; behind the last one the buffer is whole again."""
    connection = connected()
    whole = len(connection.buffer())
    open_stream(connection)
    framed = prefixed(BODY)
    for start in range(0, len(framed), WIDE):
        piece = framed[start : start + WIDE]
        connection.feed(data(1, piece, end=start + WIDE >= len(framed)), 0)
        assert len(connection.buffer()) == (HEAD if start + WIDE < len(framed) else whole)
    assert connection.awaited == 0


def test_what_is_awaited_is_what_is_left_of_a_large_messages_frame() -> None:
    """Nothing for small ones, and nothing once nobody wants the message any more."""
    connection = connected()
    stream = open_stream(connection)
    framed = prefixed(BODY)
    connection.feed(header(MIB, DATA, 0, 1) + framed[:1000], 0)
    assert connection.awaited == MIB - 1000
    connection.reset(stream, ErrorCode.CANCEL)
    assert connection.awaited == 0
    connection.feed(framed[1000:MIB] + headers(3) + data(3, prefixed(b"x"), end=True), 0)
    assert connection.awaited == 0
    assert written(connection)


@pytest.fixture(params=["asyncio", "uvloop"])
def served(request: pytest.FixtureRequest) -> Iterator[Serving]:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    with serving(loop_name=request.param) as service:
        yield service


def _begin(client: RawClient, stream: int, path: str = "/s/Echo") -> bytes:
    """Opens a call whose one DATA frame is all of BODY, and returns the frame."""
    client.start((Setting.INITIAL_WINDOW_SIZE, 2**31 - 1))
    client.send(headers_frame(stream, block(request_fields(path))))
    # Its message's first bytes let the window grow to what it needs.
    framed = message(BODY)
    client.send(data_frame(stream, framed[:100_000]))
    client.wait(lambda one: one.type == Type.WINDOW_UPDATE and one.stream == stream)
    return data_frame(stream, framed[100_000:], end=True)


def test_a_frame_that_comes_slowly_is_taken_as_it_comes(served: Serving) -> None:
    """In pieces that no segment nor buffer has the size of."""
    with RawClient(served.address) as client:
        frame = _begin(client, 1)
        for start in range(0, len(frame), PIECE):
            client.send(frame[start : start + PIECE])
            if start % (8 * PIECE) == 0:
                time.sleep(0.01)
        assert _taken(client, 1) == BODY


def test_a_call_behind_a_large_frame_is_answered_with_it(served: Serving) -> None:
    """The last byte of the frame is enough to wake whoever serves the next one."""
    with RawClient(served.address) as client:
        frame = _begin(client, 1, "/s/Hang")
        client.send(frame)
        assert client.call(3, b"next").messages == [b"next"]


def test_a_peer_that_leaves_within_a_frame_is_noticed(served: Serving) -> None:
    """Whatever was waited for does not come any more."""
    with RawClient(served.address) as client:
        frame = _begin(client, 1)
        client.send(frame[: MIB // 2])
        eventually(lambda: served.connections == 1, "it is there")
    eventually(lambda: served.connections == 0, "it is forgotten")


def test_what_came_of_a_stalled_frame_counts_until_the_stall_is_over() -> None:
    """A peer that goes on within the time it has is served, if each piece is too small to wake."""
    with serving(stream_stall_s=0.8) as served, RawClient(served.address) as client:
        frame = _begin(client, 1)
        for start in range(0, len(frame), len(frame) // 6):
            client.send(frame[start : start + len(frame) // 6])
            time.sleep(0.3)
        assert _taken(client, 1) == BODY
        assert served.defended("stalled_requests") == 0


def test_a_frame_that_stops_coming_is_given_up() -> None:
    """Although it took all of its stream's window when it began."""
    with serving(stream_stall_s=0.4) as served, RawClient(served.address) as client:
        frame = _begin(client, 1)
        client.send(frame[: MIB // 2])
        assert client.answer(1).status == 8
        assert served.defended("stalled_requests") == 1


def _taken(client: RawClient, stream: int) -> bytes:
    """The one message of an answer, as much window given as it needs."""
    client.send(window_update(0, 2**30))
    (found,) = client.answer(stream).messages
    return found
