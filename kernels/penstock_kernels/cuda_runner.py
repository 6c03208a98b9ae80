"""The runner of GPUs: it loads machine code and launches it on the caller's stream."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock_kernels.cubins import Cubins
from penstock_kernels.declare import Kernel, Launch
from penstock_kernels.registry import sources


@dataclass(frozen=True, slots=True)
class _Stream:
    """All that CuPy reads of a stream when it launches."""

    ptr: int


class Cuda:
    """Launches kernels through CuPy; arrays are CuPy's or torch's, on the device.

    Each thread works on the device that is current in it. Functions are loaded once per device, at
    their first launch or by `load`, which must come before a CUDA graph is captured.
    """

    name = "cuda"

    def __init__(self, cupy: Any, cubins: Cubins) -> None:
        self._cupy = cupy
        self._cubins = cubins
        self._lock = threading.Lock()
        self._functions: dict[tuple[int, str, str], Any] = {}
        # A function lives as long as its module.
        self._modules: list[Any] = []

    def run(self, kernel: Kernel, arguments: Mapping[str, Any], stream: int = 0) -> None:
        """Enqueue the kernel's launches on a stream (its handle; 0 is the default one)."""
        device = int(self._cupy.cuda.runtime.getDevice())
        on = _Stream(stream)
        for launch in kernel.launches(arguments):
            self._launch(self._function(device, kernel.source, launch.instance), launch, on)

    def load(self, kernel: Kernel) -> None:
        """Load a kernel's functions into the current device."""
        device = int(self._cupy.cuda.runtime.getDevice())
        self._function(device, kernel.source, kernel.instances[0])

    def _launch(self, function: Any, launch: Launch, on: _Stream) -> None:
        arguments = tuple(map(_argument, launch.arguments))
        function(launch.grid, launch.block, arguments, launch.shared_bytes, on)

    def _function(self, device: int, source: str, instance: str) -> Any:
        found = self._functions.get((device, source, instance))
        if found is not None:
            return found
        with self._lock:
            if (device, source, instance) not in self._functions:
                self._load(device, source)
            return self._functions[device, source, instance]

    def _load(self, device: int, source: str) -> None:
        arch = str(self._cupy.cuda.Device(device).compute_capability)
        binary = self._cubins.find(source, sources()[source], arch)
        module = self._cupy.cuda.function.Module()
        module.load(binary.cubin)
        self._modules.append(module)
        for instance, symbol in binary.symbols.items():
            self._functions[device, source, instance] = module.get_function(symbol)


def _argument(value: Any) -> Any:
    """Pointers as integers, which CuPy passes as 8 bytes; scalars as they are."""
    if value is None:
        return 0
    if isinstance(value, np.generic):
        return value
    if hasattr(value, "data_ptr"):
        return value.data_ptr()
    return value.data.ptr
