"""Every defence of the core: what it bounds, that honest clients do not meet it, that it counts."""

import gzip
import tracemalloc
from collections.abc import Callable
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.http2.core import (
    FIELDS,
    NOW_NS,
    asked,
    block,
    call,
    connected,
    data,
    headers,
    open_stream,
    prefixed,
    reset_codes,
    story,
    written,
)

from penstock.transport.http2.events import Lost, Message, Opened
from penstock.transport.http2.frames import (
    CONTINUATION,
    PADDED,
    PRIORITY,
    SETTINGS,
    SETTINGS_ACK,
    ErrorCode,
    frame,
    goaway,
    ping,
    rst_stream,
    window_update,
)
from penstock.transport.http2.guards import Bucket
from penstock.transport.http2.limits import Limits, Rate
from penstock.transport.http2.outlet import EARNED_BY_PIECE
from penstock.transport.http2.server_connection import ServerConnection
from penstock.transport.http2.settings import INITIAL_WINDOW_SIZE, settings_frame

SECOND_NS = 1_000_000_000
FEW = Rate(20, 10)
EARNED_AT_FIRST = 2 * EARNED_BY_PIECE
"""By our SETTINGS and WINDOW_UPDATE, which go out before anything comes in."""


def calmed(connection: ServerConnection, name: str) -> bool:
    """Whether the connection ended because of this guard, and the guard counted it once."""
    error = connection.error
    if error is None:
        return False
    assert (error.code, error.text) == (ErrorCode.ENHANCE_YOUR_CALM, f"too many: {name}")
    assert connection.tallies[name] == 1
    return True


def flood(connection: ServerConnection, text: bytes, times: int) -> int:
    """Send this so often, unless the connection ends; how often it was taken."""
    for number in range(times):
        connection.feed(text, NOW_NS)
        if connection.closing:
            return number
        written(connection)
    return times


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pings", ping(bytes(8))),
        ("settings", settings_frame({})),
        ("settings", SETTINGS_ACK),
        ("settings", goaway(0, 0)),
        ("ignored_frames", frame(PRIORITY, 0, 9, bytes(5))),
        ("ignored_frames", frame(0x77, 0, 0, b"")),
        ("ignored_frames", data(3, b"x" * 10)),
        ("empty_frames", data(1, b"")),
        ("empty_frames", data(1, bytes(11), PADDED)[:9] + b"\x0a" + bytes(10)),
        ("fragments", data(1, b"\0")),
    ],
    ids=["ping", "settings", "ack", "goaway", "priority", "unknown", "late", "empty", "pad", "one"],
)
def test_frames_that_bring_nothing_are_bounded_by_a_rate(name: str, text: bytes) -> None:
    """A burst passes, then so many a second; one more and the client has to calm down."""
    connection = connected(**{name: FEW})
    open_stream(connection, 1)
    connection.reset(open_stream(connection, 3), ErrorCode.CANCEL)
    if name == "fragments":
        connection.feed(data(1, b"\0\0\0\xff\xff"), NOW_NS)

    taken = flood(connection, text, 100)

    assert calmed(connection, name)
    assert 18 <= taken <= 20 + EARNED_AT_FIRST


