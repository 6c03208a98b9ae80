"""Flow control: never beyond a window, never stuck behind one, in both directions."""

from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.http2.core import (
    FIELDS,
    NOW_NS,
    asked,
    call,
    connected,
    data,
    headers,
    open_stream,
    prefixed,
    raw,
    reset_codes,
    story,
    written,
)

from penstock.transport.http2.answers import OK_TRAILERS
from penstock.transport.http2.events import Ended, Lost, Message, Opened, Request, Room
from penstock.transport.http2.flow import MESSAGE_COST, credit_due, credit_for_message
from penstock.transport.http2.frames import (
    DATA,
    MAX_WINDOW,
    PADDED,
    RST_STREAM,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    ErrorCode,
    window_update,
)
from penstock.transport.http2.server_connection import ServerConnection
from penstock.transport.http2.settings import (
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE_ID,
    settings_frame,
)

SECOND_NS = 1_000_000_000


def sent(connection: ServerConnection, stream_id: int = 1) -> bytes:
    """The DATA that the core writes now on one stream."""
    frames = written(connection)
    return b"".join(f.payload for f in frames if f.kind == DATA and f.stream_id == stream_id)


def credit(connection: ServerConnection, stream_id: int) -> int:
    """What the core gives back now on a stream, or on the connection."""
    return sum(
        int.from_bytes(f.payload, "big")
        for f in written(connection)
        if f.kind == WINDOW_UPDATE and f.stream_id == stream_id
    )


def test_an_answer_is_sent_as_far_as_the_window_goes_and_then_on() -> None:
    """What does not fit waits, in order, and the trailers wait behind it."""
    connection = connected({INITIAL_WINDOW_SIZE: 10})
    stream = asked(connection)

    connection.respond(stream, bytes(20))
    first = sent(connection)
    connection.feed(window_update(1, 14), NOW_NS)
    second = sent(connection)
    connection.feed(window_update(1, 1), NOW_NS)
    last = written(connection)

    assert (len(first), len(second)) == (10, 14)
    assert [len(each.payload) for each in last] == [1, len(OK_TRAILERS)]
    assert first + second + last[0].payload == prefixed(bytes(20))
    assert stream.closed


def test_the_window_of_the_connection_is_shared_in_turns() -> None:
    """Streams that wait for it get a frame each in turn; none is starved by a larger one."""
    connection = connected({INITIAL_WINDOW_SIZE: MAX_WINDOW})
    large, small = asked(connection, 1), asked(connection, 3)
    connection.respond(large, bytes(200_000))
    connection.respond(small, bytes(20_000))
    written(connection)

    connection.feed(window_update(0, 3 * 16_384), NOW_NS)

    assert [f.stream_id for f in written(connection) if f.kind == DATA] == [1, 3, 1]


def test_a_smaller_initial_window_may_make_windows_negative() -> None:
    """RFC 9113, 6.9.2: nothing is sent until the window is positive again."""
    connection = connected({INITIAL_WINDOW_SIZE: 1_000})
    stream = asked(connection)
    connection.send_messages(stream, [bytes(595), bytes(595)])
    sent(connection)

    connection.feed(settings_frame({INITIAL_WINDOW_SIZE: 300}), NOW_NS)
    negative = stream.send_window
    connection.feed(window_update(1, 700), NOW_NS)
    nothing = sent(connection)
    connection.feed(settings_frame({INITIAL_WINDOW_SIZE: 400}), NOW_NS)

    assert negative == -700
    assert nothing == b""
    assert len(sent(connection)) == 100
    assert stream.unsent == 100


def test_frames_are_no_longer_than_the_peer_takes() -> None:
    """At first 16,384 bytes, then what its SETTINGS say."""
    connection = connected({INITIAL_WINDOW_SIZE: MAX_WINDOW})
    connection.feed(window_update(0, 10_000_000), NOW_NS)

    connection.respond(asked(connection), bytes(40_000))
    before = [len(f.payload) for f in written(connection) if f.kind == DATA]
    connection.feed(settings_frame({MAX_FRAME_SIZE_ID: 30_000}), NOW_NS)
    connection.respond(asked(connection, 3), bytes(40_000))
    after = [len(f.payload) for f in written(connection) if f.kind == DATA]

    assert before == [16_384, 16_384, 7_237]
    assert after == [30_000, 10_005]


