"""Typed tensor contents: between protobuf's repeated fields and flat arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.codec.wire import shown, sized
from penstock_protos.inference import InferTensorContents
from penstock_runtime.datatype import AnyArray, DataType
from penstock_runtime.errors import Internal, InvalidArgument
from penstock_runtime.tensor import Tensor, object_array, raw_bytes

_FIELDS = {
    DataType.BOOL: "bool_contents",
    DataType.UINT8: "uint_contents",
    DataType.UINT16: "uint_contents",
    DataType.UINT32: "uint_contents",
    DataType.UINT64: "uint64_contents",
    DataType.INT8: "int_contents",
    DataType.INT16: "int_contents",
    DataType.INT32: "int_contents",
    DataType.INT64: "int64_contents",
    DataType.FP32: "fp32_contents",
    DataType.FP64: "fp64_contents",
    DataType.BYTES: "bytes_contents",
}
_DATATYPE_OF_FIELD = {
    "bool_contents": "BOOL",
    "int_contents": "INT32",
    "int64_contents": "INT64",
    "uint_contents": "UINT32",
    "uint64_contents": "UINT64",
    "fp32_contents": "FP32",
    "fp64_contents": "FP64",
    "bytes_contents": "BYTES",
}
_WIDE = {"int_contents": np.dtype(np.int32), "uint_contents": np.dtype(np.uint32)}
# Packed values that are the array's own bytes: nothing has to be converted.
_VERBATIM = {DataType.BOOL: b"\x0a", DataType.FP32: b"\x32", DataType.FP64: b"\x3a"}


@dataclass(frozen=True, slots=True)
class Owner:
    """The tensor whose contents are read, as error texts name it; `kind` is input or output."""

    kind: str
    name: str
    model: str

    def __str__(self) -> str:
        return f"{self.kind} tensor '{shown(self.name)}' for model '{shown(self.model)}'"


def has_typed_form(datatype: DataType) -> bool:
    """Whether a datatype can travel as typed contents (FP16 and BF16 are raw only)."""
    return datatype in _FIELDS


def read_contents(
    contents: InferTensorContents, datatype: DataType, owner: Owner
) -> AnyArray | None:
    """The flat array that the contents hold; None when they hold nothing.

    InvalidArgument for a field that is not the datatype's, and for a value out of its range.
    """
    present = contents.ListFields()
    if not present:
        return None
    expected = _FIELDS.get(datatype)
    for descriptor, _ in present:
        if descriptor.name != expected:
            raise InvalidArgument(
                f"unexpected explicit tensor data for {owner} of type "
                f"'{_DATATYPE_OF_FIELD[descriptor.name]}', expected datatype '{datatype.value}'"
            )
    descriptor, values = present[0]
    if datatype is DataType.BYTES:
        return object_array(list(values))
    wide = _WIDE.get(descriptor.name, datatype.numpy)
    array = np.fromiter(values, wide, len(values))
    return array if wide == datatype.numpy else _narrow(array, datatype, owner)


def _narrow(array: AnyArray, datatype: DataType, owner: Owner) -> AnyArray:
    """The values in their narrow type, never wrapped."""
    bounds = np.iinfo(datatype.numpy)
    for value in (int(array.min()), int(array.max())):
        if not bounds.min <= value <= bounds.max:
            raise InvalidArgument(
                f"value {value} of {owner} is out of range, expected {bounds.min} to "
                f"{bounds.max} for datatype '{datatype.value}'"
            )
    return array.astype(datatype.numpy)


def write_contents(tensor: Tensor) -> bytes:
    """A serialized InferTensorContents; Internal when the array does not fill the shape."""
    tag = _VERBATIM.get(tensor.datatype)
    values: Any = raw_bytes(tensor) if tag else tensor.numpy().reshape(-1)
    count = memoryview(values).nbytes // tensor.datatype.size if tag else values.size
    if count != tensor.elements:
        raise Internal(f"tensor '{tensor.name}' holds {count} elements, expected {tensor.elements}")
    if count == 0:
        return b""
    if tag:
        return sized(tag, memoryview(values).cast("B"))
    contents = InferTensorContents()
    getattr(contents, _FIELDS[tensor.datatype]).extend(_python_values(values, tensor.datatype))
    return contents.SerializeToString()


def _python_values(array: AnyArray, datatype: DataType) -> list[Any]:
    if datatype is not DataType.BYTES:
        if array.dtype != datatype.numpy:
            array = array.astype(datatype.numpy)
        numbers: list[Any] = array.tolist()
        return numbers
    return [
        item if isinstance(item, bytes) else str(item).encode()
        for item in array.astype(object).tolist()
    ]
