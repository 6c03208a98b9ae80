"""The runner of tests: kernels by the CUDA source itself, without a GPU."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock_kernels.declare import Kernel
from penstock_kernels.emulate.module import Module
from penstock_kernels.registry import unit


class Emulated:
    """Executes a kernel's launches on the CPU, threads in the given order (see Module.launch)."""

    name = "emulated"

    def __init__(self, cache: Path, order: int = 0) -> None:
        self._cache = cache
        self._order = order

    def run(self, kernel: Kernel, arguments: Mapping[str, Any], stream: int | None = None) -> None:
        """Execute; `stream` is ignored. Raises KernelFault when the kernel breaks a rule."""
        module = _module(*unit(kernel), self._cache)
        outputs = [arguments[name] for name in kernel.outputs]
        for launch in kernel.launches(arguments):
            module.launch(launch, outputs, self._order)


@functools.lru_cache(maxsize=64)
def _module(text: str, instances: tuple[str, ...], cache: Path) -> Module:
    return Module(text, instances, cache)