@pytest.mark.parametrize("stream_id", [0, 1])
def test_a_window_beyond_what_can_be_counted_is_an_error(stream_id: int) -> None:
    """RFC 9113, 6.9.1: of the stream, or of the connection."""
    connection = connected()
    open_stream(connection)

    events = connection.feed(window_update(stream_id, MAX_WINDOW), NOW_NS)

    assert connection.tallies["window_overflows"] == 1
    if stream_id:
        assert story(events) == [("reset", 1, ErrorCode.FLOW_CONTROL_ERROR)]
        assert reset_codes(written(connection)) == {1: ErrorCode.FLOW_CONTROL_ERROR}
    else:
        assert isinstance(events[-1], Lost)
        assert events[-1].error.code == ErrorCode.FLOW_CONTROL_ERROR


def test_an_initial_window_that_overflows_a_stream_is_an_error() -> None:
    """RFC 9113, 6.9.2: of the connection."""
    connection = connected()
    open_stream(connection)
    connection.feed(window_update(1, MAX_WINDOW - 65_535), NOW_NS)

    events = connection.feed(settings_frame({INITIAL_WINDOW_SIZE: 65_536}), NOW_NS)

    assert isinstance(events[-1], Lost)
    assert events[-1].error.code == ErrorCode.FLOW_CONTROL_ERROR


def test_what_waits_beyond_high_water_is_reported_when_there_is_room_again() -> None:
    """Room comes once, when unsent bytes fell to the low-water mark; not before, not after."""
    connection = connected({INITIAL_WINDOW_SIZE: 0}, high_water=1_000, low_water=100)
    stream = asked(connection)
    connection.send_messages(stream, [bytes(1_995)])

    early = connection.feed(window_update(1, 1_899), NOW_NS)
    enough = connection.feed(window_update(1, 1), NOW_NS)
    late = connection.feed(window_update(1, 1_000), NOW_NS)

    assert early == late == []
    assert [type(event) for event in enough] == [Room]
    assert stream.unsent == 0


def test_room_that_output_makes_is_noted() -> None:
    """While nobody writes, messages stay with their streams; output() takes the next ones."""
    connection = connected(
        {INITIAL_WINDOW_SIZE: MAX_WINDOW}, output=10_000, high_water=1_000, low_water=100
    )
    connection.feed(window_update(0, 10_000_000), NOW_NS)
    stream = asked(connection)

    for _ in range(20):
        connection.send_messages(stream, [bytes(995)])
    waiting = stream.unsent
    connection.send_trailers(stream)
    text = raw(connection)

    assert waiting > 5_000
    assert connection.rooms == []
    assert len(text) > 20_000
    assert stream.closed


def test_a_reader_that_is_too_slow_loses_its_stream_and_nothing_else() -> None:
    """Producers that do not wait are stopped before memory is; others go on."""
    connection = connected({INITIAL_WINDOW_SIZE: 0}, stream_unsent=10_000)
    slow, other = asked(connection, 1), asked(connection, 3)

    taken = [connection.send_messages(slow, [bytes(4_000)]) for _ in range(5)]

    assert taken == [True, True, True, False, False]
    assert slow.closed
    assert slow.unsent == 0
    assert reset_codes(written(connection)) == {1: ErrorCode.ENHANCE_YOUR_CALM}
    assert connection.tallies["slow_readers"] == 1
    assert not other.closed


def test_a_stall_is_seen_and_a_trickle_does_not_hide_it() -> None:
    """A stream is stalled until it moved a kilobyte; one that moves is not."""
    connection = connected({INITIAL_WINDOW_SIZE: 0})
    stuck, moving = asked(connection, 1), asked(connection, 3)
    for stream in (stuck, moving):
        connection.respond(stream, bytes(100_000))

    seen = [connection.stalled(NOW_NS, 5 * SECOND_NS)]
    since = connection.stalled_since_ns
    for second in range(1, 10):
        connection.feed(window_update(1, 100) + window_update(3, 1_024), NOW_NS)
        seen.append(connection.stalled(NOW_NS + second * SECOND_NS, 5 * SECOND_NS))

    assert since == NOW_NS
    assert seen == [[]] * 5 + [[stuck]] * 5
    connection.reset(stuck, ErrorCode.CANCEL)
    connection.reset(moving, ErrorCode.CANCEL)
    assert connection.stalled_since_ns == 0


