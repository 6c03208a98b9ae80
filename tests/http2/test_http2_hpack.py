"""Header blocks: the vectors of RFC 7541, the `hpack` library as the oracle, bytes of all sorts."""

import random
from typing import Any

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from penstock.transport.http2 import huffman
from penstock.transport.http2.hpack import (
    MAX_KEPT_BLOCK,
    MAX_KEPT_BLOCKS,
    HeaderDecoder,
)
from penstock.transport.http2.hpack_encode import block, indexed, integer, literal, secret, string
from penstock.transport.http2.hpack_tables import (
    HUFFMAN_CODES,
    STATIC_TABLE,
    Field,
    HeaderBlockTooLarge,
    HpackError,
)

Fields = list[Field]

# Appendix C: name of the vector, size of the table, then per block its hex and its fields.
REQUEST_1 = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
]
REQUEST_2 = [*REQUEST_1, ("cache-control", "no-cache")]
REQUEST_3 = [
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
]
_DATES = ("Mon, 21 Oct 2013 20:13:21 GMT", "Mon, 21 Oct 2013 20:13:22 GMT")
RESPONSE_1 = [
    (":status", "302"),
    ("cache-control", "private"),
    ("date", _DATES[0]),
    ("location", "https://www.example.com"),
]
RESPONSE_2 = [(":status", "307"), *RESPONSE_1[1:]]
RESPONSE_3 = [
    (":status", "200"),
    ("cache-control", "private"),
    ("date", _DATES[1]),
    ("location", "https://www.example.com"),
    ("content-encoding", "gzip"),
    ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
]
VECTORS = {
    "C.2.1": (
        4096,
        [
            (
                "400a637573746f6d2d6b65790d637573746f6d2d686561646572",
                [("custom-key", "custom-header")],
            )
        ],
    ),
    "C.2.2": (4096, [("040c2f73616d706c652f70617468", [(":path", "/sample/path")])]),
    "C.2.3": (4096, [("100870617373776f726406736563726574", [("password", "secret")])]),
    "C.2.4": (4096, [("82", [(":method", "GET")])]),
    "C.3": (
        4096,
        [
            ("828684410f7777772e6578616d706c652e636f6d", REQUEST_1),
            ("828684be58086e6f2d6361636865", REQUEST_2),
            ("828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", REQUEST_3),
        ],
    ),
    "C.4": (
        4096,
        [
            ("828684418cf1e3c2e5f23a6ba0ab90f4ff", REQUEST_1),
            ("828684be5886a8eb10649cbf", REQUEST_2),
            ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", REQUEST_3),
        ],
    ),
    "C.5": (
        256,
        [
            (
                "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a3231"
                "20474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
                RESPONSE_1,
            ),
            ("4803333037c1c0bf", RESPONSE_2),
            (
                "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a697077"
                "38666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d616765"
                "3d333630303b2076657273696f6e3d31",
                RESPONSE_3,
            ),
        ],
    ),
    "C.6": (
        256,
        [
            (
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad17"
                "1863c78f0b97c8e9ae82ae43d3",
                RESPONSE_1,
            ),
            ("4883640effc1c0bf", RESPONSE_2),
            (
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6"
                "c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
                RESPONSE_3,
            ),
        ],
    ),
}

names = st.one_of(
    st.sampled_from([name for name, _ in STATIC_TABLE]),
    st.sampled_from([b"traceparent", b"grpc-timeout", b"x-request-id", b"", b"UPPER case"]),
    st.binary(max_size=40),
)
values = st.one_of(
    st.sampled_from([b"", b"200", b"POST", b"application/grpc", b"gzip, deflate"]),
    st.binary(max_size=200),
    st.text("0123456789abcdef-", max_size=200).map(str.encode),
)
fields = st.lists(st.tuples(names, values), max_size=20)


def plain(pairs: list[tuple[str, str]]) -> Fields:
    return [(name.encode(), value.encode()) for name, value in pairs]


def decoder(**options: int) -> HeaderDecoder[Fields]:
    return HeaderDecoder(list, **options)


@pytest.mark.parametrize("name", VECTORS)
def test_the_vectors_of_the_rfc_decode(name: str) -> None:
    """Appendix C, with and without Huffman, with tables that evict."""
    size, blocks = VECTORS[name]
    under_test = decoder(table_limit=size)

    decoded = [under_test.decode(bytes.fromhex(data)) for data, _ in blocks]

    assert decoded == [plain(expected) for _, expected in blocks]