def test_what_a_rate_allows_goes_on_for_ever() -> None:
    """The tokens of a second come back in a second."""
    connection = connected(pings=FEW)

    for tenth in range(500):
        connection.feed(ping(bytes(8)), NOW_NS + tenth * SECOND_NS // 10)
        written(connection)

    assert connection.error is None


def test_a_rapid_reset_is_stopped() -> None:
    """Streams that are opened and reset before they are answered take tokens."""
    connection = connected(resets=FEW)
    number = 0

    while not connection.closing:
        stream_id = 2 * number + 1
        connection.feed(headers(stream_id) + rst_stream(stream_id, ErrorCode.CANCEL), NOW_NS)
        number += 1

    assert calmed(connection, "resets")
    assert number == 21
    assert not connection.streams


def test_resets_of_calls_that_were_answered_cost_nothing() -> None:
    """Only what made us work for nothing counts."""
    connection = connected(resets=Rate(2, 1))

    for stream_id in range(1, 1_001, 2):
        connection.respond(asked(connection, stream_id), b"answer")
        connection.feed(rst_stream(stream_id, ErrorCode.CANCEL), NOW_NS)
        written(connection)

    assert connection.error is None


@pytest.mark.parametrize(
    "fault",
    [
        lambda n: headers(n) + window_update(n, 0),
        lambda n: headers(n) + window_update(n, 2**31 - 1),
        lambda n: call(n) + data(n, b"late"),
        lambda n: headers(n) + headers(n),
        lambda n: headers(n, header_block=block((*FIELDS, (b"Upper", b"1")))),
    ],
    ids=["zero update", "overflow", "data after end", "second head", "malformed"],
)
def test_a_client_that_makes_us_reset_streams_is_no_better(fault: object) -> None:
    """Errors that the client provokes take the same tokens as its own resets."""
    assert callable(fault)
    connection = connected(resets=FEW)
    number = 0

    while not connection.closing and number < 100:
        connection.feed(fault(2 * number + 1), NOW_NS)
        written(connection)
        number += 1

    assert calmed(connection, "resets")
    assert number == 21


def test_streams_beyond_the_limit_are_refused_and_then_enough_is_enough() -> None:
    """REFUSED_STREAM at first, as the client may not know the limit yet."""
    connection = connected(max_concurrent_streams=1, refused_streams=FEW)
    asked(connection)
    refused = 0

    for stream_id in range(3, 201, 2):
        connection.feed(headers(stream_id), NOW_NS)
        if connection.closing:
            break
        refused += len(reset_codes(written(connection)))

    assert connection.error is not None
    assert connection.error.code == ErrorCode.ENHANCE_YOUR_CALM
    assert refused == 20


def test_a_flood_of_continuations_is_stopped_before_it_is_kept() -> None:
    """Neither many small nor a few large pieces make a header block without end."""
    many, empty, large = connected(), connected(empty_frames=Rate(3, 1)), connected()
    for connection in (many, empty, large):
        connection.feed(headers(1, 0, b""), NOW_NS)

    small = flood(many, frame(CONTINUATION, 0, 1, b"x"), 100)
    nothing = flood(empty, frame(CONTINUATION, 0, 1, b""), 100)
    pieces = flood(large, frame(CONTINUATION, 0, 1, bytes(20_000)), 100)

    assert (small, nothing, pieces) == (8, 3, 3)
    assert calmed(many, "continuations")
    assert calmed(empty, "empty_frames")
    assert calmed(large, "header_blocks")


def test_a_header_block_that_is_too_large_is_not_waited_for() -> None:
    """The length in the frame's header is enough to know."""
    connection = connected()
    text = headers(1, header_block=bytes(100_000))

    connection.feed(text[:9], NOW_NS)

    assert calmed(connection, "header_blocks")


def test_a_header_bomb_is_refused_and_the_connection_lives() -> None:
    """A small block that unfolds beyond the limit is RESOURCE_EXHAUSTED, its table in step."""
    connection = connected()
    filled = b"\x40\x03x-a\x7f\xf1\x1d" + b"v" * (127 + 0x71 + (0x1D << 7))
    connection.feed(headers(1, header_block=block() + filled, end=True), NOW_NS)

    events = connection.feed(headers(3, header_block=block() + b"\xbe" * 1_000, end=True), NOW_NS)
    (event,) = connection.feed(headers(5, header_block=block() + b"\xbe"), NOW_NS)

    assert story(events) == [("refused", 3, 8, "metadata_too_large")]
    assert connection.tallies["metadata_too_large"] == 1
    assert isinstance(event, Opened)


def test_a_bomb_in_trailers_costs_no_more_than_its_bytes() -> None:
    """They are weighed before anyone looks at what is in them, and only the stream is lost."""
    connection = connected()
    filled = b"\x40\x03x-a\x7f\xa1\x1e" + b"v" * 4_000
    connection.feed(headers(1, header_block=block() + filled), NOW_NS)
    bomb = headers(1, header_block=b"\xbe" * 65_000, end=True)

    tracemalloc.start()
    events = connection.feed(bomb, NOW_NS)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert story(events) == [("reset", 1, ErrorCode.PROTOCOL_ERROR)]
    assert connection.tallies["malformed_trailers"] == 1
    assert most < 8 << 20
    assert story(connection.feed(call(3), NOW_NS))


def squeezed(stream_id: int, size: int) -> bytes:
    """A whole call whose message inflates to this size."""
    head = headers(stream_id, header_block=block(FIELDS, (b"grpc-encoding", b"gzip")))
    return head + data(stream_id, prefixed(gzip.compress(bytes(size), 9), 1), end=True)


@pytest.mark.parametrize("size", [1_000, 50_000, 1_000_000])
def test_what_messages_inflate_to_is_bounded_by_a_rate(size: int) -> None:
    """Small ones as well as large ones; and a client that has time inflates as much as it likes."""
    hasty, patient = connected(inflated=FEW), connected(inflated=FEW)
    most = 20 * 65_536

    taken = inflated = 0
    for number in range(2_000):
        taken += bool(hasty.feed(squeezed(2 * number + 1, size), NOW_NS)) and not hasty.closing
        later = NOW_NS + inflated * SECOND_NS // (10 * 65_536)
        patient.feed(squeezed(2 * number + 1, size), later)
        inflated += size
        for connection in (hasty, patient):
            for stream in list(connection.streams.values()):
                connection.respond(stream, b"answer")
            written(connection)
        if inflated > 4 * most:
            break

    assert calmed(hasty, "inflated")
    assert most - size <= taken * size <= most + 65_536
    assert patient.error is None


def test_an_inflation_that_is_stopped_leaves_no_memory_behind() -> None:
    """It stops in the middle of a message, and whatever was reserved for that is given back."""
    used = 0

    def reserve(size: int) -> bool:
        nonlocal used
        used += size
        return True

    def release(size: int) -> None:
        nonlocal used
        used -= size

    for tokens in range(1, 40):
        connection = connected(inflated=Rate(tokens, 1), reserve=reserve, release=release)
        text = squeezed(1, 1_000_000) + squeezed(3, 1_000_000)

        events = connection.feed(text, NOW_NS)
        for event in events:
            if isinstance(event, Message):
                release(len(event.message))
        connection.lost()

        assert used == 0, tokens
        assert calmed(connection, "inflated") == (tokens < 30)


def test_settings_of_many_entries_are_stopped() -> None:
    """An honest client has six settings."""
    connection = connected()

    connection.feed(frame(SETTINGS, 0, 0, bytes(6 * 65))[:9], NOW_NS)

    assert calmed(connection, "settings_per_frame")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("window_updates", lambda stream_id: window_update(0, 20) + window_update(stream_id, 20)),
        ("pings", lambda _: ping(bytes(8))),
        ("ignored_frames", lambda stream_id: rst_stream(stream_id, ErrorCode.CANCEL)),
    ],
    ids=["credit", "pings that measure the way", "resets that come too late"],
)
def test_what_honest_clients_send_for_our_answers_is_earned_by_them(
    name: str, text: Callable[[int], bytes]
) -> None:
    """With answers it meets no limit, without them it does."""
    honest, idle = connected(**{name: FEW}), connected(**{name: FEW})
    idle.respond(asked(idle), b"answer")
    written(idle)

    for stream_id in range(1, 1_001, 2):
        honest.respond(asked(honest, stream_id), b"answer")
    written(honest)
    for stream_id in range(1, 1_001, 2):
        honest.feed(text(stream_id), NOW_NS)
        written(honest)
    flood(idle, text(1), 100)

    assert honest.error is None
    assert calmed(idle, name)


