"""Laws of what passes between a server and a process: it arrives as it was, or is refused."""

import socket
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock_runtime import errors
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import FailureReason, PenstockError, ResourceExhausted
from penstock_runtime.isolation.frames import (
    MOST_BYTES,
    BrokenProtocol,
    Channel,
    Kind,
    head_of,
    note_of,
    packed,
)
from penstock_runtime.isolation.segments import Arena
from penstock_runtime.isolation.tensors import SMALL, pack, unpack
from penstock_runtime.isolation.values import (
    error_note,
    error_of,
    parameters_of,
    request_note,
    request_of,
)
from penstock_runtime.request import InferRequest, RequestedOutput

from .test_memory import made

NUMBERS = [dt.numpy for dt in DataType if dt not in (DataType.BYTES, DataType.BF16)]
NUMERIC = st.sampled_from([*NUMBERS, np.dtype(">i4"), np.dtype(">f8")]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_dims=4))
)
STRINGS = st.lists(st.binary(max_size=20), max_size=8).map(
    lambda items: np.array([*items, None], dtype=object)[:-1]
)
ARRAYS = st.dictionaries(st.text(max_size=8), NUMERIC | STRINGS, max_size=4)
# Whatever JSON can say.
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)


def no_room(_need: int, _held: int) -> None:
    """There are no segments."""


@given(ARRAYS, st.booleans())
def test_arrays_arrive_as_they_were(arrays: dict[str, Any], transposed: bool) -> None:
    """Any names, shapes and datatypes, contiguous or not, of either byte order."""
    if transposed:
        arrays = {name: array.T for name, array in arrays.items()}

    message = pack(arrays, Arena(no_room))
    found = unpack(_as_json(message.note["tensors"]), b"".join(map(bytes, message.data)))

    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def _as_json(told: list[list[Any]]) -> list[list[Any]]:
    """As the other side reads it."""
    return [[name, word, list(shape), at, size] for name, word, shape, at, size in told]


def test_large_arrays_lie_in_a_block_and_small_ones_in_the_message() -> None:
    """What is copied twice is small."""
    segment = made(1 << 20)
    arena = Arena(lambda _need, _held: (1, segment))
    large = np.arange(SMALL, dtype=np.int16)

    small = pack({"x": large[:10]}, arena)
    shared = pack({"x": large, "y": large[::2]}, arena)

    assert (small.block, len(small.data)) == (None, 1)
    assert shared.block is not None
    assert shared.data == ()
    part = segment.part(shared.block.start, shared.block.size)
    assert part is not None
    found = unpack(_as_json(shared.note["tensors"]), part)
    np.testing.assert_array_equal(found["y"], large[::2])


@given(JSON, st.binary(max_size=64))
def test_a_hostile_note_of_tensors_is_refused_or_lies_inside(told: Any, data: bytes) -> None:
    """Nothing outside of the bytes that are there is ever looked at."""
    try:
        arrays = unpack(told, data)
    except BrokenProtocol:
        return

    assert all(array.nbytes <= len(data) or array.dtype == object for array in arrays.values())


COUNTS = st.integers(-5, 100) | st.sampled_from([2**31, 2**62, 2**63, 2**70])


@given(
    st.sampled_from([dt.value for dt in DataType]),
    st.lists(COUNTS, max_size=4),
    COUNTS,
    COUNTS,
    st.binary(max_size=100),
)
def test_hostile_numbers_are_refused_or_lie_inside(
    word: str, shape: list[int], start: int, size: int, data: bytes
) -> None:
    """Whatever offset, length and shape are told."""
    try:
        array = unpack([["x", word, shape, start, size]], data)["x"]
    except BrokenProtocol:
        return

    assert array.shape == tuple(shape)
    assert start >= 0
    assert start + size <= len(data)


@given(JSON)
def test_hostile_values_are_refused_as_such(value: Any) -> None:
    """Requests, errors and parameters are what they should be, or BrokenProtocol."""
    for read in (request_of, error_of, parameters_of):
        try:
            read(value)
        except BrokenProtocol:
            continue


@given(st.binary(min_size=17, max_size=17))
def test_a_hostile_head_is_refused_before_anything_is_made_of_it(raw: bytes) -> None:
    """No length beyond the bounds, no unknown kind."""
    try:
        note, data, kind, _ = head_of(raw)
    except BrokenProtocol:
        return

    assert note + data <= 2 * MOST_BYTES
    assert kind in Kind


@pytest.mark.parametrize("raw", [b"[1]", b"{", b"\xff", b"[" * 100_000, b'"' + b"x" * 99])
def test_a_note_that_is_no_object_is_refused(raw: bytes) -> None:
    """However deep or cut it is."""
    with pytest.raises(BrokenProtocol):
        note_of(raw)


@given(st.integers(0, 2**64 - 1), st.dictionaries(st.text(max_size=5), st.integers()), st.binary())
def test_frames_arrive_as_they_were(number: int, note: dict[str, int], data: bytes) -> None:
    """Kind, number, note and data, and the end is None."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Channel(ours).send(Kind.RESULT, number, note, (data,))
        ours.close()
        channel = Channel(theirs, takes_fds=True)

        frame, end = channel.receive(), channel.receive()

    assert frame is not None
    assert (frame.kind, frame.number, frame.note, bytes(frame.data)) == (
        Kind.RESULT,
        number,
        note,
        data,
    )
    assert end is None


def test_what_does_not_fit_into_a_message_is_refused_where_it_is_made() -> None:
    """With both sizes."""
    with pytest.raises(ResourceExhausted, match=f"0 \\+ {MOST_BYTES + 1} bytes"):
        packed(Kind.RESULT, 1, None, MOST_BYTES + 1)


ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, PenstockError)
]


@given(
    st.sampled_from(ERRORS),
    st.text(max_size=50),
    st.sampled_from(FailureReason),
    st.booleans(),
    st.none() | st.integers(-1, 2**40),
)
def test_errors_arrive_as_they_were(
    kind: type[PenstockError],
    text: str,
    failure: FailureReason,
    scheduled: bool,
    retry: int | None,
) -> None:
    """Class, text, reason, label and hints."""
    error = kind(text, reason="R", failure=failure, scheduled=scheduled, retry_after_ns=retry)

    found = error_of(error_note(error))

    assert type(found) is kind
    assert vars(found) == vars(error)


def test_requests_arrive_as_they_were() -> None:
    """All that a model may know of one."""
    request = InferRequest(
        "m",
        (),
        "3",
        "id",
        (RequestedOutput("y"),),
        {"a": True, "b": 1, "c": 0.5, "d": "e"},
        {"x-name": "value"},
        12345,
        2,
        100,
        "seven",
        True,
        True,
        depth=4,
    )

    assert request_of(request_note(request)) == request
    assert request_of(request_note(InferRequest("m", ()))) == InferRequest("m", ())
