"""The state table of streams, entry by entry: every frame on every stream that is not open."""

from collections.abc import Callable

import pytest
from tests.http2.core import (
    NOW_NS,
    asked,
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

from penstock.transport.http2.events import Lost
from penstock.transport.http2.frames import (
    DATA,
    HEADERS,
    PRIORITY,
    RST_STREAM,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
    rst_stream,
    window_update,
)
from penstock.transport.http2.history import MAX_GAPS, History
from penstock.transport.http2.server_connection import ServerConnection
from penstock.transport.http2.stream import (
    HALF_CLOSED_REMOTE,
    NOT_OPEN,
    OPEN,
    OPEN_STATES,
    Past,
    Verdict,
)

STREAM = 5
FRAMES = {
    DATA: data(STREAM, prefixed(b"late")),
    HEADERS: headers(STREAM),
    PRIORITY: frame(PRIORITY, 0, STREAM, bytes(5)),
    RST_STREAM: rst_stream(STREAM, ErrorCode.CANCEL),
    WINDOW_UPDATE: window_update(STREAM, 1),
}


def _idle(connection: ServerConnection) -> None:
    del connection


def _skipped(connection: ServerConnection) -> None:
    asked(connection, STREAM + 2)


def _finished(connection: ServerConnection) -> None:
    connection.respond(asked(connection, STREAM), b"done")


def _reset_by_peer(connection: ServerConnection) -> None:
    asked(connection, STREAM)
    connection.feed(rst_stream(STREAM, ErrorCode.CANCEL), NOW_NS)


def _reset_by_us(connection: ServerConnection) -> None:
    connection.reset(open_stream(connection, STREAM), ErrorCode.CANCEL)


def _forgotten(connection: ServerConnection) -> None:
    _reset_by_peer(connection)
    for stream_id in range(STREAM + 2, STREAM + 8, 2):
        connection.feed(headers(stream_id) + rst_stream(stream_id, 8), NOW_NS)


PASTS: dict[Past, Callable[[ServerConnection], None]] = {
    Past.IDLE: _idle,
    Past.SKIPPED: _skipped,
    Past.FINISHED: _finished,
    Past.RESET_BY_PEER: _reset_by_peer,
    Past.RESET_BY_US: _reset_by_us,
    Past.FORGOTTEN: _forgotten,
}


def prepared(past: Past) -> ServerConnection:
    """A connection on which the stream has this past."""
    connection = connected(remembered_streams=2 if past is Past.FORGOTTEN else 100)
    PASTS[past](connection)
    written(connection)
    assert connection.history.past(STREAM) is past
    return connection


def test_every_state_has_a_verdict_on_every_frame() -> None:
    """No pair of state and frame is left to chance."""
    assert set(NOT_OPEN) == set(Past)
    assert all(set(verdicts) == set(FRAMES) for verdicts in NOT_OPEN.values())
    assert all(set(verdicts) == set(FRAMES) for verdicts in OPEN_STATES.values())


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("past", Past, ids=lambda past: past.name)
def test_a_frame_on_a_stream_that_is_not_open_gets_its_verdict(past: Past, kind: int) -> None:
    """The table is what happens, and an accepted or ignored frame harms nobody."""
    connection = prepared(past)
    verdict, code = NOT_OPEN[past][kind]

    events = connection.feed(FRAMES[kind], NOW_NS)

    if verdict is Verdict.CLOSE:
        assert isinstance(events[-1], Lost)
        assert events[-1].error.code == code
        return
    assert connection.error is None
    resets = {STREAM: code} if verdict is Verdict.RESET else {}
    assert reset_codes(written(connection)) == resets
    assert story(events) == ([("opened", STREAM)] if verdict is Verdict.ACCEPT else [])
    next_id = connection.history.last + 2
    assert len(story(connection.feed(call(next_id), NOW_NS))) == 3


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("state", [OPEN, HALF_CLOSED_REMOTE])
def test_a_frame_on_an_open_stream_gets_its_verdict(state: int, kind: int) -> None:
    """What is wrong after the client's END_STREAM ends the stream and nothing else."""
    connection = connected()
    stream = (open_stream if state == OPEN else asked)(connection, STREAM)
    verdict, code = OPEN_STATES[state][kind]

    events = connection.feed(FRAMES[kind], NOW_NS)

    assert connection.error is None
    resets = {STREAM: code} if verdict is Verdict.RESET else {}
    if kind == HEADERS and state == OPEN:
        # Trailers without END_STREAM: the frame may come, this one is malformed.
        resets = {STREAM: ErrorCode.PROTOCOL_ERROR}
    assert reset_codes(written(connection)) == resets
    assert stream.closed == bool(resets or kind == RST_STREAM)
    assert [type(event).__name__ for event in events] == (
        ["Reset"] if stream.closed else ["Message"] if kind == DATA else []
    )


def test_late_data_on_a_stream_that_we_reset_still_counts_for_the_connection() -> None:
    """RFC 9113, 5.4.2: or the two sides would disagree about the connection's window for ever."""
    connection = prepared(Past.RESET_BY_US)
    before = connection.recv_window

    connection.feed(data(STREAM, bytes(1_000)), NOW_NS)

    assert connection.recv_window == before - 1_000


def test_a_late_header_block_keeps_the_table_in_step() -> None:
    """RFC 9113, 4.3: it is decoded although nobody wants it."""
    connection = prepared(Past.RESET_BY_US)
    inserting = b"\x40\x03x-a\x011"

    connection.feed(headers(STREAM, header_block=inserting, end=True), NOW_NS)

    assert connection.decoder.fields(b"\xbe") == [(b"x-a", b"1")]


def test_ids_of_a_client_are_odd_in_every_frame() -> None:
    """An even id was never opened by anyone."""
    connection = connected()
    asked(connection, 7)

    events = connection.feed(window_update(4, 1), NOW_NS)

    assert isinstance(events[-1], Lost)
    assert events[-1].error.code == ErrorCode.PROTOCOL_ERROR


def test_what_is_remembered_of_streams_is_bounded() -> None:
    """Neither gaps nor resets of a hostile client take more than their share."""
    history = History(10)

    for stream_id in range(1, 10_000, 6):
        history.skip_to(stream_id)
        history.remember(stream_id, Past.RESET_BY_US)

    assert history.past(9_997) is Past.RESET_BY_US
    assert history.past(9_993) is Past.SKIPPED
    assert history.past(1) is Past.FORGOTTEN
    assert history.past(10_001) is Past.IDLE
    assert repr(history) == "<History up to 9997, 10 kept>"
    assert MAX_GAPS < 100
