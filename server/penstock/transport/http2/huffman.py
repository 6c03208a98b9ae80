"""The Huffman code of RFC 7541: bytes in, bytes out.

Decoding walks a table by whole bytes: a row per inner node of the code's tree, a cell per byte, in
it the row to go on from and the symbols that ended on the way. Rows are filled when a string first
leads there, as text never leads to most of them.
"""

from penstock.transport.http2.hpack_tables import EOS, HUFFMAN_CODES, HpackError

Row = list[tuple["Row", bytes]]

MAX_PADDING = 7
"""Bits; a longer padding would hold a whole byte that says nothing (RFC 7541, 5.2)."""


class _Tree:
    """The code as rows. A node is the bits that lead to it: (bits, number of bits)."""

    def __init__(self) -> None:
        self._symbols = {code: symbol for symbol, code in enumerate(HUFFMAN_CODES)}
        self._nodes: dict[int, tuple[int, int]] = {}
        self._rows: dict[tuple[int, int], Row] = {}
        self.failed: Row = []
        self.failed.extend([(self.failed, b"")] * 256)
        self.root = self._row((0, 0))

    def _row(self, node: tuple[int, int]) -> Row:
        row = self._rows.get(node)
        if row is None:
            row = self._rows[node] = []
            self._nodes[id(row)] = node
        return row

    def fill(self, row: Row) -> None:
        """Make the cells of a row that was reached for the first time."""
        start = self._nodes[id(row)]
        row.extend([self._cell(start, byte) for byte in range(256)])

    def _cell(self, node: tuple[int, int], byte: int) -> tuple[Row, bytes]:
        ended = bytearray()
        bits, length = node
        for shift in range(7, -1, -1):
            bits, length = bits << 1 | (byte >> shift & 1), length + 1
            symbol = self._symbols.get((bits, length))
            if symbol == EOS:
                return self.failed, b""
            if symbol is not None:
                ended.append(symbol)
                bits = length = 0
        return self._row((bits, length)), bytes(ended)

    def padding_ends_here(self, row: Row) -> bool:
        """Whether a string may end at this row: what is left over is the start of EOS."""
        if row is self.failed:
            return False
        bits, length = self._nodes[id(row)]
        return length <= MAX_PADDING and bits == (1 << length) - 1


_TREE = _Tree()


def decode(data: bytes) -> bytes:
    """What the code stands for. Raises HpackError for EOS inside and for padding that is wrong."""
    row = _TREE.root
    symbols: list[bytes] = []
    add = symbols.append
    try:
        for byte in data:
            row, ended = row[byte]
            add(ended)
    except IndexError:
        _TREE.fill(row)
        return decode(data)
    if row is not _TREE.root and not _TREE.padding_ends_here(row):
        raise HpackError(f"Huffman string of {len(data)} bytes ends in the middle of a symbol")
    return b"".join(symbols)


def encode(data: bytes) -> bytes:
    """The code of each byte, padded with ones to whole bytes."""
    bits = length = 0
    for symbol in data:
        code, size = HUFFMAN_CODES[symbol]
        bits = bits << size | code
        length += size
    padding = -length % 8
    return (bits << padding | (1 << padding) - 1).to_bytes((length + padding) // 8, "big")


def encoded_length(data: bytes) -> int:
    """How many bytes the code of `data` takes."""
    return (sum(HUFFMAN_CODES[symbol][1] for symbol in data) + 7) // 8
