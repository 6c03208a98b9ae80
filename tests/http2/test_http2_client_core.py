"""Conversations of the client's connection core, as bytes: nothing here does I/O."""

from itertools import pairwise

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.http2 import frames as wire
from tests.http2.frames import Code, Setting, Type

from penstock.transport.http2.client_answers import ClientStream
from penstock.transport.http2.client_connection import ClientConnection
from penstock.transport.http2.client_events import Answered, Responded, Trailers, Unprocessed
from penstock.transport.http2.client_requests import field, request_block, timeout_field
from penstock.transport.http2.events import (
    Event,
    GoAway,
    Lost,
    Message,
    Reset,
    Room,
    SettingsChanged,
)

BLOCK = request_block("/s/Echo", "localhost:1")
HEAD = wire.block(((b":status", b"200"), (b"content-type", b"application/grpc")))
OK = wire.block(((b"grpc-status", b"0"),))


def connected(*settings: tuple[int, int]) -> ClientConnection:
    """A connection whose server has said its settings; what the client said first is forgotten."""
    connection = ClientConnection()
    connection.feed(wire.settings(*settings), 0)
    sent(connection)
    return connection


def sent(connection: ClientConnection) -> list[wire.Frame]:
    """The frames that go out now."""
    raw = b""
    while connection.out:
        raw += b"".join(map(bytes, connection.output()))
    return list(wire.split(raw.removeprefix(wire.PREFACE)))


def fields_of(block: bytes) -> dict[str, str]:
    """The fields of a header block that uses no table."""
    pairs = hpack.Decoder().decode(block, raw=True)
    return {bytes(name).decode(): bytes(value).decode() for name, value in pairs}


def answer(stream: int, body: bytes = b"hi", head: bytes = HEAD, end: bytes = OK) -> bytes:
    """A whole answer to a unary call."""
    return b"".join(
        (
            wire.headers(stream, head),
            wire.data(stream, wire.message(body)),
            wire.headers(stream, end, end=True),
        )
    )


def outcome(events: list[Event]) -> list[tuple[object, ...]]:
    """What events say to a caller; an answer at once reads as its three parts."""
    said: list[tuple[object, ...]] = []
    for event in events:
        match event:
            case Answered(stream=stream, message=message):
                said += [(stream.id, "message", bytes(message)), (stream.id, "status", 0, "")]
            case Message(stream=stream, message=message):
                said.append((stream.id, "message", bytes(message)))
            case Trailers(stream=stream, status=status, text=text):
                said.append((stream.id, "status", status, text))
            case Reset(stream=stream, code=code):
                said.append((stream.id, "reset", code))
            case Unprocessed(stream=stream):
                said.append((stream.id, "unprocessed"))
            case _:
                pass
    return said


def only(events: list[Event]) -> tuple[object, ...]:
    """How the one call ended."""
    (said,) = outcome(events)
    return said


def test_a_client_speaks_first() -> None:
    """Preface, settings without push, and a window of the connection."""
    connection = ClientConnection()

    raw = b"".join(map(bytes, connection.output()))
    settings, window = wire.split(raw.removeprefix(wire.PREFACE))

    assert raw.startswith(wire.PREFACE)
    assert settings.type == Type.SETTINGS
    assert Setting.ENABLE_PUSH.to_bytes(2) + bytes(4) in settings.payload
    assert (window.type, window.stream) == (Type.WINDOW_UPDATE, 0)


def test_a_call_is_its_block_and_its_message() -> None:
    """HEADERS, then DATA that ends the stream; ids are odd and rise."""
    connection = connected()

    first = connection.call(BLOCK + timeout_field(5_000_000), b"abc", "tag")
    second = connection.call(BLOCK, b"")
    head, body, *_ = sent(connection)

    assert (first.id, second.id, first.tag) == (1, 3, "tag")
    assert head == wire.Frame(Type.HEADERS, wire.END_HEADERS, 1, head.payload)
    fields = fields_of(head.payload)
    assert fields[":path"] == "/s/Echo"
    assert fields["te"] == "trailers"
    assert fields["grpc-timeout"] == "5000000n"
    assert body == wire.Frame(Type.DATA, wire.END_STREAM, 1, wire.message(b"abc"))


