"""Whatever the bytes, the codec decodes them or refuses them, and fails in no other way."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.server.codec_strategies import TYPED, field, requests

from penstock.codec.decode import decode_request
from penstock.codec.heavy import is_heavy
from penstock.codec.prescan import scan
from penstock.codec.request_encoder import encode_request
from penstock.codec.response_decoder import decode_response, decode_stream_response
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Internal, InvalidArgument, Unsupported
from penstock_runtime.request import InferRequest

small_numbers = st.integers(0, 127).map(lambda n: bytes([n]))
leaves = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([datatype.value.encode() for datatype in DataType]),
    st.sampled_from([b"shared_memory_region", b"priority", b"sequence_id", b"triton_x"]),
)


def nested(payloads: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Messages of fields that the request's messages have, around these payloads."""
    sized = st.builds(field, st.integers(0, 9), payloads)
    scalar = st.builds(lambda tag, number: tag + number, small_numbers, small_numbers)
    return st.lists(sized | scalar, max_size=6).map(b"".join)


structured = st.recursive(leaves, nested, max_leaves=20)


def decodes(data: bytes) -> bool:
    """Whether the bytes are a request; any error but a refusal escapes."""
    try:
        decode_request(data, 0)
    except InvalidArgument:
        return False
    except Unsupported:
        # Only the use of shared memory has this answer.
        assert b"shared_memory_region" in data
        return False
    return True


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    """Random bytes, twice, as what was remembered must not matter."""
    assert decodes(data) == decodes(data)


@given(structured)
@example(
    field(1, b"m") + field(5, field(2, b"INT8") + field(3, b"\x01") + field(5, field(2, b"\x80")))
)
def test_any_structure_decodes_or_is_refused(data: bytes) -> None:
    """Well-formed nests of the right fields around the wrong things."""
    assert decodes(data) == decodes(data)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good request of which one stretch was cut out, repeated or overwritten."""
    typed = draw(st.booleans())
    request: InferRequest = draw(requests(TYPED))
    data = encode_request(request, typed=typed)
    start = draw(st.integers(0, len(data)))
    stop = draw(st.integers(start, min(len(data), start + 8)))
    middle = draw(st.one_of(st.just(b""), st.just(data[start:stop] * 2), st.binary(max_size=8)))
    return data[:start] + middle + data[stop:]


@given(damaged())
def test_damaged_request_decodes_or_is_refused(data: bytes) -> None:
    """A good request with one fault."""
    assert decodes(data) == decodes(data)


@given(damaged())
def test_scan_refuses_nothing_that_decodes(data: bytes) -> None:
    """The pre-scan is a guard: what passes the whole passes it."""
    if decodes(data):
        assert scan(data).raws == scan(memoryview(data)).raws


@given(damaged() | structured)
def test_looking_for_weight_never_fails(data: bytes) -> None:
    """Whether a request is heavy can be asked of any bytes."""
    padded = data + field(20, bytes(70_000))

    assert is_heavy(data) is False
    assert is_heavy(padded) in (True, False)


@pytest.mark.parametrize("read", [decode_response, decode_stream_response])
@given(data=st.binary(max_size=200) | structured)
def test_any_bytes_are_a_response_or_unreadable(
    read: Callable[[bytes], object], data: bytes
) -> None:
    """A client survives whatever a server sends."""
    with suppress(Internal):
        read(data)
