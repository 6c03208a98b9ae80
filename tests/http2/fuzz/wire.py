"""What a core sends, as its peer would take it: whole frames, in an order that makes sense."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import hpack
from tests.http2.frames import END_HEADERS, END_STREAM, HEADER_SIZE, Frame, Type, split


class Broken(AssertionError):
    """A promise of the core that it did not keep."""


def check(condition: object, what: str, *about: object) -> None:
    """Fail with these words unless it holds; made only then."""
    if not condition:
        raise Broken(what.format(*about))


@dataclass(slots=True)
class Story:
    """What one stream came to, by its events and by the frames that were sent on it."""

    events: list[tuple[object, ...]] = field(default_factory=list)
    over: bool = False
    ended: bool = False
    sent_head: bool = False
    sent_end: bool = False
    sent: int = 0


class Wire:
    """The peer's end: checks every frame, and notes in `stories` what was sent on each stream."""

    def __init__(self, opening: bytes, stories: dict[int, Story]) -> None:
        self._opening = opening
        self._stories = stories
        self._sent = bytearray()
        self._decoder = hpack.Decoder()
        self._decoder.max_header_list_size = 1 << 20
        self._block = bytearray()
        self._in_block = False
        self._longest = 0

    def write(self, chunks: Sequence[bytes | memoryview], longest: int) -> None:
        """These went out while frames of `longest` bytes were allowed."""
        self._sent += b"".join(chunks)
        self._longest = longest

    def flush(self) -> None:
        """All of a turn is out: nothing may be left in the middle."""
        if self._opening:
            check(self._sent.startswith(self._opening), "no preface")
            del self._sent[: len(self._opening)]
            self._opening = b""
        for found in split(bytes(self._sent)):
            del self._sent[: HEADER_SIZE + len(found.payload)]
            self._take(found)
        check(not self._sent, "half a frame was written")

    def _take(self, found: Frame) -> None:
        kind = found.type
        check((kind == Type.CONTINUATION) == self._in_block, "{} in a block, or out of one", found)
        if kind in (Type.HEADERS, Type.CONTINUATION, Type.DATA, Type.RST_STREAM):
            check(found.stream, "{} on stream 0", found)
            check(len(found.payload) <= self._longest, "too large a frame")
            self._take_for(self._stories.setdefault(found.stream, Story()), found)
        elif kind == Type.GOAWAY:
            check(len(found.payload) >= 8, "a short GOAWAY")

    def _take_for(self, story: Story, found: Frame) -> None:
        kind = found.type
        late = story.sent_end and kind not in (Type.RST_STREAM, Type.CONTINUATION)
        check(not late, "{} behind the stream's end", found)
        if kind == Type.HEADERS:
            check(not story.sent_head or found.flags & END_STREAM, "two heads")
            story.sent_head = True
            self._block.clear()
        if kind in (Type.HEADERS, Type.CONTINUATION):
            self._block += found.payload
            self._in_block = not found.flags & END_HEADERS
            if not self._in_block:
                self._decoder.decode(bytes(self._block))
        elif kind == Type.DATA:
            check(story.sent_head, "DATA before the head")
            story.sent += len(found.payload)
        if kind == Type.RST_STREAM or (kind != Type.CONTINUATION and found.flags & END_STREAM):
            story.sent_end = True
