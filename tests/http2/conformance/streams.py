"""Sections 3 to 5 of RFC 9113: starting, frames in general, header blocks, states of a stream."""

from collections.abc import Iterator

from tests.http2.conformance.case import (
    Act,
    Case,
    Check,
    Row,
    alive,
    all_of,
    answers,
    any_error,
    closed,
    connection_error,
    frame_limit,
    outcome,
    sending,
    steps,
    stream_error,
)
from tests.http2.conformance.generic import BLOCK, HANG, HELLO, after_call, call, half_closed
from tests.http2.frames import (
    END_HEADERS,
    PREFACE,
    PRIORITY_FLAG,
    Code,
    Setting,
    Type,
    continuation,
    data,
    frame,
    goaway,
    header,
    headers,
    message,
    ping,
    priority,
    priority_fields,
    rst_stream,
    settings,
    window_update,
)
from tests.http2.raw import RawClient

PROTOCOL, CLOSED, SIZE = Code.PROTOCOL_ERROR, Code.STREAM_CLOSED, Code.FRAME_SIZE_ERROR


def reset_then(*frames: bytes) -> Act:
    """A call that its client reset, then these frames."""
    return sending(headers(1, HANG), data(1, HELLO), rst_stream(1), *frames)


def beyond(kind: Type, opened: bool) -> Act:
    """A frame a byte larger than the server takes, of stream 1."""

    def act(client: RawClient) -> None:
        if opened:
            client.send(headers(1, BLOCK))
        size = frame_limit(client) + 1
        client.send(header(size, kind, END_HEADERS, 1), bytes(size))

    return act


def largest(client: RawClient) -> None:
    """Frames that are as large as any server must take."""
    whole = message(bytes(40_000))
    client.send(headers(1, BLOCK), data(1, whole[:16384]), data(1, whole[16384:32768]))
    client.send(data(1, whole[32768:], end=True))


def too_many_streams(client: RawClient) -> None:
    """One call more than the server allows, if it allows a number that a test can reach."""
    allowed = client.peer_settings.get(Setting.MAX_CONCURRENT_STREAMS, 1 << 31)
    assert allowed <= 1000, f"the test's server should allow fewer than {allowed} streams"
    for stream in range(1, 2 * allowed + 3, 2):
        client.send(headers(stream, HANG), data(stream, HELLO, end=True))


def last_is_refused(client: RawClient) -> None:
    """The one too many gets REFUSED_STREAM; those before it go on."""
    got = outcome(client)
    last = 2 * client.peer_settings[Setting.MAX_CONCURRENT_STREAMS] + 1
    assert not got.closed, got
    assert got.resets == {last: Code.REFUSED_STREAM}, got


def _slowly(client: RawClient, raw: bytes) -> None:
    for at in range(len(raw)):
        client.send(raw[at : at + 1])


