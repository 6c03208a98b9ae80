"""Whole conversations with the server's core, as bytes in, events, and frames out."""

import pytest
from tests.http2.core import (
    FIELDS,
    NOW_NS,
    Frame,
    asked,
    block,
    call,
    connected,
    data,
    headers,
    kinds,
    open_stream,
    prefixed,
    reset_codes,
    story,
    written,
)

from penstock.transport.http2.answers import HEAD, OK_TRAILERS, response_head, trailers
from penstock.transport.http2.events import (
    Drained,
    GoAway,
    Lost,
    Message,
    Opened,
    PingAcked,
    Pinged,
    Request,
    Reset,
    SettingsChanged,
)
from penstock.transport.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    MAX_STREAM_ID,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
    goaway,
    ping,
    rst_stream,
    window_update,
)
from penstock.transport.http2.server_connection import SHUTDOWN_PING, ServerConnection
from penstock.transport.http2.settings import HEADER_TABLE_SIZE, settings_frame

OK_END = Frame(HEADERS, END_HEADERS | END_STREAM, 1, OK_TRAILERS)
USUAL_HEAD = Frame(HEADERS, END_HEADERS, 1, HEAD)


def lost_with(connection: ServerConnection, text: bytes) -> int:
    """The code with which these bytes end the connection; its GOAWAY says the same."""
    events = connection.feed(text, NOW_NS)
    assert type(events[-1]) is Lost, events
    code = events[-1].error.code
    last = written(connection)[-1]
    assert last.kind == GOAWAY
    assert int.from_bytes(last.payload[4:8], "big") == code
    assert connection.closing
    assert not connection.streams
    assert connection.feed(ping(bytes(8)), NOW_NS) == []
    return code


def test_our_settings_come_first_and_theirs_are_acknowledged() -> None:
    """SETTINGS and the connection's window go out before anything was read; the ACK follows."""
    connection = ServerConnection()

    before = written(connection)
    events = connection.feed(PREFACE + settings_frame({}) + SETTINGS_ACK, NOW_NS)

    assert kinds(before) == [SETTINGS, WINDOW_UPDATE]
    assert written(connection) == [Frame(SETTINGS, ACK, 0, b"")]
    assert [type(event) for event in events] == [SettingsChanged]
    assert connection.established


