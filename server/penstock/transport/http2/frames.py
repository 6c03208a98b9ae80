"""HTTP/2 frames as bytes: types, flags, error codes, headers packed and unpacked."""

from enum import IntEnum
from struct import Struct

from penstock.transport.http2.faults import ConnectionFault

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends before its first frame."""

DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

HEADER_SIZE = 9
MAX_WINDOW = 2**31 - 1
MAX_STREAM_ID = 2**31 - 1
DEFAULT_WINDOW = 65_535
MIN_FRAME_SIZE = 16_384
MAX_FRAME_SIZE = 2**24 - 1
PRIORITY_SIZE = 5
"""Bytes of the priority fields, in a PRIORITY frame or in front of a header block."""

FRAME_HEADER = Struct(">IBI")
"""Length and type in one number (`length << 8 | type`), flags, stream id: 9 bytes."""
PING_SIZE = 8
SETTINGS_ACK = FRAME_HEADER.pack(SETTINGS, ACK, 0)
_WORD = Struct(">I")
_TWO_WORDS = Struct(">II")
_FRAME_WITH_WORD = Struct(">IBII")


class ErrorCode(IntEnum):
    """Why a stream or a connection ended (RFC 9113, 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One whole frame; its payload must fit into the peer's largest frame."""
    return FRAME_HEADER.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def rst_stream(stream_id: int, code: int) -> bytes:
    """The frame that ends one stream at once."""
    return _FRAME_WITH_WORD.pack(4 << 8 | RST_STREAM, 0, stream_id, code)


def window_update(stream_id: int, increment: int) -> bytes:
    """The frame that gives credit for `increment` bytes; stream 0 is the connection."""
    return _FRAME_WITH_WORD.pack(4 << 8 | WINDOW_UPDATE, 0, stream_id, increment)


def ping(data: bytes, *, ack: bool = False) -> bytes:
    """A PING with these 8 bytes, or the answer to one."""
    return frame(PING, ACK if ack else 0, 0, data)


def goaway(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    """The frame that says which streams were looked at, and why no more will be."""
    return frame(GOAWAY, 0, 0, _TWO_WORDS.pack(last_stream_id, code) + debug)


def header_frames(stream_id: int, block: bytes, flags: int, largest: int) -> bytes:
    """A header block as HEADERS, and CONTINUATION where it exceeds `largest` bytes."""
    if len(block) <= largest:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    pieces = [block[start : start + largest] for start in range(0, len(block), largest)]
    first = frame(HEADERS, flags, stream_id, pieces[0])
    middle = [frame(CONTINUATION, 0, stream_id, piece) for piece in pieces[1:-1]]
    return b"".join((first, *middle, frame(CONTINUATION, END_HEADERS, stream_id, pieces[-1])))


def unpack_word(data: bytes, start: int) -> int:
    """An unsigned number of four bytes."""
    number: int = _WORD.unpack_from(data, start)[0]
    return number


def without_padding(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Where the content of a padded payload lies; PROTOCOL_ERROR if the padding is longer."""
    if start == end:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "padded frame without a pad length")
    content_end = end - data[start]
    if content_end < start + 1:
        raise ConnectionFault(
            ErrorCode.PROTOCOL_ERROR,
            f"padding of {data[start]} bytes in a payload of {end - start}",
        )
    return start + 1, content_end
