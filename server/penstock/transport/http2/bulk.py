"""Large messages as they come in: the socket is read right into the memory of each.

What is common to all DATA frames, and where a message begins and ends, is below.
"""

from penstock.transport.http2.content import Content
from penstock.transport.http2.frames import DATA, FRAME_HEADER
from penstock.transport.http2.stream import Stream


class Bulk(Content):
    """Takes in what need not lie in the read buffer first, or only once."""

    __slots__ = ()

    @property
    def interrupted(self) -> Stream | None:
        """The stream whose DATA frame has begun and not ended, if that is a large one: its peer
        has to go on, whatever windows say.
        """
        return self._content_stream if self._content_left else None

    @property
    def awaited(self) -> int:
        """Bytes left of the frame that is open, if a large message is coming in with it: nothing
        else can come before them.
        """
        return self._content_left if self._content_left and self._within_large() else 0

    def _filled(self, size: int) -> None:
        """So many bytes were read right into the large message that is coming in."""
        self._content_left -= size
        stream = self._content_stream
        if stream is not None and stream.assembler is not None:
            message = stream.assembler.advance(size)
            if message is not None:
                self._deliver(stream, message)
            self._give_credit(stream)
        if not self._content_left:
            self._content(b"", 0, 0)

    def _straight_in(self, buffer: memoryview, position: int, size: int, longest_word: int) -> int:
        """Copy what plain whole frames hold of the large message that is coming in.

        Peers that send frames of 16 KiB send many. The last frame is left to the careful way.
        """
        stream = self._content_stream
        target = self._target_of(stream)
        if stream is None or target is None or self._content_left or self._skip_left:
            return position
        filled = 0
        while size - position > FRAME_HEADER.size:
            word, flags, stream_id = FRAME_HEADER.unpack_from(buffer, position)
            length = word >> 8
            start = position + FRAME_HEADER.size
            if (
                word & 0xFF != DATA
                or flags
                or stream_id != stream.id
                or start + length > size
                or filled + length >= len(target)
                or not self.limits.tiny <= length <= stream.recv_window
                or word > longest_word
                or stream.expected is not None
            ):
                break
            position = start + length
            target[filled : filled + length] = buffer[start:position]
            filled += length
            stream.recv_window -= length
        if filled and stream.assembler is not None:
            self.recv_window -= filled
            stream.assembler.advance(filled)
            self._give_credit(stream)
        return position

    def _current_target(self) -> memoryview | None:
        """Where the rest of the open DATA frame goes, if that is a large message."""
        if not self._content_left:
            return None
        target = self._target_of(self._content_stream)
        return None if target is None else target[: self._content_left]
