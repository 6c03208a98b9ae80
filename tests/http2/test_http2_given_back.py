"""What a call takes of its connection (windows, memory) comes back, however it came and ended."""

import gc
import weakref
import zlib
from collections.abc import Callable

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

from penstock.transport.http2.answers import OK_TRAILERS
from penstock.transport.http2.events import Ended, Event, Message, Opened, Request
from penstock.transport.http2.frames import END_HEADERS, PREFACE, ErrorCode, rst_stream
from penstock.transport.http2.inflow import LARGE
from penstock.transport.http2.server_connection import ServerConnection
from penstock.transport.http2.settings import settings_frame
from penstock.transport.http2.stream import Stream

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


class WeakStream(Stream):
    """A stream whose end can be seen."""

    __slots__ = ("__weakref__",)


def body_of(size: int, *, end: bool = True) -> bytes:
    return data(1, prefixed(bytes(size)), end=end)


ENDINGS: dict[str, Callable[[ServerConnection, Stream], None]] = {
    "answered": lambda link, stream: link.respond(stream, b"answer"),
    "answered slowly": lambda link, stream: link.respond(stream, bytes(60_000)),
    "refused": lambda link, stream: link.refuse(stream, 5, "no"),
    "reset": lambda link, stream: link.reset(stream, ErrorCode.CANCEL),
    "reset by the peer": lambda link, _: _feed(link, rst_stream(1, ErrorCode.CANCEL)),
    "streamed": lambda link, stream: link.send_trailers(stream, OK_TRAILERS),
}
WAYS = {
    "whole": headers(1) + body_of(100),
    "large": headers(1) + body_of(300_000),
    "large, in frames": headers(1)
    + b"".join(data(1, piece) for piece in cut(prefixed(bytes(300_000)), [16_384, 200_000]))
    + data(1, b"", end=True),
    "its end alone": headers(1) + body_of(100, end=False) + data(1, b"", end=True),
    "with trailers": headers(1)
    + body_of(100, end=False)
    + headers(1, END_HEADERS, block([(b"x", b"1")]), end=True),
    "without its end": headers(1) + body_of(100, end=False),
    "cut off": headers(1) + data(1, prefixed(bytes(300_000))[:-1]),
    "two messages": headers(1)
    + data(1, prefixed(bytes(300))[:100])
    + data(1, prefixed(bytes(300))[100:])
    + body_of(100),
}


def _feed(link: ServerConnection, text: bytes) -> None:
    link.feed(text, NOW_NS)


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("text", WAYS.values(), ids=WAYS)
def test_nothing_of_a_call_that_is_over_lives_on_in_its_connection(
    text: bytes, end: Callable[[ServerConnection, Stream], None]
) -> None:
    """Or an idle connection would keep the request, and what its handler made of it, for ever."""
    link = ServerConnection(connected().limits, WeakStream)
    link.feed(PREFACE + settings_frame({}), NOW_NS)
    events = link.feed(text, NOW_NS)
    stream = next(event.stream for event in events if isinstance(event, Opened | Request))
    alive = [weakref.ref(stream)]
    for event in events:
        if isinstance(event, Message) and type(event.message) is memoryview:
            alive.append(weakref.ref(event.message.obj))

    end(link, stream)
    written(link)
    del events, event, stream
    gc.collect()

    assert [one() for one in alive if one() is not None] == []
