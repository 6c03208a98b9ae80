"""Every bound of a connection in one place. Sizes in bytes, rates per second."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

KIB = 1 << 10
MIB = 1 << 20


class Rate(NamedTuple):
    """How often something may happen: so many at once, and so many a second in the long run."""

    burst: int
    per_second: int


def _always(size: int) -> bool:
    del size
    return True


def _ignore(size: int) -> None:
    del size


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may ask of us. Whoever goes beyond is refused, and counted by name.

    The first group is what we advertise, the second bounds what is kept in memory, the third
    bounds work that brings nothing; the rates lie far above what any honest client does. Each
    answer of ours allows a few more pings, window updates and late frames than the rates.
    """

    stream_window: int = MIB
    """Bytes that a peer may send on one stream before the application took any."""
    connection_window: int = 16 * MIB
    max_frame_size: int = 4 * MIB
    max_concurrent_streams: int = 4_096
    """Streams open at once; those beyond get REFUSED_STREAM."""
    header_table_size: int = 4 * KIB

    read_buffer: int = 256 * KIB
    message_size: int = 2**31 - 1
    """A longer message is refused with RESOURCE_EXHAUSTED before any memory is taken for it."""
    metadata_size: int = 16 * KIB
    """Of one request, as RFC 9113 counts it; more is RESOURCE_EXHAUSTED."""
    header_block_size: int = 64 * KIB
    """Of one compressed header block with its CONTINUATIONs; more ends the connection."""
    continuations: int = 8
    """CONTINUATION frames of one header block."""
    settings_per_frame: int = 64
    reserve: Callable[[int], bool] = field(default=_always)
    """Asked before the memory of a large message is taken; False refuses the call."""
    release: Callable[[int], None] = field(default=_ignore)
    """Told when a message that was reserved for will not be delivered."""
    connection_held: int = 64 * MIB
    """Bytes of messages of all streams that wait for the application, beyond which the window of
    the connection is not kept open any more."""
    high_water: int = 256 * KIB
    """Unsent bytes of one stream above which its producer should wait for `Room`."""
    low_water: int = 64 * KIB
    stream_unsent: int = 8 * MIB
    """Unsent bytes of one stream beyond which the next message ends it: its reader is too slow."""
    connection_unsent: int = 256 * MIB
    """Unsent bytes of all streams above which new ones get REFUSED_STREAM, until half is sent."""
    lone_turn: int = MIB
    """What a stream that nobody waits behind sends in one go, and our largest frame: whoever comes
    meanwhile waits for it, and the peer wakes for each."""
    output: int = MIB
    """Bytes that wait in `out` beyond which messages stay with their streams."""
    control_output: int = MIB
    """Bytes of answers to the peer's frames that wait in `out`, each counted with 100 more for
    what it costs to keep; more ends the connection."""
    remembered_streams: int = 1_000
    """Streams that ended by RST_STREAM whose late frames are still told from wrong ones."""

    resets: Rate = field(default=Rate(5_000, 1_000))
    """Streams reset before they were answered: by the peer, or by us for the peer's fault. An
    honest client resets every call whose deadline passes, so an overloaded server sees thousands
    at once; each costs us less than a call that is answered."""
    refused_streams: Rate = field(default=Rate(1_000, 200))
    """Streams beyond `max_concurrent_streams`."""
    settings: Rate = field(default=Rate(100, 20))
    pings: Rate = field(default=Rate(1_000, 1_000))
    window_updates: Rate = field(default=Rate(10_000, 2_000))
    tiny_writes: Rate = field(default=Rate(1_000, 200))
    """DATA frames of ours below `tiny` bytes that a small window cut off."""
    empty_frames: Rate = field(default=Rate(100, 100))
    """DATA or CONTINUATION frames that carry nothing and end nothing."""
    fragments: Rate = field(default=Rate(20_000, 20_000))
    """DATA frames below `tiny` bytes that end neither a message nor a stream: there are clients
    that send the five bytes before a message in a frame of their own."""
    ignored_frames: Rate = field(default=Rate(1_000, 1_000))
    """PRIORITY and unknown frames, and small frames of streams that are closed."""
    inflated: Rate = field(default=Rate(4_096, 1_024))
    """Units of 64 KiB that compressed messages inflate to: that happens on the event loop, at some
    0.3 GB/s, and a few bytes are enough to ask for it."""
    tiny: int = 64
    stall_progress: int = KIB
    """A stream that sends less than this in a stall's time is stalled as if it sent nothing."""
