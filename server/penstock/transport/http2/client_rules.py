"""What a client says of itself, what it bears of a server, and which answers are the usual."""

from penstock.transport.http2.frames import MAX_STREAM_ID, PREFACE
from penstock.transport.http2.limits import MIB, Limits, Rate
from penstock.transport.http2.response_heads import ResponseHead
from penstock.transport.http2.settings import (
    ENABLE_PUSH,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE_ID,
    MAX_HEADER_LIST_SIZE,
    settings_frame,
)

_UNCOUNTED = Rate(1 << 30, 1 << 30)

CLIENT_LIMITS = Limits(
    # What a server does often is what its client made it do; and requests may be of any size.
    stream_unsent=1 << 62,
    lone_turn=2 * MIB,
    resets=_UNCOUNTED,
    window_updates=_UNCOUNTED,
    ignored_frames=Rate(100_000, 100_000),
    pings=Rate(10_000, 10_000),
)

STREAMS_BEFORE_SETTINGS = 100
"""Calls that are opened before the server said how many it takes."""

UNLIMITED_STREAMS = MAX_STREAM_ID


def opening_bytes(limits: Limits) -> bytes:
    """What a client sends first: the preface and its settings."""
    entries = {
        ENABLE_PUSH: 0,
        HEADER_TABLE_SIZE: limits.header_table_size,
        INITIAL_WINDOW_SIZE: limits.stream_window,
        MAX_FRAME_SIZE_ID: limits.max_frame_size,
        MAX_HEADER_LIST_SIZE: limits.metadata_size,
    }
    return PREFACE + settings_frame(entries)


def is_misplaced(previous: ResponseHead | None, head: ResponseHead, ends: int) -> bool:
    """Whether a header block may not come here: `previous` is the stream's head so far, `ends`
    says that nothing follows.
    """
    if previous is None:
        return head.http_status == 0 or (bool(ends) and head.http_status < 200)
    return head.http_status != 0 or not ends


def is_usual_head(head: ResponseHead) -> bool:
    """Whether a head says nothing but that messages follow."""
    return (
        head.http_status == 200
        and head.is_grpc
        and head.status is None
        and not head.problem
        and not head.metadata
    )


def is_usual_end(head: ResponseHead) -> bool:
    """Whether trailers say nothing but OK."""
    return (
        head.http_status == 0
        and head.status == 0
        and not head.text
        and not head.problem
        and not head.metadata
    )