START: tuple[Row, ...] = (
    ("3.4", "preface and SETTINGS open the connection", sending(PREFACE, settings()), alive),
    ("3.4", "a preface of one byte each", lambda c: _slowly(c, PREFACE + settings()), alive),
    (
        "3.4",
        "an invalid preface ends the connection",
        sending(b"INVALID CONNECTION PREFACE\r\n\r\n"),
        closed,
    ),
    ("3.4", "HTTP/1.1 ends the connection", sending(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"), closed),
    (
        "3.4",
        "another frame than SETTINGS first",
        sending(PREFACE, ping()),
        connection_error(PROTOCOL),
    ),
    (
        "3.4",
        "an acknowledgement is no first SETTINGS",
        sending(PREFACE, frame(Type.SETTINGS, 1)),
        connection_error(PROTOCOL),
    ),
)


def _huge_unknown(client: RawClient) -> None:
    size = frame_limit(client) + 1
    client.send(header(size, 0x42), bytes(size))


BLOCKS: tuple[Row, ...] = (
    ("4.1", "a frame of an unknown type is ignored", sending(frame(0x16, 0, 0, b"\0" * 8)), alive),
    ("4.1", "and so on a stream", steps(call, sending(frame(0x16, 0xFF, 1, b"x"))), answers(1)),
    ("4.1", "undefined flags are ignored", sending(ping(flags=0x16)), alive),
    (
        "4.1",
        "the reserved bit is ignored",
        sending(frame(Type.PING, 0, 1 << 31, b"12345678")),
        alive,
    ),
    (
        "4.1",
        "the reserved bit of a stream's frames is ignored",
        sending(headers(1 | 1 << 31, BLOCK), data(1 | 1 << 31, HELLO, end=True)),
        answers(1),
    ),
    ("4.2", "DATA of 2^14 bytes", largest, answers(1, body=bytes(40_000))),
    ("4.2", "DATA above MAX_FRAME_SIZE", beyond(Type.DATA, True), any_error(1, SIZE)),
    ("4.2", "HEADERS above MAX_FRAME_SIZE", beyond(Type.HEADERS, False), connection_error(SIZE)),
    ("4.2", "SETTINGS above MAX_FRAME_SIZE", beyond(Type.SETTINGS, False), connection_error(SIZE)),
    ("4.2", "an unknown type above MAX_FRAME_SIZE", _huge_unknown, connection_error(SIZE)),
    (
        "4.3",
        "a broken block is COMPRESSION_ERROR",
        sending(headers(1, b"\x00\xff\xff\xff\xff\xff\xff\xff")),
        connection_error(Code.COMPRESSION_ERROR),
    ),
    (
        "4.3",
        "nothing comes between the frames of a block: PRIORITY",
        sending(headers(1, BLOCK, flags=0), priority(1), continuation(1, b"")),
        connection_error(PROTOCOL),
    ),
    (
        "4.3",
        "nothing comes between: HEADERS of another stream",
        sending(headers(1, BLOCK, flags=0), headers(3, BLOCK)),
        connection_error(PROTOCOL),
    ),
    (
        "4.3",
        "nothing comes between: CONTINUATION of another stream",
        sending(headers(1, BLOCK[:9], flags=0), continuation(3, BLOCK[9:])),
        connection_error(PROTOCOL),
    ),
)


def states() -> Iterator[tuple[str, str, Act, Check]]:
    """Frames that come in a state that does not have them."""
    idle = connection_error(PROTOCOL)
    yield "5.1", "idle: DATA", sending(data(1, HELLO)), idle
    yield "5.1", "idle: RST_STREAM", sending(rst_stream(1)), idle
    yield "5.1", "idle: WINDOW_UPDATE", sending(window_update(1, 100)), idle
    yield "5.1", "idle: CONTINUATION", sending(continuation(1, BLOCK)), idle
    half = any_error(1, CLOSED)
    yield "5.1", "half closed: DATA", half_closed(data(1, HELLO)), half
    yield "5.1", "half closed: empty DATA", half_closed(data(1, b"", end=True)), half
    yield "5.1", "half closed: HEADERS", half_closed(headers(1, BLOCK, end=True)), half
    broken = connection_error(CLOSED, PROTOCOL)
    yield "5.1", "half closed: CONTINUATION", half_closed(continuation(1, BLOCK)), broken
    for state, then in (("reset", reset_then), ("closed", after_call)):
        yield "5.1", f"{state}: DATA", then(data(1, HELLO)), half
        yield "5.1", f"{state}: HEADERS", then(headers(1, BLOCK, end=True)), half
        yield "5.1", f"{state}: CONTINUATION", then(continuation(1, BLOCK)), broken
    yield "5.1.1", "an even stream", sending(headers(2, BLOCK, end=True)), idle
    lower = sending(headers(5, HANG, end=True), headers(3, BLOCK, end=True))
    yield "5.1.1", "a lower stream that was never used", lower, idle
    yield "5.1.1", "streams may be left out", lambda c: call(c, BLOCK, 701), answers(701)
    yield "5.1.1", "the highest stream", lambda c: call(c, BLOCK, 2**31 - 1), _last_stream
    yield "5.1.2", "more streams than allowed", too_many_streams, last_is_refused


def _last_stream(client: RawClient) -> None:
    answer = client.answer(2**31 - 1)
    assert (answer.status, answer.messages) == (0, [b"hello"])


def _ignored_or_reset(client: RawClient) -> None:
    got = outcome(client)
    assert not got.closed, got
    assert set(got.resets.values()) <= {PROTOCOL}, got


def _left(client: RawClient) -> None:
    client.fence()
    assert not [one for one in client.seen if one.type == Type.GOAWAY and one.code]


REST: tuple[Row, ...] = (
    (
        "5.3.1",
        "HEADERS that depend on themselves do no harm",
        sending(
            frame(Type.HEADERS, END_HEADERS | PRIORITY_FLAG, 1, priority_fields(1) + BLOCK),
            data(1, HELLO, end=True),
        ),
        _ignored_or_reset,
    ),
    ("5.3.1", "PRIORITY of itself does no harm", sending(priority(3, 3)), _ignored_or_reset),
    (
        "5.4.1",
        "a connection error brings GOAWAY, then the end",
        sending(frame(Type.PING, 0, 1, b"12345678")),
        connection_error(PROTOCOL),
    ),
    (
        "5.4.1",
        "GOAWAY tells the highest stream that was looked at",
        steps(lambda c: call(c, BLOCK, 5), lambda c: _ended(c, 5), sending(ping(b"short"))),
        all_of(connection_error(SIZE), lambda c: _last_id_is(c, 5)),
    ),
    (
        "5.4.2",
        "a stream error ends one stream",
        half_closed(window_update(1, 0)),
        stream_error(1, PROTOCOL),
    ),
    ("5.5", "an unknown extension is ignored", sending(frame(0xFF, 0xFF, 0, b"ext")), alive),
    (
        "5.5",
        "an unknown extension within a block",
        sending(
            headers(1, BLOCK[:9], flags=0), frame(0x16, 0, 1, b"x"), continuation(1, BLOCK[9:])
        ),
        connection_error(PROTOCOL),
    ),
    ("6.8", "a client that leaves is not answered with an error", sending(goaway()), _left),
)


def _ended(client: RawClient, stream: int) -> None:
    assert client.answer(stream).status == 0


def _last_id_is(client: RawClient, stream: int) -> None:
    found = [one for one in client.seen if one.type == Type.GOAWAY][-1]
    assert int.from_bytes(found.payload[:4]) == stream


def cases() -> Iterator[Case]:
    """All of them."""
    for section, law, act, check in START:
        yield Case(section, law, act, check, started=False)
    for section, law, act, check in (*BLOCKS, *states(), *REST):
        yield Case(section, law, act, check)