def test_a_large_upload_that_we_stop_may_run_out() -> None:
    """What is on its way when a call is refused is no attack, however many calls there are."""
    connection = connected(ignored_frames=FEW)

    for stream_id in range(1, 201, 2):
        stream = open_stream(connection, stream_id)
        connection.refuse(stream, 8, "too much at once")
    for stream_id in range(1, 201, 2):
        connection.feed(data(stream_id, bytes(16_384)) * 10, NOW_NS)
        written(connection)

    assert connection.error is None


def test_a_window_that_opens_by_single_bytes_is_stopped() -> None:
    """Each byte of credit would cost us a frame."""
    connection = connected({INITIAL_WINDOW_SIZE: 1}, tiny_writes=FEW)
    connection.respond(asked(connection), bytes(1_000))

    given = flood(connection, window_update(1, 1), 100)

    assert calmed(connection, "tiny_writes")
    assert given <= 20


def test_a_client_that_does_not_read_our_answers_to_its_frames_is_cut_off() -> None:
    """What waits in `out` for its frames is bounded, whatever the rates allow."""
    connection = connected(pings=Rate(10**9, 1), control_output=100_000)

    for _ in range(10_000):
        connection.feed(ping(bytes(8)) * 10, NOW_NS)
        if connection.closing:
            break

    assert calmed(connection, "control_output")
    assert sum(map(len, connection.out)) < 100_000


