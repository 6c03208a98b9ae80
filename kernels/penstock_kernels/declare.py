"""What a kernel is: CUDA source, its instances, a launch plan, a NumPy reference and its traffic.

All three functions take the same keyword arguments; arrays that a kernel fills are arguments too.
Of where arrays live and who executes this module knows nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# The C++ names of common.cuh for the dtypes of NumPy (with ml_dtypes), CuPy and torch.
_C_NAMES = {
    "float32": "float",
    "float16": "f16",
    "bfloat16": "bf16",
    "int64": "long long",
    "int32": "int",
    "int8": "signed char",
    "uint8": "unsigned char",
    "float8_e4m3fn": "e4m3",
}
# Of every device since 2013: x of the grid, and y and z.
GRID_LIMITS = (2**31 - 1, 65535, 65535)
# What a block may have without asking the driver for more.
SHARED_LIMIT = 48 << 10


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch: an instance, its geometry, and arguments that are arrays, NumPy scalars or None.

    Never a Python number: CuPy would pass an int as 8 bytes and a float as a double.
    """

    instance: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: tuple[Any, ...]
    shared_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one call moves and computes at least: the floor that a benchmark divides by."""

    bytes: int
    flops: int = 0


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel, declared once; who executes it is chosen in `run`.

    `source` is a file of `cuda/`; `instances` are C++ name expressions, the same for every
    compiler; `outputs` names the arguments that are written, all others are only read. `plan` is
    pure. A kernel whose source lies elsewhere brings it as `text`, flattened, and has a `source`
    that no other has.
    """

    name: str
    source: str
    instances: tuple[str, ...]
    outputs: tuple[str, ...]
    plan: Callable[..., list[Launch]]
    reference: Callable[..., None]
    traffic: Callable[..., Traffic]
    text: str = ""

    def launches(self, arguments: Mapping[str, Any]) -> list[Launch]:
        """The plan, of declared instances only; ValueError for what it or their list refuses."""
        planned = self.plan(**arguments)
        for launch in planned:
            if launch.instance not in self.instances:
                has = ", ".join(self.instances)
                raise ValueError(
                    f"kernel {self.name} has no {launch.instance}, expected one of {has}"
                )
        return planned


def c_name(array: Any) -> str:
    """The C++ name of an array's element; ValueError for a dtype that no kernel takes."""
    return c_type(array.dtype)


def c_type(dtype: Any) -> str:
    """The C++ name of a dtype of any library; ValueError for one that no kernel takes."""
    name = str(dtype).removeprefix("torch.")
    if name not in _C_NAMES:
        raise ValueError(f"dtype {name}, expected one of {', '.join(_C_NAMES)}")
    return _C_NAMES[name]


def instance(kernel: str, *types: str) -> str:
    """The name expression of a template's instance."""
    return f"{kernel}<{', '.join(types)}>"


def grid(x: int, y: int = 1, z: int = 1) -> tuple[int, int, int]:
    """A grid; ValueError beyond a device's limits, or when empty: plan no launch for nothing."""
    for size, limit in zip((x, y, z), GRID_LIMITS, strict=True):
        if not 1 <= size <= limit:
            raise ValueError(f"a grid of {(x, y, z)}, expected 1 to {limit} where {size} is")
    return x, y, z


def blocks(items: int, per_block: int) -> int:
    """How many blocks hold that many items."""
    return -(-items // per_block)


def int32(number: int) -> np.int32:
    """A kernel's `int`; OverflowError rather than another number."""
    return np.int32(number)


def int64(number: int) -> np.int64:
    """A kernel's `long long`."""
    return np.int64(number)


def float32(number: float) -> np.float32:
    """A kernel's `float`."""
    return np.float32(number)


def by_name(kernels: Sequence[Kernel]) -> dict[str, Kernel]:
    """Kernels under their names; ValueError when two share one."""
    table = {kernel.name: kernel for kernel in kernels}
    if len(table) != len(kernels):
        raise ValueError(f"two kernels share a name: {sorted(kernel.name for kernel in kernels)}")
    return table