def test_the_huffman_code_is_that_of_the_oracle() -> None:
    """The lengths alone determine the whole code."""
    from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

    assert [code for code, _ in HUFFMAN_CODES] == list(REQUEST_CODES)
    assert [length for _, length in HUFFMAN_CODES] == list(REQUEST_CODES_LENGTH)


@given(st.binary(max_size=300))
def test_a_huffman_round_trip_changes_nothing(data: bytes) -> None:
    """Every byte has a code, and the code says how long it is."""
    encoded = huffman.encode(data)

    assert huffman.decode(encoded) == data
    assert len(encoded) == huffman.encoded_length(data)


@given(st.binary(max_size=24))
def test_a_string_is_huffman_exactly_if_encoding_gives_it_back(data: bytes) -> None:
    """EOS, a padding of zeros and a padding of a whole byte are errors, all else is not."""
    try:
        decoded = huffman.decode(data)
    except HpackError:
        return

    assert huffman.encode(decoded) == data


class CountedRow(list[tuple[huffman.Row, bytes]]):
    """A row that counts how often a byte was looked up in any."""

    looked_up = 0

    def __getitem__(self, byte: Any) -> Any:
        CountedRow.looked_up += 1
        return super().__getitem__(byte)


class CountedTree(huffman._Tree):
    """A code of which nothing was seen yet."""

    def _row(self, node: tuple[int, int]) -> huffman.Row:
        if node not in self._rows:
            self._rows[node] = CountedRow()
            self._nodes[id(self._rows[node])] = node
        return self._rows[node]


def test_a_huffman_string_is_walked_once_whatever_it_meets_for_the_first_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each row is filled when it is met, and the walk goes on from there, however deep in."""
    tree = CountedTree()
    monkeypatch.setattr(huffman, "_TREE", tree)
    monkeypatch.setattr(CountedRow, "looked_up", 0)
    text = b"a" * 3_000 + bytes(range(256)) * 20
    coded = huffman.encode(text)

    decoded = huffman.decode(coded)
    # A row knows all the others: none may get into the text of an assertion that fails.
    rows, looked_up = len(tree._rows), CountedRow.looked_up

    assert decoded == text
    assert rows > 200
    assert looked_up <= len(coded) + rows


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("a whole byte of padding", "ff"),
        ("a whole byte of padding behind a symbol", "1fff"),
        ("EOS", "ffffffff"),
        ("EOS, padded with zeros", "fffffffc"),
        ("EOS behind a symbol", "1fffffffff"),
        ("padding of zeros", "18"),
    ],
)
def test_wrong_padding_and_eos_are_refused(why: str, data: str) -> None:
    """RFC 7541, 5.2: each of the three must be an error."""
    assert why

    with pytest.raises(HpackError):
        huffman.decode(bytes.fromhex(data))


@given(st.lists(fields, max_size=8), st.booleans(), st.sampled_from([0, 64, 200, 4096]))
def test_what_the_oracle_encodes_decodes(
    blocks: list[Fields], coded: bool, table_size: int
) -> None:
    """One connection's blocks in order, the table changing under them."""
    encoder = hpack.Encoder()
    encoder.header_table_size = table_size
    under_test = decoder()

    for sent in blocks:
        assert under_test.decode(encoder.encode(sent, huffman=coded)) == sent


@given(fields)
def test_what_we_encode_the_oracle_decodes_without_a_table(sent: Fields) -> None:
    """A block of ours can be kept for ever: it neither reads nor changes a dynamic table."""
    oracle = hpack.Decoder(max_header_list_size=1 << 20)
    under_test = decoder()

    encoded = block(sent)

    assert [tuple(field) for field in oracle.decode(encoded, raw=True)] == sent
    assert under_test.decode(encoded) == sent
    assert under_test.changes == 0


def test_a_secret_is_marked_as_never_to_be_indexed() -> None:
    """Proxies must not keep it in their tables either (RFC 7541, 6.2.3)."""
    encoded = secret(b"authorization", b"Bearer x") + secret(b"x-key", b"y")

    decoded = hpack.Decoder().decode(encoded, raw=True)

    assert all(isinstance(field, hpack.NeverIndexedHeaderTuple) for field in decoded)
    assert decoder().decode(encoded) == [(b"authorization", b"Bearer x"), (b"x-key", b"y")]


