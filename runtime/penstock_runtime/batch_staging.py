"""Batches of models on a GPU: their inputs are put together in a slab, and on the device.

Which models that suits is seen from their configuration; every other is merged on the host.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from penstock_kernels.ragged import length_mask
from penstock_runtime.batch_cast import casts_of
from penstock_runtime.batch_merge import Merge, length_rules, make_merge
from penstock_runtime.config import ModelConfig
from penstock_runtime.config_scheduling import LengthBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.memory.staging import Deck, Lane, Staging
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.length_batcher import padded_length


class StagedMerge:
    """Merges on a device; requests whose arrays are not the host's are merged as without it."""

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        rules: LengthBatching | None,
        deck: Deck,
        otherwise: Merge,
    ) -> None:
        self._lanes = lanes
        self._rules = rules
        self._staging = Staging(deck)
        self._otherwise = otherwise

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
        return self._staging.merge(parts, length)


def staged_merge(config: ModelConfig, deck: Deck) -> Merge | None:
    """How batches of this model are merged on a device; None where the host has to do it."""
    casts, rules = casts_of(config), length_rules(config)
    if config.max_batch_size < 1 or not config.has_rows or config.sequence_batching is not None:
        return None
    lanes = {}
    for declared in config.input:
        padded = rules is not None and declared.name in rules.input
        pad = rules.pad_value if padded and rules is not None else None
        wanted = casts.get(declared.name, declared.data_type)
        lane = Lane(declared.name, declared.data_type, wanted, pad)
        # A row is one run of bytes only if what is padded comes first in it.
        if declared.data_type is DataType.BYTES or (padded and declared.dims[:1] != (-1,)):
            return None
        if not (lane.plain or lane.castable):
            return None
        lanes[declared.name] = lane
    return StagedMerge(lanes, rules, deck, make_merge(config))


def _mask(rules: LengthBatching, members: Sequence[Pending], length: int) -> tuple[Lane, list[Any]]:
    lengths = [pending.length for pending in members]
    rows = [pending.batch_size for pending in members]
    datatype = rules.mask_data_type
    made = length_mask(lengths, rows, length, datatype.numpy)
    return Lane(rules.mask_name, datatype, datatype), [made]
