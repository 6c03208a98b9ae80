"""Laws of what a sequence model is given beside its inputs: controls by rows, and states."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.sequence_fakes import ask, control, model

from penstock_runtime.config import ModelConfig
from penstock_runtime.config_scheduling import (
    SequenceBatching,
    SequenceControl,
    SequenceControlInput,
    SequenceInitialState,
    SequenceState,
)
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Internal, InvalidArgument
from penstock_runtime.scheduling.sequence import LiveSequence, Step, Turn
from penstock_runtime.sequence_controls import ControlPlan
from penstock_runtime.sequence_states import Cell, StatePlan

BATCHED = 4


def turn(identity: int | str = 1, *, start: bool = False, end: bool = False) -> Turn:
    """One turn of a sequence of its own."""
    return Turn(ask(identity), LiveSequence(identity, 1, 0), start, end)


def again(old: Turn, **more: bool) -> Turn:
    """A later turn of the same sequence."""
    return Turn(ask(old.sequence.id), old.sequence, **{"start": False, "end": False, **more})


def state(dims: tuple[int, ...] = (2,), **more: Any) -> SequenceState:
    """A state that goes in as IN and out as OUT."""
    return SequenceState("IN", "OUT", more.pop("data_type", DataType.FP32), dims, **more)


def plan(one: SequenceState, root: Path = Path(), max_batch: int = BATCHED) -> StatePlan:
    """The plan of a model with this state."""
    return StatePlan(stateful(one, max_batch), root)


def stateful(one: SequenceState, max_batch: int = BATCHED) -> ModelConfig:
    """A model with this state."""
    return model(SequenceBatching(state=(one,)), max_batch)


def step_of(states: StatePlan, step: Step, change: Any) -> Any:
    """Run one step whose state outputs are `change` of its inputs; what went in."""
    inputs = states.arrays(step)
    states.keep(step, inputs, {"OUT": change(inputs["IN"])})
    return inputs["IN"]


def rows(*numbers: float) -> Any:
    """A number for each row."""
    return np.array(numbers, np.float32).reshape(-1, 1)


# -- controls --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pair", "dtype"),
    [
        ({"int32_false_true": (-1, 7)}, np.int32),
        ({"fp32_false_true": (0.5, 2.0)}, np.float32),
        ({"bool_false_true": (False, True)}, np.bool_),
    ],
)
def test_flags_have_the_values_of_the_configuration(pair: dict[str, Any], dtype: type) -> None:
    """One element per row, and false in rows without a request."""
    kinds = ("START", "READY", "END")
    rules = SequenceBatching(
        control_input=tuple(
            SequenceControlInput(kind, (SequenceControl(f"CONTROL_SEQUENCE_{kind}", **pair),))
            for kind in kinds
        )
    )
    ((false, true),) = pair.values()

    arrays = ControlPlan(rules, batched=True).arrays(Step((turn(start=True), None, turn(end=True))))

    assert {name: array.reshape(-1).tolist() for name, array in arrays.items()} == {
        "START": [true, false, false],
        "READY": [true, false, true],
        "END": [false, false, true],
    }
    assert all(array.shape == (3, 1) and array.dtype == dtype for array in arrays.values())


@pytest.mark.parametrize(
    ("datatype", "identity", "value"),
    [
        (DataType.UINT64, (1 << 64) - 1, (1 << 64) - 1),
        (DataType.INT64, (1 << 64) - 1, -1),
        (DataType.UINT32, 7, 7),
        (DataType.INT32, (1 << 64) - 5, -5),
        (DataType.BYTES, "äb", "äb".encode()),
    ],
)
def test_ids_come_in_every_datatype(datatype: DataType, identity: int | str, value: object) -> None:
    """A row without a request has the id that none has."""
    rules = SequenceBatching(control_input=(control("CORRID", "ID", datatype),))
    blank: object = b"" if datatype is DataType.BYTES else 0

    batched = ControlPlan(rules, batched=True).arrays(Step((turn(identity), None)))["ID"]
    single = ControlPlan(rules, batched=False).arrays(Step((turn(identity),)))["ID"]

    assert batched.tolist() == [[value], [blank]]
    assert batched.dtype == datatype.numpy
    assert single.tolist() == [value]


# -- states ----------------------------------------------------------------------------------------


def test_what_comes_out_of_a_step_goes_into_the_next_of_the_same_sequence() -> None:
    """In whatever rows and company it is executed."""
    states, one, two = plan(state()), turn(1), turn(2)

    first = step_of(states, Step((one, two)), lambda x: x + rows(1, 2))
    alone = step_of(states, Step((None, again(two))), lambda x: x * 10)
    both = step_of(states, Step((again(two), again(one))), lambda x: x)

    assert first.tolist() == [[0, 0], [0, 0]]
    assert alone.tolist() == [[0, 0], [2, 2]]
    assert both.tolist() == [[20, 20], [1, 1]]


def test_sequences_that_stay_together_share_one_array_without_a_copy() -> None:
    """The output of a step is, as it is, the input of the next."""
    states, one, two = plan(state()), turn(1), turn(2)
    made: list[Any] = []

    def keep(array: Any) -> Any:
        made.append(array + 1)
        return made[-1]

    step_of(states, Step((one, two)), keep)
    given = step_of(states, Step((again(one), again(two))), keep)

    assert np.shares_memory(given, made[0])
    with pytest.raises(ValueError, match="read-only"):
        given[0] = 5


def test_what_is_held_is_at_most_twice_what_is_used() -> None:
    """Who stays behind in an array that others have left gets a row of its own."""
    states, turns = plan(state()), [turn(n) for n in range(4)]
    step_of(states, Step(tuple(turns)), lambda x: x + rows(0, 1, 2, 3))
    last: Cell = turns[3].sequence.states["OUT"]
    assert len(last.held.array) == 4

    step_of(states, Step((again(turns[0]), again(turns[1]))), lambda x: x)

    assert [len(t.sequence.states["OUT"].held.array) for t in turns] == [2, 2, 1, 1]
    assert last.array.tolist() == [[3, 3]]


def test_the_state_is_dropped_with_the_end() -> None:
    """Nothing is kept for a step that will not come."""
    states, one = plan(state()), turn(end=True)

    step_of(states, Step((one,)), lambda x: x)

    assert one.sequence.states == {}


def test_a_state_may_grow_along_an_open_dim_which_begins_with_one() -> None:
    """Its shape says with whom the sequence may share a batch."""
    states, one = plan(state((-1,), use_growable_memory=True)), turn()

    sizes = [
        step_of(states, Step((again(one),)), lambda x: np.concatenate([x, x], axis=1)).shape
        for _ in range(3)
    ]

    assert sizes == [(1, 1), (1, 2), (1, 4)]
    assert one.sequence.shapes == ((8,),)


def test_a_state_in_place_is_written_where_it_is_and_need_not_be_returned() -> None:
    """`use_same_buffer_for_input_output`; no other sequence sees it."""
    states = plan(state(use_same_buffer_for_input_output=True))
    one, other = turn(1), turn(2)

    for _ in range(3):
        step = Step((again(one),))
        inputs = states.arrays(step)
        inputs["IN"] += 1
        states.keep(step, inputs, {})

    assert states.arrays(Step((again(one), other)))["IN"].tolist() == [[3, 3], [0, 0]]


def test_without_a_batch_dimension_a_state_has_none() -> None:
    """The dims are the whole shape."""
    states, one = plan(state(), max_batch=0), turn()

    first = step_of(states, Step((one,)), lambda x: x + 1)
    second = step_of(states, Step((again(one),)), lambda x: x)

    assert (first.tolist(), second.tolist()) == ([0, 0], [1, 1])


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({}, "state 'OUT' of model 'm' is missing, expected every state"),
        ({"OUT": np.zeros((1, 3), np.float32)}, r"has shape \[1, 3\], expected \[1, 2\]"),
        ({"OUT": np.zeros((2, 2), np.float32)}, r"has shape \[2, 2\], expected \[1, 2\]"),
        ({"OUT": np.zeros((1, 2), np.int32)}, "is INT32, expected FP32"),
    ],
)
def test_a_state_that_breaks_its_promise_leaves_all_as_it_was(
    outputs: Mapping[str, Any], text: str
) -> None:
    """The step fails, the sequence has what it had."""
    states, one = plan(state()), turn()
    step_of(states, Step((one,)), lambda x: x + 1)
    step = Step((again(one),))
    inputs = states.arrays(step)

    with pytest.raises(Internal, match=text):
        states.keep(step, inputs, outputs)

    assert states.arrays(step)["IN"].tolist() == [[1, 1]]


# -- the first state -------------------------------------------------------------------------------


def first_of(one: SequenceState, root: Path = Path()) -> Any:
    """What a sequence begins with."""
    return plan(one, root).arrays(Step((turn(),)))["IN"]


def initial(**more: Any) -> SequenceInitialState:
    """An initial state of two numbers."""
    return SequenceInitialState(more.pop("data_type", DataType.FP32), (2,), **more)


def test_a_sequence_begins_with_zeros_or_empty_texts() -> None:
    """An initial state of zeros says the sizes that are open."""
    sized = state((-1,), initial_state=(initial(zero_data=True),))

    assert first_of(state()).tolist() == [[0, 0]]
    assert first_of(sized).tolist() == [[0, 0]]
    assert first_of(state(data_type=DataType.BYTES)).tolist() == [[b"", b""]]


def test_a_sequence_begins_with_what_a_file_holds(tmp_path: Path) -> None:
    """In the model's initial_state folder, in the form of the wire; each has its own copy."""
    folder = tmp_path / "initial_state"
    folder.mkdir()
    (folder / "numbers").write_bytes(np.array([3, 4], np.float32).tobytes())
    (folder / "texts").write_bytes(b"\x01\x00\x00\x00a\x00\x00\x00\x00")
    numbers = state(
        initial_state=(initial(data_file="numbers"),), use_same_buffer_for_input_output=True
    )
    texts = initial(data_file="texts", data_type=DataType.BYTES)

    states = plan(numbers, tmp_path)
    states.arrays(Step((turn(),)))["IN"][:] = 9

    assert states.arrays(Step((turn(),)))["IN"].tolist() == [[3, 4]]
    assert first_of(state(data_type=DataType.BYTES, initial_state=(texts,)), tmp_path).tolist() == [
        [b"a", b""]
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("../secret", "is not in the model's initial_state folder"),
        ("none", "is not in the model's initial_state folder"),
        ("link", "is not in the model's initial_state folder"),
        ("short", "the file has 4 bytes, expected 8"),
    ],
)
def test_a_file_that_is_no_initial_state_is_refused(tmp_path: Path, name: str, text: str) -> None:
    """Wrong sizes, and files elsewhere, by whatever way."""
    folder = tmp_path / "initial_state"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(8))
    (folder / "short").write_bytes(bytes(4))
    (folder / "link").symlink_to(tmp_path / "secret")

    with pytest.raises(InvalidArgument, match=text):
        plan(state(initial_state=(initial(data_file=name),)), tmp_path)


def test_tensors_of_torch_stay_tensors() -> None:
    """Nothing goes through the host on its way from step to step."""
    torch = pytest.importorskip("torch")
    states, one, two = plan(state()), turn(1), turn(2)
    step_of(states, Step((one,)), lambda x: torch.from_numpy(x.copy()) + 1)
    step_of(states, Step((two,)), lambda x: torch.from_numpy(x.copy()) + 2)

    together = step_of(states, Step((again(one), again(two))), lambda x: x + 1)
    shared = step_of(states, Step((again(one), again(two))), lambda x: x)
    mixed = states.arrays(Step((again(two), turn(3))))["IN"]

    assert isinstance(together, torch.Tensor)
    assert together.tolist() == [[1, 1], [2, 2]]
    assert shared.tolist() == [[2, 2], [3, 3]]
    assert mixed.tolist() == [[3, 3], [0, 0]]


def test_states_and_controls_of_a_warm_up_are_those_of_a_beginning() -> None:
    """So many rows as are warmed up."""
    one = replace(state(), dims=(-1,))

    assert plan(one).blank(3)["IN"].shape == (3, 1)
