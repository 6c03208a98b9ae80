"""Laws of ragged batches: shapes may differ, each gets back its own, the batch is told of."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.ragged_models import member, mixed_config, ragged_config, ragged_member

from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput, Reshape
from penstock_runtime.config_check import check
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.datatype import AnyArray, DataType
from penstock_runtime.errors import Internal
from penstock_runtime.request import EMPTY, InferRequest
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.dynamic_batcher import DynamicBatcher
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import Tensor
from penstock_runtime.validation import RequestValidator

SHAPES = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6)), min_size=1, max_size=8)


@given(SHAPES)
def test_a_ragged_batch_gives_everyone_their_own_shape(shapes: list[tuple[int, int]]) -> None:
    """Merge, identity, split: whatever the shapes, each request gets what it sent."""
    members = [ragged_member(*shape) for shape in shapes]
    plan, batch = BatchPlan(ragged_config(max_batch=64), 1), Batch.of(members)

    merged = plan.merge(batch)
    outputs = {"Y": merged["X"], "S": merged["Z"]}
    answers = plan.split(batch, outputs, [EMPTY] * len(shapes), [None] * len(shapes))

    assert merged["X"].tolist() == [x for m in members for x in m.arrays["X"].reshape(-1)]
    assert merged["Z"].shape == (batch.rows, 1)
    for sent, answer in zip(members, answers, strict=True):
        y, s = answer.outputs
        np.testing.assert_array_equal(y.array, sent.arrays["X"])
        assert (y.shape, s.shape) == (sent.arrays["X"].shape, (sent.batch_size, 1))


@given(SHAPES, st.sampled_from([DataType.INT32, DataType.FP32]))
def test_the_model_is_told_of_the_batch_in_the_shapes_of_triton(
    shapes: list[tuple[int, int]], told: DataType
) -> None:
    """One count for each request, one shape for each row, in the datatype that was asked for."""
    members = [ragged_member(*shape) for shape in shapes]
    counts = [rows * length for rows, length in shapes]
    lengths = [length for rows, length in shapes for _ in range(rows)]

    merged = BatchPlan(ragged_config(told=told), 1).merge(Batch.of(members))

    assert merged["COUNT"].tolist() == counts
    assert merged["ENDS"].tolist() == list(accumulate(counts))
    assert merged["BOUNDS"].tolist() == [0, *accumulate(counts)]
    assert merged["LARGEST"].shape == (max(counts),)
    assert merged["SHAPES"].tolist() == [[length] for length in lengths]
    assert merged["FLAT_SHAPES"].tolist() == lengths
    assert {merged[name].dtype for name in ("COUNT", "BOUNDS", "SHAPES")} == {told.numpy}


def test_padding_flat_parts_and_one_shape_for_all_stand_side_by_side() -> None:
    """Each input is merged as it is declared; several targets get one and the same tensor."""
    one = {"P": np.ones((1, 2), np.float32), "X": np.ones((1, 3), np.float32)}
    two = {"P": np.ones((1, 1), np.float32), "X": np.ones((1, 1), np.float32)}
    shape = np.array([7, 8], np.int32)
    members = [member({**one, "W": shape}, length=2), member({**two, "W": shape}, length=1)]

    merged = BatchPlan(mixed_config(), 1).merge(Batch.of(members))

    assert merged["P"].tolist() == [[1, 1], [1, -1]]
    assert merged["MASK"].tolist() == [[1, 1], [1, 0]]
    assert merged["X"].tolist() == [1, 1, 1, 1]
    assert merged["W"].tolist() == [7, 8]
    assert merged["A"].tolist() == merged["B"].tolist() == [3, 1]


@pytest.mark.parametrize("elements", [4, 6])
def test_a_scattered_output_of_another_size_is_named(elements: int) -> None:
    """Too many elements or too few are the model's fault, and both numbers are told."""
    members = [ragged_member(1, 2), ragged_member(1, 3)]
    plan = BatchPlan(ragged_config(), 1)
    outputs = {"Y": np.zeros(elements, np.float32), "S": np.zeros((2, 1), np.float32)}

    with pytest.raises(Internal) as broken:
        plan.split(Batch.of(members), outputs, [EMPTY] * 2, [None] * 2)

    assert f"output 'Y' of model 'm' has {elements} elements, expected 5" in broken.value.message
    assert "by the shapes of input 'X'" in broken.value.message


