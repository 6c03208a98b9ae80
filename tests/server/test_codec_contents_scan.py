"""Typed contents are counted against their shape before anything is built from them."""

import pytest
from hypothesis import given
from tests.server.codec_strategies import TYPED, field, requests, varint

from penstock.codec.prescan import scan
from penstock.codec.request_encoder import encode_request
from penstock_protos.inference import InferTensorContents
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.request import InferRequest

NAME = field(1, b"m")


def refusal(data: bytes) -> str:
    """The text with which the pre-scan refuses the bytes."""
    with pytest.raises(InvalidArgument) as caught:
        scan(data)
    return caught.value.message


@given(requests(TYPED))
def test_every_typed_request_passes(request: InferRequest) -> None:
    """Contents that fill their shape are never refused, and their memory is counted."""
    data = encode_request(request, typed=True)

    scanned = scan(data)

    filled = sum(t.elements for t in request.inputs)
    assert (scanned.typed_bytes > 0) == (filled > 0)
    assert scanned.has_bytes >= any(t.datatype is DataType.BYTES for t in request.inputs)
    assert scanned.raws == ()
    assert scanned.head == scanned.parts.head


def typed(shape: bytes, contents: bytes, datatype: bytes = b"FP32") -> bytes:
    """A request with one input that has these serialized contents."""
    body = field(1, b"x") + field(2, datatype) + field(3, shape) + field(5, contents)
    return NAME + field(5, body)


def test_empty_strings_are_counted() -> None:
    """32 million empty elements are refused after a few thousand, whatever the shape claims."""
    strings = b"\x42\x00" * 32_000_000

    assert "its shape holds 1" in refusal(typed(b"\x01", strings, b"BYTES"))
    assert "expected at most 16777216" in refusal(typed(varint(32_000_000), strings, b"BYTES"))
    assert "too few for the" in refusal(typed(varint(1 << 62), strings[:9000]))


CONTENTS = {
    "bool_contents": field(1, b"\x01" * 5000),
    "int_contents": field(2, b"\x80\x01" * 5000),
    "int64_contents": field(3, b"\x01" * 5000),
    "uint_contents": field(4, b"\x01" * 5000),
    "uint64_contents": field(5, b"\xff\x01" * 5000),
    "fp32_contents": field(6, bytes(20000)),
    "fp64_contents": field(7, bytes(40000)),
    "bytes_contents": field(8, b"a") * 5000,
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_elements_are_held_against_the_shape(kind: str) -> None:
    """Far more elements than the shape holds are refused in every field, before they are built."""
    text = refusal(typed(b"\x02\x03", CONTENTS[kind]))

    assert text == f"{kind} of input 'x' has more than 4096 elements, its shape holds 6"


def test_contents_may_come_before_their_shape() -> None:
    """The shape counts wherever it stands in the input."""
    body = field(5, CONTENTS["fp32_contents"]) + field(3, varint(5000))

    assert scan(NAME + field(5, body)).typed_bytes == 5000 * 8


def test_unpacked_numbers_are_accepted_and_limited() -> None:
    """Numbers that are not packed are legal; a flood of them is not."""
    data = typed(b"\x03", b"\x10\x01\x10\x02\x10\x03")

    assert scan(data).typed_bytes == 3 * 8
    assert "more than 4096 fields" in refusal(typed(varint(1 << 20), b"\x08\x01" * (1 << 20)))


BAD_CONTENTS = {
    "floats of 3 bytes": (field(6, b"abc"), "has 3 bytes, expected a multiple of 4"),
    "doubles of 4 bytes": (field(7, b"abcd"), "has 4 bytes, expected a multiple of 8"),
    "strings as varint": (b"\x40\x01", "'bytes_contents' has wire type 0, expected 2"),
    "floats as varint": (b"\x30\x01", "'fp32_contents' has wire type 0, expected 2 or 5"),
    "integers as fixed": (b"\x15" + bytes(4), "'int_contents' has wire type 5, expected 2 or 0"),
    "cut string": (b"\x42\x05ab", "bytes_contents of input 'x' is cut off"),
    "cut string tag": (b"\x42", "bytes_contents of input 'x' is cut off"),
    "cut long string": (b"\x42\xff\xff\x7fab", "bytes_contents of input 'x' is cut off"),
    "group": (b"\x7b", "is a group"),
}


@pytest.mark.parametrize("kind", BAD_CONTENTS)
def test_malformed_contents_are_refused(kind: str) -> None:
    """Contents that break the wire format are refused before they are parsed."""
    contents, text = BAD_CONTENTS[kind]

    assert text in refusal(typed(b"\x02", contents))


def test_contents_in_several_pieces_are_counted_as_one() -> None:
    """Protobuf merges repeated contents; so does the count."""
    piece = InferTensorContents(fp32_contents=[1.0] * 3000).SerializeToString()
    body = field(1, b"x") + field(3, b"\x01") + field(5, piece) + field(5, piece)

    assert "more than 4096 elements" in refusal(NAME + field(5, body))