def test_who_waits_for_its_turn_does_not_stall_while_others_move() -> None:
    """Many answers behind one window of the connection, on a link that is slow but never stops."""
    connection = connected({INITIAL_WINDOW_SIZE: MAX_WINDOW})
    for number in range(200):
        connection.respond(asked(connection, 1 + 2 * number), bytes(200_000))
    written(connection)

    for second in range(120):
        connection.feed(window_update(0, 50_000), NOW_NS)
        written(connection)
        assert connection.stalled(NOW_NS + second * SECOND_NS, 5 * SECOND_NS) == []


def test_who_waits_for_its_turn_stalls_with_the_others() -> None:
    """A link that has stopped, or moves by a trickle only; and a window of its own that is shut is
    no turn to wait for.
    """
    connection = connected({INITIAL_WINDOW_SIZE: 100_000})
    shut, moving, waiting = (asked(connection, number) for number in (1, 3, 5))
    connection.feed(window_update(0, 200_000 - 65_535), NOW_NS)
    for stream in (shut, moving, waiting):
        connection.respond(stream, bytes(150_000))
    connection.feed(window_update(3, MAX_WINDOW >> 1) + window_update(5, MAX_WINDOW >> 1), NOW_NS)
    written(connection)

    seen = []
    for second in range(30):
        steady = 1_024 if second < 12 else 10
        connection.feed(window_update(0, steady), NOW_NS)
        written(connection)
        late = connection.stalled(NOW_NS + second * SECOND_NS, 5 * SECOND_NS)
        seen.append({stream.id for stream in late})

    assert (shut.send_window, connection.send_window) == (0, 0)
    assert seen[4] == set()
    assert seen[5:12] == [{1}] * 7
    assert seen[-1] == {1, 3, 5}


def test_a_peer_that_sends_beyond_its_window_loses_the_stream() -> None:
    """FLOW_CONTROL_ERROR of the stream; nothing of what was too much is delivered."""
    connection = connected(stream_window=100_000)
    connection.feed(SETTINGS_ACK, NOW_NS)
    open_stream(connection)
    body = prefixed(bytes(59_995))

    events = connection.feed(data(1, body) + data(1, body), NOW_NS)

    assert [entry[0] for entry in story(events)] == ["message", "reset"]
    assert connection.tallies["window_overruns"] == 1


def test_a_window_below_the_default_holds_from_its_acknowledgement_on() -> None:
    """Before the ACK the peer may not know of it, and is not blamed."""
    connection = connected(stream_window=1_000)
    open_stream(connection, 1)

    early = connection.feed(data(1, prefixed(bytes(1_500))), NOW_NS)
    connection.feed(SETTINGS_ACK, NOW_NS)
    open_stream(connection, 3)
    late = connection.feed(data(3, prefixed(bytes(1_500))), NOW_NS)

    assert [entry[0] for entry in story(early)] == ["message"]
    assert story(late) == [("reset", 3, ErrorCode.FLOW_CONTROL_ERROR)]


def test_a_peer_that_sends_beyond_the_connection_is_lost() -> None:
    """FLOW_CONTROL_ERROR of the connection."""
    connection = connected(connection_window=65_535, stream_window=MAX_WINDOW)
    open_stream(connection)
    frames = data(1, prefixed(bytes(39_995))) * 2

    buffer = connection.buffer()
    buffer[: len(frames)] = frames
    events = connection.received(len(frames), NOW_NS)

    assert isinstance(events[-1], Lost)
    assert events[-1].error.code == ErrorCode.FLOW_CONTROL_ERROR


def test_credit_goes_back_when_the_application_has_consumed() -> None:
    """Until then the peer cannot send more than one window, however many messages it makes."""
    connection = connected(stream_window=100_000)
    connection.feed(SETTINGS_ACK, NOW_NS)
    stream = open_stream(connection)
    for _ in range(9):
        connection.feed(data(1, prefixed(bytes(9_995))), NOW_NS)

    before = credit(connection, 1)
    given_back = []
    for _ in range(10):
        connection.consumed(stream, 9_995)
        given_back.append(credit(connection, 1))

    assert before == 0
    assert [size > 0 for size in given_back] == [False] * 5 + [True] + [False] * 4
    assert stream.recv_window + stream.held + 3 * (9_995 + MESSAGE_COST) == 100_000


