"""The control tensors of a sequence model: what tells it, row by row, which sequences begin, are
ready and end, and their ids.

A `ControlPlan` is made once per model; the arrays have one element per row, [rows, 1], or [1] where
the model has no batch dimension.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from penstock_runtime.config_scheduling import SequenceBatching, SequenceControl
from penstock_runtime.datatype import DataType
from penstock_runtime.scheduling.sequence import SequenceId, Step, Turn
from penstock_runtime.scheduling.sequence_ids import CORRID, signed
from penstock_runtime.tensor import object_array

_SIGNED = (DataType.INT32, DataType.INT64)


class _Flag(NamedTuple):
    """A control that is one of two values."""

    name: str
    is_set: Callable[[Turn], bool]
    values: Any


class ControlPlan:
    """The control tensors that one model's configuration asks for."""

    def __init__(self, rules: SequenceBatching, *, batched: bool) -> None:
        self._batched = batched
        self._flags: list[_Flag] = []
        self._ids: list[tuple[str, DataType]] = []
        for control_input in rules.control_input:
            for control in control_input.control:
                if control.kind != CORRID:
                    values = false_true(control)
                    self._flags.append(_Flag(control_input.name, _IS_SET[control.kind], values))
                elif control.data_type is not None:
                    self._ids.append((control_input.name, control.data_type))

    def arrays(self, step: Step) -> dict[str, Any]:
        """The control tensors of one step, by input name."""
        rows = step.rows
        arrays: dict[str, Any] = {}
        for name, is_set, values in self._flags:
            bits = [turn is not None and is_set(turn) for turn in rows]
            arrays[name] = self._shaped(values[np.asarray(bits, dtype=np.intp)])
        for name, datatype in self._ids:
            ids = [None if turn is None else turn.sequence.id for turn in rows]
            arrays[name] = self._shaped(_id_array(ids, datatype))
        return arrays

    def blank(self, rows: int) -> dict[str, Any]:
        """The control tensors of so many rows that are not ready."""
        return self.arrays(Step((None,) * rows))

    def _shaped(self, array: Any) -> Any:
        return array.reshape(-1, 1) if self._batched else array


def false_true(control: SequenceControl) -> Any:
    """The values of a control for false and true, as an array of its datatype."""
    if control.int32_false_true:
        return np.asarray(control.int32_false_true, np.int32)
    if control.fp32_false_true:
        return np.asarray(control.fp32_false_true, np.float32)
    return np.asarray(control.bool_false_true, np.bool_)


def control_types(rules: SequenceBatching) -> Mapping[str, DataType]:
    """The datatypes of the control inputs, by name."""
    return {
        control_input.name: _datatype(control)
        for control_input in rules.control_input
        for control in control_input.control
    }


def _datatype(control: SequenceControl) -> DataType:
    if control.data_type is not None:
        return control.data_type
    if control.int32_false_true:
        return DataType.INT32
    return DataType.FP32 if control.fp32_false_true else DataType.BOOL


def _id_array(ids: Sequence[SequenceId | None], datatype: DataType) -> Any:
    if datatype is DataType.BYTES:
        return object_array([str(identity or "").encode() for identity in ids])
    numbers = [identity if isinstance(identity, int) else 0 for identity in ids]
    if datatype in _SIGNED:
        numbers = [signed(number) for number in numbers]
    return np.asarray(numbers, datatype.numpy)


_IS_SET: Mapping[str, Callable[[Turn], bool]] = {
    "CONTROL_SEQUENCE_START": lambda turn: turn.start,
    "CONTROL_SEQUENCE_READY": lambda _turn: True,
    "CONTROL_SEQUENCE_END": lambda turn: turn.end,
}
