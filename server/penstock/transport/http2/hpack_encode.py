"""Header blocks that touch no dynamic table: they can be kept, joined and sent at any time.

What repeats is kept by its bytes, so an entry in the peer's table would only make blocks depend on
each other.
"""

from collections.abc import Iterable

from penstock.transport.http2.hpack_tables import STATIC_FIELDS, STATIC_NAMES, Field

_INDEXED = 0x80
_NOT_INDEXED = 0x00
_NEVER_INDEXED = 0x10
_HUFFMAN = 0x80


def integer(first: int, bits: int, value: int) -> bytes:
    """An integer whose low part stands in the low `bits` of an octet that begins as `first`."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    encoded = bytearray((first | most,))
    value -= most
    while value >= 0x80:
        encoded.append(0x80 | value & 0x7F)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def string(value: bytes) -> bytes:
    """A string literal, as it is: what is not repeated is not worth a pass over its bits."""
    return integer(0, 7, len(value)) + value


def indexed(index: int) -> bytes:
    """A whole field of the static table."""
    return integer(_INDEXED, 7, index)


def literal(name: bytes, value: bytes) -> bytes:
    """One field, in as few octets as the static table allows."""
    index = STATIC_FIELDS.get((name, value))
    if index is not None:
        return indexed(index)
    return _field(_NOT_INDEXED, name, value)


def secret(name: bytes, value: bytes) -> bytes:
    """One field that no one on the way may keep in a table."""
    return _field(_NEVER_INDEXED, name, value)


def block(fields: Iterable[Field]) -> bytes:
    """The header block of these fields, in their order."""
    return b"".join([literal(name, value) for name, value in fields])


def _field(first: int, name: bytes, value: bytes) -> bytes:
    index = STATIC_NAMES.get(name)
    if index is None:
        return b"%c%b%b" % (first, string(name), string(value))
    return integer(first, 4, index) + string(value)
