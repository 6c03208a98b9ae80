"""The runner of tests: kernels by the CUDA source itself, without a GPU."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock_kernels.declare import Kernel
from penstock_kernels.emulate.module import Module
from penstock_kernels.registry import sources
from penstock_kernels.source import flattened


class Emulated:
    """Executes a kernel's launches on the CPU, threads in the given order (see Module.launch)."""

    name = "emulated"

    def __init__(self, cache: Path, order: int = 0) -> None:
        self._cache = cache
        self._order = order

    def run(self, kernel: Kernel, arguments: Mapping[str, Any], stream: int = 0) -> None:
        """Execute; `stream` is ignored. Raises KernelFault when the kernel breaks a rule."""
        module = _module(kernel.source, sources()[kernel.source], self._cache)
        outputs = [arguments[name] for name in kernel.outputs]
        for launch in kernel.launches(arguments):
            module.launch(launch, outputs, self._order)


@functools.lru_cache(maxsize=64)
def _module(source: str, instances: tuple[str, ...], cache: Path) -> Module:
    return Module(flattened(source), instances, cache)
