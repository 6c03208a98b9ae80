"""The datatypes as models know them: by number, by the names of configurations, by numpy type."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from penstock_runtime.backends.triton_python.failures import TritonModelException
from penstock_runtime.datatype import DataType

NUMBERS: Mapping[DataType, int] = MappingProxyType(
    {
        DataType.BOOL: 1,
        DataType.UINT8: 2,
        DataType.UINT16: 3,
        DataType.UINT32: 4,
        DataType.UINT64: 5,
        DataType.INT8: 6,
        DataType.INT16: 7,
        DataType.INT32: 8,
        DataType.INT64: 9,
        DataType.FP16: 10,
        DataType.FP32: 11,
        DataType.FP64: 12,
        DataType.BYTES: 13,
        DataType.BF16: 14,
    }
)
# numpy has nothing for bfloat16: such tensors go through DLPack.
_IN_NUMPY = [datatype for datatype in DataType if datatype is not DataType.BF16]
_TYPES = {NUMBERS[datatype]: datatype.numpy.type for datatype in _IN_NUMPY}

TRITON_STRING_TO_NUMPY: Mapping[str, Any] = MappingProxyType(
    {
        datatype.config_name: bool if datatype is DataType.BOOL else datatype.numpy.type
        for datatype in _IN_NUMPY
    }
)


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """The numpy type of a configuration's datatype such as TYPE_FP32."""
    found = TRITON_STRING_TO_NUMPY.get(triton_type_string)
    if found is None:
        raise TritonModelException(f"{triton_type_string[:32]!r} has no numpy type")
    return found


def triton_to_numpy_type(data_type: int) -> Any:
    """The numpy type of a datatype's number; None where there is none."""
    return _TYPES.get(data_type)


def numpy_to_triton_type(data_type: Any) -> int | None:
    """The number of a numpy type (or dtype); None where there is none."""
    dtype = np.dtype(data_type)
    if dtype.kind in "OS":
        return NUMBERS[DataType.BYTES]
    return next((number for number, known in _TYPES.items() if dtype == np.dtype(known)), None)
