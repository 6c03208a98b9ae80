"""Outputs of which every request of a batch wants only the highest values (the classification
extension), ranked where they are: of a batch on a GPU only these come to the host.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from penstock_kernels.classify import TOP_K
from penstock_runtime.classification import Ranked
from penstock_runtime.config import ModelConfig
from penstock_runtime.datatype import DataType
from penstock_runtime.memory.staging import Deck
from penstock_runtime.scheduling.base import Pending

# The kernel looks at a row once for each; whoever wants more gets them from the host.
MOST_CLASSES = 64
_BYTES = 4


class _Wanted(NamedTuple):
    """An output, and the most classes that anyone wants of it."""

    name: str
    most: int


class Ranking:
    """The outputs of one model that can be ranked on its device: FP32, a row for each row."""

    def __init__(self, config: ModelConfig, deck: Deck) -> None:
        self._deck = deck
        rules = config.dynamic_batching.length_batching if config.dynamic_batching else None
        cut = {name for one in config.batch_output for name in one.target_name}
        cut.update(rules.unpad_output if rules is not None else ())
        self._names = tuple(
            output.name
            for output in config.output
            if output.data_type is DataType.FP32
            and output.reshape is None
            and output.name not in cut
        )

    def __call__(
        self, members: Sequence[Pending], outputs: Mapping[str, Any]
    ) -> dict[str, Sequence[Any]]:
        """The ranks of each request, of those outputs of which all want nothing else."""
        found: dict[str, Sequence[Any]] = {}
        rows = sum(pending.batch_size for pending in members)
        for name, count in self._wanted(members):
            array = outputs.get(name)
            if array is None or not _fits(array, rows):
                continue
            with self._deck.entered():
                found[name] = self._ranked(members, array, count)
        return found

    def _wanted(self, members: Sequence[Pending]) -> list[_Wanted]:
        if not all(pending.request.outputs for pending in members):
            return []
        asked = [{o.name: o.classes for o in pending.request.outputs} for pending in members]
        found = []
        for name in self._names:
            counts = [one[name] for one in asked if name in one]
            if counts and all(0 < count <= MOST_CLASSES for count in counts):
                found.append(_Wanted(name, max(counts)))
        return found

    def _ranked(self, members: Sequence[Pending], array: Any, count: int) -> list[Ranked]:
        values = self._deck.flat(array)
        rows, width = values.shape
        shape = (rows, min(count, width))
        size = rows * shape[1] * _BYTES
        slab = self._deck.empty((2 * size,), DataType.UINT8)
        scores = self._deck.view(slab, 0, shape, DataType.FP32)
        columns = self._deck.view(slab, size, shape, DataType.INT32)
        self._deck.run(TOP_K, values=values, scores=scores, columns=columns, softmax=False)
        host = self._deck.up(slab)
        highest = host[:size].view(np.float32).reshape(shape)
        indices = host[size:].view(np.int32).reshape(shape)
        parts, at = [], 0
        for pending in members:
            own = slice(at, at + pending.batch_size)
            whole = (pending.batch_size, *array.shape[1:])
            parts.append(Ranked(highest[own], indices[own], whole))
            at = own.stop
        return parts


def _fits(array: Any, rows: int) -> bool:
    """Whether it is a device's, of the datatype and the rows that it should have; anything else the
    host has the words for.
    """
    if type(array) is np.ndarray or str(array.dtype).rpartition(".")[2] != "float32":
        return False
    return len(array.shape) >= 2 and array.shape[0] == rows and 0 not in array.shape
