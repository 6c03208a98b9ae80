"""Laws of ragged batches on a device: requests of any shape go down as they came, in one copy with
whatever tells of them, and the device has what the host would have made of them, to the bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.kernels.executor import CACHE, needs_compiler
from tests.runtime.ragged_models import member, mixed_config, ragged_config, ragged_member
from tests.runtime.test_staging import Poisoned, torch_deck

from penstock_kernels.declare import Kernel
from penstock_kernels.emulate.runner import Emulated
from penstock_kernels.run import Reference
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.batch_staging import staged_merge
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput, ModelParameter
from penstock_runtime.config_scheduling import DynamicBatching, LengthBatching
from penstock_runtime.datatype import AnyArray, DataType
from penstock_runtime.request import EMPTY, RequestedOutput
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.tensor import to_host

SHAPES = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), min_size=1, max_size=6)
TOLD = st.sampled_from([DataType.INT32, DataType.INT64, DataType.FP32])
# Rows, and the length along the axis that is padded.
PADDED = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5)), min_size=1, max_size=4)
DIMS = st.sampled_from([(-1,), (3, -1), (2, -1, 4), (2, 1, -1)])


class Counting(Reference):
    """Writes down what it runs."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def run(self, kernel: Kernel, arguments: Mapping[str, Any], stream: int | None = None) -> None:
        self.ran.append(kernel.name)
        super().run(kernel, arguments, stream)


def on_host(model: ModelConfig, members: Sequence[Pending]) -> dict[str, Any]:
    """What the host makes of them."""
    return BatchPlan(model, 1).merge(Batch.of(members))


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Names, shapes, dtypes and bytes."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        there = to_host(found[name])
        assert (there.shape, there.dtype) == (array.shape, array.dtype)
        assert there.tobytes() == array.tobytes()


@given(SHAPES, TOLD)
def test_a_ragged_batch_is_the_hosts_with_all_that_tells_of_it(
    shapes: list[tuple[int, int]], told: DataType
) -> None:
    """Down in one copy each time, and no kernel runs: the bytes are the batch."""
    members = [ragged_member(*shape) for shape in shapes]
    model, runner = ragged_config(max_batch=64, told=told), Counting()
    deck = Poisoned(runner)
    staged, of_torch = staged_merge(model, deck), staged_merge(model, torch_deck())
    assert staged is not None
    assert of_torch is not None

    for _ in range(2):
        found = staged(members)

    expected = on_host(model, members)
    assert_same(found, expected)
    assert_same(of_torch(members), expected)
    assert (deck.downs, runner.ran) == (2, [])


@given(SHAPES)
def test_everyone_gets_back_what_they_sent(shapes: list[tuple[int, int]]) -> None:
    """Gathered, doubled on the device, scattered, for any ragged batch."""
    members = [ragged_member(*shape) for shape in shapes]
    model, batch = ragged_config(max_batch=64), Batch.of(members)
    plan, staged = BatchPlan(model, 1), staged_merge(model, torch_deck())
    assert staged is not None

    merged = staged(members)
    outputs = {"Y": merged["X"] * 2, "S": merged["Z"]}
    given = staged.cut(members, outputs)
    answers = plan.split(batch, outputs, [EMPTY] * len(shapes), [None] * len(shapes), given)

    for sent, answer in zip(members, answers, strict=True):
        np.testing.assert_array_equal(answer.outputs[0].array, sent.arrays["X"] * 2)
        assert answer.outputs[0].shape == sent.arrays["X"].shape
        assert answer.outputs[1].shape == (sent.batch_size, 1)


