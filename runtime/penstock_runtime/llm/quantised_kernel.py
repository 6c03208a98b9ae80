"""The multiplication by quantised weights of the CPU's own kernels (`cpu/quantised_gemm.cpp`). A
machine without a compiler or without AVX512-BF16 does without.
"""

import ctypes
import logging
from functools import cache
from typing import Any

import torch

from penstock_runtime.errors import FailedPrecondition
from penstock_runtime.llm.cpu_build import NotBuilt, built_library
from penstock_runtime.llm.quantised_weight import QuantisedWeight

_log = logging.getLogger("penstock.llm")
_STEP = 64
_ROWS = 4

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS = (
    ctypes.c_int,
    *(_POINTER, _COUNT),
    *(_POINTER, _POINTER, _COUNT, _COUNT, _COUNT),
    *(_POINTER, _POINTER, ctypes.c_int),
)


class QuantisedKernel:
    """Multiplies bf16 rows by a quantised weight, on the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._gemm = library.penstock_gemm
        self._gemm.argtypes = _ARGUMENTS
        self._gemm.restype = None

    @staticmethod
    def fits(weight: QuantisedWeight) -> bool:
        """Whether the weight has a form that it knows."""
        on_cpu = weight.data.device.type == "cpu"
        return (
            on_cpu
            and not (weight.outputs % _ROWS or weight.inputs % _STEP)
            and (weight.group % _STEP == 0)
        )

    def bind(self, weight: QuantisedWeight, bias: torch.Tensor | None) -> "BoundWeight":
        """What multiplies by this weight and adds a bias, float32 [outputs]."""
        return BoundWeight(self._gemm, weight, bias)


class BoundWeight:
    """Multiplies by one weight. It holds the tensors because it hands out where they lie."""

    __slots__ = ("_bias", "_form", "_gemm", "_held", "_outputs", "_places")

    def __init__(self, gemm: Any, weight: QuantisedWeight, bias: torch.Tensor | None) -> None:
        self._gemm = gemm
        self._held = (weight, bias)
        self._outputs = weight.outputs
        self._form = (weight.outputs, weight.inputs, weight.group)
        self._places = (weight.bits, weight.data.data_ptr(), weight.scales.data_ptr())
        self._bias = None if bias is None else bias.data_ptr()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x: bf16 [rows, inputs]. bf16 [rows, outputs]."""
        x = x.contiguous()
        rows = len(x)
        y = x.new_empty(rows, self._outputs)
        bits, data, scales = self._places
        threads = torch.get_num_threads()
        self._gemm(
            bits, x.data_ptr(), rows, data, scales, *self._form, self._bias, y.data_ptr(), threads
        )
        return y

    def __deepcopy__(self, _: object) -> "BoundWeight":
        # A weight never changes, and a copy would lie elsewhere.
        return self


def load_kernel(wanted: str = "auto") -> QuantisedKernel | None:
    """The kernel, as `cpu_kernels` of the options says: auto, off or require. None where torch is
    to do it; FailedPrecondition where it is required and cannot be had.
    """
    if wanted == "off":
        return None
    kernel, problem = _kernel()
    if kernel is None and wanted == "require":
        raise FailedPrecondition(f"cpu_kernels is 'require', but {problem}")
    return kernel


@cache
def _kernel() -> tuple[QuantisedKernel | None, str]:
    """The kernel, or why there is none; built, loaded and, if need be, logged once."""
    try:
        # torch is loaded, and its OpenMP with it: both share one pool of threads.
        library = ctypes.CDLL(str(built_library()))
        if library.penstock_gemm_offered():
            return QuantisedKernel(library), ""
        problem = "the processor lacks AVX512-BF16 or AVX512-VBMI"
    except (NotBuilt, OSError) as error:
        problem = str(error) if isinstance(error, NotBuilt) else "the library does not load"
    _log.info("quantised weights are multiplied by torch alone: %s", problem)
    return None, problem
