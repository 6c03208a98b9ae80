"""What a peer can make a connection keep: bounded, whatever it sends, for as long as it likes."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from tests.http2.frames import (
    INCREMENTAL,
    Type,
    block,
    data,
    headers,
    literal,
    message,
    priority,
    rst_stream,
    settings,
    split,
    window_update,
)
from tests.http2.fuzz.seeds import START
from tests.http2.raw import request_fields

from penstock.transport.http2.events import Lost, Opened, Refused, Request
from penstock.transport.http2.limits import Limits
from penstock.transport.http2.server_connection import ServerConnection

ECHO = block(request_fields())
SECOND_NS = 1_000_000_000
MOST = 3 << 20
"""Bytes that a connection may have grown by: read buffers and caches are in it."""


def connected(limits: Limits | None = None) -> ServerConnection:
    """A connection after its handshake."""
    connection = ServerConnection(limits)
    connection.feed(START, 0)
    connection.output()
    return connection


def new_heads(number: int) -> bytes:
    """A call whose head was never seen, large as heads go."""
    fields = request_fields("/s/Echo", (b"x-id", b"%d" % number * 400))
    return headers(number, block(fields)) + data(number, message(b"m"), end=True)


def new_entries(number: int) -> bytes:
    """A call that puts something new into the table."""
    raw = ECHO + literal(b"x-%d" % number, b"v" * 1_500, INCREMENTAL)
    return headers(number, raw) + data(number, message(b"m"), end=True)


def new_paths(number: int) -> bytes:
    """A call of a method that nobody has."""
    return headers(number, block(request_fields("/s/" + f"x{number}" * 300)), end=True)


def resets(number: int) -> bytes:
    """A call that is reset, and late frames of it."""
    return headers(number, ECHO) + rst_stream(number) + data(number, b"late")


def gaps(number: int) -> bytes:
    """Ids are left out."""
    return new_heads(number * 1_001)


def ignored(number: int) -> bytes:
    """Frames that mean nothing."""
    return priority(number) + window_update(0, 1) + settings((0xF0, number))


@pytest.mark.parametrize("send", [new_heads, new_entries, new_paths, resets, gaps, ignored])
def test_what_is_remembered_of_the_past_is_bounded(send: Callable[[int], bytes]) -> None:
    """Thousands of calls that have nothing in common, at a pace that no defence forbids."""
    connection = connected()

    def go_on(numbers: range) -> None:
        for number in numbers:
            for event in connection.feed(send(number), number * SECOND_NS):
                assert not isinstance(event, Lost), event
                if isinstance(event, Request):
                    connection.respond(event.stream, b"r")
                elif isinstance(event, Opened) and not event.stream.closed:
                    connection.refuse(event.stream, 12, "no")
            connection.output()

    go_on(range(1, 401, 2))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    go_on(range(401, 8_001, 2))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()

    assert grown < MOST, f"{grown} bytes"


def granted(connection: ServerConnection, stream: int) -> int:
    """The window that it opened just now: 0 is the connection."""
    frames = split(b"".join(connection.output()))
    updates = [one for one in frames if one.type == Type.WINDOW_UPDATE and one.stream == stream]
    return sum(int.from_bytes(one.payload) for one in updates)


def test_messages_that_nobody_takes_stop_the_sender() -> None:
    """However many streams a client sends on, it gets no further than the limits say."""
    limits = Limits(stream_window=70_000, connection_window=200_000, connection_held=500_000)
    connection = ServerConnection(limits)
    room = 65_535 + granted(connection, 0)
    connection.feed(START, 0)
    piece = message(bytes(995)) * 10
    sent = 0
    for number in range(1, 401, 2):
        connection.feed(headers(number, ECHO), number)
        for _ in range(5):
            if room < len(piece):
                break
            connection.feed(data(number, piece), number)
            sent, room = sent + len(piece), room - len(piece)
            room += granted(connection, 0)

    assert connection.error is None
    assert sent <= limits.connection_held + limits.connection_window + len(piece)


def test_calls_that_end_give_back_what_waited_for_them() -> None:
    """Whoever is stopped because others' messages wait goes on once those calls are over."""
    limits = Limits(stream_window=70_000, connection_window=100_000, connection_held=90_000)
    connection = ServerConnection(limits)
    room = 65_535 + granted(connection, 0)
    connection.feed(START, 0)
    piece = message(bytes(995)) * 10
    for number in (1, 3, 5, 7):
        connection.feed(headers(number, ECHO), 1)
        for _ in range(6):
            if room >= len(piece):
                connection.feed(data(number, piece), 2)
                room += granted(connection, 0) - len(piece)
    assert room < len(piece)
    assert connection.error is None

    for stream in list(connection.streams.values()):
        connection.refuse(stream, 8, "enough")

    assert granted(connection, 0) >= limits.connection_window // 2


def test_memory_that_is_not_to_be_had_costs_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """RESOURCE_EXHAUSTED; the connection and its other calls go on."""

    def refuse(*_: object) -> None:
        raise MemoryError

    connection = connected()
    connection.feed(headers(1, ECHO), 1)
    monkeypatch.setattr(np, "empty", refuse)
    events = connection.feed(data(1, b"\0\x7f\xff\xff\xff") + new_heads(3), 2)

    first, second = events
    assert isinstance(first, Refused)
    assert isinstance(second, Request)
    assert (first.status, first.stream.id, second.stream.id) == (8, 1, 3)
    assert connection.error is None