@given(st.integers(0, 2**28 - 1), st.integers(1, 7))
def test_an_integer_round_trip_changes_nothing(number: int, bits: int) -> None:
    """Through the oracle's reader, as ours only reads what follows a prefix."""
    from hpack.hpack import decode_integer

    encoded = integer(0, bits, number)

    assert decode_integer(encoded, bits) == (number, len(encoded))


RAW = st.one_of(
    st.binary(max_size=60),
    st.lists(
        st.one_of(
            st.integers(0x80, 0xFF).map(lambda octet: bytes((octet,))),
            st.sampled_from(
                [b"\x3f\xe1\x1f", b"\x20", b"\x3e", b"\x00\x01a\x01b", b"\x40\x01a\x81\xff"]
            ),
            st.binary(max_size=6),
        ),
        max_size=12,
    ).map(b"".join),
)


@settings(max_examples=300)
@given(st.lists(RAW, max_size=4))
def test_any_bytes_decode_as_the_oracle_does_or_raise_the_one_error(blocks: list[bytes]) -> None:
    """Where both decode, they agree; ours is stricter only where the standard or a bound asks."""
    under_test, oracle = decoder(), hpack.Decoder(max_header_list_size=1 << 24)

    for data in blocks:
        try:
            decoded = under_test.decode(data)
        except HpackError:
            return
        assert [tuple(field) for field in oracle.decode(data, raw=True)] == decoded


@given(fields.filter(bool), st.data())
def test_a_block_that_is_cut_off_is_refused_or_ends_between_fields(
    sent: Fields, data: st.DataObject
) -> None:
    """No cut yields half a field."""
    encoded = hpack.Encoder().encode(sent)
    cut = data.draw(st.integers(0, len(encoded) - 1))

    try:
        decoded = decoder().decode(encoded[:cut])
    except HpackError:
        return

    assert decoded == sent[: len(decoded)]
    assert len(decoded) < len(sent)


@pytest.mark.parametrize(
    ("reason", "data"),
    [
        ("index 0", "80"),
        ("a field that the table does not hold", "be"),
        ("a name that the table does not hold", "7e0161"),
        ("a far field", "ffffff01"),
        ("an integer without end", "ffffffffffffff"),
        ("an integer of six octets", "ff8080808080"),
        ("an integer that is cut off", "ff"),
        ("a length without string", "0005616263"),
        ("a name without value", "000161"),
        ("an update behind a field", "8220"),
        ("an update above what we allow", "3fe21f"),
        ("nine updates", "202020202020202020"),
        ("a value that is cut off behind the last octet", "000161056162"),
        ("a long value that is cut off", "0001617f0061"),
    ],
)
def test_a_wrong_block_is_refused_with_a_text(reason: str, data: str) -> None:
    """The one error, whatever is wrong; its text says so to whoever reads the log."""
    with pytest.raises(HpackError) as caught:
        decoder().decode(bytes.fromhex(data))

    assert str(caught.value), reason


def test_a_block_above_the_limit_is_refused_before_it_is_decoded() -> None:
    """Its own error, as the connection must give another reason."""
    under_test = decoder(block_limit=100)

    with pytest.raises(HeaderBlockTooLarge):
        under_test.decode(b"\x82" * 101)
    assert len(under_test.decode(b"\x82" * 100)) == 100


def test_a_bomb_of_references_takes_no_memory_of_its_own() -> None:
    """Each octet stands for the same object, however large."""
    under_test = decoder()
    name, value = b"x", b"v" * 3900
    under_test.decode(b"\x40" + string(name) + string(value))

    decoded = under_test.decode(b"\xbe" * 60_000)

    assert len(decoded) == 60_000
    assert len({id(field) for field in decoded}) == 1


def test_a_block_that_repeats_is_the_same_object() -> None:
    """As long as the table stands still it is not decoded again."""
    under_test = decoder()
    data = block([(b":method", b"POST"), (b"x-a", b"1")])

    assert under_test.decode(data) is under_test.decode(data)


def test_a_block_that_changes_the_table_is_never_kept() -> None:
    """The same bytes insert again: what follows refers to the new entries."""
    under_test = decoder()
    insert = b"\x40" + string(b"x-a") + string(b"1")
    refer = b"\xbf"

    under_test.decode(insert)
    under_test.decode(insert)

    assert under_test.decode(refer) == [(b"x-a", b"1")]


