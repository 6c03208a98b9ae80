"""Tensors as JSON: the values of an input in their array, and the values of an output in a list."""

from itertools import chain
from typing import Any, NoReturn

import numpy as np

from penstock.codec.input_scan import MAX_DIMS
from penstock.codec.wire import shown
from penstock.rest.documents import expect_text, kind_of
from penstock_runtime.datatype import AnyArray, DataType
from penstock_runtime.errors import Internal, InvalidArgument, Violation
from penstock_runtime.tensor import Tensor, object_array

_BINARY_ONLY = frozenset((DataType.FP16, DataType.BF16))
_KINDS: dict[DataType, frozenset[type]] = {
    DataType.BOOL: frozenset((bool,)),
    DataType.FP32: frozenset((int, float)),
    DataType.FP64: frozenset((int, float)),
    DataType.BYTES: frozenset((str,)),
}
_INTEGER = frozenset((int,))
_NAMES = {bool: "booleans", str: "strings", int: "integers", float: "numbers"}


def read_values(values: Any, datatype: DataType, name: str) -> AnyArray:
    """The values of an input, flat or nested, as a flat array; InvalidArgument names the input."""
    if datatype in _BINARY_ONLY:
        _refuse(
            name,
            f"sending {datatype.value} data via JSON is not supported. Please use the binary data"
            f" format for input {shown(name)}",
        )
    flat = flatten(values, name)
    kinds = _KINDS.get(datatype, _INTEGER)
    other = set(map(type, flat)) - kinds
    if other:
        found = next(value for value in flat if type(value) in other)
        expected = " or ".join(sorted(_NAMES[kind] for kind in kinds))
        _refuse(
            name,
            f"data of input '{shown(name)}' has {kind_of(found)}, expected {expected} for datatype"
            f" '{datatype.value}'",
        )
    if datatype is DataType.BYTES:
        return object_array(
            [expect_text(v, f"data of input '{shown(name)}'").encode() for v in flat]
        )
    return _numbers(flat, datatype, name)


def flatten(values: Any, name: str) -> list[Any]:
    """The values in row-major order; InvalidArgument unless every row has the same length."""
    if not isinstance(values, list):
        _refuse(name, f"data of input '{shown(name)}' is {kind_of(values)}, expected an array")
    flat: list[Any] = values
    for _ in range(MAX_DIMS - 1):
        if not flat or not isinstance(flat[0], list):
            break
        if len({len(row) if isinstance(row, list) else -1 for row in flat}) > 1:
            _refuse(name, f"data of input '{shown(name)}' has rows of different lengths")
        flat = list(chain.from_iterable(flat))
    if flat and isinstance(flat[0], list):
        _refuse(name, f"data of input '{shown(name)}' is nested more than {MAX_DIMS} deep")
    return flat


def _numbers(flat: list[Any], datatype: DataType, name: str) -> AnyArray:
    """The numbers in their type; one that the type does not hold is refused, never wrapped."""
    dtype = datatype.numpy
    if dtype.kind == "f":
        return _floats(flat, datatype, name)
    if flat and dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        # Before there is an array: numpy before 2 would wrap.
        if min(flat) < bounds.min or max(flat) > bounds.max:
            _out_of_range(datatype, name)
    return np.array(flat, dtype)


def _floats(flat: list[Any], datatype: DataType, name: str) -> AnyArray:
    try:
        array = np.array(flat, np.float64)
    except OverflowError:
        _out_of_range(datatype, name)
    if datatype is DataType.FP32:
        with np.errstate(over="ignore"):
            array = array.astype(datatype.numpy)
    # JSON has no infinity: what is one now was too large.
    if not np.isfinite(array).all():
        _out_of_range(datatype, name)
    return array


def _out_of_range(datatype: DataType, name: str) -> NoReturn:
    text = f"a value of input '{shown(name)}' is out of range for datatype '{datatype.value}'"
    _refuse(name, text)


def write_values(tensor: Tensor) -> list[Any]:
    """The values of an output, flat and row-major; InvalidArgument where JSON cannot say them."""
    if tensor.datatype in _BINARY_ONLY:
        raise InvalidArgument(
            f"sending {tensor.datatype.value} data via JSON is not supported. Please use the binary"
            f" data format for output {tensor.name}"
        )
    array = tensor.numpy().reshape(-1)
    if array.size != tensor.elements:
        raise Internal(f"{tensor!r} holds {array.size} elements, expected {tensor.elements}")
    if tensor.datatype is DataType.BYTES:
        return [_text(item, tensor.name) for item in array.tolist()]
    if array.dtype != tensor.datatype.numpy:
        array = array.astype(tensor.datatype.numpy)
    values: list[Any] = array.tolist()
    return values


def _text(item: Any, name: str) -> str:
    if not isinstance(item, bytes):
        return str(item)
    try:
        return item.decode()
    except UnicodeDecodeError:
        raise InvalidArgument(
            f"output '{name}' has bytes that are not UTF-8, which JSON cannot say. Please use the"
            " binary data format for it"
        ) from None


def _refuse(name: str, text: str) -> NoReturn:
    raise InvalidArgument(text, violations=(Violation(f"inputs[{shown(name)}]", text),))
