"""How outputs of a ragged batch are cut back: each request gets as many elements as the shape of
one of its inputs says (`batch_output`).
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from penstock_kernels.ragged import scatter_flat
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import FailureReason, Internal
from penstock_runtime.scheduling.base import Pending


class ScatteredShapes:
    """The outputs of one model that are cut by the shape of an input, and those shapes."""

    def __init__(self, config: ModelConfig) -> None:
        self._model = config.name
        self._sources = {
            target: (one.source_input[0], (-1, *declared.dims))
            for one in config.batch_output
            for target in one.target_name
            if (declared := config.find_output(target)) is not None
        }
        self.names = frozenset(self._sources)

    def scatter(self, output: str, array: Any, members: Sequence[Pending]) -> list[Any]:
        """Flat views, one for each request; Internal if the elements are not as many as they
        need.
        """
        sizes = [prod(self._own(output, pending)) for pending in members]
        if array.size != sum(sizes):
            raise self._wrong(output, array.size, sum(sizes))
        return scatter_flat(array, sizes)

    def shaped(self, output: str, array: Any, pending: Pending) -> Any:
        """One request's elements in its own shape; Internal if they are not as many."""
        shape = self._own(output, pending)
        if array.size != prod(shape):
            raise self._wrong(output, array.size, prod(shape))
        return array.reshape(shape)

    def _own(self, output: str, pending: Pending) -> tuple[int, ...]:
        """The output's shape; its rows and wildcards are those of the same places in the input."""
        source, dims = self._sources[output]
        shape = pending.arrays[source].shape
        return tuple(shape[at] if dim == -1 else dim for at, dim in enumerate(dims))

    def _wrong(self, output: str, found: int, expected: int) -> Internal:
        source, _ = self._sources[output]
        wanted = f"{expected} by the shapes of input '{source}'"
        return broken_output(self._model, output, f"has {found} elements", wanted)


def broken_output(model: str, output: str, found: str, expected: str) -> Internal:
    """The error of a model that gives another output than it declared."""
    return Internal(
        f"output '{output}' of model '{model}' {found}, expected {expected}",
        failure=FailureReason.BACKEND,
        scheduled=True,
    )
