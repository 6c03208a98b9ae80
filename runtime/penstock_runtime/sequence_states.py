"""Implicit state: the output of one step of a sequence is the input of its next.

Arrays stay where the model made them. Sequences that are executed together again share one array
without a copy; once too few of its rows are in use, those are copied out, so that what is held is
at most twice what is needed. Everything here belongs to the thread of one instance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np

from penstock_runtime.config import ModelConfig
from penstock_runtime.config_scheduling import SequenceInitialState, SequenceState
from penstock_runtime.datatype import DataType, from_numpy
from penstock_runtime.errors import FailureReason, Internal, InvalidArgument
from penstock_runtime.scheduling.sequence import Step
from penstock_runtime.sequence_rows import blank_like, copied, frozen, join_rows
from penstock_runtime.tensor import BytesFormatError, unpack_bytes

FOLDER = "initial_state"


class Held:
    """An array whose rows are states of the sequences that use it."""

    __slots__ = ("__weakref__", "array", "users")

    def __init__(self, array: Any) -> None:
        self.array = array
        self.users: WeakSet[Cell] = WeakSet()

    def tidy(self) -> None:
        """Where few rows are in use any more, these get arrays of their own."""
        if 0 < 2 * len(self.users) <= len(self.array):
            for user in tuple(self.users):
                user.move_out()


class Cell:
    """The state of one sequence: a row of an array."""

    __slots__ = ("__weakref__", "held", "row")

    def __init__(self, held: Held, row: int) -> None:
        self.held = held
        self.row = row
        held.users.add(self)

    @property
    def array(self) -> Any:
        """The state, [1, *dims]."""
        return self.held.array[self.row : self.row + 1]

    def move_out(self) -> None:
        """Take the row along, and let go of the array."""
        own = copied(self.array)
        self.held.users.discard(self)
        self.held, self.row = Held(own), 0
        self.held.users.add(self)


@dataclass(frozen=True, slots=True)
class StateRule:
    """One state of a model; `first` is what a sequence begins with, [1, *dims]."""

    input_name: str
    output_name: str
    datatype: DataType
    dims: tuple[int, ...]
    first: Any
    in_place: bool


class StatePlan:
    """The states of one model's sequences."""

    def __init__(self, config: ModelConfig, root: Path) -> None:
        rules = config.sequence_batching
        self._model = config.name
        self._batched = config.max_batch_size > 0
        self._rules = tuple(_rule(config, state, root) for state in rules.state) if rules else ()
        self.output_names = tuple(rule.output_name for rule in self._rules)
        # Outputs that the model may overwrite in its next step.
        self.volatile = frozenset(rule.output_name for rule in self._rules if rule.in_place)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def arrays(self, step: Step) -> dict[str, Any]:
        """The state inputs of one step, by input name, in the order of its rows."""
        return {rule.input_name: self._input(rule, step) for rule in self._rules}

    def blank(self, rows: int) -> dict[str, Any]:
        """The state inputs of so many rows whose sequences begin."""
        return {
            rule.input_name: self._shaped(join_rows([copied(rule.first)] * rows))
            for rule in self._rules
        }

    def _input(self, rule: StateRule, step: Step) -> Any:
        cells = [
            None if turn is None else turn.sequence.states.get(rule.output_name)
            for turn in step.rows
        ]
        array = _whole(cells)
        if array is None:
            array = self._gathered(rule, step, cells)
        return self._shaped(array if rule.in_place else frozen(array))

    def _gathered(self, rule: StateRule, step: Step, cells: Sequence[Cell | None]) -> Any:
        parts = [
            None if turn is None else rule.first if cell is None else cell.array
            for turn, cell in zip(step.rows, cells, strict=True)
        ]
        like = next(part for part in parts if part is not None)
        if len(parts) == 1:
            # Not a view of what others share: a model may write here, and gives it back to us.
            return copied(like)
        return join_rows([blank_like(like) if part is None else part for part in parts])

    def keep(self, step: Step, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Remember the states that a step has left; Internal when one is not what was declared, and
        then all are as before.
        """
        arrays = [self._output(rule, step, inputs, outputs) for rule in self._rules]
        old = [cell for turn in step.turns for cell in turn.sequence.states.values()]
        full = all(turn is not None for turn in step.rows)
        shared = [Held(array) for array in arrays] if full else []
        shapes = tuple(tuple(array.shape[1:]) for array in arrays)
        for row, turn in enumerate(step.rows):
            if turn is None:
                continue
            cells = [Cell(held, row) for held in shared] or [
                Cell(Held(copied(array[row : row + 1])), 0) for array in arrays
            ]
            turn.sequence.shapes = shapes
            # After its last step nobody asks any more.
            kept = () if turn.end else zip(self.output_names, cells, strict=True)
            turn.sequence.states = dict(kept)
        cells = []
        _let_go(old, shared)

    def _output(
        self,
        rule: StateRule,
        step: Step,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
    ) -> Any:
        """The array of a state output, [rows, *dims]."""
        array = outputs.get(rule.output_name)
        if array is None and rule.in_place:
            array = inputs[rule.input_name]
        if array is None:
            raise self._broken(rule, "is missing", "every state")
        if not self._batched:
            array = array.reshape((1, *array.shape))
        dims, rows = tuple(array.shape[1:]), len(step.rows)
        fits = len(dims) == len(rule.dims) and all(
            want in (-1, got) for want, got in zip(rule.dims, dims, strict=True)
        )
        if not fits or array.shape[0] != rows:
            expected = [rows, *rule.dims] if self._batched else list(rule.dims)
            found = [*array.shape] if self._batched else list(dims)
            raise self._broken(rule, f"has shape {found}", f"{expected}")
        if isinstance(array, np.ndarray) and array.dtype != rule.datatype.numpy:
            found_type = from_numpy(array.dtype)
            if found_type is not rule.datatype:
                raise self._broken(rule, f"is {found_type.value}", rule.datatype.value)
        return array

    def _shaped(self, array: Any) -> Any:
        return array if self._batched else array[0]

    def _broken(self, rule: StateRule, found: str, expected: str) -> Internal:
        return Internal(
            f"state '{rule.output_name}' of model '{self._model}' {found}, expected {expected}",
            failure=FailureReason.BACKEND,
            scheduled=True,
        )


def _let_go(old: Sequence[Cell], new: Sequence[Held]) -> None:
    """States that others have taken the place of; what holds few any more is made smaller."""
    for cell in old:
        cell.held.users.discard(cell)
    for held in {*(cell.held for cell in old), *new}:
        held.tidy()


def _whole(cells: Sequence[Cell | None]) -> Any:
    """The array that consists of just these rows; None if there is no such."""
    first = cells[0]
    if first is None or len(first.held.array) != len(cells):
        return None
    for row, cell in enumerate(cells):
        if cell is None or cell.held is not first.held or cell.row != row:
            return None
    return first.held.array


def _rule(config: ModelConfig, state: SequenceState, root: Path) -> StateRule:
    initial = state.initial_state[0] if state.initial_state else None
    # As in Triton, a size that is open begins with 1.
    dims = initial.dims if initial else tuple(1 if dim == -1 else dim for dim in state.dims)
    if initial is not None and initial.data_file:
        first = _from_file(config, state, initial, root)
    elif state.data_type is DataType.BYTES:
        first = np.full((1, *dims), b"", dtype=object)
    else:
        first = np.zeros((1, *dims), state.data_type.numpy)
    return StateRule(
        state.input_name,
        state.output_name,
        state.data_type,
        state.dims,
        first,
        state.use_same_buffer_for_input_output,
    )


def _from_file(
    config: ModelConfig, state: SequenceState, initial: SequenceInitialState, root: Path
) -> Any:
    """What the file of an initial state holds; it lies in the model's own folder."""
    what = f"initial state of '{state.input_name}' of model '{config.name}'"
    folder = (root / FOLDER).resolve()
    path = (folder / initial.data_file).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise InvalidArgument(
            f"{what}: '{initial.data_file}' is not in the model's {FOLDER} folder"
        )
    shape, count = (1, *initial.dims), int(np.prod(initial.dims, dtype=np.int64))
    if state.data_type is DataType.BYTES:
        try:
            return unpack_bytes(path.read_bytes(), count).reshape(shape)
        except BytesFormatError as error:
            raise InvalidArgument(f"{what}: {error}") from error
    expected, found = count * state.data_type.size, path.stat().st_size
    if found != expected:
        raise InvalidArgument(f"{what}: the file has {found} bytes, expected {expected}")
    return np.frombuffer(path.read_bytes(), state.data_type.numpy).reshape(shape)