def test_the_usual_answer_becomes_one_event_once_it_is_known() -> None:
    """The first answer is read field by field, equal ones by their bytes."""
    connection = connected()
    kinds = []

    for _ in range(2):
        stream = connection.call(BLOCK, b"x")
        events = connection.feed(answer(stream.id), 0)
        kinds.append([type(event) for event in events])
        assert outcome(events) == [
            (stream.id, "message", b"hi"),
            (stream.id, "status", 0, ""),
        ]

    assert kinds == [[Responded, Message, Trailers], [Answered]]
    assert not connection.streams


def test_a_changed_table_makes_nothing_known_stay_known() -> None:
    """Blocks mean what the table says now: the same bytes are another status after a change."""
    connection = connected()
    encoder = hpack.Encoder()
    said: list[object] = []

    for status in ("0", "0", "0", "5", "5", "0"):
        stream = connection.call(BLOCK, b"x")
        head = encoder.encode([(":status", "200"), ("content-type", "application/grpc")])
        end = encoder.encode([("grpc-status", status), ("x-count", str(len(said) // 2))])
        said.append(outcome(connection.feed(answer(stream.id, b"", head, end), 0))[-1][2])

    assert said == [0, 0, 0, 5, 5, 0]


@given(st.lists(st.integers(0, 400), max_size=6), st.binary(max_size=40), st.booleans())
def test_answers_are_the_same_however_they_are_cut(
    cuts: list[int], body: bytes, warm: bool
) -> None:
    """Where the bytes of an answer are divided changes nothing of what it says."""
    connection = connected()
    if warm:
        connection.feed(answer(connection.call(BLOCK, b"x").id), 0)
    calls = [connection.call(BLOCK, b"x") for _ in range(3)]
    raw = b"".join(answer(call.id, body) for call in calls)
    places = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    events: list[Event] = []

    for begin, end in pairwise(places):
        events += connection.feed(raw[begin:end], 0)

    assert outcome(events) == [
        each for call in calls for each in ((call.id, "message", body), (call.id, "status", 0, ""))
    ]


def test_a_refusal_is_one_block() -> None:
    """Trailers-only: status, text without its percents, and metadata."""
    connection = connected()
    call = connection.call(BLOCK, b"x")
    end = wire.block(
        (
            (b":status", b"200"),
            (b"content-type", b"application/grpc"),
            (b"grpc-status", b"5"),
            (b"grpc-message", b"no %C3%A4"),
            (b"x-a", b"1"),
            (b"x-b-bin", b"/wA"),
        )
    )

    (event,) = connection.feed(wire.headers(call.id, end, end=True), 0)

    assert isinstance(event, Trailers)
    assert (event.status, event.text) == (5, "no ä")
    assert event.metadata == (("x-a", "1"), ("x-b-bin", b"\xff\0"))


@pytest.mark.parametrize(
    ("status", "expected"),
    [(b"400", 13), (b"401", 16), (b"403", 7), (b"404", 12), (b"503", 14), (b"418", 2)],
)
def test_what_is_no_grpc_server_has_a_status_too(status: bytes, expected: int) -> None:
    """An HTTP status becomes gRPC's, and the rest of the answer is not wanted."""
    connection = connected()
    call = connection.call(BLOCK, b"x")

    said = only(connection.feed(wire.headers(call.id, wire.block(((b":status", status),))), 0))

    assert said[:3] == (call.id, "status", expected)
    assert sent(connection)[-1].type == Type.RST_STREAM


@pytest.mark.parametrize(
    "raw",
    [
        wire.data(1, wire.message(b"x")),
        wire.headers(1, OK, end=True),
        wire.headers(1, HEAD) + wire.headers(1, HEAD),
        wire.headers(1, HEAD) + wire.headers(1, HEAD, end=True),
        wire.headers(1, HEAD) + wire.data(1, wire.message(b"x"), end=True),
        wire.headers(1, HEAD) + wire.data(1, end=True),
        wire.headers(1, HEAD) + wire.data(1, b"\0\0\0\0\3x") + wire.headers(1, OK, end=True),
        wire.headers(1, HEAD) + wire.data(1, wire.message(b"x", compressed=1)),
        wire.headers(1, HEAD) + wire.data(1, wire.message(b"x", compressed=7)),
        wire.headers(1, wire.block(((b"X-Capital", b"1"), (b":status", b"200")))),
    ],
)
def test_a_malformed_answer_ends_its_call_alone(raw: bytes) -> None:
    """Every call ends exactly once, with an error, and others go on."""
    connection = connected()
    connection.call(BLOCK, b"x")
    other = connection.call(BLOCK, b"x")

    said = [each for each in outcome(connection.feed(raw, 0)) if each[1] == "status"]
    events = connection.feed(answer(other.id), 0)

    assert [each[2] in (2, 13) for each in said] == [True]
    assert outcome(events)[-1] == (other.id, "status", 0, "")


@pytest.mark.parametrize(
    "raw",
    [
        wire.settings((Setting.ENABLE_PUSH, 1)),
        wire.headers(7, HEAD),
        wire.headers(2, HEAD),
        wire.data(7, b"x"),
        wire.frame(Type.PUSH_PROMISE, wire.END_HEADERS, 1, bytes(4) + HEAD),
        wire.headers(1, b"\xff\xff\xff\xff\xff"),
        wire.window_update(0, 0),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
def test_a_broken_connection_ends_every_call(raw: bytes) -> None:
    """The server hears GOAWAY, and each open call that it is over."""
    connection = connected()
    calls = [connection.call(BLOCK, b"x") for _ in range(2)]
    sent(connection)

    events = connection.feed(raw, 0)

    assert isinstance(events[-1], Lost)
    assert [each[:2] for each in outcome(events)] == [(call.id, "reset") for call in calls]
    assert sent(connection)[-1].type == Type.GOAWAY
    assert connection.room == 0


def test_a_refused_stream_was_not_looked_at() -> None:
    """REFUSED_STREAM says so, any other code does not."""
    connection = connected()
    refused, cancelled = (connection.call(BLOCK, b"x") for _ in range(2))

    raw = wire.rst_stream(refused.id, Code.REFUSED_STREAM) + wire.rst_stream(cancelled.id)

    assert outcome(connection.feed(raw, 0)) == [
        (refused.id, "unprocessed"),
        (cancelled.id, "reset", Code.CANCEL),
    ]


def test_a_goaway_gives_back_what_lies_above_its_last_id() -> None:
    """Calls up to the last id go on, the others may go elsewhere, and no more are opened."""
    connection = connected()
    kept, returned = (connection.call(BLOCK, b"x") for _ in range(2))

    events = connection.feed(wire.goaway(last=kept.id), 0)
    later = connection.feed(answer(returned.id) + answer(kept.id), 0)

    assert isinstance(events[0], GoAway)
    assert outcome(events) == [(returned.id, "unprocessed")]
    assert outcome(later)[-1] == (kept.id, "status", 0, "")
    assert connection.room == 0
    with pytest.raises(RuntimeError, match="no room"):
        connection.call(BLOCK, b"x")


def test_the_servers_limit_of_streams_is_kept() -> None:
    """Room follows the setting and what is open."""
    connection = connected((Setting.MAX_CONCURRENT_STREAMS, 2))
    first = connection.call(BLOCK, b"x")
    connection.call(BLOCK, b"x")

    full = connection.room
    connection.feed(answer(first.id), 0)

    assert (full, connection.room) == (0, 1)
    assert isinstance(connection.feed(wire.settings((3, 0)), 0)[0], SettingsChanged)
    assert connection.room < 0
    connection.feed(wire.settings((3, 9)), 0)
    assert connection.room == 8


def test_a_large_request_keeps_to_the_servers_windows() -> None:
    """No byte goes out beyond stream and connection window, and all of them in the end."""
    connection = connected((Setting.INITIAL_WINDOW_SIZE, 100))
    request = bytes(range(256)) * 1024
    call = connection.call(BLOCK, request)
    got = [frame for frame in sent(connection) if frame.type == Type.DATA]
    room: list[Event] = []

    assert sum(len(frame.payload) for frame in got) == 100

    while call.id and not got[-1].flags & wire.END_STREAM:
        grant = wire.window_update(call.id, 10_000) + wire.window_update(0, 10_000)
        room += connection.feed(grant, 0)
        pieces = [frame for frame in sent(connection) if frame.type == Type.DATA]
        assert sum(len(frame.payload) for frame in pieces) <= 10_000
        got += pieces

    assert b"".join(frame.payload for frame in got) == wire.message(request)


def test_a_writer_hears_of_room() -> None:
    """A stream above its high-water mark is told once it has fallen below the low one."""
    connection = connected((Setting.INITIAL_WINDOW_SIZE, 10))
    stream = connection.open(BLOCK)
    connection.send_messages(stream, [bytes(400_000)])
    sent(connection)

    grant = wire.window_update(stream.id, 1 << 20) + wire.window_update(0, 1 << 20)
    events = connection.feed(grant, 0)
    sent(connection)

    assert [event.stream for event in events if isinstance(event, Room)] == [stream] or (
        connection.rooms == [stream]
    )


def test_a_held_stream_gets_credit_for_what_was_consumed() -> None:
    """The server stops at the window until the application took something."""
    connection = connected()
    call = connection.call(BLOCK, b"x", held_back=True)
    connection.feed(wire.headers(call.id, HEAD), 0)
    piece = bytes(8 << 10)
    for _ in range(100):
        connection.feed(wire.data(call.id, wire.message(piece)), 0)

    held = [frame for frame in sent(connection) if frame.stream == call.id]
    connection.consumed(call, 90 * len(piece))
    granted = [frame for frame in sent(connection) if frame.stream == call.id]

    assert Type.WINDOW_UPDATE not in [frame.type for frame in held]
    assert [frame.type for frame in granted] == [Type.WINDOW_UPDATE]


def test_other_streams_get_credit_by_themselves() -> None:
    """Without holding back a server may send for ever."""
    connection = connected()
    call = connection.call(BLOCK, b"x")
    connection.feed(wire.headers(call.id, HEAD), 0)
    window = 1 << 20

    for _ in range(1000):
        raw = wire.data(call.id, wire.message(bytes(8 << 10)))
        window -= len(raw) - wire.HEADER_SIZE
        events = connection.feed(raw, 0)
        granted = [frame for frame in sent(connection) if frame.stream == call.id]
        window += sum(int.from_bytes(frame.payload) for frame in granted)
        assert outcome(events) == [(call.id, "message", bytes(8 << 10))]
        assert window > 0


@given(
    st.lists(st.binary(max_size=30), max_size=8),
    st.lists(st.integers(0, 300), max_size=8),
    st.lists(st.integers(0, 300), max_size=5),
)
def test_messages_of_a_stream_survive_any_framing(
    messages: list[bytes], frames: list[int], cuts: list[int]
) -> None:
    """Messages come whole and in order, however DATA and reads divide them."""
    connection = connected()
    call = connection.call(BLOCK, b"x", held_back=True)
    body = b"".join(map(wire.message, messages))
    borders = sorted({0, len(body), *(border for border in frames if border < len(body))})
    raw = wire.headers(call.id, HEAD)
    for begin, end in pairwise(borders):
        raw += wire.data(call.id, body[begin:end])
    raw += wire.headers(call.id, OK, end=True)
    places = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    events: list[Event] = []

    for begin, end in pairwise(places):
        events += connection.feed(raw[begin:end], 0)

    assert outcome(events) == [
        *((call.id, "message", message) for message in messages),
        (call.id, "status", 0, ""),
    ]


def test_a_server_that_answers_early_is_sent_no_more() -> None:
    """What is left of the request is dropped with RST_STREAM."""
    connection = connected()
    stream = connection.open(BLOCK)
    connection.send_messages(stream, [b"first"])
    sent(connection)

    said = outcome(connection.feed(answer(stream.id), 0))
    (reset,) = sent(connection)

    assert said[-1] == (stream.id, "status", 0, "")
    assert (reset.type, reset.stream) == (Type.RST_STREAM, stream.id)
    assert connection.send_messages(stream, [b"second"]) is False


def test_a_cancelled_call_is_reset_and_says_nothing_more() -> None:
    """What the server still sent for it is passed over."""
    connection = connected()
    stream = connection.call(BLOCK, b"x")
    sent(connection)

    connection.cancel(stream)
    (reset,) = sent(connection)
    events = connection.feed(answer(stream.id), 0)

    assert (reset.type, reset.code) == (Type.RST_STREAM, Code.CANCEL)
    assert outcome(events) == []
    assert not connection.closing


def test_what_was_never_written_can_go_elsewhere() -> None:
    """A lost connection gives back the calls that it still held."""
    connection = connected()
    written = connection.call(BLOCK, b"x")
    sent(connection)
    unwritten = connection.call(BLOCK, b"x")

    assert outcome(connection.lost()) == [
        (written.id, "reset", Code.CANCEL),
        (unwritten.id, "unprocessed"),
    ]


def test_streams_end_when_their_numbers_are_used_up() -> None:
    """The last id is used, and then the connection is exhausted rather than wrong."""
    connection = connected()
    connection._next_id = 2**31 - 1

    last = connection.call(BLOCK, b"x")

    assert last.id == 2**31 - 1
    assert connection.exhausted
    assert connection.room <= 0


@pytest.mark.parametrize(
    ("name", "value"), [("X-Big", "1"), ("grpc-timeout", "1S"), ("x", "ä"), ("x y", "1")]
)
def test_metadata_that_grpc_forbids_is_refused(name: str, value: str) -> None:
    """An error where it is written, not on the wire."""
    with pytest.raises(ValueError, match="metadata"):
        field(name, value)


@given(st.integers(0, 10**17))
def test_a_timeout_is_never_shortened(timeout_ns: int) -> None:
    """The field holds at least what was asked for, in at most eight digits."""
    (text,) = fields_of(timeout_field(timeout_ns)).values()
    unit = {"n": 1, "u": 10**3, "m": 10**6, "S": 10**9, "M": 60 * 10**9, "H": 3600 * 10**9}

    assert len(text) <= 9
    assert int(text[:-1]) * unit[text[-1]] >= timeout_ns


@given(st.data())
def test_no_bytes_make_it_raise_or_forget_a_call(data: st.DataObject) -> None:
    """Whatever a server sends, every call ends at most once before and exactly once after loss."""
    connection = connected()
    calls = [connection.call(BLOCK, b"x", held_back=bool(number)) for number in range(2)]
    pieces = st.one_of(
        st.binary(max_size=60),
        st.sampled_from(
            [
                answer(1),
                answer(3),
                wire.headers(1, HEAD),
                wire.data(1, wire.message(b"abc")),
                wire.headers(3, OK, end=True),
                wire.rst_stream(1),
                wire.goaway(last=1),
                wire.settings((Setting.INITIAL_WINDOW_SIZE, 0)),
            ]
        ),
        st.builds(
            wire.frame, st.integers(0, 11), st.integers(0, 255), st.integers(0, 5), st.binary()
        ),
    )
    events: list[Event] = []

    for piece in data.draw(st.lists(pieces, max_size=8)):
        events += connection.feed(piece, 0)
    events += connection.lost()

    ends = [each for each in outcome(events) if each[1] != "message"]
    assert sorted(each[0] for each in ends if isinstance(each[0], int)) == [1, 3]
    assert [type(call) for call in calls] == [ClientStream, ClientStream]
