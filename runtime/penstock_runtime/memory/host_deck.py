"""A deck that goes nowhere: the host's memory for both sides, kernels by whoever runs them there.

What is staged for a device can be held against it on any machine.
"""

import contextlib
from typing import Any

import numpy as np

from penstock_kernels.declare import Kernel
from penstock_kernels.run import Runner
from penstock_runtime.datatype import AnyArray, DataType


class HostDeck:
    """One slab that grows, and NumPy's arrays."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._slab = np.empty(0, np.uint8)

    def entered(self) -> contextlib.AbstractContextManager[Any]:
        """Nothing: there is no device."""
        return contextlib.nullcontext()

    def host(self, size: int) -> AnyArray:
        """The slab's first bytes, whatever was in them."""
        if size > self._slab.size:
            self._slab = np.empty(max(size, 2 * self._slab.size), np.uint8)
        return self._slab[:size]

    def down(self, size: int) -> Any:
        """A copy, since a device would have one."""
        return self._slab[:size].copy()

    def up(self, slab: Any) -> AnyArray:
        """The bytes, which are here already."""
        found: AnyArray = slab
        return found

    def view(self, slab: Any, offset: int, shape: tuple[int, ...], datatype: DataType) -> Any:
        """A part of the slab as an array."""
        size = int(np.prod(shape, dtype=np.int64)) * datatype.size
        return slab[offset : offset + size].view(datatype.numpy).reshape(shape)

    def flat(self, array: Any) -> Any:
        """A copy only if it is in no order."""
        return np.ascontiguousarray(array).reshape(array.shape[0], -1)

    def empty(self, shape: tuple[int, ...], datatype: DataType) -> Any:
        """An array, BF16 by the dtype of ml_dtypes if that is installed."""
        dtype = np.dtype("bfloat16") if datatype is DataType.BF16 else datatype.numpy
        return np.empty(shape, dtype)

    def run(self, kernel: Kernel, **arguments: Any) -> None:
        """Run it to its end."""
        self._runner.run(kernel, arguments)
