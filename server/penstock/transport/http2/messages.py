"""gRPC's messages inside the bytes of a stream: a flag, a length, the message.

A message that came at once is cut out of what was read; a large one gets its final memory as soon
as its length is known, and the socket is read into that.
"""

import struct

from penstock.transport.http2.compression import (
    ENCODINGS,
    INTERNAL,
    LARGE,
    RESOURCE_EXHAUSTED,
    Inflated,
    Inflater,
    MessageError,
    Release,
    Reserve,
    no_memory,
)
from penstock.transport.http2.spare_memory import SPARE

PREFIX = 5
"""Bytes before each message."""

MOST_INFLATED = 64 << 20
"""Bytes of a message once it is inflated: that happens on the event loop, at some 0.3 GB/s."""

_unpack = struct.Struct(">BI").unpack_from


def prefix(size: int, compressed: bool = False) -> bytes:
    """The five bytes before a message of this size."""
    return b"%c%b" % (compressed, size.to_bytes(4, "big"))


def _always(size: int) -> bool:
    del size
    return True


def _ignore(size: int) -> None:
    del size


class Assembler:
    """The messages of one direction of one stream.

    `limit` in bytes holds for a message as it is sent and as it is inflated; what is inflated may
    not exceed MOST_INFLATED either. `reserve` is asked before memory above 64 KiB is taken;
    `release` is told of reserved memory that no message leaves with, `inflated` of bytes that
    compressed messages become; it may raise. After any error, `discard`.
    """

    __slots__ = (
        "_buffer",
        "_encoding",
        "_filled",
        "_inflated",
        "_inflater",
        "_large",
        "_limit",
        "_prefix",
        "_release",
        "_reserve",
        "_role",
        "missing",
    )

    def __init__(
        self,
        limit: int,
        encoding: str | None,
        reserve: Reserve | None = None,
        release: Release | None = None,
        role: str = "SERVER",
        inflated: Inflated | None = None,
    ) -> None:
        self.missing = 0
        """Bytes that the current message still lacks, as it is sent; 0 between messages."""
        self._limit = limit
        self._encoding = encoding
        self._reserve = reserve or _always
        self._release = release or _ignore
        self._role = role
        self._inflated = inflated or _ignore
        self._prefix = b""
        # Where the message is put together: one of the three, or none of them between messages.
        self._buffer: bytearray | None = None
        self._large: memoryview | None = None
        self._inflater: Inflater | None = None
        self._filled = 0

    def __repr__(self) -> str:
        return f"<Assembler {self._filled} bytes there, {self.missing} missing>"

    def feed(self, data: bytes | memoryview, start: int, end: int) -> list[bytes | memoryview]:
        """The messages that `data[start:end]` completes. Raises MessageError.

        Small messages are bytes, copied out of `data`; large ones are views on memory of their own.
        """
        messages: list[bytes | memoryview] = []
        try:
            self._cut(data, start, end, messages)
        except MessageError as error:
            error.messages = messages
            raise
        return messages

    def _cut(
        self,
        data: bytes | memoryview,
        start: int,
        end: int,
        messages: list[bytes | memoryview],
    ) -> None:
        while start < end:
            if not self.missing:
                if self._prefix or end - start < PREFIX:
                    start = self._collect_prefix(data, start, end)
                    if len(self._prefix) < PREFIX:
                        return
                    flag, size = _unpack(self._prefix)
                    self._prefix = b""
                else:
                    flag, size = _unpack(data, start)
                    start += PREFIX
                if not flag and size <= end - start and size <= LARGE and size <= self._limit:
                    messages.append(bytes(data[start : start + size]))
                    start += size
                    continue
                self._begin(flag, size)
            taken = min(self.missing, end - start)
            self._take(data[start : start + taken])
            start += taken
            if not self.missing:
                messages.append(self._finish())

    def target(self) -> memoryview | None:
        """The memory that the rest of a large message belongs into; None: use `feed`."""
        large = self._large
        return None if large is None else large[self._filled :]

    def advance(self, size: int) -> memoryview | None:
        """So many bytes were written to `target()`; the message if these were its last."""
        large = self._large
        if large is None or not 0 <= size <= self.missing:
            raise ValueError(f"{size} bytes written where {self.missing} were missing")
        self._filled += size
        self.missing -= size
        if self.missing:
            return None
        self._large = None
        self._filled = 0
        return large.toreadonly()

    @property
    def reserved(self) -> int:
        """Bytes of memory that were asked for, for the message that is coming in."""
        if self._large is not None:
            return len(self._large)
        return 0 if self._inflater is None else self._inflater.reserved

    def idle(self) -> bool:
        """Whether the stream is between two messages, where it may end."""
        return not self.missing and not self._prefix

    def end(self) -> None:
        """The peer sends nothing more. Raises MessageError in the middle of a message."""
        if self.idle():
            return
        there = self._filled if self.missing else len(self._prefix)
        size = self._filled + self.missing if self.missing else PREFIX
        what = "message" if self.missing else "length prefix"
        raise MessageError(
            INTERNAL,
            f"stream ended after {there} bytes of a {what} of {size} bytes",
            "message_cut_off",
        )

    def discard(self) -> None:
        """The stream is dropped: give back what was reserved."""
        if self._large is not None:
            self._release(len(self._large))
        if self._inflater is not None:
            self._inflater.discard()
        self._buffer = self._large = self._inflater = None
        self.missing = self._filled = 0
        self._prefix = b""

    def _collect_prefix(self, data: bytes | memoryview, start: int, end: int) -> int:
        taken = min(PREFIX - len(self._prefix), end - start)
        self._prefix += bytes(data[start : start + taken])
        return start + taken

    def _begin(self, flag: int, size: int) -> None:
        if size > self._limit:
            raise MessageError(
                RESOURCE_EXHAUSTED,
                f"{self._role}: Received message larger than max ({size} vs. {self._limit})",
                "message_too_large",
            )
        if flag:
            self._begin_compressed(flag)
        elif size > LARGE:
            if not self._reserve(size):
                raise no_memory(size)
            try:
                # Memory that nobody has written to costs nothing until the peer really sends.
                self._large = SPARE.take(size)
            except MemoryError:
                self._release(size)
                raise no_memory(size) from None
        else:
            self._buffer = bytearray()
        self.missing = size
        self._filled = 0

    def _begin_compressed(self, flag: int) -> None:
        if flag != 1:
            raise MessageError(
                INTERNAL, f"compressed flag of a message is {flag}, expected 0 or 1", "bad_flag"
            )
        if self._encoding is None:
            raise MessageError(
                INTERNAL, "Compression bit set but no encoding configured", "bad_flag"
            )
        if self._encoding not in ENCODINGS:
            raise MessageError(
                INTERNAL, f"grpc-encoding {self._encoding[:64]!r} is not known", "bad_encoding"
            )
        limit = min(self._limit, MOST_INFLATED)
        self._inflater = Inflater(
            self._encoding, limit, self._reserve, self._release, self._inflated
        )

    def _take(self, data: bytes | memoryview) -> None:
        size = len(data)
        if self._large is not None:
            self._large[self._filled : self._filled + size] = data
        elif self._buffer is not None:
            self._buffer += data
        elif self._inflater is not None:
            self._inflater.feed(data)
        self._filled += size
        self.missing -= size

    def _finish(self) -> bytes | memoryview:
        large, buffer, inflater = self._large, self._buffer, self._inflater
        empty = not self._filled
        self._large = self._buffer = self._inflater = None
        self._filled = 0
        if large is not None:
            return large.toreadonly()
        if inflater is None:
            return bytes(buffer or b"")
        # Nothing at all stands for the empty message, as it does in grpc.
        if empty:
            return b""
        try:
            return inflater.finish()
        except Exception:
            inflater.discard()
            raise
