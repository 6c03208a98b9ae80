"""The runner of GPUs: it loads machine code and launches it on the caller's stream."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock_kernels.cubins import Cubins
from penstock_kernels.declare import Kernel, Launch
from penstock_kernels.registry import unit
from penstock_kernels.streams import current_stream


@dataclass(frozen=True, slots=True)
class _Stream:
    """All that CuPy reads of a stream when it launches."""

    ptr: int


class Cuda:
    """Launches kernels through CuPy; arrays are CuPy's or torch's, on the device.

    Each thread works on the device and the stream that are current in it. Functions are loaded once
    per device, at their first launch or by `load`, which must come before a CUDA graph is captured.
    """

    name = "cuda"

    def __init__(self, cupy: Any, cubins: Cubins) -> None:
        self._cupy = cupy
        self._cubins = cubins
        self._lock = threading.Lock()
        self._functions: dict[tuple[Any, ...], Any] = {}
        # A function lives as long as its module.
        self._modules: dict[tuple[Any, ...], Any] = {}

    def run(self, kernel: Kernel, arguments: Mapping[str, Any], stream: int | None = None) -> None:
        """Enqueue the kernel's launches on a stream: its handle, 0 for the default one, None for
        the thread's current one, which is asked for anew every time.
        """
        device = int(self._cupy.cuda.runtime.getDevice())
        on = _Stream(self.stream() if stream is None else stream)
        for launch in kernel.launches(arguments):
            self._launch(self._function(device, kernel, launch.instance), launch, on)

    def stream(self) -> int:
        """The handle of the stream that this thread works on now: torch's, else CuPy's."""
        return current_stream(self._cupy)

    def load(self, kernel: Kernel) -> None:
        """Load a kernel's functions into the current device."""
        device = int(self._cupy.cuda.runtime.getDevice())
        self._function(device, kernel, kernel.instances[0])

    def forget(self, kernel: Kernel) -> None:
        """Unload a kernel that brought its own source; nobody executes it any more."""
        with self._lock:
            for device, source in [key for key in self._modules if key[1] == kernel.source]:
                # From the GPU's own context, which need not be the one of this thread.
                with self._cupy.cuda.Device(device):
                    self._drop(device, source)

    def release(self) -> None:
        """Free what CuPy keeps for its next arrays, on the GPUs that kernels were loaded into."""
        with self._lock:
            devices = {device for device, _ in self._modules}
        for device in devices:
            with self._cupy.cuda.Device(device):
                self._cupy.get_default_memory_pool().free_all_blocks()

    def _drop(self, device: int, source: str) -> None:
        for key in [key for key in self._functions if key[:2] == (device, source)]:
            del self._functions[key]
        del self._modules[device, source]

    def _launch(self, function: Any, launch: Launch, on: _Stream) -> None:
        arguments = tuple(map(_argument, launch.arguments))
        function(launch.grid, launch.block, arguments, launch.shared_bytes, on)

    def _function(self, device: int, kernel: Kernel, instance: str) -> Any:
        key = (device, kernel.source, instance)
        found = self._functions.get(key)
        if found is not None:
            return found
        with self._lock:
            if key not in self._functions:
                self._load(device, kernel)
            return self._functions[key]

    def _load(self, device: int, kernel: Kernel) -> None:
        arch = str(self._cupy.cuda.Device(device).compute_capability)
        text, instances = unit(kernel)
        binary = self._cubins.find(kernel.source, instances, arch, text)
        module = self._cupy.cuda.function.Module()
        module.load(binary.cubin)
        self._modules[device, kernel.source] = module
        for instance, symbol in binary.symbols.items():
            self._functions[device, kernel.source, instance] = module.get_function(symbol)


def _argument(value: Any) -> Any:
    """Pointers as integers, which CuPy passes as 8 bytes; scalars as they are."""
    if value is None:
        return 0
    if isinstance(value, np.generic):
        return value
    if hasattr(value, "data_ptr"):
        return value.data_ptr()
    return value.data.ptr
