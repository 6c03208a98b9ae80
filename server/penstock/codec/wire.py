"""Protobuf's wire format, as far as this package reads and writes it by hand.

Reading allocates nothing by a length that the bytes claim: every length is held against what is
there. A message that breaks the format is InvalidArgument.
"""

from collections.abc import Iterator

from penstock_runtime.errors import InvalidArgument

Buffer = bytes | memoryview

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {FIXED64: 8, FIXED32: 4}
_SMALL = tuple(bytes([n]) for n in range(128))
_SHOWN = 256

Field = tuple[int, int, int, int]
"""Number, wire type, and where the payload starts and stops (of a varint: its own bytes)."""


def read_varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """The varint at `at` as an unsigned number, and where it stops."""
    value = shift = 0
    for position in range(at, min(at + 10, end)):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position + 1
        shift += 7
    if end - at < 10:
        raise InvalidArgument(f"malformed message: the varint at byte {at} is cut off")
    raise InvalidArgument(f"malformed message: the varint at byte {at} has more than 10 bytes")


def read_field(data: Buffer, at: int, end: int) -> Field:
    """The field whose tag is at `at`, in a message that stops at `end`."""
    if end - at >= 2:
        # Most fields are short texts and messages: one byte of tag, one of length.
        tag, length = data[at], data[at + 1]
        stop = at + 2 + length
        if tag & 0x87 == LENGTH and tag > 7 and length < 128 and stop <= end:
            return tag >> 3, LENGTH, at + 2, stop
    tag, start = read_varint(data, at, end)
    number, wire_type = tag >> 3, tag & 7
    if number == 0 or number > 0x1FFF_FFFF:
        raise InvalidArgument(f"malformed message: field number {number} at byte {at}")
    if wire_type == LENGTH:
        length, start = read_varint(data, start, end)
        stop = start + length
    elif wire_type == VARINT:
        stop = read_varint(data, start, end)[1]
    else:
        stop = start + _fixed_size(number, wire_type, at)
    if stop > end:
        raise InvalidArgument(
            f"malformed message: field {number} at byte {at} claims {stop - start} bytes, "
            f"{end - start} are left"
        )
    return number, wire_type, start, stop


def _fixed_size(number: int, wire_type: int, at: int) -> int:
    size = _FIXED_SIZES.get(wire_type)
    if size is None:
        kind = "a group" if wire_type in (3, 4) else f"of wire type {wire_type}"
        raise InvalidArgument(
            f"malformed message: field {number} at byte {at} is {kind}, which no field may be"
        )
    return size


def fields(data: Buffer, at: int, end: int, most: int) -> Iterator[Field]:
    """The fields of the message between `at` and `end`; InvalidArgument beyond `most` of them."""
    for _ in range(most):
        if at >= end:
            return
        field = read_field(data, at, end)
        yield field
        at = field[3]
    if at < end:
        raise InvalidArgument(f"malformed message: more than {most} fields")


def expect_length(field: Field, name: str) -> None:
    """Refuse a field that should be length-delimited and is not."""
    if field[1] != LENGTH:
        raise InvalidArgument(
            f"malformed message: field '{name}' has wire type {field[1]}, expected {LENGTH}"
        )


def varint(number: int) -> bytes:
    """An unsigned number, or a negative int64 in its ten bytes."""
    if 0 <= number < 128:
        return _SMALL[number]
    rest = number & 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while rest > 127:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def sized(tag: bytes, payload: Buffer) -> bytes:
    """A length-delimited field; a view must be one of bytes."""
    return b"".join((tag, varint(len(payload)), payload))


def text(tag: bytes, value: str) -> bytes:
    """A string field; nothing for the empty string, as proto3 has it.

    What has no UTF-8 form (a lone surrogate) becomes "?": a reader would refuse the whole message.
    """
    return sized(tag, value.encode(errors="replace")) if value else b""


def shown(name: str) -> str:
    """A caller's name, cut to a length that an error text can carry."""
    return name if len(name) <= _SHOWN else name[:_SHOWN] + "..."