def test_a_large_message_gets_its_window_at_once_and_only_once() -> None:
    """The peer may send all of it without waiting; padding is never charged for good."""
    connection = connected()
    open_stream(connection)
    body = prefixed(bytes(5_000_000))

    connection.feed(data(1, body[:1_000]), NOW_NS)
    first = credit(connection, 1)
    connection.feed(data(1, b"\x64" + body[1_000:2_000] + bytes(100), PADDED), NOW_NS)

    assert first == len(body) - 1_000 - (2**20 - 1_000)
    assert credit(connection, 1) == 101


def test_the_window_of_the_connection_is_kept_open() -> None:
    """Credit for the connection goes back in halves, whatever becomes of the streams."""
    connection = connected(connection_window=200_000)
    given_back = []

    for stream_id in range(1, 41, 2):
        connection.feed(headers(stream_id) + data(stream_id, bytes(15_000), end=True), NOW_NS)
        given_back.append(credit(connection, 0))

    assert 200_000 - connection.recv_window + sum(given_back) == 20 * 15_000
    assert len([size for size in given_back if size]) == 2


def test_messages_that_nobody_consumes_close_the_window_of_the_connection() -> None:
    """What waits is bounded for all streams together; consumed or dropped, it is let go."""
    connection = connected(connection_held=300_000, connection_window=65_535)
    first, second = open_stream(connection, 1), open_stream(connection, 3)
    empty = prefixed(b"") * 1_000

    for _ in range(4):
        connection.feed(data(1, empty) + data(3, empty), NOW_NS)
    waiting = credit(connection, 0)
    connection.reset(first, ErrorCode.CANCEL)
    still = credit(connection, 0)
    for _ in range(2_000):
        connection.consumed(second, 0)
    given_back = credit(connection, 0)

    assert (waiting, still) == (0, 0)
    assert given_back == 40_000
    assert connection.recv_window == 65_535


@given(st.integers(1, MAX_WINDOW), st.integers(0, MAX_WINDOW), st.integers(-100, MAX_WINDOW))
def test_credit_never_makes_more_than_the_base(base: int, held: int, window: int) -> None:
    """What the peer may send and what the application holds are one window together."""
    due = credit_due(base, held, window)

    assert due >= 0
    assert not due or window + due + held == base
    assert max(credit_for_message(held, window), 0) + window >= min(held, MAX_WINDOW)


class Peer:
    """A client that is another library, and holds us to every window."""

    def __init__(self, window: int, frame_size: int) -> None:
        configuration = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self.h2 = h2.connection.H2Connection(configuration)
        self.h2.initiate_connection()
        codes = h2.settings.SettingCodes
        self.h2.update_settings(
            {codes.INITIAL_WINDOW_SIZE: window, codes.MAX_FRAME_SIZE: frame_size}
        )
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.uncredited: dict[int, int] = {}

    def hear(self, text: bytes) -> None:
        """Take bytes in; h2 raises if a window was overrun."""
        for event in self.h2.receive_data(text):
            if isinstance(event, h2.events.DataReceived):
                stream_id = event.stream_id
                self.bodies[stream_id] = self.bodies.get(stream_id, b"") + event.data
                length = event.flow_controlled_length
                self.uncredited[stream_id] = self.uncredited.get(stream_id, 0) + length
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)

    def credit(self) -> None:
        """Give back what was received."""
        for stream_id, size in self.uncredited.items():
            self.h2.increment_flow_control_window(size)
            if stream_id not in self.ended:
                self.h2.increment_flow_control_window(size, stream_id)
        self.uncredited.clear()