def test_fixed_sizes_of_a_scattered_output_are_kept() -> None:
    """Only wildcards and rows are the input's; the rest is the output's own."""
    config = replace(
        ragged_config(), output=(ModelOutput("Y", DataType.FP32, (-1, 2)),), batch_input=()
    )
    members = [ragged_member(1, 2), ragged_member(2, 1)]
    flat = np.arange(8, dtype=np.float32)

    answers = BatchPlan(config, 1).split(Batch.of(members), {"Y": flat}, [EMPTY] * 2, [None] * 2)

    assert [answer.outputs[0].shape for answer in answers] == [(1, 2, 2), (2, 1, 2)]
    assert answers[1].outputs[0].array.tolist() == [[[4, 5]], [[6, 7]]]


def test_one_response_of_many_is_shaped_like_its_input() -> None:
    """A decoupled model's outputs are cut by the same rule."""
    asked = ragged_member(2, 3)
    outputs = {"Y": np.zeros(6, np.float32), "S": np.zeros((2, 1), np.float32)}

    response = BatchPlan(ragged_config(), 1).single(asked, outputs, EMPTY)

    assert [tensor.shape for tensor in response.outputs] == [(2, 3), (2, 1)]


def test_a_shape_tensor_that_comes_out_goes_to_everyone_whole() -> None:
    """It has no rows: the same for the whole batch."""
    config = ModelConfig(
        name="m",
        max_batch_size=4,
        output=(ModelOutput("N", DataType.INT32, (2,), is_shape_tensor=True),),
    )
    members = [ragged_member(1, 1), ragged_member(2, 1)]
    outputs = {"N": np.array([3, 4], np.int32)}

    answers = BatchPlan(config, 1).split(Batch.of(members), outputs, [EMPTY] * 2, [None] * 2)

    assert [answer.outputs[0].array.tolist() for answer in answers] == [[3, 4], [3, 4]]


def test_without_batches_an_input_is_what_it_was() -> None:
    """With max_batch_size 0 allow_ragged_batch has no effect."""
    config = ModelConfig(
        name="m", input=(ModelInput("X", DataType.FP32, (-1, 2), allow_ragged_batch=True),)
    )
    sent = np.zeros((3, 2), np.float32)

    merged = BatchPlan(config, 1).merge(Batch.of([member({"X": sent})]))

    assert merged["X"] is sent


# -- who shares a batch -------------------------------------------------------------------------


def checked(config: ModelConfig, arrays: Mapping[str, AnyArray]) -> Pending:
    """A request that was found to fit."""
    tensors = tuple(
        Tensor(name, declared.data_type, array.shape, array)
        for name, array in arrays.items()
        if (declared := config.find_input(name)) is not None
    )
    request = InferRequest("m", tensors)
    found = RequestValidator(config).check(request)
    return Pending(request, ResponseStream(), found.arrays, found.rows, 0, found.signature)


def together(config: ModelConfig, *arrays: Mapping[str, AnyArray]) -> int:
    """How many of these requests leave in the first batch."""
    batcher = DynamicBatcher(config)
    for one in arrays:
        batcher.add(checked(config, one), 0)
    return len(batcher.take(0) or ())


