"""Kernels on torch's tensors without a GPU: the reference, or the CUDA source on the CPU, over the
memory of the tensors themselves.
"""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import torch

from penstock_kernels.declare import Kernel
from penstock_kernels.run import Reference, Runner
from penstock_runtime.llm.cuda_graphs import Captured
from penstock_runtime.llm.device_kernels import DeviceKernels

_VIEWS = {torch.bfloat16: (torch.int16, ml_dtypes.bfloat16)}
_VIEWS[torch.float8_e4m3fn] = (torch.uint8, ml_dtypes.float8_e4m3fn)


class HostLauncher:
    """Counts its calls by kernel."""

    def __init__(self, runner: Runner | None = None) -> None:
        self._runner = runner or Reference()
        self.calls: dict[str, int] = {}

    def run(self, kernel: Kernel, arguments: Mapping[str, Any], stream: int = 0) -> None:
        self.calls[kernel.name] = self.calls.get(kernel.name, 0) + 1
        self._runner.run(kernel, {name: _array(value) for name, value in arguments.items()})


def _array(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    # A device is given a pointer, which says nothing of strides.
    assert value.is_contiguous()
    kind, dtype = _VIEWS.get(value.dtype, (value.dtype, None))
    array: Any = value.view(kind).numpy()
    return array if dtype is None else array.view(dtype)


def host_kernels(launcher: HostLauncher) -> DeviceKernels:
    return DeviceKernels(launcher, lambda: 0, processors=8)


class HostCapturer:
    """A graph that computes anew, into the memory of the first time; so many can be captured."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.captured = 0
        self._most = most

    def capture(self, compute: Any) -> Captured:
        if self.captured >= self._most:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.captured += 1
        output = compute()

        def replay() -> None:
            output.copy_(compute())

        return Captured(output, replay)
