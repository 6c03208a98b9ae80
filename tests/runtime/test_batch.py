"""Laws of merging and splitting: what goes in comes out, per request, whatever its company."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.fakes import config

from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.config_scheduling import DynamicBatching, LengthBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Internal
from penstock_runtime.request import EMPTY, InferRequest, RequestedOutput
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.stream import ResponseStream


def member(array: object, length: int = 0, wanted: tuple[str, ...] = ()) -> Pending:
    """A request whose input X is this array."""
    values = np.asarray(array, dtype=np.float32)
    request = InferRequest("m", (), outputs=tuple(RequestedOutput(name) for name in wanted))
    return Pending(
        request,
        ResponseStream(),
        arrays={"X": values},
        batch_size=values.shape[0],
        length=length,
    )


def padded_config(mask: str = "MASK", pad_value: float = 0.0) -> ModelConfig:
    """A model over sequences: X and Y are [batch, length], with a mask."""
    rules = LengthBatching(input=("X",), mask_name=mask, unpad_output=("Y",), pad_value=pad_value)
    return config(batching=DynamicBatching(length_batching=rules), dims=(-1,))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_splitting_a_merged_batch_gives_everyone_their_own_rows(rows: list[int]) -> None:
    """Merge, identity, split: each request gets exactly what it sent."""
    rng = np.random.default_rng(0)
    members = [member(rng.random((count, 2))) for count in rows]
    plan, batch = BatchPlan(config(), 1), Batch.of(members)

    merged = plan.merge(batch)
    answers = plan.split(batch, {"Y": merged["X"]}, [EMPTY] * len(rows), [None] * len(rows))

    assert merged["X"].shape == (sum(rows), 2)
    for sent, answer in zip(members, answers, strict=True):
        (output,) = answer.outputs
        np.testing.assert_array_equal(output.array, sent.arrays["X"])


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 7)), min_size=1, max_size=6))
def test_padding_is_masked_and_never_reaches_an_answer(shapes: list[tuple[int, int]]) -> None:
    """Padded merge, identity, split: own lengths come back, the mask counts exactly the real."""
    members = [member(np.full(shape, i + 1.0), shape[1]) for i, shape in enumerate(shapes)]
    plan, batch = BatchPlan(padded_config(pad_value=-9.0), 1), Batch.of(members)

    merged = plan.merge(batch)
    answers = plan.split(batch, {"Y": merged["X"]}, [EMPTY] * len(shapes), [None] * len(shapes))

    assert merged["MASK"].sum() == sum(rows * length for rows, length in shapes)
    assert (merged["X"][merged["MASK"] == 0] == -9.0).all()
    for sent, answer in zip(members, answers, strict=True):
        np.testing.assert_array_equal(answer.outputs[0].array, sent.arrays["X"])


def test_a_single_request_is_passed_on_without_a_copy() -> None:
    """A batch of one shares memory with its request, both ways."""
    alone = member([[1.0, 2.0]])
    plan, batch = BatchPlan(config(), 1), Batch.of([alone])

    merged = plan.merge(batch)
    (answer,) = plan.split(batch, {"Y": merged["X"]}, [EMPTY], [None])

    assert np.shares_memory(answer.outputs[0].array, alone.arrays["X"])


def test_only_the_outputs_asked_for_come_back_in_the_order_asked() -> None:
    """Requested outputs name what is returned, and how it is ordered."""
    two = ModelConfig(
        name="m",
        input=(ModelInput("X", DataType.FP32, (2,)),),
        output=tuple(ModelOutput(name, DataType.FP32, (1, 2)) for name in ("A", "B", "C")),
    )
    asks = member([[1.0, 2.0]], wanted=("C", "A"))
    plan = BatchPlan(two, 3)
    outputs = dict.fromkeys(("A", "B", "C"), asks.arrays["X"])

    (answer,) = plan.split(Batch.of([asks]), outputs, [EMPTY], [None])

    assert [tensor.name for tensor in answer.outputs] == ["C", "A"]
    assert answer.model_version == "3"


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (np.zeros((2, 2), np.float64), "output 'Y' of model 'm' is FP64, expected FP32"),
        (np.zeros((1, 2), np.float32), "has shape [1, 2], expected 2 rows"),
        (np.zeros((2, 3), np.float32), "has shape [1, 3], expected [-1, 2]"),
        (None, "output 'Y' of model 'm' is missing, expected every declared output"),
    ],
)
def test_an_output_that_is_not_as_declared_is_named(output: object, text: str) -> None:
    """A model that breaks its declaration is an INTERNAL error that says what, found, expected."""
    members = [member([[1.0, 2.0]]), member([[3.0, 4.0]])]
    plan = BatchPlan(config(), 1)
    outputs = {} if output is None else {"Y": output}

    with pytest.raises(Internal) as broken:
        plan.split(Batch.of(members), outputs, [EMPTY] * 2, [None] * 2)

    assert text in broken.value.message
