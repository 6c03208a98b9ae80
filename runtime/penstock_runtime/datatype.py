"""The datatypes of the v2 protocol and BF16: the only table between wire, numpy, torch and
configuration.

numpy has no bfloat16: a BF16 array is a uint16 array that holds the upper halves of float32 values.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock_runtime.errors import InvalidArgument

AnyArray = npt.NDArray[Any]


class DataType(Enum):
    """A v2 datatype; the value is its name on the wire."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"
    BF16 = "BF16"

    # A member's identity never changes: hashing the identity keeps dictionary look-ups off Enum's
    # Python-level __hash__, which the path of every request would pay.
    __hash__ = object.__hash__

    @property
    def numpy(self) -> np.dtype[Any]:
        """The dtype of a numpy array that holds this datatype (BF16: uint16, BYTES: object)."""
        return NUMPY[self]

    @property
    def size(self) -> int:
        """Bytes of one element; 0 for BYTES, whose elements vary."""
        return SIZES[self]

    @property
    def config_name(self) -> str:
        """The name in a model configuration, e.g. TYPE_FP32 (BYTES is TYPE_STRING there)."""
        return "TYPE_STRING" if self is DataType.BYTES else f"TYPE_{self.value}"

    @property
    def torch_name(self) -> str | None:
        """The attribute of the torch module with this dtype; None for BYTES."""
        return TORCH_NAMES.get(self)


NUMPY: Mapping[DataType, np.dtype[Any]] = MappingProxyType(
    {
        DataType.BOOL: np.dtype(np.bool_),
        DataType.UINT8: np.dtype(np.uint8),
        DataType.UINT16: np.dtype("<u2"),
        DataType.UINT32: np.dtype("<u4"),
        DataType.UINT64: np.dtype("<u8"),
        DataType.INT8: np.dtype(np.int8),
        DataType.INT16: np.dtype("<i2"),
        DataType.INT32: np.dtype("<i4"),
        DataType.INT64: np.dtype("<i8"),
        DataType.FP16: np.dtype("<f2"),
        DataType.FP32: np.dtype("<f4"),
        DataType.FP64: np.dtype("<f8"),
        DataType.BYTES: np.dtype(object),
        DataType.BF16: np.dtype("<u2"),
    }
)

SIZES: Mapping[DataType, int] = MappingProxyType(
    {dt: 0 if dt is DataType.BYTES else NUMPY[dt].itemsize for dt in DataType}
)

TORCH_NAMES: Mapping[DataType, str] = MappingProxyType(
    {
        DataType.BOOL: "bool",
        DataType.UINT8: "uint8",
        DataType.UINT16: "uint16",
        DataType.UINT32: "uint32",
        DataType.UINT64: "uint64",
        DataType.INT8: "int8",
        DataType.INT16: "int16",
        DataType.INT32: "int32",
        DataType.INT64: "int64",
        DataType.FP16: "float16",
        DataType.FP32: "float32",
        DataType.FP64: "float64",
        DataType.BF16: "bfloat16",
    }
)

BY_WIRE_NAME: Mapping[str, DataType] = MappingProxyType({dt.value: dt for dt in DataType})
BY_CONFIG_NAME: Mapping[str, DataType] = MappingProxyType({dt.config_name: dt for dt in DataType})
BY_TORCH_NAME: Mapping[str, DataType] = MappingProxyType({n: dt for dt, n in TORCH_NAMES.items()})
_BY_DTYPE = {dt.numpy: dt for dt in DataType if dt is not DataType.BF16}
_BY_KIND = {
    (dtype.kind, dtype.itemsize): dt for dtype, dt in _BY_DTYPE.items() if dt is not DataType.BYTES
}


def from_wire(name: str) -> DataType:
    """The datatype of a wire name such as FP32; InvalidArgument for any other text."""
    datatype = BY_WIRE_NAME.get(name)
    if datatype is None:
        shown = name if len(name) <= 32 else name[:32] + "..."
        raise InvalidArgument(
            f"unknown datatype {shown!r}, expected one of {', '.join(BY_WIRE_NAME)}"
        )
    return datatype


def from_config(name: str) -> DataType:
    """The datatype of a configuration name such as TYPE_FP32."""
    datatype = BY_CONFIG_NAME.get(name)
    if datatype is None:
        raise InvalidArgument(
            f"unknown data_type {name[:40]!r}, expected one of {', '.join(BY_CONFIG_NAME)}"
        )
    return datatype


def from_numpy(dtype: np.dtype[Any]) -> DataType:
    """The datatype of a numpy dtype; text and objects are BYTES, ml_dtypes' bfloat16 is BF16."""
    known = _BY_DTYPE.get(dtype)
    if known is not None:
        return known
    # Only now: numpy puts a dtype's name together anew for everyone who asks.
    if dtype.name == "bfloat16":
        return DataType.BF16
    if dtype.kind in "OSU":
        return DataType.BYTES
    datatype = _BY_KIND.get((dtype.kind, dtype.itemsize))
    if datatype is None:
        raise InvalidArgument(f"numpy dtype {dtype} has no v2 datatype")
    return datatype


def bf16_to_float32(halves: AnyArray) -> npt.NDArray[np.float32]:
    """Widen BF16 (uint16 halves, any shape) to float32, exactly."""
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)


def float32_to_bf16(values: AnyArray) -> npt.NDArray[np.uint16]:
    """Round float32 (any shape) to BF16 halves, to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    halves: npt.NDArray[np.uint16] = (rounded >> np.uint32(16)).astype(np.uint16)
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(nan, np.uint16(0x7FC0), halves).astype(np.uint16)