def test_a_client_that_does_not_read_refusals_is_cut_off() -> None:
    """Answers without a message pass every window, so they count as well."""
    connection = connected(control_output=100_000)
    bad = block((*FIELDS[:-1], (b"content-type", b"text/html")))

    for number in range(10_000):
        connection.feed(headers(2 * number + 1, header_block=bad, end=True), NOW_NS)
        if connection.closing:
            break

    assert calmed(connection, "control_output")


def test_answers_that_nobody_reads_stay_with_their_streams() -> None:
    """What is made ready for writing is bounded, and so are the streams."""
    connection = connected(output=50_000, max_concurrent_streams=10)
    connection.feed(window_update(0, 2**31 - 65_536), NOW_NS)

    for number in range(200):
        for event in connection.feed(call(2 * number + 1), NOW_NS):
            if not isinstance(event, Lost):
                connection.respond(event.stream, bytes(10_000))  # type: ignore[attr-defined]

    assert sum(map(len, connection.out)) < 100_000
    assert len(connection.streams) <= 10


def test_games_with_stream_ids_end_where_the_ids_end() -> None:
    """The last id there is may be used, and nothing after it."""
    connection = connected()

    events = connection.feed(call(2**31 - 1), NOW_NS)
    again = connection.feed(headers(1), NOW_NS)

    assert len(story(events)) == 3
    assert isinstance(again[-1], Lost)
    assert again[-1].error.code == ErrorCode.PROTOCOL_ERROR


@given(
    st.integers(1, 100),
    st.integers(1, 100),
    st.lists(st.integers(0, 3 * SECOND_NS), max_size=300),
)
def test_a_bucket_never_gives_more_than_its_burst_and_its_rate(
    burst: int, per_second: int, pauses: list[int]
) -> None:
    """In any time: at most the burst, and the rate's share of the time, give or take a token."""
    bucket = Bucket(Rate(burst, per_second))
    now_ns = given = 0

    for pause in pauses:
        now_ns += pause
        given += bucket.take(now_ns)

    assert given <= burst + per_second * now_ns / SECOND_NS + 1
    assert given >= min(len(pauses), burst)
    assert repr(bucket).startswith("<Bucket ")


def test_a_slow_bucket_is_not_starved_by_frequent_takers() -> None:
    """Fractions of a token are not lost to those who ask too early."""
    bucket = Bucket(Rate(1, 1))

    taken = sum(bucket.take(milliseconds * 1_000_000) for milliseconds in range(0, 10_000, 7))

    assert taken == 10


def test_every_rate_of_the_limits_is_guarded_by_a_bucket_of_its_name() -> None:
    """A limit that nobody asks about would be a promise that nobody keeps."""
    connection = connected()
    rates = [each.name for each in fields(Limits) if isinstance(each.default, Rate)]

    buckets = {name: connection.guards.bucket(name).burst for name in rates}

    assert len(rates) >= 9
    assert buckets == {name: getattr(Limits(), name).burst for name in rates}


def test_an_honest_streaming_client_meets_no_guard() -> None:
    """Ten thousand small messages on one stream, each acknowledged, is ordinary work."""
    connection = connected()
    stream = open_stream(connection)

    for _ in range(10_000):
        for _event in connection.feed(data(1, prefixed(b"token")), NOW_NS):
            connection.send_messages(stream, [b"answer"])
            connection.consumed(stream, 5)
        written(connection)
        connection.feed(window_update(0, 11) + window_update(1, 11), NOW_NS)

    assert connection.error is None
    assert not connection.tallies
