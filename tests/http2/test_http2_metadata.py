"""Values as header fields carry them: time-outs, percent encoding, base64, what is refused."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.transport.http2.grpc_timeout import LONGEST_NS, format_timeout, parse_timeout
from penstock.transport.http2.hpack import HeaderDecoder
from penstock.transport.http2.metadata import (
    HIDDEN,
    MAX_MESSAGE,
    decode_binary,
    encode_metadata,
    is_binary,
    percent_decode,
    percent_encode,
)

texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=200)
UNITS = {"n": 1, "u": 10**3, "m": 10**6, "S": 10**9, "M": 60 * 10**9, "H": 3600 * 10**9}


@given(st.integers(0, 99_999_999), st.sampled_from(sorted(UNITS)))
def test_every_unit_and_number_of_digits_is_read(number: int, unit: str) -> None:
    """All six units, up to eight digits, zeros in front; whatever is longer than a year is one."""
    expected = min(number * UNITS[unit], LONGEST_NS)

    assert parse_timeout(f"{number}{unit}".encode()) == expected
    assert parse_timeout(f"{number:08}{unit}".encode()) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "S",
        "1",
        "1s",
        "1h",
        "-1S",
        "+1S",
        "1.5S",
        "1SS",
        "1\tS",
        "x",
        "12345678901S",
        "1 0S",
        "\u0661S",
    ],
)
def test_what_is_no_timeout_is_none(value: str) -> None:
    """As grpcio refuses it."""
    assert parse_timeout(value.encode()) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (" 1S", 10**9),
        ("1S ", 10**9),
        ("1 S", 10**9),
        ("1234567890m", 1234567890 * 10**6),
        ("9999999999H", LONGEST_NS),
    ],
)
def test_what_grpcio_takes_beyond_the_protocol_is_taken(value: str, expected: int) -> None:
    """Blanks, and two digits more."""
    assert parse_timeout(value.encode()) == expected


@given(st.binary(max_size=12))
def test_any_bytes_are_a_timeout_or_none(value: bytes) -> None:
    """Never an exception, never a negative time."""
    timeout_ns = parse_timeout(value)

    assert timeout_ns is None or 0 <= timeout_ns <= LONGEST_NS


@given(st.integers(-5, LONGEST_NS))
def test_a_formatted_timeout_is_never_shorter_and_hardly_longer(timeout_ns: int) -> None:
    """Rounded up to eight digits: a millionth at most, until hours are all that is left."""
    text = format_timeout(timeout_ns)

    parsed = parse_timeout(text)

    assert parsed is not None
    assert len(text) <= 9
    assert parsed >= max(timeout_ns, 1)
    assert parsed - max(timeout_ns, 1) <= max(timeout_ns, 1) * 60 // 10_000


def test_the_longest_timeout_is_what_the_protocol_can_say() -> None:
    """More than eleven thousand years."""
    assert format_timeout(10**30) == b"99999999H"


@given(texts)
def test_a_status_text_round_trip_changes_nothing(text: str) -> None:
    """Any text, on the wire as printable ASCII without blanks at its ends."""
    encoded = percent_encode(text)

    assert percent_decode(encoded) == text
    assert all(0x20 <= octet <= 0x7E for octet in encoded)
    assert encoded == encoded.strip()


@given(st.binary(max_size=60))
def test_any_bytes_are_a_status_text(value: bytes) -> None:
    """The protocol forbids to fail on a wrong escape."""
    assert isinstance(percent_decode(value), str)


@pytest.mark.parametrize("text", ["é" * 5000, "%" * 9000, "x" * 9000, "x" + "\U0001f600" * 3000])
def test_a_long_status_text_is_cut_between_characters(text: str) -> None:
    """A client would refuse the whole answer for its size."""
    encoded = percent_encode(text)

    assert MAX_MESSAGE - 12 <= len(encoded) <= MAX_MESSAGE
    assert text.startswith(percent_decode(encoded))


@given(st.binary(max_size=60), st.booleans())
def test_binary_values_are_read_with_and_without_padding(value: bytes, padded: bool) -> None:
    """The protocol's description asks for both."""
    encoded = base64.b64encode(value)

    assert decode_binary(encoded if padded else encoded.rstrip(b"=")) == [value]


@given(st.lists(st.binary(max_size=10), min_size=1, max_size=5))
def test_binary_values_may_be_joined_by_commas(values: list[bytes]) -> None:
    """As proxies do with equal names."""
    assert decode_binary(b",".join(base64.b64encode(value) for value in values)) == values


@pytest.mark.parametrize("value", ["!", "Y", "YWJjY", "YW Jj", "-_-_", "YQ===", "Y=Q", "é"])
def test_what_is_no_base64_is_refused(value: str) -> None:
    """Its length included; the alphabet for URLs as well."""
    assert not is_binary(value.encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "1"),
        ("", "1"),
        ("x a", "1"),
        ("x:a", "1"),
        (":path", "/"),
        ("grpc-status", "0"),
        ("content-type", "x"),
        ("x-a", "a\nb"),
        ("x-a", "é"),
        ("x-a", b"\0"),
        ("x-a", "\t"),
    ],
)
def test_what_grpc_forbids_is_not_sent(name: str, value: str | bytes) -> None:
    """The handler who wants to send it learns which name it was."""
    with pytest.raises(ValueError, match="metadata") as caught:
        encode_metadata([(name, value)])

    assert repr(name) in str(caught.value)


def test_metadata_is_written_as_it_will_be_read() -> None:
    """Order kept, binary values in base64, blanks around a value dropped."""
    encoded = encode_metadata(
        [("x-a", " 1 "), ("x-bin", b"\xff"), ("y-bin", "text"), ("x-a", b"2")]
    )

    assert HeaderDecoder(list).decode(encoded) == [
        (b"x-a", b"1"),
        (b"x-bin", b"/w"),
        (b"y-bin", b"dGV4dA"),
        (b"x-a", b"2"),
    ]


def test_nothing_of_grpcs_own_can_be_sent_as_metadata() -> None:
    """It would contradict what the transport says itself."""
    for name in HIDDEN:
        with pytest.raises(ValueError, match="grpc's own names"):
            encode_metadata([(name.decode(), "x")])