@given(PADDED, st.data())
def test_padding_flat_parts_and_a_mask_stand_side_by_side(
    shapes: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Padding is the pad value, never a neighbour's bytes, nor of what was there before."""
    members: list[Pending] = []
    for rows, length in shapes:
        own = data.draw(st.integers(0, 7))
        arrays = {
            "P": np.full((rows, length), 1 + len(members), np.float32),
            "X": np.full((rows, own), -8.0, np.float32),
        }
        members.append(member(arrays, rows, length))
    model = mixed_config()
    model = replace(model, input=model.input[:2])
    staged = staged_merge(model, Poisoned(Reference()))
    assert staged is not None

    for _ in range(2):
        found = staged(members)

    assert_same(found, on_host(model, members))


def padded(shapes: list[tuple[int, int]], dims: tuple[int, ...]) -> list[Pending]:
    """Requests of so many rows and such a length, no two values alike."""
    members: list[Pending] = []
    for rows, length in shapes:
        shape = (rows, *(length if dim == -1 else dim for dim in dims))
        x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1000 * len(members)
        members.append(member({"X": x}, rows, length))
    return members


@given(PADDED, DIMS, st.integers(0, 2))
def test_outputs_are_cut_in_whatever_dimension_has_the_lengths(
    shapes: list[tuple[int, int]], dims: tuple[int, ...], more: int
) -> None:
    """Doubled on the device, everyone has their own back, and no padding, however much there is."""
    rules = LengthBatching(input=("X",), pad_value=-9.0, max_padding=1.0, unpad_output=("Y",))
    model = ModelConfig(
        name="m",
        max_batch_size=64,
        input=(ModelInput("X", DataType.FP32, dims),),
        output=(ModelOutput("Y", DataType.FP32, dims),),
        dynamic_batching=DynamicBatching(length_batching=rules),
    )
    members = padded(shapes, dims)
    staged = staged_merge(model, torch_deck())
    assert staged is not None
    x = staged(members)["X"]
    wider = list(x.shape)
    wider[1 + dims.index(-1)] = more

    outputs = {"Y": torch.cat([x * 2, torch.full(wider, -7.0)], dim=1 + dims.index(-1))}
    given = staged.cut(members, outputs)
    plan, batch, nobody = BatchPlan(model, 1), Batch.of(members), [None] * len(members)
    answers = plan.split(batch, outputs, [EMPTY] * len(members), nobody, given)

    assert list(given) == ["Y"]
    for sent, answer in zip(members, answers, strict=True):
        np.testing.assert_array_equal(answer.outputs[0].array, sent.arrays["X"] * 2)


@given(PADDED, DIMS, st.booleans())
def test_lengths_are_padded_in_whatever_dimension_they_are(
    shapes: list[tuple[int, int]], dims: tuple[int, ...], cast: bool
) -> None:
    """As on the host, and cast on the way."""
    rules = LengthBatching(input=("X",), pad_value=-9.0, max_padding=1.0)
    model = ModelConfig(
        name="m",
        max_batch_size=64,
        input=(ModelInput("X", DataType.FP32, dims),),
        output=(ModelOutput("Y", DataType.FP32, (1,)),),
        parameters={"batch_cast": ModelParameter("X: FP16")} if cast else {},
        dynamic_batching=DynamicBatching(length_batching=rules),
    )
    members = padded(shapes, dims)
    staged = staged_merge(model, Poisoned(Reference()))
    assert staged is not None

    assert_same(staged(members), on_host(model, members))


def casting(cast: str) -> ModelConfig:
    """A ragged model that takes its input in another datatype."""
    return replace(
        ragged_config(batching=DynamicBatching()), parameters={"batch_cast": ModelParameter(cast)}
    )


@pytest.mark.parametrize("cast", ["X: FP16", "X: BF16"])
@given(SHAPES)
def test_what_is_ragged_is_cast_in_one_launch(cast: str, shapes: list[tuple[int, int]]) -> None:
    """The same from the host and on a device; what tells of it counts elements as before."""
    members = [ragged_member(*shape) for shape in shapes]
    model = casting(cast)
    deck = torch_deck()
    staged = staged_merge(model, deck)
    assert staged is not None

    found, expected = staged(members), on_host(model, members)

    assert found["X"].dtype is (torch.bfloat16 if "BF16" in cast else torch.float16)
    assert_same(found, expected)
    assert expected["BOUNDS"][-1] == expected["X"].size == sum(r * n for r, n in shapes)


@needs_compiler
@given(SHAPES, st.sampled_from([0, 1, 7]))
@example([(1, 5), (2, 0), (1, 33), (3, 7)], 2024)
@settings(max_examples=20)
def test_the_cuda_source_makes_the_batch_that_the_reference_makes(
    shapes: list[tuple[int, int]], order: int
) -> None:
    """Of parts that begin beside every vector, cast flat and padded in the last dimension."""
    rules = LengthBatching(input=("P",), pad_value=3.0, max_padding=1.0)
    model = ModelConfig(
        name="m",
        max_batch_size=64,
        input=(
            ModelInput("X", DataType.FP32, (-1,), allow_ragged_batch=True),
            ModelInput("P", DataType.FP32, (2, -1)),
        ),
        output=(ModelOutput("Y", DataType.FP32, (1,)),),
        parameters={"batch_cast": ModelParameter("X: FP16")},
        dynamic_batching=DynamicBatching(length_batching=rules),
    )
    members = [
        member(
            {
                "X": np.arange(rows * n, dtype=np.float32).reshape(rows, n) / 7,
                "P": np.arange(rows * 2 * n, dtype=np.float32).reshape(rows, 2, n),
            },
            rows,
            n,
        )
        for rows, n in shapes
    ]

    expected = on_host(model, members)
    for runner in (Reference(), Emulated(CACHE, order)):
        staged = staged_merge(model, Poisoned(runner))
        assert staged is not None
        assert_same(staged(members), expected)


def test_tables_of_the_models_own_go_down_in_the_same_copy() -> None:
    """They are made of what tells of the batch, and are the model's to refuse."""
    members = [ragged_member(1, 3), ragged_member(2, 4)]
    deck = Poisoned(Reference())

    def tables(told: Mapping[str, Any]) -> Mapping[str, AnyArray]:
        return {"SQUARES": np.asarray(told["COUNT"], np.int64) ** 2}

    staged = staged_merge(ragged_config(), deck, tables)
    assert staged is not None
    found = staged(members)

    assert found["SQUARES"].tolist() == [9, 64]
    assert deck.downs == 1


def test_classes_of_an_output_that_is_cut_by_shapes_are_ranked_by_nobody() -> None:
    """Its rows on the device are not its requests', whatever shape it has there."""
    model = ragged_config(batching=DynamicBatching())
    staged = staged_merge(model, torch_deck())
    assert staged is not None
    asking = ragged_member(2, 3)
    wanted = (RequestedOutput("Y", {"classification": 1}),)
    asking.request = asking.request._replace(outputs=wanted)

    assert staged.cut([asking], {"Y": torch.zeros(2, 3)}) == {}
