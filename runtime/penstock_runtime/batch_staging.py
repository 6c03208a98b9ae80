"""Batches of models on a GPU: their inputs, and what tells of them, are put together in a slab, and
on the device.

Which models that suits is seen from their configuration; every other is merged on the host.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from math import prod
from typing import Any

import numpy as np

from penstock_kernels.ragged import length_mask
from penstock_runtime.batch_cast import casts_of
from penstock_runtime.batch_merge import length_rules, make_merge, tell, told_inputs
from penstock_runtime.batch_ranking import Ranking
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.config_scheduling import LengthBatching
from penstock_runtime.datatype import AnyArray, DataType, from_numpy
from penstock_runtime.memory.staging import Deck, Lane, Staging
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.length_batcher import padded_length

Tables = Callable[[Mapping[str, Any]], Mapping[str, AnyArray]]
"""What else a model reads of a batch, made on the host of the inputs that tell of it."""


def no_tables(_told: Mapping[str, Any]) -> Mapping[str, AnyArray]:
    """Of a model that reads nothing else."""
    return {}


class StagedMerge:
    """Merges on a device; requests whose arrays are not the host's are merged as without it."""

    def __init__(self, config: ModelConfig, lanes: Sequence[Lane], deck: Deck, tables: Tables):
        self._lanes = {lane.name: lane for lane in lanes}
        self._rules = length_rules(config)
        self._told = told_inputs(config)
        self._tables = tables
        self._staging = Staging(deck)
        self._otherwise = make_merge(config)
        self._back = _padded_outputs(config, self._rules)
        self._ranking = Ranking(config, deck)

    def __call__(self, members: Sequence[Pending]) -> dict[str, Any]:
        """The model's inputs, on the device."""
        parts = [
            (self._lanes[name], [pending.arrays[name] for pending in members])
            for name in members[0].arrays
        ]
        if not all(type(array) is np.ndarray for _, arrays in parts for array in arrays):
            return self._otherwise(members)
        rules, length = self._rules, 0
        if rules is not None:
            length = padded_length(rules, max(pending.length for pending in members))
            if rules.mask_name:
                parts.append(_mask(rules, members, length))
        told = tell(self._told, members)
        for name, array in {**told, **self._tables(told)}.items():
            datatype = from_numpy(array.dtype)
            parts.append((Lane(name, datatype, datatype), [array]))
        return self._staging.merge(parts, length)

    def cut(
        self, members: Sequence[Pending], outputs: Mapping[str, Any]
    ) -> dict[str, Sequence[Any]]:
        """Outputs that are on the device, of each request what is its own, on the host: padded ones
        without their padding, and of those of which only classes are wanted just these.
        """
        found = self._ranking(members, outputs)
        for name, lane in self._back.items():
            array = outputs.get(name)
            if array is not None and self._is_padded(members, lane, array):
                found[name] = self._own(members, lane, array)
        return found

    @staticmethod
    def _is_padded(members: Sequence[Pending], lane: Lane, array: Any) -> bool:
        """Whether it is a device's, and of the shape that it should have."""
        if (
            type(array) is np.ndarray
            or str(array.dtype).rpartition(".")[2] != lane.wanted.torch_name
        ):
            return False
        rows, longest = sum(p.batch_size for p in members), max(p.length for p in members)
        shape = array.shape
        return len(shape) > lane.axis and shape[0] == rows and shape[lane.axis] >= longest

    def _own(self, members: Sequence[Pending], lane: Lane, array: Any) -> list[Any]:
        """Of each run of elements what is not padding, in the shapes of the requests."""
        before, behind = tuple(array.shape[1 : lane.axis]), tuple(array.shape[lane.axis + 1 :])
        many = [p.batch_size * prod(before) for p in members]
        counts = [p.length * prod(behind) for p in members]
        runs = np.repeat(counts, many).tolist()
        found = iter(self._staging.scatter(array, runs, lane.datatype))
        return [
            np.stack(list(islice(found, count))).reshape((p.batch_size, *before, p.length, *behind))
            for p, count in zip(members, many, strict=True)
        ]


def staged_merge(config: ModelConfig, deck: Deck, tables: Tables = no_tables) -> StagedMerge | None:
    """How batches of this model are merged on a device; None where the host has to do it."""
    tensors: tuple[ModelInput | ModelOutput, ...] = (*config.input, *config.output)
    # The content of a shape tensor is for the host.
    shaped = any(tensor.is_shape_tensor for tensor in tensors) or _turns_lengths(config)
    if config.max_batch_size < 1 or shaped or config.sequence_batching is not None:
        return None
    lanes = [_lane(config, declared) for declared in config.input]
    if not all(_stageable(lane) for lane in lanes):
        return None
    return StagedMerge(config, lanes, deck, tables)


def _turns_lengths(config: ModelConfig) -> bool:
    """Whether the model takes what is padded in another shape than that which has the lengths."""
    rules = length_rules(config)
    padded = rules.input if rules is not None else ()
    return any(one.reshape is not None for one in config.input if one.name in padded)


def _stageable(lane: Lane) -> bool:
    """Whether its bytes are the batch, or there is a kernel that makes it of them."""
    return lane.datatype is not DataType.BYTES and (lane.plain or lane.castable)


def _lane(config: ModelConfig, declared: ModelInput) -> Lane:
    """How the parts of an input are joined."""
    wanted = casts_of(config).get(declared.name, declared.data_type)
    if declared.name in config.ragged_inputs:
        return Lane(declared.name, declared.data_type, wanted, flat=True)
    rules = length_rules(config)
    if rules is None or declared.name not in rules.input or declared.data_type is DataType.BYTES:
        return Lane(declared.name, declared.data_type, wanted)
    axis = 1 + declared.dims.index(-1)
    return Lane(declared.name, declared.data_type, wanted, rules.pad_value, axis)


def _padded_outputs(config: ModelConfig, rules: LengthBatching | None) -> dict[str, Lane]:
    """The outputs that are cut back to each request's length, in the dimension that has it."""
    if rules is None:
        return {}
    lanes = {
        o.name: Lane(o.name, o.data_type, o.data_type, axis=1 + o.dims.index(-1))
        for o in config.output
        if o.name in rules.unpad_output and -1 in o.dims and o.reshape is None
    }
    return {name: lane for name, lane in lanes.items() if lane.scatters}


def _mask(rules: LengthBatching, members: Sequence[Pending], length: int) -> tuple[Lane, list[Any]]:
    lengths = [pending.length for pending in members]
    rows = [pending.batch_size for pending in members]
    datatype = rules.mask_data_type
    made = length_mask(lengths, rows, length, datatype.numpy)
    return Lane(rules.mask_name, datatype, datatype), [made]