def test_ragged_shapes_share_a_batch_and_others_do_not() -> None:
    """Only the inputs that allow it may differ."""
    config = ragged_config(batching=DynamicBatching())
    other = replace(
        config, input=(config.input[0], replace(config.input[1], dims=(-1,))), batch_input=()
    )
    x = [{"X": np.zeros((1, n), np.float32), "Z": np.zeros((1, 1), np.float32)} for n in (1, 5, 3)]
    z = [{"X": np.zeros((1, 2), np.float32), "Z": np.zeros((1, n), np.float32)} for n in (1, 2)]

    assert together(config, *x) == 3
    assert together(other, *z) == 1


def test_shape_tensors_share_a_batch_by_their_content() -> None:
    """Equal numbers go together, others alone; the batch dimension is not theirs."""
    config = ModelConfig(
        name="m",
        max_batch_size=8,
        input=(
            ModelInput("X", DataType.FP32, (1,)),
            ModelInput("W", DataType.INT32, (2,), is_shape_tensor=True),
        ),
        dynamic_batching=DynamicBatching(),
    )
    sent = [
        {"X": np.zeros((rows, 1), np.float32), "W": np.array(shape, np.int32)}
        for rows, shape in ((1, (2, 3)), (3, (2, 3)), (1, (2, 4)))
    ]

    assert together(config, *sent) == 2
    assert together(config, *sent[1:]) == 1


def test_a_likeness_does_not_hide_the_content_of_a_shape_tensor() -> None:
    """Requests of one kind differ in their numbers, and these numbers count."""
    config = ModelConfig(
        name="m",
        input=(ModelInput("W", DataType.INT32, (1,), is_shape_tensor=True),),
        max_batch_size=4,
        dynamic_batching=DynamicBatching(),
    )
    validator, likeness = RequestValidator(config), object()

    def signature(value: int) -> object:
        tensor = Tensor("W", DataType.INT32, (1,), np.array([value], np.int32))
        return validator.check(InferRequest("m", (tensor,), likeness=likeness)).signature

    assert signature(1) != signature(2)
    assert signature(1) == signature(1)
    assert validator.recall(likeness) is None


def test_optional_inputs_group_by_those_that_are_there() -> None:
    """The same set of inputs shares a batch, another set does not."""
    config = ModelConfig(
        name="m",
        max_batch_size=8,
        input=(
            ModelInput("X", DataType.FP32, (1,)),
            ModelInput("O", DataType.FP32, (1,), optional=True),
        ),
        dynamic_batching=DynamicBatching(),
    )
    one = np.zeros((1, 1), np.float32)

    assert together(config, {"X": one}, {"X": one}, {"X": one, "O": one}) == 2
    assert together(config, {"X": one, "O": one}, {"O": one, "X": one}, {"X": one}) == 2


def test_a_reshape_gives_the_model_its_shape_and_wildcards_their_values() -> None:
    """A -1 takes the value of the matching wildcard, in row order; a ragged one is told so."""
    config = replace(
        ragged_config(dims=(-1, 2)),
        input=(
            ModelInput(
                "X", DataType.FP32, (-1, 2), reshape=Reshape((-1, 1, 2)), allow_ragged_batch=True
            ),
            ModelInput("Z", DataType.FP32, (1,), reshape=Reshape(())),
        ),
        output=(ModelOutput("Y", DataType.FP32, (-1, 1, 2)),),
    )
    sent = {"X": np.zeros((1, 5, 2), np.float32), "Z": np.zeros((1, 1), np.float32)}

    asked = checked(config, sent)
    merged = BatchPlan(config, 1).merge(Batch.of([asked]))

    assert asked.arrays["X"].shape == (1, 5, 1, 2)
    assert merged["Z"].shape == (1,)
    assert merged["SHAPES"].tolist() == [[5, 1, 2]]
    check(config)


def test_a_batch_of_one_is_merged_too() -> None:
    """Nothing that is merged specially is executed request by request, past the merge."""
    assert not DynamicBatcher(ragged_config()).alone
    assert not DynamicBatcher(replace(ragged_config(), input=ragged_config().input[1:])).alone
    assert DynamicBatcher(ModelConfig(name="m", max_batch_size=4)).alone
