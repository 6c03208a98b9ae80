"""The deck of a kernel model on a GPU: a pinned slab, its copy on the device, arrays of CuPy's.

It works where the place of its instance works: on the same stream, in the same memory.
"""

import contextlib
from typing import Any

import numpy as np

from penstock_kernels.cuda_runner import Cuda
from penstock_kernels.declare import Kernel
from penstock_kernels.memory import on_gpu
from penstock_runtime.datatype import AnyArray, DataType

_LEAST = 1 << 20


class CupyDeck:
    """One slab on either side, which grow together; used by one thread."""

    def __init__(self, cupy: Any, runner: Cuda, ordinal: int) -> None:
        self._cupy = cupy
        self._runner = runner
        self._ordinal = ordinal
        self._slab: AnyArray = np.empty(0, np.uint8)
        self._on_device: Any = None

    def entered(self) -> contextlib.AbstractContextManager[Any]:
        """The GPU is current, and CuPy works on torch's stream and in its memory, if there are."""
        return on_gpu(self._cupy, self._ordinal)

    def host(self, size: int) -> AnyArray:
        """Pinned memory; whatever read it last has ended."""
        if self._on_device is not None:
            self._cupy.cuda.runtime.streamSynchronize(self._runner.stream())
        if size > self._slab.size or self._on_device is None:
            self._grow(max(size, 2 * self._slab.size, _LEAST))
        return self._slab[:size]

    def _grow(self, size: int) -> None:
        # The old ones make room; and without room for both there is neither.
        self._slab, self._on_device = np.empty(0, np.uint8), None
        # Its own, and not of CuPy's pool, which would give nothing back.
        pinned = self._cupy.cuda.PinnedMemoryPointer(self._cupy.cuda.PinnedMemory(size), 0)
        self._on_device = self._cupy.empty(size, np.uint8)
        self._slab = np.frombuffer(pinned, np.uint8, size)

    def down(self, size: int) -> Any:
        """One copy on the current stream."""
        here = self._on_device[:size]
        if size:
            here.set(self._slab[:size], stream=self._cupy.cuda.get_current_stream())
        return here

    def up(self, slab: Any) -> AnyArray:
        """One copy, there when this returns."""
        found: AnyArray = slab.get()
        return found

    def view(self, slab: Any, offset: int, shape: tuple[int, ...], datatype: DataType) -> Any:
        """A part of the slab as an array."""
        size = int(np.prod(shape, dtype=np.int64)) * datatype.size
        return slab[offset : offset + size].view(datatype.numpy).reshape(shape)

    def flat(self, array: Any) -> Any:
        """A copy only if it is in no order."""
        return self._cupy.ascontiguousarray(array).reshape(array.shape[0], -1)

    def empty(self, shape: tuple[int, ...], datatype: DataType) -> Any:
        """An array on the device."""
        dtype = np.dtype("bfloat16") if datatype is DataType.BF16 else datatype.numpy
        return self._cupy.empty(shape, dtype)

    def run(self, kernel: Kernel, **arguments: Any) -> None:
        """Enqueue it on the stream that this thread works on."""
        self._runner.run(kernel, arguments)
