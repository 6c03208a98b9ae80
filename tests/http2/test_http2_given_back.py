"""What a call takes of its connection (windows, memory) comes back, however it came and ended."""

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.http2.core import (
    FIELDS,
    NOW_NS,
    block,
    connected,
    data,
    headers,
    prefixed,
    written,
)

from penstock.transport.http2.events import Ended, Event, Message, Request
from penstock.transport.http2.inflow import LARGE
from penstock.transport.http2.server_connection import ServerConnection

GZIP = block(FIELDS, (b"grpc-encoding", b"gzip"))
SECOND_NS = 1_000_000_000


class Memory:
    """Counts what is reserved for large messages."""

    def __init__(self) -> None:
        self.used = 0

    def reserve(self, size: int) -> bool:
        self.used += size
        return True

    def release(self, size: int) -> None:
        self.used -= size


def packed(message: bytes) -> bytes:
    """The message as it is sent with gzip."""
    engine = zlib.compressobj(1, zlib.DEFLATED, 31)
    return prefixed(engine.compress(message) + engine.flush(), 1)


def answer(connection: ServerConnection, memory: Memory, events: list[Event]) -> int:
    """Do what the dispatcher does: take messages that wait, answer what has ended."""
    answered = 0
    for event in events:
        if isinstance(event, Message):
            connection.consumed(event.stream, len(event.message))
            if type(event.message) is memoryview:
                memory.release(len(event.message))
        if isinstance(event, Request | Ended) or (isinstance(event, Message) and event.end):
            connection.respond(event.stream, b"answer")
            answered += 1
    return answered


def cut(body: bytes, places: list[int]) -> list[bytes]:
    """The bytes in pieces that end at these places, the last at the end."""
    stops = sorted({min(place, len(body)) for place in places} | {len(body)})
    return [body[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


@settings(max_examples=200, deadline=None)
@given(
    size=st.sampled_from([0, 1, 100, 20_000, LARGE, LARGE + 1, 300_000]),
    compressed=st.booleans(),
    frames=st.lists(st.sampled_from([0, 3, 5, 6, 70, 16_384, 100_000]), max_size=4),
    reads=st.lists(st.integers(0, 400_000), max_size=4),
    alone=st.booleans(),
)
def test_calls_that_were_answered_hold_nothing_however_their_bytes_were_cut(
    size: int, compressed: bool, frames: list[int], reads: list[int], alone: bool
) -> None:
    """Neither of the connection's window nor of the memory of large messages; `alone`: END_STREAM
    comes in a frame of its own.
    """
    memory = Memory()
    connection = connected(
        reserve=memory.reserve, release=memory.release, read_buffer=1 << 20, max_frame_size=1 << 20
    )
    body = packed(bytes(size)) if compressed else prefixed(bytes(size))
    pieces = cut(body, frames) + [b""] * alone
    text = headers(1, header_block=GZIP if compressed else block()) + b"".join(
        data(1, piece, end=number == len(pieces)) for number, piece in enumerate(pieces, 1)
    )

    answered = sum(
        answer(connection, memory, connection.feed(read, NOW_NS)) for read in cut(text, reads)
    )

    assert answered == 1
    assert connection.error is None
    assert not connection.streams
    assert connection._held == 0
    assert memory.used == 0


@pytest.mark.parametrize("compressed", [False, True])
def test_a_window_is_never_used_up_by_calls_that_were_answered(compressed: bool) -> None:
    """Though END_STREAM comes in a frame of its own, or messages inflate, for hundreds of MiB."""
    connection = connected()
    body = packed(bytes(60_000)) if compressed else prefixed(bytes(60_000))
    head = GZIP if compressed else block()

    for number in range(3_000):
        stream_id = 1 + 2 * number
        text = headers(stream_id, header_block=head) + data(stream_id, body)
        events = connection.feed(text + data(stream_id, b"", end=True), NOW_NS + number * SECOND_NS)
        answer(connection, Memory(), events)
        written(connection)

    assert connection._held == 0
    assert connection.recv_window > connection.limits.connection_window >> 2
