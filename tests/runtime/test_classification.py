"""Laws of classification: the highest values of each row as text, and nothing of anyone else's."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kernels.executor import CACHE, needs_compiler
from tests.runtime.fakes import config

from penstock_kernels.classify import TOP_K
from penstock_kernels.emulate.runner import Emulated
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.classification import MAX_ELEMENTS, classes_of
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.request import EMPTY, InferRequest, RequestedOutput
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import Tensor
from penstock_runtime.validation import RequestValidator

LABELS = (b"cat", b"", b"dog")
TOO_LARGE = "classification output tensor too large"


def classes(values: Any, count: int, *, batched: bool = True, labels: Any = ()) -> Tensor:
    """The classes of an output with these values."""
    array = np.asarray(values)
    datatype = next(dt for dt in DataType if dt.numpy == array.dtype)
    return classes_of(Tensor("y", datatype, array.shape, array), count, labels, batched)


def asking(output: str, count: int, rows: int = 1, values: Any = None) -> Pending:
    """A request that asks for the classes of this output."""
    wanted = (RequestedOutput(output, {"classification": count} if count else EMPTY),)
    array = np.zeros((rows, 2), np.float32) if values is None else np.asarray(values, np.float32)
    request = InferRequest("m", (), outputs=wanted)
    return Pending(request, ResponseStream(), {"X": array}, array.shape[0])


# -- the texts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.25, 1, -3]], np.float32), [b"1.000000:1", b"0.250000:0", b"-3.000000:2"]),
        (np.array([[1e300, 1e-9]], np.float64), [b"%f:0" % 1e300, b"0.000000:1"]),
        (np.array([[np.nan, -np.inf, np.inf]]), [b"inf:2", b"-inf:1", b"nan:0"]),
        (np.array([[7, -128]], np.int8), [b"7:0", b"-128:1"]),
        (np.array([[2**64 - 1, 0]], np.uint64), [b"18446744073709551615:0", b"0:1"]),
        (np.array([[5, 9, 9]], np.int32), [b"9:1", b"9:2", b"5:0"]),
    ],
)
def test_a_class_is_its_value_and_its_index(values: Any, expected: list[bytes]) -> None:
    """Floats with six decimals, integers plainly, the highest first, ties by the lower index."""
    found = classes(values, 10)

    assert (found.datatype, found.shape) == (DataType.BYTES, (1, len(expected)))
    assert found.array.tolist() == [expected]


def test_a_class_has_its_label_if_there_is_one() -> None:
    """Neither an empty line nor an index beyond the file adds anything."""
    found = classes(np.array([[1, 2, 3, 4]], np.uint8), 4, labels=LABELS)

    assert found.array.tolist() == [[b"4:3", b"3:2:dog", b"2:1", b"1:0:cat"]]


@given(st.integers(1, 3), st.integers(0, 5), st.integers(1, 3), st.integers(1, 20), st.booleans())
def test_the_shape_is_the_rows_and_what_there_is(
    rows: int, first: int, second: int, count: int, batched: bool
) -> None:
    """[rows, min(count, n)] of n elements per row, without the rows where nothing is batched."""
    values = np.arange(rows * first * second, dtype=np.int32).reshape(rows, first, second)

    found = classes(values, count, batched=batched)

    elements = first * second if batched else values.size
    expected = (rows, min(count, elements)) if batched else (min(count, elements),)
    assert found.shape == found.array.shape == expected


@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40))
def test_texts_tell_values_of_the_row_in_falling_order(rows: int, width: int, count: int) -> None:
    """What the text says of an index is what the row has there."""
    values = np.random.default_rng(width).integers(-5, 5, (rows, width))

    found = classes(values, count)

    for row, texts in zip(values, found.array, strict=True):
        pairs = [tuple(map(int, text.split(b":"))) for text in texts]
        assert all(row[index] == value for value, index in pairs)
        assert pairs == sorted(pairs, key=lambda pair: (-pair[0], pair[1]))
        assert len({index for _, index in pairs}) == len(pairs)


# -- in company ----------------------------------------------------------------------------------


@needs_compiler
def test_the_kernel_of_classes_finds_the_same_ones() -> None:
    """The extension has the reference of the kernel `top_k`: ties, infinities and NaN go alike."""
    values = np.random.default_rng(8).integers(-4, 5, (6, 131)).astype(np.float32)
    values[0, :3], values[1, 7] = (np.inf, -np.inf, np.nan), np.inf
    scores, columns = np.empty((6, 9), np.float32), np.empty((6, 9), np.int32)

    arguments = {"values": values, "scores": scores, "columns": columns, "softmax": False}
    Emulated(CACHE).run(TOP_K, arguments)

    pairs = zip(scores.ravel().tolist(), columns.ravel().tolist(), strict=True)
    assert classes(values, 9).array.ravel().tolist() == [b"%f:%d" % pair for pair in pairs]


def test_only_those_who_ask_get_classes() -> None:
    """In one batch each gets its own rows, as numbers or as classes with labels."""
    members = [
        asking("Y", 1, values=[[1, 2]]),
        asking("Y", 0, values=[[3, 4]]),
        asking("Y", 5, values=[[9, 8], [7, 7]]),
    ]
    batch = Batch.of(members)
    plan = BatchPlan(config(), 1, {"Y": (b"a", b"b")})

    merged = plan.merge(batch)
    answers = plan.split(batch, {"Y": merged["X"]}, [EMPTY] * 3, [None] * 3)

    tensors = [answer.outputs[0] for answer in answers]
    assert [tensor.datatype.value for tensor in tensors] == ["BYTES", "FP32", "BYTES"]
    assert tensors[0].array.tolist() == [[b"2.000000:1:b"]]
    assert tensors[1].array.tolist() == [[3.0, 4.0]]
    assert tensors[2].array.tolist() == [
        [b"9.000000:0:a", b"8.000000:1:b"],
        [b"7.000000:0:a", b"7.000000:1:b"],
    ]


def test_every_response_of_a_stream_is_classified() -> None:
    """Also where an output is not in every one of them."""
    plan = BatchPlan(config(max_batch=0), 1)
    pending = asking("Y", 1)

    first = plan.single(pending, {"Y": np.array([5, 6], np.float32)}, EMPTY)
    second = plan.single(pending, {}, EMPTY)

    assert first.outputs[0].shape == (1,)
    assert first.outputs[0].array.tolist() == [b"6.000000:1"]
    assert second.outputs == ()


# -- refusals ------------------------------------------------------------------------------------


def model_of(datatype: DataType, dims: tuple[int, ...], max_batch: int = 0) -> ModelConfig:
    """A model whose output y is of this kind."""
    return ModelConfig(
        name="m",
        max_batch_size=max_batch,
        input=(ModelInput("x", DataType.UINT8, (1,)),),
        output=(ModelOutput("y", datatype, dims),),
    )


def check(model: ModelConfig, shape: tuple[int, ...] = (1,), count: int = 1) -> None:
    """Validate a request for the classes of y."""
    data = memoryview(bytes(int(np.prod(shape))))
    wanted = (RequestedOutput("y", {"classification": count}),)
    tensor = Tensor("x", DataType.UINT8, shape, data)
    RequestValidator(model).check(InferRequest("m", (tensor,), outputs=wanted))


@pytest.mark.parametrize("datatype", list(DataType))
def test_datatypes_without_order_are_refused_before_they_are_computed(datatype: DataType) -> None:
    """FP16, BF16, BOOL and BYTES, in Triton's words; every other one passes."""
    refused = datatype.value in ("FP16", "BF16", "BOOL", "BYTES")
    if not refused:
        check(model_of(datatype, (4,)))
        return

    with pytest.raises(InvalidArgument) as error:
        check(model_of(datatype, (4,)))

    text = "class result not available for output due to unsupported type"
    assert error.value.message == f"{text} '{datatype.value}'"
    # A word of the protocol's layer, not of the engine: the request's id does not go before it.
    assert not error.value.scheduled