@settings(max_examples=300, deadline=None)
@given(
    window=st.integers(1, 100_000),
    frame_size=st.integers(16_384, 100_000),
    answers=st.lists(st.lists(st.integers(0, 60_000), min_size=1, max_size=4), max_size=4),
    output=st.integers(1_000, 100_000),
)
def test_another_library_never_sees_a_window_overrun_and_gets_everything(
    window: int, frame_size: int, answers: list[list[int]], output: int
) -> None:
    """Whatever windows h2 gives, it receives every message whole, in order, and no byte early."""
    window = max(window, 1 + sum(map(sum, answers)) // 200)
    peer = Peer(window, frame_size)
    connection = connected(output=output, high_water=10**9, stream_unsent=10**9)
    connection = ServerConnection(connection.limits)
    expected = {}

    connection.feed(peer.h2.data_to_send(), NOW_NS)
    peer.hear(raw(connection))
    for number, sizes in enumerate(answers):
        stream_id = 2 * number + 1
        fields = [(name.decode(), value.decode()) for name, value in FIELDS]
        peer.h2.send_headers(stream_id, fields)
        peer.h2.send_data(stream_id, prefixed(b"?"), end_stream=True)
        events = connection.feed(peer.h2.data_to_send(), NOW_NS)
        (event,) = [event for event in events if isinstance(event, Request)]
        messages = [bytes([number]) * size for size in sizes]
        connection.send_messages(event.stream, messages)
        connection.send_trailers(event.stream)
        expected[stream_id] = b"".join(map(prefixed, messages))
    for _ in range(2_000):
        peer.hear(raw(connection))
        peer.credit()
        connection.feed(peer.h2.data_to_send(), NOW_NS)
        if len(peer.ended) == len(answers):
            break

    assert peer.bodies == expected
    assert peer.ended == set(expected)
    assert connection.error is None
    assert not connection.streams


@settings(max_examples=300, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 200_000), min_size=1, max_size=3),
    window=st.integers(65_535, 200_000),
    step=st.integers(1_000, 70_000),
)
def test_another_library_can_always_send_everything(
    sizes: list[int], window: int, step: int
) -> None:
    """With an application that consumes, no message of h2 waits for credit for ever."""
    peer = Peer(65_535, 16_384)
    connection = ServerConnection(connected(stream_window=window, connection_window=window).limits)
    messages = [bytes([index]) * size for index, size in enumerate(sizes)]
    body = b"".join(map(prefixed, messages))
    got: list[Any] = []

    connection.feed(peer.h2.data_to_send(), NOW_NS)
    peer.hear(raw(connection))
    peer.h2.send_headers(1, [(name.decode(), value.decode()) for name, value in FIELDS])
    for _ in range(20_000):
        room = min(peer.h2.local_flow_control_window(1), peer.h2.max_outbound_frame_size, step)
        chunk, body = body[:room], body[room:]
        peer.h2.send_data(1, chunk, end_stream=not body)
        for event in connection.feed(peer.h2.data_to_send(), NOW_NS):
            if isinstance(event, Message | Request):
                got.append(bytes(event.message))
                connection.consumed(event.stream, len(event.message))
        peer.hear(raw(connection))
        if not body:
            break

    assert got == messages
    assert connection.error is None
    assert not body


def test_h2_and_we_agree_on_an_empty_request() -> None:
    """A request without a message is Opened and Ended."""
    peer = Peer(65_535, 16_384)
    connection = ServerConnection()
    fields = [(name.decode(), value.decode()) for name, value in FIELDS]
    peer.h2.send_headers(1, fields, end_stream=True)

    events = connection.feed(peer.h2.data_to_send(), NOW_NS)

    assert [type(event) for event in events[2:]] == [Opened, Ended]


def test_a_connection_that_lets_no_answers_out_gets_no_more_calls_until_it_does() -> None:
    """However many streams: what waits on all of them together is bounded."""
    connection = connected({INITIAL_WINDOW_SIZE: 0}, connection_unsent=1_000)
    for number in range(3):
        connection.respond(asked(connection, 1 + 2 * number), bytes(400))
    written(connection)

    connection.feed(call(7), NOW_NS)
    refused = written(connection)
    for number in range(2):
        connection.feed(window_update(1 + 2 * number, 405), NOW_NS)
    written(connection)
    events = connection.feed(call(9), NOW_NS)

    assert [(f.kind, f.stream_id, f.payload[-1]) for f in refused] == [
        (RST_STREAM, 7, ErrorCode.REFUSED_STREAM)
    ]
    assert [type(event) for event in events] == [Request]
    assert connection.unsent == 405
