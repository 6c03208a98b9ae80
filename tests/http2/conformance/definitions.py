"""Section 6 of RFC 9113: each frame with everything that can be wrong with it; and 7, codes."""

from collections.abc import Iterator

from tests.http2.conformance.case import (
    Case,
    Row,
    alive,
    all_of,
    answers,
    any_error,
    connection_error,
    sending,
    steps,
)
from tests.http2.conformance.generic import BLOCK, HANG, HELLO, after_call, call, half_closed
from tests.http2.frames import (
    ACK,
    END_HEADERS,
    MAX_WINDOW,
    PADDED,
    PRIORITY_FLAG,
    Code,
    Setting,
    Type,
    continuation,
    data,
    frame,
    goaway,
    headers,
    priority,
    rst_stream,
    settings,
)
from tests.http2.raw import RawClient

PROTOCOL, CLOSED, SIZE = Code.PROTOCOL_ERROR, Code.STREAM_CLOSED, Code.FRAME_SIZE_ERROR
FLOW = Code.FLOW_CONTROL_ERROR
OPEN = headers(1, HANG)
WINDOW = Setting.INITIAL_WINDOW_SIZE

DATA_AND_HEADERS: tuple[Row, ...] = (
    ("6.1", "DATA on stream 0", sending(data(0, b"x")), connection_error(PROTOCOL)),
    ("6.1", "DATA on a closed stream", after_call(data(1, HELLO)), any_error(1, CLOSED)),
    (
        "6.1",
        "DATA whose padding is all of it and more",
        sending(headers(1, BLOCK), frame(Type.DATA, PADDED, 1, b"\x06Test!")),
        connection_error(PROTOCOL),
    ),
    (
        "6.1",
        "padded DATA without the length of its padding",
        sending(headers(1, BLOCK), frame(Type.DATA, PADDED, 1, b"")),
        connection_error(PROTOCOL, SIZE),
    ),
    ("6.2", "HEADERS on stream 0", sending(headers(0, BLOCK)), connection_error(PROTOCOL)),
    (
        "6.2",
        "HEADERS whose padding is larger than they are",
        sending(frame(Type.HEADERS, END_HEADERS | PADDED, 1, b"\xff" + BLOCK[:200])),
        connection_error(PROTOCOL),
    ),
    (
        "6.2",
        "padded HEADERS without the length of their padding",
        sending(frame(Type.HEADERS, END_HEADERS | PADDED, 1, b"")),
        connection_error(PROTOCOL, SIZE),
    ),
    (
        "6.2",
        "HEADERS too short for their priority",
        sending(frame(Type.HEADERS, END_HEADERS | PRIORITY_FLAG, 1, b"\0\0\0")),
        connection_error(PROTOCOL, SIZE),
    ),
    (
        "6.2",
        "HEADERS without END_HEADERS, then DATA",
        sending(headers(1, BLOCK, flags=0), data(1, HELLO)),
        connection_error(PROTOCOL),
    ),
    ("6.3", "PRIORITY on stream 0", sending(priority(0)), connection_error(PROTOCOL)),
    (
        "6.3",
        "PRIORITY of another length than 5",
        sending(OPEN, frame(Type.PRIORITY, 0, 1, b"\0\0\0\x01")),
        any_error(1, SIZE),
    ),
    ("6.4", "RST_STREAM on stream 0", sending(rst_stream(0)), connection_error(PROTOCOL)),
    (
        "6.4",
        "RST_STREAM of another length than 4",
        sending(OPEN, frame(Type.RST_STREAM, 0, 1, b"\0\0\0")),
        connection_error(SIZE),
    ),
)


def huge_table(client: RawClient) -> None:
    """A table as large as can be said, which obliges nobody to use it."""
    client.send(settings((Setting.HEADER_TABLE_SIZE, 0xFFFFFFFF)))
    call(client)


def twice(client: RawClient) -> None:
    """Two values of one setting in a frame: the last one counts."""
    client.send(settings((WINDOW, 100), (WINDOW, 1)), headers(1, BLOCK), data(1, HELLO, end=True))
    client.wait(lambda one: one.type == Type.DATA)
    assert sum(len(one.payload) for one in client.seen if one.type == Type.DATA) == 1


def acknowledged(client: RawClient) -> None:
    """SETTINGS were acknowledged after the acknowledgement of the start."""
    client.fence()
    assert sum(one.is_(Type.SETTINGS, ACK) for one in client.seen) == 2


