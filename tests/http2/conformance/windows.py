"""Sections 6.7 to 6.9 of RFC 9113: PING, GOAWAY, and the windows that bound what is sent."""

from collections.abc import Iterator

from tests.http2.conformance.case import (
    Case,
    Row,
    alive,
    answers,
    any_error,
    connection_error,
    sending,
    stream_error,
)
from tests.http2.conformance.generic import BLOCK, HANG, HELLO, call
from tests.http2.frames import (
    ACK,
    MAX_WINDOW,
    Code,
    Setting,
    Type,
    block,
    data,
    frame,
    headers,
    message,
    ping,
    settings,
    window_update,
)
from tests.http2.raw import RawClient, request_fields

PROTOCOL, SIZE = Code.PROTOCOL_ERROR, Code.FRAME_SIZE_ERROR
FLOW = Code.FLOW_CONTROL_ERROR
OPEN = headers(1, HANG)
WINDOW = Setting.INITIAL_WINDOW_SIZE


def window_of_one(client: RawClient) -> None:
    """The server may send one byte of the answer, and the rest as windows open."""
    client.send(settings((WINDOW, 1)))
    call(client)
    first = client.wait(lambda one: one.type == Type.DATA)
    assert len(first.payload) == 1
    client.fence()
    assert len(client.so_far(1).body) == 1
    client.send(window_update(1, 2))
    assert len(client.wait(lambda one: one.type == Type.DATA).payload) == 2
    client.send(window_update(1, 100), settings((WINDOW, 65_535)))


def opened_later(client: RawClient) -> None:
    """A window of nothing, which SETTINGS open for a stream that waits."""
    client.send(settings((WINDOW, 0)))
    call(client)
    client.fence()
    assert client.so_far(1).body == b""
    client.send(settings((WINDOW, 1)))
    assert len(client.wait(lambda one: one.type == Type.DATA).payload) == 1
    client.send(settings((WINDOW, 1000)))


def negative(client: RawClient) -> None:
    """SETTINGS take more than the window has: what was sent is made up for first."""
    client.send(settings((WINDOW, 3)))
    call(client)
    assert len(client.wait(lambda one: one.type == Type.DATA).payload) == 3
    client.send(settings((WINDOW, 2)), window_update(1, 1))
    client.fence()
    assert len(client.so_far(1).body) == 3
    client.send(window_update(1, 1))
    assert len(client.wait(lambda one: one.type == Type.DATA).payload) == 1
    client.send(window_update(1, 100), settings((WINDOW, 65_535)))


def connection_window(client: RawClient) -> None:
    """All streams together send no more than the connection's window."""
    client.send(settings((WINDOW, MAX_WINDOW)))
    client.request(1, b"100000", "/s/Big")
    client.wait(lambda _: len(client.so_far(1).body) >= 65_535)
    client.fence()
    assert len(client.so_far(1).body) == 65_535
    client.send(window_update(0, 1 << 20))


def small_frames(client: RawClient) -> None:
    """No frame of an answer is larger than this side takes: 16 KiB when it says nothing."""
    client.send(settings((WINDOW, MAX_WINDOW)), window_update(0, 1 << 20))
    client.request(1, b"100000", "/s/Big")
    assert client.answer(1).messages == [bytes(100_000)]
    assert max(len(one.payload) for one in client.seen if one.type == Type.DATA) <= 16_384


def blocked_stream_blocks_none(client: RawClient) -> None:
    """A stream without window does not hold up another."""
    client.send(settings((WINDOW, 0)), headers(1, BLOCK), data(1, HELLO, end=True))
    client.send(headers(3, BLOCK), window_update(3, 100), data(3, HELLO, end=True))
    assert client.answer(3).messages == [b"hello"]
    assert client.so_far(1).body == b""
    client.send(window_update(1, 100), settings((WINDOW, 65_535)))


def beyond_the_window(client: RawClient) -> None:
    """More than the window of a stream whose handler reads nothing."""
    piece = message(bytes(1000)) * 16
    client.send(headers(1, block(request_fields("/s/HangStream"))))
    allowed = client.peer_settings.get(WINDOW, 65_535)
    for _ in range(allowed // len(piece) + 1):
        client.send(data(1, piece))


def _no_ack(client: RawClient) -> None:
    client.fence()
    assert sum(one.is_(Type.PING, ACK) for one in client.seen) == 1


WINDOWS: tuple[Row, ...] = (
    ("6.7", "a PING with ACK is not answered", sending(ping(b"nobody's", ACK)), _no_ack),
    ("6.7", "PING on a stream", sending(frame(6, 0, 1, b"12345678")), connection_error(PROTOCOL)),
    ("6.7", "PING of another length than 8", sending(ping(b"short")), connection_error(SIZE)),
    ("6.8", "GOAWAY on a stream", sending(frame(7, 0, 1, b"\0" * 8)), connection_error(PROTOCOL)),
    ("6.8", "GOAWAY too short", sending(frame(7, 0, 0, b"\0" * 7)), connection_error(SIZE)),
    ("6.9", "WINDOW_UPDATE of 0", sending(window_update(0, 0)), connection_error(PROTOCOL)),
    (
        "6.9",
        "WINDOW_UPDATE of 0 on a stream",
        sending(OPEN, window_update(1, 0)),
        stream_error(1, PROTOCOL),
    ),
    (
        "6.9",
        "WINDOW_UPDATE of another length",
        sending(frame(8, 0, 0, b"\0\0\1")),
        connection_error(SIZE),
    ),
    ("6.9", "the reserved bit of an increment", sending(window_update(0, 1 << 31 | 5)), alive),
    ("6.9.1", "windows are kept", window_of_one, answers(1)),
    (
        "6.9.1",
        "the connection's window is kept",
        connection_window,
        answers(1, body=bytes(100_000)),
    ),
    ("6.9.1", "one stream without window blocks no other", blocked_stream_blocks_none, answers(1)),
    ("4.2", "frames sent are no larger than allowed", small_frames, alive),
    (
        "6.9.1",
        "the connection's window overflows",
        sending(window_update(0, MAX_WINDOW), window_update(0, MAX_WINDOW)),
        connection_error(FLOW),
    ),
    (
        "6.9.1",
        "a stream's window overflows",
        sending(OPEN, window_update(1, MAX_WINDOW), window_update(1, MAX_WINDOW)),
        stream_error(1, FLOW),
    ),
    ("6.9.1", "DATA beyond the window", beyond_the_window, any_error(1, FLOW)),
    ("6.9.2", "SETTINGS change the windows of open streams", opened_later, answers(1)),
    ("6.9.2", "a window may be negative", negative, answers(1)),
    (
        "6.9.2",
        "SETTINGS that make a window overflow",
        sending(OPEN, window_update(1, MAX_WINDOW - 65_535), settings((WINDOW, 65_536))),
        connection_error(FLOW),
    ),
)


def cases() -> Iterator[Case]:
    """All of them."""
    for section, law, act, check in WINDOWS:
        yield Case(section, law, act, check)
