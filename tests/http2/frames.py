"""HTTP/2 frames as a test sees them: built and taken apart by the letter, right or wrong.

Written from RFC 9113 and RFC 7541 alone: it shares nothing with what it tests.
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_SIZE = 16_384
HEADER_SIZE = 9

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

Fields = Sequence[tuple[bytes, bytes]]


class Type(IntEnum):
    """Frame types."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(IntEnum):
    """Error codes."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(IntEnum):
    """Identifiers of settings."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Frame(NamedTuple):
    """One frame; `payload` is everything behind the nine bytes of its header."""

    type: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of a RST_STREAM or GOAWAY."""
        at = 4 if self.type == Type.GOAWAY else 0
        return int.from_bytes(self.payload[at : at + 4])

    def is_(self, kind: Type, flag: int = 0) -> bool:
        """Whether it is of this type and has this flag."""
        return self.type == kind and self.flags & flag == flag


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Any frame; its length is true, nothing else is checked."""
    return header(len(payload), kind, flags, stream) + payload


def header(length: int, kind: int, flags: int = 0, stream: int = 0) -> bytes:
    """The nine bytes before a payload, of which nothing needs to be true."""
    return length.to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4)


def settings(*pairs: tuple[int, int]) -> bytes:
    """A SETTINGS frame."""
    body = b"".join(key.to_bytes(2) + value.to_bytes(4) for key, value in pairs)
    return frame(Type.SETTINGS, payload=body)


SETTINGS_ACK = frame(Type.SETTINGS, ACK)


def ping(data: bytes = b"pingpong", flags: int = 0) -> bytes:
    """A PING frame."""
    return frame(Type.PING, flags, payload=data)


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(Type.WINDOW_UPDATE, 0, stream, increment.to_bytes(4))


def rst_stream(stream: int, code: int = Code.CANCEL) -> bytes:
    """A RST_STREAM frame."""
    return frame(Type.RST_STREAM, 0, stream, code.to_bytes(4))


def goaway(code: int = Code.NO_ERROR, last: int = 0, debug: bytes = b"") -> bytes:
    """A GOAWAY frame."""
    return frame(Type.GOAWAY, payload=last.to_bytes(4) + code.to_bytes(4) + debug)


def priority(stream: int, depends_on: int = 0, weight: int = 16, exclusive: bool = False) -> bytes:
    """A PRIORITY frame."""
    return frame(Type.PRIORITY, 0, stream, priority_fields(depends_on, weight, exclusive))


def priority_fields(depends_on: int = 0, weight: int = 16, exclusive: bool = False) -> bytes:
    """The five bytes of a priority."""
    return (depends_on | exclusive << 31).to_bytes(4) + bytes((weight - 1,))


def data(stream: int, payload: bytes = b"", *, end: bool = False) -> bytes:
    """A DATA frame."""
    return frame(Type.DATA, END_STREAM if end else 0, stream, payload)


def headers(stream: int, block: bytes, *, end: bool = False, flags: int = END_HEADERS) -> bytes:
    """A HEADERS frame of a block that is encoded already."""
    return frame(Type.HEADERS, flags | (END_STREAM if end else 0), stream, block)


def continuation(stream: int, block: bytes, *, last: bool = True) -> bytes:
    """A CONTINUATION frame."""
    return frame(Type.CONTINUATION, END_HEADERS if last else 0, stream, block)


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """An integer of RFC 7541 5.1 behind the upper bits of `first`."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes((first | value,))
    out = bytearray((first | limit,))
    value -= limit
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def string(text: bytes) -> bytes:
    """A string of RFC 7541 5.2, as it is."""
    return integer(len(text), 7) + text


INCREMENTAL, WITHOUT, NEVER = (0x40, 6), (0x00, 4), (0x10, 4)


def literal(name: bytes | int, value: bytes, kind: tuple[int, int] = WITHOUT) -> bytes:
    """A literal field of RFC 7541 6.2; a number is the index of the name."""
    first, bits = kind
    if isinstance(name, int):
        return integer(name, bits, first) + string(value)
    return bytes((first,)) + string(name) + string(value)


def block(fields: Fields) -> bytes:
    """A header block of literals, which changes nobody's dynamic table."""
    return b"".join(literal(name, value) for name, value in fields)


def message(data: bytes, compressed: int = 0) -> bytes:
    """A message of gRPC with its five bytes in front."""
    return bytes((compressed,)) + len(data).to_bytes(4) + data


def split(raw: bytes) -> Iterator[Frame]:
    """The whole frames of these bytes."""
    at = 0
    while len(raw) - at >= HEADER_SIZE:
        end = at + HEADER_SIZE + int.from_bytes(raw[at : at + 3])
        if end > len(raw):
            return
        stream = int.from_bytes(raw[at + 5 : at + 9]) & MAX_WINDOW
        yield Frame(raw[at + 3], raw[at + 4], stream, raw[at + HEADER_SIZE : end])
        at = end