@pytest.mark.parametrize(
    ("dims", "max_batch", "rows", "fits"),
    [
        ((MAX_ELEMENTS,), 0, 0, True),
        ((MAX_ELEMENTS + 1,), 0, 0, False),
        ((MAX_ELEMENTS // 2,), 4, 2, True),
        ((MAX_ELEMENTS // 2,), 4, 3, False),
        ((2**40, 2**22), 0, 0, False),
        ((-1, MAX_ELEMENTS + 1), 0, 0, True),
    ],
)
def test_what_is_known_to_be_too_large_is_not_computed(
    dims: tuple[int, ...], max_batch: int, rows: int, fits: bool
) -> None:
    """The elements of all rows count; where a dimension is open nothing is known."""
    model = model_of(DataType.INT32, dims, max_batch)
    shape = (rows, 1) if max_batch else (1,)
    if fits:
        check(model, shape)
        return

    with pytest.raises(InvalidArgument, match=TOO_LARGE):
        check(model, shape)


def test_what_turns_out_too_large_is_refused() -> None:
    """However few classes are asked for."""
    with pytest.raises(InvalidArgument, match=TOO_LARGE):
        classes(np.zeros((1, MAX_ELEMENTS + 1), np.int8), 1)


def test_the_largest_is_answered() -> None:
    """The bound itself is allowed."""
    assert classes(np.zeros((1, MAX_ELEMENTS), np.int8), 1).array.tolist() == [[b"0:0"]]