SETTINGS: tuple[Row, ...] = (
    (
        "6.5",
        "SETTINGS ACK with a payload",
        sending(frame(4, ACK, 0, b"\0")),
        connection_error(SIZE),
    ),
    ("6.5", "SETTINGS on a stream", sending(frame(4, 0, 1)), connection_error(PROTOCOL)),
    (
        "6.5",
        "SETTINGS of no multiple of 6",
        sending(frame(4, 0, 0, b"\0" * 3)),
        connection_error(SIZE),
    ),
    ("6.5", "empty SETTINGS are acknowledged", sending(settings()), all_of(acknowledged, alive)),
    ("6.5", "an ACK of nothing does no harm", sending(frame(4, ACK)), alive),
    ("6.5.2", "ENABLE_PUSH of 2", sending(settings((2, 2))), connection_error(PROTOCOL)),
    ("6.5.2", "ENABLE_PUSH of 0 and 1", sending(settings((2, 0)), settings((2, 1))), alive),
    (
        "6.5.2",
        "INITIAL_WINDOW_SIZE of 2^31",
        sending(settings((WINDOW, 1 << 31))),
        connection_error(FLOW),
    ),
    ("6.5.2", "INITIAL_WINDOW_SIZE of 2^31-1", sending(settings((WINDOW, MAX_WINDOW))), alive),
    (
        "6.5.2",
        "MAX_FRAME_SIZE of 16,383",
        sending(settings((5, 16_383))),
        connection_error(PROTOCOL),
    ),
    (
        "6.5.2",
        "MAX_FRAME_SIZE of 2^24",
        sending(settings((5, 1 << 24))),
        connection_error(PROTOCOL),
    ),
    ("6.5.2", "MAX_FRAME_SIZE of 2^24-1", sending(settings((5, (1 << 24) - 1))), alive),
    ("6.5.2", "MAX_CONCURRENT_STREAMS of 0", steps(sending(settings((3, 0))), call), answers(1)),
    ("6.5.2", "HEADER_TABLE_SIZE of 0", steps(sending(settings((1, 0))), call), answers(1)),
    ("6.5.2", "HEADER_TABLE_SIZE of 2^32-1", huge_table, answers(1)),
    (
        "6.5.2",
        "an unknown setting is ignored",
        sending(settings((0xFF, 1))),
        all_of(acknowledged, alive),
    ),
    ("6.5.3", "values of one frame are taken in order", twice, RawClient.fence),
)


CONTINUATIONS: tuple[Row, ...] = (
    (
        "6.10",
        "CONTINUATION, then another frame",
        sending(
            headers(1, BLOCK[:9], flags=0), continuation(1, BLOCK[9:20], last=False), data(1, HELLO)
        ),
        connection_error(PROTOCOL),
    ),
    (
        "6.10",
        "CONTINUATION on stream 0",
        sending(headers(1, BLOCK[:9], flags=0), continuation(0, BLOCK[9:])),
        connection_error(PROTOCOL),
    ),
    (
        "6.10",
        "CONTINUATION behind END_HEADERS",
        sending(OPEN, continuation(1, BLOCK)),
        connection_error(PROTOCOL),
    ),
    (
        "6.10",
        "CONTINUATION behind the last CONTINUATION",
        sending(headers(1, BLOCK[:9], flags=0), continuation(1, BLOCK[9:]), continuation(1, BLOCK)),
        connection_error(PROTOCOL),
    ),
    (
        "6.10",
        "CONTINUATION behind DATA",
        sending(OPEN, data(1, HELLO), continuation(1, BLOCK)),
        connection_error(PROTOCOL),
    ),
    ("6.8", "GOAWAY is nothing to fear", sending(goaway(last=7, debug=b"bye")), RawClient.fence),
    ("7", "an unknown code of GOAWAY is nothing special", sending(goaway(0xFF)), RawClient.fence),
    (
        "7",
        "an unknown code of RST_STREAM is nothing special",
        half_closed(rst_stream(1, 0xFF)),
        alive,
    ),
    (
        "8.4",
        "a client's PUSH_PROMISE",
        sending(OPEN, frame(5, 4, 1, b"\0\0\0\2" + BLOCK)),
        connection_error(PROTOCOL),
    ),
)


def cases() -> Iterator[Case]:
    """All of them."""
    for rows in (DATA_AND_HEADERS, SETTINGS, CONTINUATIONS):
        for section, law, act, check in rows:
            yield Case(section, law, act, check)
