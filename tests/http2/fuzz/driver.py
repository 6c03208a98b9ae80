"""Plays any bytes into the core of a connection, as a peer would, and holds it to its promises.

An input's first byte says how it is played (`Play`), the second seeds how it is cut; the rest are
the bytes of the peer. After every read the state of the connection must be sound, everything that
it sends must be frames that a peer can take in, and every stream's events must make a story.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.http2.frames import (
    MAX_WINDOW,
    PREFACE,
)
from tests.http2.fuzz.application import answer, call, look_at, shrink
from tests.http2.fuzz.wire import Broken, Story, Wire, check

from penstock.transport.http2.client_connection import ClientConnection
from penstock.transport.http2.client_events import Answered, Responded, Trailers, Unprocessed
from penstock.transport.http2.client_rules import CLIENT_LIMITS
from penstock.transport.http2.events import (
    Ended,
    Event,
    Lost,
    Message,
    Opened,
    Refused,
    Request,
    Reset,
)
from penstock.transport.http2.frames import ErrorCode
from penstock.transport.http2.limits import Limits, Rate
from penstock.transport.http2.server_connection import ServerConnection
from penstock.transport.http2.stream import CLOSED, Stream

CLIENT = 0x01
"""The bytes are those of a server, and the core is a client's."""
BYTEWISE, PIECES = 0x02, 0x04
MOST_BYTES = 1_000
"""How many are read one by one before larger pieces follow."""
SLOW = 0x08
"""The socket takes nothing but now and then."""
TIGHT = 0x10
"""Small limits, which are reached soon."""
LAZY = 0x20
"""The application answers later."""
LEAVING = 0x40
"""A server that shuts down in the middle."""
SILENT = 0x80
"""The application answers nothing before the end, so that all depends on the peer alone."""

SHRUNK = 0x02
"""Of the second byte: what is large is small."""
USED_UP = 0x04
"""Of the second byte: the peer has used up most of the connection's window."""
USED_WINDOW = 2_000
SECOND_NS = 1_000_000_000
STALL_NS = SECOND_NS // 10
MOST_OUTPUT = 64 << 20
TIGHT_LIMITS = Limits(
    stream_window=200,
    connection_window=100_000,
    connection_held=1_000,
    max_frame_size=16_384,
    max_concurrent_streams=4,
    message_size=100_000,
    metadata_size=1_000,
    header_block_size=2_000,
    continuations=2,
    high_water=500,
    low_water=100,
    stream_unsent=80_000,
    output=2_000,
    control_output=3_000,
    remembered_streams=3,
    resets=Rate(5, 1),
    settings=Rate(4, 1),
    pings=Rate(6, 1),
    empty_frames=Rate(3, 1),
    fragments=Rate(30, 1),
)


