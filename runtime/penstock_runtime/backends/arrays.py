"""What a model returned as an array of the datatype that was declared: never a silent change of
kind, never a needless copy.
"""

from typing import Any

import numpy as np

from penstock_runtime.datatype import AnyArray, DataType, float32_to_bf16
from penstock_runtime.tensor import to_host


class WrongValue(Exception):
    """A value that is not of the declared datatype: what was found, in words."""


def as_array(value: Any, datatype: DataType) -> Any:
    """The value as a numpy array of the datatype (a CuPy array stays where it is).

    Takes numpy, torch and CuPy arrays, numbers, text and nested lists of them. Casts stay within
    the kind (float64 to float32, not float to int). Raises WrongValue.
    """
    if datatype is DataType.BYTES:
        return _text_array(value)
    if hasattr(value, "detach"):
        value = _from_torch(value, datatype)
    elif hasattr(value, "__cuda_array_interface__"):
        return _on_device(value, datatype)
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        return array if array.dtype == datatype.numpy else _cast(array, datatype)
    return _from_python(value, datatype)


def _from_torch(value: Any, datatype: DataType) -> AnyArray:
    # As uint16 halves bfloat16 could pass for an integer: widened unless BF16 is what is wanted.
    if str(value.dtype) == "torch.bfloat16" and datatype is not DataType.BF16:
        value = value.float()
    return to_host(value)


def _on_device(value: Any, datatype: DataType) -> Any:
    if value.dtype != datatype.numpy:
        raise WrongValue(f"is {value.dtype} on the device")
    return value


def _cast(array: AnyArray, datatype: DataType) -> AnyArray:
    if datatype is DataType.BF16:
        return _to_bf16(array)
    target = datatype.numpy
    if array.dtype.kind in "OSUV" or not np.can_cast(array.dtype, target, "same_kind"):
        raise WrongValue(f"is {array.dtype}")
    with np.errstate(over="ignore"):
        cast: AnyArray = array.astype(target)
    return cast


def _to_bf16(array: AnyArray) -> AnyArray:
    if array.dtype.name == "bfloat16":
        return array.view(np.uint16)
    if array.dtype.kind not in "fiub":
        raise WrongValue(f"is {array.dtype}")
    with np.errstate(over="ignore"):
        return float32_to_bf16(array.astype(np.float32))


def _from_python(value: Any, datatype: DataType) -> AnyArray:
    try:
        array = np.asarray(value)
        # Python's integers have no width: any that fits is of the declared kind.
        if array.dtype.kind in "iu" and datatype.numpy.kind in "iu" and datatype is not _HALVES:
            return np.asarray(value, dtype=datatype.numpy)
    except (ValueError, OverflowError, TypeError) as error:
        raise WrongValue(f"is a {type(value).__name__} ({error})") from error
    if array.dtype.kind in "OSUV":
        raise WrongValue(f"is a {type(value).__name__}")
    return _cast(array, datatype)


_HALVES = DataType.BF16


def _text_array(value: Any) -> AnyArray:
    """Text or bytes of any nesting as an object array of bytes."""
    array = value if isinstance(value, np.ndarray) else _nested_text(value)
    flat = array.reshape(-1).tolist()
    if array.dtype == object and all(type(item) is bytes for item in flat):
        return array
    packed = np.empty(len(flat), dtype=object)
    packed[:] = [_encoded(item) for item in flat]
    return packed.reshape(array.shape)


def _nested_text(value: Any) -> AnyArray:
    try:
        return np.array(value, dtype=object)
    except ValueError as error:
        raise WrongValue(f"is a ragged {type(value).__name__} ({error})") from error


def _encoded(item: Any) -> bytes:
    if isinstance(item, bytes):
        return bytes(item)
    if isinstance(item, str):
        return str(item).encode()
    raise WrongValue(f"holds a {type(item).__name__}, not text")