@pytest.mark.parametrize(
    "text",
    [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nXX", b"\x16\x03\x01\x02\x00\x01\x00\x01"],
    ids=["HTTP/1.1", "almost", "TLS"],
)
def test_what_is_not_http2_ends_the_connection(text: bytes) -> None:
    """Another protocol is told from the preface by its first wrong byte."""
    assert lost_with(ServerConnection(), text) == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("first", [ping(bytes(8)), SETTINGS_ACK, headers(1)])
def test_the_first_frame_is_settings(first: bytes) -> None:
    """Anything else after the preface is an error of the connection."""
    assert lost_with(ServerConnection(), PREFACE + first) == ErrorCode.PROTOCOL_ERROR


def test_a_unary_call_is_one_event_and_one_piece_of_output() -> None:
    """HEADERS and DATA that come together are a Request; its answer leaves in one piece."""
    connection = connected()

    (event,) = connection.feed(call(1, b"question"), NOW_NS)
    assert isinstance(event, Request)
    connection.respond(event.stream, b"answer")

    assert event.message == b"question"
    assert event.stream.head.path == "/inference.GRPCInferenceService/ModelInfer"
    assert len(connection.out) == 1
    assert written(connection) == [USUAL_HEAD, Frame(DATA, 0, 1, prefixed(b"answer")), OK_END]
    assert event.stream.closed
    assert not connection.streams


def test_a_request_in_pieces_is_the_same_request() -> None:
    """A call whose frames come one by one is told as Opened and Message, and answered alike."""
    connection = connected()

    opened = connection.feed(headers(1), NOW_NS)
    begun = connection.feed(data(1, prefixed(b"question")[:7]), NOW_NS)
    ended = connection.feed(data(1, prefixed(b"question")[7:], end=True), NOW_NS)

    assert type(opened[0]) is Opened
    assert begun == []
    assert story(ended) == [("message", 1, b"question"), ("ended", 1)]
    assert isinstance(ended[0], Message)
    assert ended[0].end


def test_pieces_of_an_answer_are_sent_as_one_message() -> None:
    """A message may be given as several buffers."""
    connection = connected()

    connection.respond(asked(connection), (b"met", memoryview(b"a"), b"raw"))

    assert written(connection)[1].payload == prefixed(b"metaraw")


def test_extra_trailers_and_another_head_are_sent_where_they_belong() -> None:
    """Metadata stands behind the status; a compressed answer says so in head and prefix."""
    connection = connected()
    extra = block([(b"x-more", b"1")])

    connection.respond(
        asked(connection), b"zipped", extra, head=response_head("gzip"), compressed=True
    )

    head, body, end = written(connection)
    assert head.payload == response_head("gzip")
    assert body.payload == prefixed(b"zipped", 1)
    assert end.payload == OK_TRAILERS + extra


def test_streamed_messages_share_frames_and_the_head_goes_first() -> None:
    """Messages that are sent together leave in one DATA frame, then trailers end the call."""
    connection = connected()
    stream = open_stream(connection)
    connection.feed(data(1, prefixed(b"a"), end=True), NOW_NS)

    assert connection.send_messages(stream, [b"one", (b"t", b"wo")])
    assert connection.send_messages(stream, [b"three"], compressed=True)
    connection.send_trailers(stream)

    assert written(connection) == [
        USUAL_HEAD,
        Frame(DATA, 0, 1, prefixed(b"one") + prefixed(b"two")),
        Frame(DATA, 0, 1, prefixed(b"three", 1)),
        OK_END,
    ]
    assert not connection.send_messages(stream, [b"late"])
    assert written(connection) == []


def test_an_answer_before_the_request_has_ended_stops_the_client() -> None:
    """After the trailers the client is told that the rest is not needed, and it is ignored."""
    connection = connected()
    stream = open_stream(connection)

    connection.send_messages(stream, [b"early"])
    connection.send_trailers(stream)
    late = connection.feed(data(1, prefixed(b"late")) + rst_stream(1, 8), NOW_NS)

    assert reset_codes(written(connection)) == {1: ErrorCode.NO_ERROR}
    assert late == []
    assert connection.error is None


def test_a_refusal_is_trailers_only_before_the_head_and_trailers_after_it() -> None:
    """A status other than OK ends the call with one header block in either case."""
    connection = connected()
    first, second = asked(connection), asked(connection, 3)

    connection.refuse(first, 5, "no such model", [("x-reason", "UNKNOWN")])
    connection.send_messages(second, [b"part"])
    connection.refuse(second, 13, "broken")

    frames = written(connection)
    assert frames[0].payload == HEAD + trailers(5, "no such model", [("x-reason", "UNKNOWN")])
    assert frames[0].flags == END_HEADERS | END_STREAM
    assert frames[-1].payload == trailers(13, "broken")
    assert not connection.streams


def test_nothing_is_sent_on_a_stream_that_is_closed() -> None:
    """Answers to a call that ended do nothing, whatever they are."""
    connection = connected()
    stream = asked(connection)
    connection.feed(rst_stream(1, ErrorCode.CANCEL), NOW_NS)
    written(connection)

    connection.respond(stream, b"x")
    connection.send_head(stream)
    connection.send_messages(stream, [b"x"])
    connection.send_trailers(stream)
    connection.refuse(stream, 2, "x")
    connection.reset(stream, ErrorCode.CANCEL)
    connection.consumed(stream, 1)

    assert written(connection) == []


def test_a_cancelled_call_is_reported_once() -> None:
    """RST_STREAM of the client ends the stream with its code; a second one is ignored."""
    connection = connected()
    stream = asked(connection)

    events = connection.feed(rst_stream(1, ErrorCode.CANCEL) * 2, NOW_NS)

    assert story(events) == [("reset", 1, ErrorCode.CANCEL)]
    assert stream.closed
    assert written(connection) == []


def test_trailers_of_a_request_end_it() -> None:
    """A second header block with END_STREAM is the end; gRPC does not look into it."""
    connection = connected()
    open_stream(connection)

    events = connection.feed(
        data(1, prefixed(b"a")) + headers(1, END_HEADERS, block([(b"x-sum", b"1")]), end=True),
        NOW_NS,
    )

    assert story(events) == [("message", 1, b"a"), ("ended", 1)]


@pytest.mark.parametrize(
    "trailing",
    [headers(1, END_HEADERS, block([(b"x-sum", b"1")])), headers(1, end=True)],
    ids=["without END_STREAM", "with pseudo fields"],
)
def test_malformed_trailers_are_an_error_of_the_stream(trailing: bytes) -> None:
    """RFC 9113, 8.1: PROTOCOL_ERROR, and the connection lives."""
    connection = connected()
    open_stream(connection)

    events = connection.feed(trailing, NOW_NS)

    assert story(events) == [("reset", 1, ErrorCode.PROTOCOL_ERROR)]
    assert reset_codes(written(connection)) == {1: ErrorCode.PROTOCOL_ERROR}


def test_padding_and_priority_change_nothing() -> None:
    """A padded request with priority fields is the request without them."""
    connection = connected()
    padded = bytes([3]) + bytes(5) + block() + bytes(3)
    body = bytes([9]) + prefixed(b"x") + bytes(9)

    events = connection.feed(
        headers(1, END_HEADERS | PADDED | PRIORITY_FLAG, padded) + data(1, body, PADDED, end=True),
        NOW_NS,
    )

    assert story(events) == [("opened", 1), ("message", 1, b"x"), ("ended", 1)]


def test_a_header_block_may_go_on_in_continuations() -> None:
    """The pieces are one block wherever it is cut."""
    connection = connected()
    whole = block()

    events = connection.feed(
        headers(1, 0, whole[:1])
        + frame(CONTINUATION, 0, 1, whole[1:40])
        + frame(CONTINUATION, END_HEADERS, 1, whole[40:])
        + data(1, prefixed(b"x"), end=True),
        NOW_NS,
    )

    assert story(events) == [("opened", 1), ("message", 1, b"x"), ("ended", 1)]


@pytest.mark.parametrize(
    "next_frame",
    [
        ping(bytes(8)),
        frame(CONTINUATION, END_HEADERS, 3, b""),
        headers(3),
        data(1, b""),
        frame(0xFA, 0, 0, b""),
    ],
    ids=["PING", "other stream", "HEADERS", "DATA", "unknown"],
)
def test_nothing_comes_between_the_pieces_of_a_header_block(next_frame: bytes) -> None:
    """RFC 9113, 6.10: PROTOCOL_ERROR of the connection."""
    connection = connected()

    code = lost_with(connection, headers(1, 0, block()[:9]) + next_frame)

    assert code == ErrorCode.PROTOCOL_ERROR


def test_frames_of_unknown_types_are_ignored() -> None:
    """Unknown types pass, on any stream, at any length."""
    connection = connected()

    events = connection.feed(
        frame(0xFA, 0xFF, 0, b"abc") + frame(0x0A, 0, 99, bytes(70_000)) + call(1), NOW_NS
    )

    assert len(story(events)) == 3


def test_a_stream_error_leaves_the_others_alone() -> None:
    """The stream in error is reset and reported; its neighbour is answered."""
    connection = connected()
    neighbour, _ = asked(connection), open_stream(connection, 3)

    events = connection.feed(window_update(3, 0), NOW_NS)
    connection.respond(neighbour, b"fine")

    assert story(events) == [("reset", 3, ErrorCode.PROTOCOL_ERROR)]
    assert OK_END in written(connection)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (frame(PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frame(PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (frame(SETTINGS, ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frame(GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(RST_STREAM, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 1, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
        (window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 7, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(CONTINUATION, END_HEADERS, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (data(0, b""), ErrorCode.PROTOCOL_ERROR),
        (data(1, b"", PADDED), ErrorCode.STREAM_CLOSED),
        (headers(0), ErrorCode.PROTOCOL_ERROR),
        (headers(2), ErrorCode.PROTOCOL_ERROR),
        (headers(5, END_HEADERS | PADDED, b""), ErrorCode.FRAME_SIZE_ERROR),
        (headers(5, END_HEADERS | PADDED, b"\x09abc"), ErrorCode.PROTOCOL_ERROR),
        (headers(5, END_HEADERS | PRIORITY_FLAG, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
        (headers(5, END_HEADERS, b"\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
        (frame(DATA, 0, 1, bytes(2**22 + 1)), ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_errors_of_the_connection_have_the_code_of_the_standard(text: bytes, code: int) -> None:
    """GOAWAY names the code of RFC 9113; open calls are reported as reset before Lost."""
    connection = connected()
    connection.respond(asked(connection), b"done")
    open_stream(connection, 3)
    written(connection)

    assert lost_with(connection, text) == code


def test_open_calls_end_before_the_connection_is_lost() -> None:
    """Whoever serves them hears of every stream, then of the connection."""
    connection = connected()
    asked(connection, 1)
    open_stream(connection, 3)

    events = connection.feed(window_update(0, 0), NOW_NS)

    assert [type(event) for event in events] == [Reset, Reset, Lost]
    assert repr(connection.error).startswith("<ConnectionFault 1")


def test_a_wrong_priority_costs_only_its_stream() -> None:
    """RFC 9113, 6.3 makes its size an error of the stream."""
    connection = connected()
    open_stream(connection)

    events = connection.feed(
        frame(PRIORITY, 0, 1, bytes(4)) + frame(PRIORITY, 0, 3, bytes(5)), NOW_NS
    )

    assert story(events) == [("reset", 1, ErrorCode.FRAME_SIZE_ERROR)]


def test_pings_are_answered_and_ours_come_back() -> None:
    """A PING is answered with its bytes; the answer to ours is reported."""
    connection = connected()

    events = connection.feed(ping(b"01234567") + ping(b"ourdata!", ack=True), NOW_NS)
    connection.ping(b"ourdata!")

    assert [type(event) for event in events] == [Pinged, PingAcked]
    assert written(connection) == [
        Frame(PING, ACK, 0, b"01234567"),
        Frame(PING, 0, 0, b"ourdata!"),
    ]


def test_a_goaway_of_the_client_is_reported_and_its_calls_go_on() -> None:
    """It opens no more streams; those that are open are served to their end."""
    connection = connected()
    stream = asked(connection)

    (event,) = connection.feed(goaway(0, ErrorCode.NO_ERROR, b"bye"), NOW_NS)
    connection.respond(stream, b"answer")

    assert isinstance(event, GoAway)
    assert (event.code, event.last_id, event.debug) == (0, 0, b"bye")
    assert OK_END in written(connection)


def test_a_shutdown_loses_no_call_that_was_on_its_way() -> None:
    """The first GOAWAY refuses nothing; the second names what was seen; Drained is the end."""
    connection = connected()
    first = asked(connection, 1)

    connection.shutdown()
    connection.shutdown()
    warning = written(connection)
    second = asked(connection, 3)
    acked = connection.feed(ping(SHUTDOWN_PING, ack=True), NOW_NS)
    final = written(connection)
    late = connection.feed(call(5), NOW_NS)
    connection.respond(first, b"1")
    early = connection.drained
    connection.respond(second, b"3")

    assert kinds(warning) == [GOAWAY, PING]
    assert int.from_bytes(warning[0].payload[:4], "big") == MAX_STREAM_ID
    assert [int.from_bytes(each.payload[:4], "big") for each in final] == [3]
    assert acked == late == []
    assert (early, connection.drained) == (False, True)
    assert [type(event) for event in connection.feed(ping(bytes(8)), NOW_NS)] == [Pinged, Drained]


def test_a_shutdown_can_be_settled_without_its_acknowledgement() -> None:
    """As if the client had heard of it; once, and only where there is a shutdown."""
    connection = connected()
    connection.settle()
    stream = asked(connection)
    nothing = written(connection)
    connection.shutdown()
    written(connection)

    connection.settle()
    connection.settle()
    final = written(connection)
    late = connection.feed(call(3) + ping(SHUTDOWN_PING, ack=True), NOW_NS)
    connection.respond(stream, b"1")

    assert nothing == []
    assert [int.from_bytes(each.payload[:4], "big") for each in final] == [1]
    assert [type(event) for event in late] == [PingAcked]
    assert connection.drained


def test_a_connection_that_is_closed_says_so_and_hears_nothing_more() -> None:
    """close() sends GOAWAY with code and text; open streams end without events."""
    connection = connected()
    stream = asked(connection)

    connection.close(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")
    connection.close()

    (last,) = written(connection)
    assert last.payload == goaway(1, ErrorCode.ENHANCE_YOUR_CALM, b"too_many_pings")[9:]
    assert stream.closed
    assert connection.feed(call(3), NOW_NS) == []


def test_when_the_socket_is_gone_every_call_is_reported() -> None:
    """lost() gives a Reset for each open stream, and then there are none."""
    connection = connected()
    asked(connection, 1)
    open_stream(connection, 3)

    events = connection.lost()

    assert story(events) == [("reset", 1, 8), ("reset", 3, 8)]
    assert connection.lost() == []


def test_streams_beyond_the_limit_are_refused_and_may_be_repeated() -> None:
    """REFUSED_STREAM says that nothing was done; the header table stays in step."""
    connection = connected(max_concurrent_streams=1)
    first = asked(connection)
    inserting = b"\x40" + block([(b"x-a", b"1")])[1:]

    refused = connection.feed(headers(3, END_HEADERS, block() + inserting, end=True), NOW_NS)
    codes = reset_codes(written(connection))
    connection.respond(first, b"done")
    (event,) = connection.feed(headers(5, END_HEADERS, block() + b"\xbe"), NOW_NS)

    assert refused == []
    assert codes == {3: ErrorCode.REFUSED_STREAM}
    assert isinstance(event, Opened)
    assert event.stream.head.metadata["x-a"] == "1"
    assert connection.tallies["refused_streams"] == 1


def test_a_peer_with_a_smaller_table_hears_of_it_in_our_next_block() -> None:
    """RFC 7541, 4.2: once, before the first field; after it answers are what they always are."""
    connection = connected({HEADER_TABLE_SIZE: 0})

    connection.respond(asked(connection, 1), b"x")
    connection.respond(asked(connection, 3), b"x")

    frames = written(connection)
    assert frames[0].payload == b"\x20" + HEAD
    assert frames[3].payload == HEAD


@pytest.mark.parametrize(
    ("body", "ends"),
    [(prefixed(b"abc"), True), (b"", True), (prefixed(b"abcdef"), False)],
    ids=["too short", "nothing", "too long"],
)
def test_a_body_that_is_not_as_long_as_it_says_is_an_error(body: bytes, ends: bool) -> None:
    """RFC 9113, 8.1.1: content-length and DATA have to agree."""
    connection = connected()
    told = headers(1, END_HEADERS, block(FIELDS, (b"content-length", b"10")))

    events = connection.feed(told + data(1, body, end=ends), NOW_NS)
    if not ends:
        events += connection.feed(data(1, b"", end=True), NOW_NS)

    assert ("reset", 1, ErrorCode.PROTOCOL_ERROR) in story(events)


def test_a_body_that_is_as_long_as_it_says_is_a_request() -> None:
    """A right content-length changes nothing."""
    connection = connected()
    told = headers(1, END_HEADERS, block(FIELDS, (b"content-length", b"8")))

    events = connection.feed(told + data(1, prefixed(b"abc"), end=True), NOW_NS)

    assert story(events) == [("opened", 1), ("message", 1, b"abc"), ("ended", 1)]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (FIELDS[1:], None),
        ((*FIELDS, (b"Upper", b"1")), ErrorCode.PROTOCOL_ERROR),
        ((*FIELDS, (b"connection", b"close")), ErrorCode.PROTOCOL_ERROR),
        ((*FIELDS, (b":path", b"/again")), ErrorCode.PROTOCOL_ERROR),
    ],
    ids=["no method", "upper case", "connection", "pseudo field twice"],
)
def test_a_malformed_head_opens_no_stream(
    fields: tuple[tuple[bytes, bytes], ...], code: int | None
) -> None:
    """Nobody hears of it but the client, and the connection lives."""
    connection = connected()

    events = connection.feed(headers(1, END_HEADERS, block(fields), end=True), NOW_NS)

    assert [event for event in events if isinstance(event, Opened)] == []
    assert not connection.streams
    assert connection.error is None
    if code is not None:
        assert reset_codes(written(connection)) == {1: code}


def test_a_large_message_is_read_into_its_own_memory() -> None:
    """The socket's bytes go to where the message stays; the window is opened for all of it."""
    connection = connected()
    message = bytes(range(256)) * 12_288
    body = prefixed(message)
    frames = b"".join(
        data(1, body[at : at + 1_000_000], end=at + 1_000_000 >= len(body))
        for at in range(0, len(body), 1_000_000)
    )

    events = connection.feed(headers(1) + frames[:1_000], NOW_NS)
    credit = written(connection)
    straight = connection.buffer()
    events += connection.feed(frames[1_000:], NOW_NS)

    assert len(straight) == 1_000_000 - (1_000 - 9)
    assert [each.stream_id for each in credit] == [1]
    assert story(events) == [("opened", 1), ("message", 1, message), ("ended", 1)]
    assert isinstance(events[1], Message)
    assert isinstance(events[1].message, memoryview)


@pytest.mark.parametrize("size", [64, 1_000, 16_384, 100_000])
def test_a_large_message_may_come_in_frames_of_any_size(size: int) -> None:
    """Other frames may come between; every byte is counted against both windows."""
    connection = connected()
    open_stream(connection, 1)
    message = bytes(range(256)) * 2_000
    body = prefixed(message)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    before = connection.recv_window

    text = b"".join(
        data(3, piece, end=index == len(pieces) - 1)
        + (ping(bytes(8)) if index % 100 == 7 else b"")
        + (data(1, prefixed(b"x")) if index % 100 == 9 else b"")
        for index, piece in enumerate(pieces)
    )
    events = connection.feed(headers(3) + text, NOW_NS)

    own = [entry for entry in story(events) if entry[1:2] == (3,)]
    between = len([entry for entry in story(events) if entry[:2] == ("message", 1)])
    assert own == [("opened", 3), ("message", 3, message), ("ended", 3)]
    assert connection.recv_window == before - len(body) - 6 * between
    assert connection.streams[3].recv_window == 2**20 - len(body)


def test_many_messages_in_one_frame_are_many_events() -> None:
    """Messages and frames have nothing to do with each other."""
    connection = connected()
    open_stream(connection)
    body = prefixed(b"a") + prefixed(b"") + prefixed(bytes(20_000)) + prefixed(b"b")

    events = connection.feed(data(1, body[:10_000]) + data(1, body[10_000:], end=True), NOW_NS)

    assert [bytes(e.message) for e in events if isinstance(e, Message)] == [
        b"a",
        b"",
        bytes(20_000),
        b"b",
    ]
    assert story(events)[-1] == ("ended", 1)


@pytest.mark.parametrize(
    ("body", "status", "name"),
    [
        (b"\x00\x00\x00\x01\x00" + bytes(256), 8, "message_too_large"),
        (prefixed(b"abc")[:-1], 13, "message_cut_off"),
        (b"\x02\x00\x00\x00\x00", 13, "bad_flag"),
        (prefixed(b"abc", 1), 13, "bad_flag"),
    ],
)
def test_a_message_that_cannot_be_taken_is_answered_with_a_status(
    body: bytes, status: int, name: str
) -> None:
    """The call ends with a status of gRPC, and a tally says why; the connection lives."""
    connection = connected(message_size=255)

    events = connection.feed(headers(1) + data(1, body, end=True), NOW_NS)

    assert story(events) == [("opened", 1), ("refused", 1, status, name)]
    assert b"grpc-status" in written(connection)[0].payload
    assert connection.tallies[name] == 1
    assert connection.error is None


def test_what_came_before_a_bad_message_is_delivered() -> None:
    """Whole messages in the same frame are not lost."""
    connection = connected()
    open_stream(connection)

    events = connection.feed(data(1, prefixed(b"good") + b"\x07\x00\x00\x00\x00"), NOW_NS)

    assert [entry[0] for entry in story(events)] == ["message", "refused"]


def test_memory_for_a_large_message_is_asked_for_and_given_back() -> None:
    """A refusal of the budget is RESOURCE_EXHAUSTED; a reset gives back what was taken."""
    taken: list[int] = []
    connection = connected(
        reserve=lambda size: size <= 100_000 and not taken.append(size),  # type: ignore[func-returns-value]
        release=lambda size: taken.append(-size),
    )
    open_stream(connection, 1)
    open_stream(connection, 3)

    refused = connection.feed(data(1, prefixed(bytes(200_000))[:1_000]), NOW_NS)
    connection.feed(data(3, prefixed(bytes(100_000))[:1_000]) + rst_stream(3, 8), NOW_NS)

    assert story(refused)[0][:3] == ("refused", 1, 8)
    assert taken == [100_000, -100_000]


def test_a_defect_of_ours_costs_the_connection_and_is_kept_for_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """received() never raises; the traceback is the fault's cause."""
    connection = connected()
    monkeypatch.setattr(ServerConnection, "_pinged", lambda *_: 1 / 0)

    events = connection.feed(ping(bytes(8)), NOW_NS)

    assert isinstance(events[-1], Lost)
    assert events[-1].error.code == ErrorCode.INTERNAL_ERROR
    assert isinstance(events[-1].error.__cause__, ZeroDivisionError)