def test_kept_blocks_are_dropped_when_the_table_changes() -> None:
    """The same reference means another field then."""
    under_test = decoder()
    under_test.decode(b"\x40" + string(b"x-a") + string(b"1"))
    before = under_test.decode(indexed(62))

    under_test.decode(b"\x40" + string(b"x-b") + string(b"2"))

    assert before == [(b"x-a", b"1")]
    assert under_test.decode(indexed(62)) == [(b"x-b", b"2")]


def test_kept_blocks_are_dropped_when_trailers_change_the_table() -> None:
    """Trailers are decoded by another door, into the same table."""
    under_test = decoder()
    under_test.decode(b"\x40" + string(b"x-a") + string(b"1"))
    under_test.decode(indexed(62))

    under_test.fields(b"\x40" + string(b"x-b") + string(b"2"))

    assert under_test.decode(indexed(62)) == [(b"x-b", b"2")]


def test_an_update_of_the_size_alone_drops_kept_blocks_too() -> None:
    """It evicts, so references are errors afterwards."""
    under_test = decoder()
    under_test.decode(b"\x40" + string(b"x-a") + string(b"1"))
    under_test.decode(indexed(62))

    under_test.decode(b"\x20")

    with pytest.raises(HpackError):
        under_test.decode(indexed(62))


def test_a_field_larger_than_the_table_empties_it() -> None:
    """RFC 7541, 4.4: that is no error."""
    under_test = decoder()
    under_test.decode(b"\x40" + string(b"x-a") + string(b"1"))

    decoded = under_test.decode(b"\x40" + string(b"x") + string(b"v" * 5000))

    assert decoded == [(b"x", b"v" * 5000)]
    with pytest.raises(HpackError):
        under_test.decode(indexed(62))


def test_a_smaller_table_must_be_acknowledged_by_an_update() -> None:
    """RFC 7541, 4.2: the encoder has to say so in its next block."""
    silent, obedient = decoder(), decoder()
    silent.decode(b"\x82")
    silent.resize(100)
    obedient.resize(100)

    with pytest.raises(HpackError):
        silent.decode(b"\x82")
    assert obedient.decode(b"\x3f\x45\x82") == [(b":method", b"GET")]
    assert obedient.decode(b"\x83") == [(b":method", b"POST")]


@given(st.lists(st.binary(max_size=1200), max_size=300))
@settings(max_examples=20)
def test_what_is_kept_is_bounded(values_sent: list[bytes]) -> None:
    """In number and in size."""
    under_test = decoder()

    for value in values_sent:
        under_test.decode(literal(b"x", value))

    assert len(under_test._blocks) <= MAX_KEPT_BLOCKS
    assert all(len(kept) <= MAX_KEPT_BLOCK for kept in under_test._blocks)


table_sizes = st.sampled_from([0, 40, 100, 1000, 4096])


class Connection(RuleBasedStateMachine):
    """Two ends and the oracle over a connection's life, the table resized on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = hpack.Encoder()
        self.oracle = hpack.Decoder(max_header_list_size=1 << 24)
        self.under_test = decoder()

    @rule(sent=fields, coded=st.booleans(), sizes=st.lists(table_sizes, max_size=4))
    def send(self, sent: Fields, coded: bool, sizes: list[int]) -> None:
        for size in sizes:
            # The oracle forgets to announce a size that is set twice.
            if size != self.encoder.header_table_size:
                self.encoder.header_table_size = size
        data = self.encoder.encode(sent, huffman=coded)

        assert self.under_test.decode(data) == sent

        self.oracle.decode(data, raw=True)

    @invariant()
    def tables_agree(self) -> None:
        ours = list(reversed(self.under_test._table))
        assert ours == [tuple(entry) for entry in self.oracle.header_table.dynamic_entries]
        assert self.under_test._used == sum(len(n) + len(v) + 32 for n, v in ours)


TestConnection = Connection.TestCase
TestConnection.settings = settings(max_examples=40, stateful_step_count=20)


def test_many_connections_share_nothing_but_what_strings_mean() -> None:
    """The memo of strings is keyed by all they depend on; it is bounded, too."""
    from penstock.transport.http2 import hpack as module

    draw = random.Random(7)
    for _ in range(3 * module._MEMO_SIZE):
        text = b"%x" % draw.getrandbits(200)
        coded = huffman.encode(text)
        assert decoder().decode(b"\x00\x01x" + bytes((0x80 | len(coded),)) + coded) == [
            (b"x", text)
        ]

    assert len(module._values) <= module._MEMO_SIZE
    assert len(module._names) <= module._MEMO_SIZE
