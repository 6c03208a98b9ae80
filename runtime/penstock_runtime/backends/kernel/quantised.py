"""Quantisation as a step of an ensemble: floats to INT8 or packed INT4 with a scale for each group,
and back.
"""

from typing import Any

import numpy as np

from penstock_kernels.declare import Kernel
from penstock_kernels.quantise import DEQUANTISE, QUANTISE
from penstock_runtime.backends.base import Arrays, ModelSource
from penstock_runtime.backends.kernel.form import Declared, Form, Step
from penstock_runtime.backends.kernel.options import Options
from penstock_runtime.backends.kernel.place import Place, kernel_dtype
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument

WIDE, PACKED, SCALE = "VALUES", "PACKED", "SCALE"
_TYPES = (DataType.FP32, DataType.FP16, DataType.BF16)
_LARGEST_GROUP = 65536
_BYTES, _FLOATS = np.dtype(np.uint8), np.dtype(np.float32)


class _Quantised:
    """What both directions know: bits, the elements of a group, and the type of the floats."""

    def __init__(self, options: Options) -> None:
        self._bits = _bits(options)
        self._group = options.integer("group", 64, 2, _LARGEST_GROUP)
        self._dtype = kernel_dtype(_datatype(options))
        if self._bits == 4 and self._group % 2:
            raise options.refuse(f"has groups of {self._group}", "an even number: two share a byte")

    def _groups(self, name: str, elements: int) -> int:
        groups, rest = divmod(elements, self._group)
        if rest:
            raise InvalidArgument(
                f"input '{name}' has {elements} elements in a row, expected a multiple of the group"
                f" of {self._group}"
            )
        return groups


class Quantise(_Quantised):
    """VALUES [n] to PACKED [n] or [n / 2] and SCALE [n / group]."""

    kernel: Kernel = QUANTISE

    def run(self, inputs: Arrays, place: Place) -> dict[str, Any]:
        """The bytes and scales of one batch."""
        x = place.take(inputs[WIDE], self._dtype)
        *rows, width = x.shape
        per_row = self._groups(WIDE, width)
        groups = per_row * int(np.prod(rows, dtype=np.int64))
        packed = place.empty((groups, self._group * self._bits // 8), _BYTES)
        scale = place.empty((groups,), _FLOATS)
        shaped = x.reshape(groups, self._group)
        place.run(self.kernel, x=shaped, packed=packed, scale=scale, bits=self._bits)
        return {
            PACKED: packed.reshape(*rows, width * self._bits // 8),
            SCALE: scale.reshape(*rows, per_row),
        }


class Dequantise(_Quantised):
    """PACKED and SCALE back to VALUES."""

    kernel: Kernel = DEQUANTISE

    def run(self, inputs: Arrays, place: Place) -> dict[str, Any]:
        """The floats of one batch."""
        packed, scale = place.take(inputs[PACKED], _BYTES), place.take(inputs[SCALE], _FLOATS)
        *rows, width = packed.shape
        elements = width * 8 // self._bits
        per_row = self._groups(PACKED, elements)
        if tuple(scale.shape) != (*rows, per_row):
            raise InvalidArgument(
                f"input '{SCALE}' has shape {list(scale.shape)}, expected {[*rows, per_row]}: one"
                f" for each {self._group} elements"
            )
        groups = scale.size
        out = place.empty((groups, self._group), self._dtype)
        place.run(
            self.kernel,
            packed=packed.reshape(groups, self._group * self._bits // 8),
            scale=scale.reshape(groups),
            out=out,
            bits=self._bits,
        )
        return {WIDE: out.reshape(*rows, elements)}


def _bits(options: Options) -> int:
    found = options.integer("bits", 8, 4, 8)
    if found not in (4, 8):
        raise options.refuse(f"has bits {found}", "4 or 8")
    return found


def _datatype(options: Options) -> DataType:
    return options.datatype("datatype", DataType.FP32, _TYPES)


def _narrow() -> tuple[ModelInput, ModelInput]:
    return ModelInput(PACKED, DataType.UINT8, (-1,)), ModelInput(SCALE, DataType.FP32, (-1,))


def _declare_quantise(options: Options, config: ModelConfig) -> Declared:  # noqa: ARG001
    outputs = tuple(ModelOutput(t.name, t.data_type, t.dims) for t in _narrow())
    return Declared((ModelInput(WIDE, _datatype(options), (-1,)),), outputs)


def _declare_dequantise(options: Options, config: ModelConfig) -> Declared:  # noqa: ARG001
    return Declared(_narrow(), (ModelOutput(WIDE, _datatype(options), (-1,)),))


def _make_quantise(options: Options, source: ModelSource) -> Step:  # noqa: ARG001
    return Quantise(options)


def _make_dequantise(options: Options, source: ModelSource) -> Step:  # noqa: ARG001
    return Dequantise(options)


_OPTIONS = ("bits", "group", "datatype")
QUANTISE_FORM = Form(_OPTIONS, _declare_quantise, _make_quantise)
DEQUANTISE_FORM = Form(_OPTIONS, _declare_dequantise, _make_dequantise)
