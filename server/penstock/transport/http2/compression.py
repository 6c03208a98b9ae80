"""Compressed messages: gzip and deflate (the zlib format), both ways and never beyond a limit."""

import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

IDENTITY = "identity"
ENCODINGS = ("gzip", "deflate")
"""What messages may be compressed with, what we would rather send first."""

ACCEPT_ENCODING = b"identity,deflate,gzip"
"""What we say of ourselves; without spaces, which grpc-js takes for parts of the names."""

LEVELS: Mapping[str, int] = MappingProxyType({"none": 0, "low": 1, "medium": 6, "high": 9})
"""zlib's levels for the names that grpc and Triton give them."""

LARGE = 65536
"""Bytes; memory for a longer message is asked for before it is taken."""

SMALLEST = 64
"""Bytes; a shorter message is sent as it is: gzip's frame alone takes 18."""

_WINDOW_BITS = {"gzip": 31, "deflate": 15}
_STEP = 262144


class MessageError(Exception):
    """A message that ends its call with a status; `name` is the tally that counts it.

    `messages` are those that became whole before it in the same bytes.
    """

    def __init__(self, status: int, text: str, name: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.name = name
        self.messages: list[bytes | memoryview] = []

    def __repr__(self) -> str:
        return f"<MessageError {self.status} {self.name}: {self.text}>"


INTERNAL = 13
RESOURCE_EXHAUSTED = 8

Reserve = Callable[[int], bool]
Release = Callable[[int], None]
Inflated = Callable[[int], None]


def compress(message: bytes | memoryview, encoding: str, level: int) -> bytes | None:
    """The message in this encoding (gzip, deflate), or None if that would not be shorter."""
    if len(message) < SMALLEST or level <= 0:
        return None
    smaller = zlib.compress(message, level, _WINDOW_BITS[encoding])
    return smaller if len(smaller) < len(message) else None


class Inflater:
    """One compressed message, inflated as it comes in.

    Holds the inflated bytes and at most one step beyond `limit`. Memory beyond `LARGE` is reserved
    step by step, as nobody knows how long the message gets; what `finish` returns has exactly its
    own size reserved. `inflated` is told of every step, and may raise to stop it all.
    """

    __slots__ = ("_engine", "_inflated", "_limit", "_message", "_release", "_reserve", "reserved")

    def __init__(
        self, encoding: str, limit: int, reserve: Reserve, release: Release, inflated: Inflated
    ) -> None:
        self._engine = zlib.decompressobj(_WINDOW_BITS[encoding])
        self._limit = limit
        self._reserve = reserve
        self._release = release
        self._inflated = inflated
        self.reserved = 0
        """Bytes of memory that were asked for."""
        self._message = bytearray()

    def feed(self, data: bytes | memoryview) -> None:
        """Inflate more of the message. Raises MessageError; `discard` is due then."""
        engine = self._engine
        while data:
            try:
                inflated = engine.decompress(data, _STEP)
            except zlib.error:
                raise _failed("zlib error") from None
            self._append(inflated)
            if engine.unused_data:
                raise _failed("not all input consumed")
            data = engine.unconsumed_tail

    def finish(self) -> bytes | memoryview:
        """The whole message. Raises MessageError if its compressed form was cut off."""
        while not self._engine.eof:
            # What the last step did not let out.
            rest = self._drain()
            if not rest:
                raise _failed("data error")
        message, self._message = self._message, bytearray()
        size = len(message)
        kept = size if size > LARGE else 0
        surplus, self.reserved = self.reserved - kept, 0
        if surplus > 0:
            self._release(surplus)
        return memoryview(message).toreadonly() if kept else bytes(message)

    def discard(self) -> None:
        """Give back what was reserved."""
        reserved, self.reserved = self.reserved, 0
        self._message = bytearray()
        if reserved:
            self._release(reserved)

    def _drain(self) -> bool:
        try:
            inflated = self._engine.decompress(b"", _STEP)
        except zlib.error:
            raise _failed("zlib error") from None
        self._append(inflated)
        return bool(inflated)

    def _append(self, inflated: bytes) -> None:
        self._inflated(len(inflated))
        size = len(self._message) + len(inflated)
        if size > self._limit:
            raise MessageError(
                RESOURCE_EXHAUSTED,
                f"Decompressed message larger than max ({self._limit})",
                "message_too_large",
            )
        if size > LARGE and size > self.reserved:
            # Twice as much each time, so that reserving is rare and never more than that too much.
            more = min(max(size, 2 * self.reserved), self._limit) - self.reserved
            if not self._reserve(more):
                raise no_memory(size)
            self.reserved += more
        self._message += inflated


def no_memory(size: int) -> MessageError:
    """The call whose message does not fit beside those that are being received."""
    return MessageError(
        RESOURCE_EXHAUSTED,
        f"no memory for a message of {size} bytes beside those that are being received",
        "memory_refused",
    )


def _failed(why: str) -> MessageError:
    return MessageError(INTERNAL, f"Decompression failed due to {why}", "bad_compression")
