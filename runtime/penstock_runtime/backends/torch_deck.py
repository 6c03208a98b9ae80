"""The deck of a torch model on a GPU: a pinned slab, its copy on the device, tensors of torch's.

torch owns all of the memory; kernels get pointers, and run on torch's stream.
"""

import contextlib
import logging
from functools import cache
from typing import Any

import numpy as np
import torch

from penstock_kernels import run
from penstock_kernels.classify import TOP_K
from penstock_kernels.cuda_runner import Cuda
from penstock_kernels.declare import Kernel
from penstock_kernels.device import NoDeviceError
from penstock_kernels.gather import GATHER_PAD
from penstock_kernels.nvrtc import NvrtcMissingError
from penstock_runtime.backends.torch_tensors import torch_dtype
from penstock_runtime.datatype import AnyArray, DataType

_log = logging.getLogger("penstock.model")
_LEAST = 1 << 20


class TorchDeck:
    """One slab on either side, which grow together; used by one thread, on its current stream."""

    def __init__(self, device: torch.device, runner: Cuda) -> None:
        self._device = device
        self._runner = runner
        self._slab = torch.empty(0, dtype=torch.uint8)
        self._on_device = torch.empty(0, dtype=torch.uint8)
        self._copied: Any = None

    def entered(self) -> contextlib.AbstractContextManager[Any]:
        """The GPU is the current one, for torch and for kernels."""
        if self._device.type == "cuda":
            return torch.cuda.device(self._device)
        return contextlib.nullcontext()

    def load(self) -> None:
        """See to it that the first batch waits for no compiler."""
        with self.entered():
            for kernel in (GATHER_PAD, TOP_K):
                self._runner.load(kernel)

    def host(self, size: int) -> AnyArray:
        """Pinned memory, once the copy that read it last has ended."""
        if self._copied is not None:
            self._copied.synchronize()
        if size > self._slab.numel():
            self._grow(max(size, 2 * self._slab.numel(), _LEAST))
        found: AnyArray = self._slab.numpy()[:size]
        return found

    def _grow(self, size: int) -> None:
        # The old ones make room; and without room for both there is neither.
        self._slab = self._on_device = torch.empty(0, dtype=torch.uint8)
        pinned = torch.empty(size, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        self._on_device = torch.empty(size, dtype=torch.uint8, device=self._device)
        self._slab = pinned

    def down(self, size: int) -> Any:
        """One copy on the current stream; what ran there before still has the bytes it read."""
        here = self._on_device[:size]
        here.copy_(self._slab[:size], non_blocking=True)
        if self._device.type == "cuda":
            self._copied = self._copied or torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
        return here

    def up(self, slab: Any) -> AnyArray:
        """One copy, there when this returns."""
        return np.asarray(slab.cpu().numpy())

    def view(self, slab: Any, offset: int, shape: tuple[int, ...], datatype: DataType) -> Any:
        """A part of the slab as a tensor."""
        dtype = torch_dtype(datatype)
        assert dtype is not None
        size = int(np.prod(shape, dtype=np.int64)) * datatype.size
        return slab[offset : offset + size].view(dtype).reshape(shape)

    def flat(self, array: Any) -> Any:
        """A copy only if it is in no order."""
        return array.contiguous().view(array.shape[0], -1)

    def empty(self, shape: tuple[int, ...], datatype: DataType) -> Any:
        """A tensor on the device."""
        return torch.empty(shape, dtype=torch_dtype(datatype), device=self._device)

    def run(self, kernel: Kernel, **arguments: Any) -> None:
        """Enqueue it on torch's stream."""
        self._runner.run(kernel, arguments)


def deck_of(device: torch.device) -> TorchDeck | None:
    """The deck of a GPU; None on the CPU, and where kernels cannot be launched."""
    if device.type != "cuda":
        return None
    try:
        made = TorchDeck(device, run.device_runner())
        made.load()
    except (NoDeviceError, NvrtcMissingError):
        return None
    except RuntimeError as error:
        # A compiler or a driver that is too old: no reason not to serve the model.
        _tell(str(error).strip()[:400])
        return None
    return made


@cache
def _tell(problem: str) -> None:
    """Once for all instances."""
    _log.warning("batches of torch models are put together on the host: %s", problem)
