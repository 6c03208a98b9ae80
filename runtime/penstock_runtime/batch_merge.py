"""How the inputs of the requests of a batch become those of the model: row after row, padded to a
common length, flat, or one for all; and the inputs that only tell of the batch.

Which of these a model needs is chosen once per load.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from penstock_kernels.ragged import (
    accumulated_counts,
    element_counts,
    gather_cast,
    gather_flat,
    gather_padded,
    gather_rows,
    item_shapes,
    length_mask,
    max_count_shape,
)
from penstock_runtime.batch_cast import casts_of
from penstock_runtime.config import BatchInput, ModelConfig, ModelInput
from penstock_runtime.config_scheduling import LengthBatching
from penstock_runtime.datatype import DataType, float32_to_bf16
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.length_batcher import padded_length

Members = Sequence[Pending]
Parts = Sequence[Any]
Merge = Callable[[Members], dict[str, Any]]
"""The model's inputs by name, made of those of its requests, which have the same ones."""
Gather = Callable[[Parts, int], Any]
"""One input, made of those of the requests and the length to which this batch is padded."""

NO_CASTS: Mapping[str, DataType] = MappingProxyType({})

_TELLS: dict[str, Callable[[Parts, Any], Any]] = {
    "BATCH_ELEMENT_COUNT": element_counts,
    "BATCH_ACCUMULATED_ELEMENT_COUNT": accumulated_counts,
    "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO": partial(accumulated_counts, with_zero=True),
    "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE": max_count_shape,
    "BATCH_ITEM_SHAPE": item_shapes,
    "BATCH_ITEM_SHAPE_FLATTEN": partial(item_shapes, flat=True),
}


def make_merge(config: ModelConfig) -> Merge:
    """How batches of this model are merged."""
    rules, casts = length_rules(config), casts_of(config)
    shaped = any(declared.is_shape_tensor for declared in config.input)
    if rules is None and not (shaped or casts or config.ragged_inputs or config.batch_input):
        return merge_rows
    return ShapedMerge(config, rules, casts)


def merge_rows(members: Members) -> dict[str, Any]:
    """Every request's rows, one after the other (a view when there is only one)."""
    if len(members) == 1:
        return dict(members[0].arrays)
    return {
        name: gather_rows([pending.arrays[name] for pending in members])
        for name in members[0].arrays
    }


class Told(NamedTuple):
    """Extra inputs that tell of the batch: their names, what they are about, how they are made."""

    targets: tuple[str, ...]
    source: str
    make: Callable[[Parts], Any]


class ShapedMerge:
    """Merges what is more than rows: each input as its declaration says."""

    def __init__(
        self,
        config: ModelConfig,
        rules: LengthBatching | None,
        casts: Mapping[str, DataType] = NO_CASTS,
    ) -> None:
        self._lengths = rules
        self._gather = {
            declared.name: _gather(config, rules, declared, casts.get(declared.name))
            for declared in config.input
        }
        self._told = told_inputs(config)

    def __call__(self, members: Members) -> dict[str, Any]:
        """The model's inputs, with the mask of its padding and whatever tells of the batch."""
        rules = self._lengths
        length = padded_length(rules, max(p.length for p in members)) if rules is not None else 0
        merged = {
            name: self._gather[name]([pending.arrays[name] for pending in members], length)
            for name in members[0].arrays
        }
        if rules is not None and rules.mask_name:
            merged[rules.mask_name] = _mask(members, length, rules.mask_data_type)
        merged.update(tell(self._told, members))
        return merged


def told_inputs(config: ModelConfig) -> tuple[Told, ...]:
    """The inputs that tell of a batch of this model (`batch_input`)."""
    return tuple(_told(batch_input) for batch_input in config.batch_input)


def tell(told: Sequence[Told], members: Members) -> dict[str, Any]:
    """What these inputs say of these requests, by name."""
    found = {}
    for one in told:
        made = one.make([pending.arrays[one.source] for pending in members])
        found.update(dict.fromkeys(one.targets, made))
    return found


def length_rules(config: ModelConfig) -> LengthBatching | None:
    """The rules of padding, if anything is padded; strings are grouped, never padded."""
    rules = config.dynamic_batching.length_batching if config.dynamic_batching else None
    named = [config.find_input(name) for name in rules.input] if rules is not None else ()
    return (
        rules if any(i is not None and i.data_type is not DataType.BYTES for i in named) else None
    )


def _gather(
    config: ModelConfig,
    rules: LengthBatching | None,
    declared: ModelInput,
    cast: DataType | None,
) -> Gather:
    if declared.name in config.ragged_inputs:
        return _flat if cast is None else partial(_flat_cast, cast=cast)
    if declared.is_shape_tensor:
        return _one_for_all
    if rules is None or declared.name not in rules.input or declared.data_type is DataType.BYTES:
        return _rows if cast is None else partial(_cast, cast=cast)
    axis = declared.dims.index(-1) + (1 if config.max_batch_size > 0 else 0)
    padded = partial(_padded, axis=axis, pad_value=rules.pad_value)
    if cast is None:
        return padded
    return lambda parts, length: _cast([padded(parts, length)], length, cast=cast)


def _rows(parts: Parts, _length: int) -> Any:
    return gather_rows(parts)


def _cast(parts: Parts, _length: int, *, cast: DataType) -> Any:
    if cast is DataType.BF16:
        return float32_to_bf16(gather_rows(parts))
    return gather_cast(parts, cast.numpy)


def _flat(parts: Parts, _length: int) -> Any:
    return gather_flat(parts)


def _flat_cast(parts: Parts, length: int, *, cast: DataType) -> Any:
    return _cast([part.reshape(-1) for part in parts], length, cast=cast)


def _one_for_all(parts: Parts, _length: int) -> Any:
    # Only requests whose shape tensors have equal content share a batch.
    return parts[0]


def _padded(parts: Parts, length: int, *, axis: int, pad_value: float) -> Any:
    return gather_padded(parts, length, axis, pad_value)


def _mask(members: Members, length: int, datatype: DataType) -> Any:
    lengths = [pending.length for pending in members]
    rows = [pending.batch_size for pending in members]
    return length_mask(lengths, rows, length, datatype.numpy)


def _told(declared: BatchInput) -> Told:
    make, dtype = _TELLS[declared.kind], declared.data_type.numpy
    return Told(declared.target_name, declared.source_input[0], lambda parts: make(parts, dtype))
