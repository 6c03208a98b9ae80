"""The Huffman code of RFC 7541: bytes in, bytes out.

Decoding walks a table by whole bytes: a row per inner node of the code's tree, a cell per byte, in
it the row to go on from and the symbols that ended on the way. Rows are filled when a string first
leads there, as text never leads to most of them.
"""

from penstock.transport.http2.hpack_tables import EOS, HUFFMAN_CODES, HpackError

Row = list[tuple["Row", bytes]]
Node = tuple[int, int]
"""The bits that lead to it, and their number."""
Half = tuple[Node | None, bytes]
"""The node that four bits lead to, None for none, and the symbols that ended on the way."""

MAX_PADDING = 7
"""Bits; a longer padding would hold a whole byte that says nothing (RFC 7541, 5.2)."""


_DEAD_END: list[Half] = [(None, b"")] * 16


class _Tree:
    """The code as rows, one for each node that was reached."""

    def __init__(self) -> None:
        self._symbols = {code: symbol for symbol, code in enumerate(HUFFMAN_CODES)}
        self._nodes: dict[int, Node] = {}
        self._rows: dict[Node, Row] = {}
        self._halves: dict[Node, list[Half]] = {}
        self.failed: Row = []
        self.failed.extend([(self.failed, b"")] * 256)
        self.root = self._row((0, 0))

    def _row(self, node: Node) -> Row:
        row = self._rows.get(node)
        if row is None:
            row = self._rows[node] = []
            self._nodes[id(row)] = node
        return row

    def fill(self, row: Row) -> None:
        """Make the cells of a row that was reached for the first time."""
        for middle, ended in self._halves_from(self._nodes[id(row)]):
            for node, more in _DEAD_END if middle is None else self._halves_from(middle):
                row.append((self.failed if node is None else self._row(node), ended + more))

    def _halves_from(self, node: Node) -> list[Half]:
        """Where each four bits lead. Bytes are made of two of these, which are few."""
        halves = self._halves.get(node)
        if halves is None:
            halves = self._halves[node] = [self._half(node, bits) for bits in range(16)]
        return halves

    def _half(self, node: Node, four: int) -> Half:
        ended = bytearray()
        bits, length = node
        for shift in range(3, -1, -1):
            bits, length = bits << 1 | (four >> shift & 1), length + 1
            symbol = self._symbols.get((bits, length))
            if symbol == EOS:
                return None, b""
            if symbol is not None:
                ended.append(symbol)
                bits = length = 0
        return (bits, length), bytes(ended)

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
    while len(symbols) < len(data):
        try:
            for byte in data[len(symbols) :]:
                row, ended = row[byte]
                add(ended)
        except IndexError:
            # Met for the first time: what came before it need not be walked again.
            _TREE.fill(row)
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
