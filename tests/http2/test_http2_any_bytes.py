"""Any bytes in any pieces: the same story however they are cut, and never an exception."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.http2.core import (
    NOW_NS,
    block,
    call,
    data,
    headers,
    prefixed,
    raw,
    story,
)

from penstock.transport.http2.events import Event, Lost, Message, Request
from penstock.transport.http2.frames import (
    CONTINUATION,
    END_HEADERS,
    FRAME_HEADER,
    PADDED,
    PREFACE,
    PRIORITY_FLAG,
    SETTINGS_ACK,
    ErrorCode,
    frame,
    goaway,
    ping,
    rst_stream,
    window_update,
)
from penstock.transport.http2.limits import Limits
from penstock.transport.http2.server_connection import ServerConnection
from penstock.transport.http2.settings import INITIAL_WINDOW_SIZE, settings_frame

BLOCK = block()
LARGE = prefixed(bytes(70_001)) + prefixed(b"more")


def _conversation() -> bytes:
    """One of everything that an honest and a less honest client may send."""
    return b"".join(
        (
            PREFACE,
            settings_frame({INITIAL_WINDOW_SIZE: 500}),
            SETTINGS_ACK,
            call(1, b"first"),
            headers(3, PADDED | PRIORITY_FLAG | END_HEADERS, b"\x02" + bytes(5) + BLOCK + b"\0\0"),
            ping(b"12345678"),
            headers(5, 0, BLOCK[:20]),
            frame(CONTINUATION, 0, 5, BLOCK[20:30]),
            frame(CONTINUATION, END_HEADERS, 5, BLOCK[30:]),
            data(3, LARGE[:40_000]),
            data(5, prefixed(b"small")[:3]),
            frame(0x42, 0, 7, bytes(33)),
            data(3, b"\x07" + LARGE[40_000:60_000] + bytes(7), PADDED),
            data(5, prefixed(b"small")[3:] + prefixed(b"two"), end=True),
            window_update(0, 1_000),
            call(7, bytes(20_000)),
            data(3, LARGE[60_000:], end=True),
            headers(9, end=True),
            headers(11),
            rst_stream(11, ErrorCode.CANCEL),
            data(11, b"late"),
            headers(13, header_block=block([(b":method", b"GET")])),
            headers(15),
            data(15, b"\x03bad"),
            headers(17),
            data(17, b"\x09\0\0\0\0", end=True),
            goaway(0, ErrorCode.NO_ERROR, b"bye"),
            window_update(1, 0),
            headers(19),
            data(19, b""),
        )
    )


CONVERSATION = _conversation()


def cut(text: bytes, places: list[int]) -> list[bytes]:
    """The text in pieces that end at these places."""
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def told(pieces: list[bytes], limits: Limits | None = None) -> tuple[list[object], bytes]:
    """What a connection tells of these reads, and what it writes, answering as it hears."""
    connection = ServerConnection(limits or Limits())
    events: list[Event] = []
    output = b""
    for piece in pieces:
        for event in connection.feed(piece, NOW_NS):
            events.append(event)
            if isinstance(event, Request | Message):
                connection.consumed(event.stream, len(event.message))
    output += raw(connection)
    return [*per_stream(events)], output


def per_stream(events: list[Event]) -> list[object]:
    """The story of each stream by itself: joined events may overtake those of other streams."""
    entries = story(events)
    streams = {entry[1] for entry in entries if len(entry) > 1 and entry[0] != "lost"}
    others = [entry for entry in entries if len(entry) == 1 or entry[0] == "lost"]
    return [
        [entry for entry in entries if len(entry) > 1 and entry[1] == stream]
        for stream in sorted(streams)
    ] + [others]


def test_the_conversation_is_what_it_is_meant_to_be() -> None:
    """It covers requests, messages, refusals and resets, and does not end early."""
    events, output = told([CONVERSATION])

    text = repr(events)
    assert all(word in text for word in ("opened", "message", "ended", "reset", "refused"))
    assert "lost" not in text
    assert output


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 10**6), max_size=40))
def test_any_split_into_reads_tells_the_same_story(places: list[int]) -> None:
    """Events and answers depend on the bytes, not on how the socket hands them over."""
    whole = told([CONVERSATION])

    split = told(cut(CONVERSATION, places))

    assert split == whole


def test_single_bytes_tell_the_same_story() -> None:
    """The finest split there is."""
    assert told([bytes([octet]) for octet in CONVERSATION]) == told([CONVERSATION])


def _check_invariants(connection: ServerConnection, events: list[Event]) -> None:
    lost = [event for event in events if isinstance(event, Lost)]
    assert len(lost) <= 1
    if lost:
        assert events[-1] is lost[0]
        assert lost[0].error.code != ErrorCode.INTERNAL_ERROR, lost[0].error.__cause__
        assert connection.closing
        assert not connection.streams
    raw(connection)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_end_in_lost_or_nothing(noise: bytes, greeted: bool) -> None:
    """Garbage from the first byte on, or after a proper greeting, raises nothing."""
    connection = ServerConnection()
    start = PREFACE + settings_frame({}) if greeted else b""

    events = connection.feed(start + noise, NOW_NS)

    _check_invariants(connection, events)


frames = st.builds(
    lambda kind, flags, stream_id, payload: (
        FRAME_HEADER.pack(len(payload) << 8 | kind, flags, stream_id) + payload
    ),
    st.integers(0, 10),
    st.sampled_from([0, 1, 4, 5, 8, 12, 13, 0x20, 0x24, 0x25, 0x2D, 0xFF]),
    st.integers(0, 9),
    st.one_of(
        st.binary(max_size=20),
        st.just(BLOCK),
        st.just(prefixed(b"abc")),
        st.sampled_from([bytes(4), bytes(5), bytes(6), bytes(8), b"\0\0\0\x05", b"\x7f" * 4]),
    ),
)


@settings(max_examples=600, deadline=None)
@given(st.lists(frames, max_size=25), st.lists(st.integers(0, 10**6), max_size=5))
def test_random_frames_never_raise_and_tell_the_same_story_in_any_split(
    sent: list[bytes], places: list[int]
) -> None:
    """Whatever frames come in whatever order, received() reports and never raises."""
    text = PREFACE + settings_frame({}) + b"".join(sent)
    connection = ServerConnection()

    events = connection.feed(text, NOW_NS)

    _check_invariants(connection, events)
    whole, split = told([text]), told(cut(text, places))
    assert split[0] == whole[0]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(CONVERSATION) - 1), st.integers(0, 255), st.integers(0, 2**31))
def test_one_wrong_byte_anywhere_never_raises(place: int, octet: int, seed: int) -> None:
    """A conversation with one byte changed is told to its end, or ends in Lost."""
    text = CONVERSATION[:place] + bytes([octet]) + CONVERSATION[place + 1 :]
    connection = ServerConnection()

    events = []
    for piece in cut(text, [seed, seed // 7]):
        events += connection.feed(piece, NOW_NS)

    _check_invariants(connection, events)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_answers_at_any_time_never_raise(choose: st.DataObject) -> None:
    """Whatever an application does to open and closed streams, in whatever order."""
    connection = ServerConnection()
    seen = []
    acts = (
        lambda s: connection.respond(s, bytes(600)),
        connection.send_head,
        lambda s: connection.send_messages(s, [b"", bytes(300)]),
        lambda s: connection.send_messages(s, []),
        connection.send_trailers,
        lambda s: connection.refuse(s, 14, "later"),
        lambda s: connection.reset(s, 8),
        lambda s: connection.consumed(s, 100),
        lambda s: connection.output(),
        lambda s: connection.shutdown(),
    )

    events = []
    for piece in cut(CONVERSATION, choose.draw(st.lists(st.integers(0, 10**6), max_size=8))):
        events += connection.feed(piece, NOW_NS)
        seen += [event.stream for event in events if hasattr(event, "stream")]
        for act in choose.draw(st.lists(st.sampled_from(acts), max_size=6)):
            if seen:
                act(choose.draw(st.sampled_from(seen)))

    _check_invariants(connection, events)