class Play:
    """One input, one connection."""

    def __init__(self, raw: bytes) -> None:
        self.how, seed = (*raw[:2], 0, 0)[:2]
        self.data = raw[2:]
        self.random = random.Random(seed)
        self.reserved = self.made = 0
        self.crowded = False
        """Whether memory was refused for what others held."""
        shrink(bool(seed & SHRUNK))
        tight = bool(self.how & TIGHT)
        base = TIGHT_LIMITS if tight else (CLIENT_LIMITS if self.is_client else Limits())
        self.limits = _with_account(base, self)
        self.stories: dict[int, Story] = {}
        self.waiting: list[Stream] = []
        self.lost = False
        self.ended_as: tuple[object, ...] = ()
        self.wire = Wire(PREFACE if self.is_client else b"", self.stories)
        self.connection: Any = (
            ClientConnection(self.limits) if self.is_client else ServerConnection(self.limits)
        )
        if seed & USED_UP:
            self.connection.recv_window = USED_WINDOW
        if self.is_client:
            self._call()

    @property
    def is_client(self) -> bool:
        """Which core it is."""
        return bool(self.how & CLIENT)

    def run(self) -> "Play":
        """All of it; raises `Broken` or whatever the core raised."""
        now_ns = SECOND_NS
        if self.how & LEAVING and not self.is_client:
            self.connection.shutdown()
        for number, piece in enumerate(self._pieces()):
            self._read(piece, now_ns)
            if self.how & LAZY and number % 3 == 2:
                self._answer_waiting()
            if self.how & SLOW:
                for stream in self.connection.stalled(now_ns, STALL_NS):
                    self.connection.reset(stream, ErrorCode.CANCEL)
            if not self.how & SLOW or number % 8 == 7:
                self._write()
            now_ns += self.random.choice((0, 1000, SECOND_NS // 100))
        if not self.how & SILENT:
            self._answer_waiting()
        self._write()
        self._end()
        return self

    def outcome(self) -> tuple[object, ...]:
        """What must not depend on how the bytes were cut, where the application is silent."""
        error = self.connection.error
        code = None if error is None else error.code
        stories = ((number, tuple(one.events)) for number, one in self.stories.items())
        return code, tuple(sorted(stories))

    def _pieces(self) -> Iterator[bytes]:
        data, at = self.data, 0
        while at < len(data):
            size = len(data)
            if self.how & BYTEWISE and at < MOST_BYTES:
                size = 1
            elif self.how & (BYTEWISE | PIECES):
                size = self.random.choice((1, 2, 5, 9, 10, 60, 1_000, 20_000))
            yield data[at : at + size]
            at += size

    def _read(self, piece: bytes, now_ns: int) -> None:
        connection, at = self.connection, 0
        while at < len(piece):
            buffer = connection.buffer()
            check(len(buffer) > 0, "a buffer of nothing")
            size = min(len(buffer), len(piece) - at)
            buffer[:size] = piece[at : at + size]
            events = connection.received(size, now_ns)
            at += size
            for event in events:
                self._tell(event)
            if self.lost or connection.closing:
                check(not events or self.lost or not connection.error, "an error without Lost")
                self.lost = bool(connection.closing)
            if events or size > 1:
                self._sound()

    # -- the application -------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        check(not (self.lost and isinstance(event, Lost)), "Lost twice")
        if isinstance(event, Lost):
            self.lost = True
            if event.error.code == ErrorCode.INTERNAL_ERROR and event.error.__cause__ is not None:
                raise event.error.__cause__
            return
        stream = getattr(event, "stream", None)
        if stream is None:
            return
        story = self.stories.setdefault(stream.id, Story())
        check(not story.over, "{} of a stream that is over", event)
        self._note(story, event)
        if isinstance(event, Request | Opened):
            look_at(stream.head)
        if isinstance(event, Message) and not stream.closed:
            self.connection.consumed(stream, len(event.message))
            if not self.is_client and stream.id % 3 == 1 and not self.how & SILENT:
                self.connection.send_messages(stream, [bytes(event.message)] * 2)
        if self.is_client:
            if story.over and not self.how & SILENT:
                self._call()
        elif story.ended or (self.how & LAZY and isinstance(event, Opened)):
            self._serve(stream)

    def _note(self, story: Story, event: Event) -> None:
        if isinstance(event, Request | Answered):
            story.events.append(("message", bytes(event.message)))
            self._delivered(event.message)
            story.ended = True
            if isinstance(event, Answered):
                story.events.append(("trailers", 0, ""))
                story.over = True
        elif isinstance(event, Message):
            check(not story.ended, "a message behind the end")
            story.events.append(("message", bytes(event.message)))
            self._delivered(event.message)
            story.ended = event.end
        elif isinstance(event, Ended):
            check(not story.ended, "two ends")
            story.ended = True
        elif isinstance(event, Trailers):
            story.events.append(("trailers", event.status, event.text))
            story.over = True
        elif isinstance(event, Refused):
            story.events.append(("refused", event.status, event.text))
            story.over = True
        elif isinstance(event, Reset | Unprocessed):
            story.events.append(("over",))
            story.over = True
        elif isinstance(event, Opened):
            check(not story.events, "opened twice")
        elif isinstance(event, Responded):
            check(not story.events, "a head behind messages")

    def _delivered(self, message: bytes | memoryview) -> None:
        if isinstance(message, memoryview):
            self.reserved -= len(message)

    def _serve(self, stream: Stream) -> None:
        if self.how & (LAZY | SILENT):
            self.waiting.append(stream)
        else:
            self._answer(stream)

    def _answer_waiting(self) -> None:
        waiting, self.waiting = self.waiting, []
        for stream in waiting:
            self._answer(stream)

    def _answer(self, stream: Stream) -> None:
        answer(self.connection, stream)
        kept = stream.id in self.connection.streams
        check(stream.state != CLOSED or not kept, "closed, and kept")

    def _call(self) -> None:
        for stream in call(self.connection, self.made):
            self.made += 1
            story = self.stories.setdefault(stream.id, Story())
            if stream.state == CLOSED:
                story.over = True

    # -- promises --------------------------------------------------------------------------------

    def _sound(self) -> None:
        connection = self.connection
        for number, stream in connection.streams.items():
            check(stream.id == number, "a stream under another id")
            check(stream.state != CLOSED, "{} is kept", stream)
            check(stream.send_window <= MAX_WINDOW, "{} has too large a window", stream)
            pending = stream.pending
            held = 0 if pending is None else sum(map(len, pending))
            check(stream.unsent == held, "{}: {} unsent, {} pending", stream, stream.unsent, held)
            check(pending is None or held, "{} waits with nothing", stream)
            check((pending is not None) == (number in connection._waiting), "who waits")
        check(connection.send_window <= MAX_WINDOW, "the connection's window is too large")
        check(connection.send_window >= 0, "more was sent than the connection's window")
        check(set(connection._waiting) <= set(connection.streams), "a dead stream waits")
        check(len(connection._rest) <= self.limits.max_frame_size + 300, "too much is kept")
        check(sum(map(len, connection._block)) <= self.limits.header_block_size + 16_700, "block")
        out = sum(map(len, connection.out))
        check(out <= MOST_OUTPUT, "{} bytes wait to be written", out)
        check(self.reserved >= 0, "more memory given back than was taken")
        limit = self.limits.max_concurrent_streams
        check(self.is_client or len(connection.streams) <= limit, "too many streams")

    def _write(self) -> None:
        connection = self.connection
        for _ in range(10_000):
            chunks = connection.output()
            if not chunks:
                break
            self.wire.write(chunks, connection.peer.max_frame_size)
        else:
            raise Broken("output without end")
        self.wire.flush()

    def _end(self) -> None:
        connection = self.connection
        self.ended_as = self.outcome()
        for event in connection.lost():
            self._tell(event)
        check(not connection.streams, "streams outlive their connection")
        check(not connection._waiting, "somebody still waits")
        check(connection.received(0, SECOND_NS) == [], "events after the end")
        check(self.reserved == 0, "{} bytes of memory were never given back", self.reserved)
        for number, story in self.stories.items():
            told = story.over or story.sent_end or not story.events
            check(told or not self.is_client, "call {} has no end: {}", number, story.events)


def _with_account(limits: Limits, play: Play) -> Limits:
    def reserve(size: int) -> bool:
        # What no machine has is not given, and some that it has neither.
        if size > 1 << 20:
            return False
        if play.reserved > 8 << 20:
            play.crowded = True
            return False
        play.reserved += size
        return True

    def release(size: int) -> None:
        play.reserved -= size

    return replace(limits, reserve=reserve, release=release)


def play(raw: bytes) -> Play:
    """Play an input in its own way."""
    try:
        return Play(raw).run()
    finally:
        shrink(False)


def play_all_ways(raw: bytes) -> None:
    """Play an input in its own way; cut in whatever way, it must also come to the same.

    The second is tried for half of all inputs: those whose second byte is odd.
    """
    play(raw)
    if len(raw) < 2 or raw[0] & TIGHT or raw[1] & USED_UP or not raw[1] & 1:
        # Where windows run out it matters when they are opened, which is once a read.
        return
    how = raw[0] & CLIENT | SILENT
    plays = [play(bytes((how | cut,)) + raw[1:]) for cut in (0, PIECES)]
    if any("control_output" in one.connection.tallies or one.crowded for one in plays):
        # Judged, and given back, once a read, so that it depends on what a read is.
        return
    whole, cut = (one.ended_as for one in plays)
    check(whole == cut, "cut otherwise it comes to something else:\n{}\n{}", whole, cut)
