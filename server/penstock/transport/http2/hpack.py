"""Header blocks to what the caller makes of them: a decoder after RFC 7541 that is built for speed.

Peers repeat their blocks, so a whole block is looked up first; that is right only while the
dynamic table stands still, and a block that changes the table is never kept.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from penstock.transport.http2 import huffman
from penstock.transport.http2.hpack_tables import (
    ENTRY_OVERHEAD,
    STATIC_SIZE,
    STATIC_TABLE,
    Field,
    HeaderBlockTooLarge,
    HpackError,
)

T = TypeVar("T")

DEFAULT_TABLE_SIZE = 4096
DEFAULT_BLOCK_LIMIT = 65536
"""Bytes; four times what a header list may weigh, so that one that is too heavy is still decoded
and the table stays in step."""

MAX_KEPT_BLOCKS = 64
MAX_KEPT_BLOCK = 1024
"""Blocks that are kept, and bytes of one of them."""

MAX_UPDATES = 8
"""Changes of the table's size before the first field. Two say it all (RFC 7541, 4.2), but there are
encoders that send every one."""

MAX_INTEGER_OCTETS = 4
"""After the prefix. 28 bits are more than any length or index that can be right."""

_MEMO_SIZE = 2048
_MEMO_STRING = 128

# Shared by all connections: what a string decodes to depends on nothing else. Keys are the
# strings as they are on the wire.
_names: dict[bytes, bytes] = {}
_values: dict[bytes, bytes] = {}

_BY_OCTET: tuple[Field, ...] = (STATIC_TABLE[0],) * 0x81 + STATIC_TABLE
"""The static field that one octet 0x81..0xbd stands for, at the place of that octet."""


class HeaderDecoder(Generic[T]):
    """The receiving half of HPACK for one connection.

    `build` makes of the fields of a block what `decode` returns; it must depend on nothing else, as
    its result is shared by all equal blocks. `table_limit` is our SETTINGS_HEADER_TABLE_SIZE.
    """

    __slots__ = (
        "_blocks",
        "_build",
        "_capacity",
        "_limit",
        "_must_update",
        "_table",
        "_used",
        "block_limit",
        "changes",
    )

    def __init__(
        self,
        build: Callable[[list[Field]], T],
        *,
        table_limit: int = DEFAULT_TABLE_SIZE,
        block_limit: int = DEFAULT_BLOCK_LIMIT,
    ) -> None:
        self.block_limit = block_limit
        self.changes = 0
        """How often the dynamic table was changed."""
        self._build = build
        self._limit = table_limit
        self._capacity = min(DEFAULT_TABLE_SIZE, table_limit)
        self._must_update = False
        self._used = 0
        # Newest last: an index counts from the newest, so from the end.
        self._table: list[Field] = []
        self._blocks: dict[bytes, T] = {}

    def __repr__(self) -> str:
        return (
            f"HeaderDecoder({len(self._table)} entries, {self._used} of {self._capacity} bytes, "
            f"{self.changes} changes, {len(self._blocks)} blocks kept)"
        )

    def decode(self, block: bytes) -> T:
        """What `build` makes of the block. Raises HpackError; the connection cannot go on then."""
        kept = self._blocks.get(block)
        if kept is not None:
            return kept
        changes = self.changes
        built = self._build(self.fields(block))
        blocks = self._blocks
        if changes == self.changes and len(block) <= MAX_KEPT_BLOCK:
            if len(blocks) >= MAX_KEPT_BLOCKS:
                blocks.clear()
            blocks[block] = built
        return built

    def resize(self, table_limit: int) -> None:
        """The peer has acknowledged another SETTINGS_HEADER_TABLE_SIZE of ours."""
        self._limit = table_limit
        self._must_update = self._capacity > table_limit
        # The next block has to be looked at for its update.
        self._blocks.clear()

    def fields(self, block: bytes) -> list[Field]:
        """The fields of a block, in order. Raises HpackError."""
        if len(block) > self.block_limit:
            raise HeaderBlockTooLarge(
                f"header block of {len(block)} bytes, at most {self.block_limit} are taken"
            )
        changes = self.changes
        start = 0
        if block and 0x20 <= block[0] < 0x40:
            start = self._updates(block)
        elif self._must_update:
            raise HpackError(f"no update of the table's size to at most {self._limit} bytes")
        try:
            fields = self._fields(block, start)
        except IndexError:
            raise HpackError(
                f"header block of {len(block)} bytes is cut off or refers to a field that the "
                f"table of {len(self._table)} entries does not hold"
            ) from None
        if changes != self.changes and self._blocks:
            self._blocks.clear()
        return fields

    # The one hot loop: split up, it would cost twice the time.
    def _fields(self, block: bytes, i: int) -> list[Field]:
        table = self._table
        fields: list[Field] = []
        n = len(block)
        while i < n:
            octet = block[i]
            i += 1
            if octet > 0x80:
                if octet < 0xBE:
                    fields.append(_BY_OCTET[octet])
                elif octet < 0xFF:
                    fields.append(table[0xBD - octet])
                else:
                    index, i = _integer(block, i, 0x7F)
                    fields.append(self._field(index))
                continue
            if octet >= 0x40:
                if octet == 0x80:
                    raise HpackError("index 0 stands for no field")
                index = octet & 0x3F
                full = 0x3F
            elif octet < 0x20:
                index = octet & 0x0F
                full = 0x0F
            else:
                raise HpackError(f"update of the table's size at octet {i - 1}, after a field")
            if index == full:
                if block[i] < 0x80:
                    index += block[i]
                    i += 1
                else:
                    index, i = _integer(block, i, full)
            if index > STATIC_SIZE:
                name = table[STATIC_SIZE - index][0]
            elif index:
                name = STATIC_TABLE[index - 1][0]
            else:
                end = i + 1 + (block[i] & 0x7F)
                known = _names.get(block[i:end])
                if known is not None:
                    name, i = known, end
                else:
                    name, i = _string(block, i, _names)
            length = block[i]
            if length < 0x7F:
                start = i + 1
                i = start + length
                value = block[start:i]
            else:
                value, i = _string(block, i, _values)
            field = (name, value)
            fields.append(field)
            if octet >= 0x40:
                self.changes += 1
                table.append(field)
                used = self._used = self._used + len(name) + len(value) + ENTRY_OVERHEAD
                if used > self._capacity:
                    self._evict()
        if i != n:
            raise IndexError
        return fields

    def _field(self, index: int) -> Field:
        if 0 < index <= STATIC_SIZE:
            return STATIC_TABLE[index - 1]
        if index == 0:
            raise HpackError("index 0 stands for no field")
        return self._table[STATIC_SIZE - index]

    # A field that is larger than the table goes with all the others, as it must (4.4).
    def _evict(self) -> None:
        table, used, capacity = self._table, self._used, self._capacity
        gone = 0
        while used > capacity:
            name, value = table[gone]
            used -= len(name) + len(value) + ENTRY_OVERHEAD
            gone += 1
        del table[:gone]
        self._used = used

    def _updates(self, block: bytes) -> int:
        i = updates = 0
        while i < len(block) and 0x20 <= block[i] < 0x40:
            size = block[i] & 0x1F
            i += 1
            if size == 0x1F:
                size, i = _integer(block, i, 0x1F)
            updates += 1
            if updates > MAX_UPDATES or size > self._limit:
                raise HpackError(
                    f"update {updates} of the table's size, to {size} bytes: "
                    f"at most {MAX_UPDATES} are taken, to at most {self._limit} bytes"
                )
            self._capacity = size
            self._must_update = False
            self.changes += 1
            self._evict()
        return i


def _integer(block: bytes, i: int, prefix: int) -> tuple[int, int]:
    """The rest of an integer whose prefix was all ones, and the place after it (5.1)."""
    value = prefix
    for shift in range(0, 7 * MAX_INTEGER_OCTETS, 7):
        octet = block[i : i + 1]
        if not octet:
            raise HpackError(f"header block of {len(block)} bytes ends inside an integer")
        i += 1
        value += (octet[0] & 0x7F) << shift
        if octet[0] < 0x80:
            return value, i
    raise HpackError(f"integer of more than {MAX_INTEGER_OCTETS} octets after its prefix")


def _string(block: bytes, i: int, memo: dict[bytes, bytes]) -> tuple[bytes, int]:
    """The string literal at `i`, and the place after it (5.2)."""
    octet = block[i]
    length = octet & 0x7F
    start = i + 1
    if length == 0x7F:
        length, start = _integer(block, start, 0x7F)
    end = start + length
    if end > len(block):
        raise HpackError(f"string of {length} bytes in a block that has {len(block) - start} left")
    key = block[i:end]
    text = memo.get(key)
    if text is None:
        text = block[start:end]
        if octet >= 0x80:
            text = huffman.decode(text)
        if length <= _MEMO_STRING:
            if len(memo) >= _MEMO_SIZE:
                memo.clear()
            memo[key] = text
    return text, end
