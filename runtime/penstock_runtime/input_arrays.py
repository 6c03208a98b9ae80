"""From what a request brings for an input to an array of the input's shape: bytes of the wire
become views, sizes are compared before anything is built.
"""

from collections.abc import Iterable
from math import prod
from typing import Any, NoReturn

import numpy as np

from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument, Violation
from penstock_runtime.tensor import BytesFormatError, Tensor, unpack_bytes


def refuse(text: str, field: str, kind: str = "inputs") -> NoReturn:
    """Raise InvalidArgument, with the input or output that it is about."""
    violations = (Violation(f"{kind}[{field}]", text),)
    raise InvalidArgument(text, violations=violations, scheduled=True)


def dims_text(shape: Iterable[int]) -> str:
    """A shape as Triton prints it."""
    return "[" + ",".join(map(str, shape)) + "]"


def array_of(tensor: Tensor, model: str) -> Any:
    """The data as an array of the tensor's shape; sizes are compared before anything is
    built.
    """
    if tensor.datatype is DataType.BYTES:
        return _strings(tensor, model)
    if tensor.is_raw:
        size, expected = len(tensor.array), tensor.datatype.size * prod(tensor.shape)
        if size != expected:
            _wrong_size(tensor, expected, size, model)
        return _shaped(np.frombuffer(tensor.array, tensor.datatype.numpy), tensor, model)
    array, expected = tensor.array, prod(tensor.shape)
    if isinstance(array, np.ndarray) and array.size != expected:
        width = tensor.datatype.size
        _wrong_size(tensor, expected * width, array.size * width, model)
    return array if tuple(array.shape) == tensor.shape else _shaped(array, tensor, model)


def _shaped(array: Any, tensor: Tensor, model: str) -> Any:
    try:
        return array.reshape(tensor.shape)
    except (ValueError, OverflowError):
        # No elements at all, and dimensions beside the zero that numpy cannot multiply.
        text = f"unexpected shape for input '{tensor.name}' for model '{model}'"
        refuse(f"{text}. {dims_text(tensor.shape)} is too large", tensor.name)


def _wrong_size(tensor: Tensor, expected: int, got: int, model: str) -> NoReturn:
    refuse(
        f"input byte size mismatch for input '{tensor.name}' for model '{model}'. "
        f"Expected {expected}, got {got}",
        tensor.name,
    )


def _strings(tensor: Tensor, model: str) -> Any:
    count = prod(tensor.shape)
    if not tensor.is_raw:
        if tensor.array.size != count:
            _wrong_count(tensor, count, tensor.array.size, model)
        return _shaped(tensor.array, tensor, model)
    try:
        strings = unpack_bytes(tensor.array, count)
    except BytesFormatError as error:
        _bad_strings(tensor, count, error, model)
    return _shaped(strings, tensor, model)


def _bad_strings(tensor: Tensor, count: int, error: BytesFormatError, model: str) -> NoReturn:
    where = f"for inference input '{tensor.name}' for model '{model}'"
    if error.cut:
        refuse(
            f"incomplete string length indicator {where}, expecting 4 bytes but only "
            f"{error.left} bytes available. Please make sure the string length indicator is "
            "in one buffer.",
            tensor.name,
        )
    if error.found < count:
        refuse(f"expected {count} string elements {where}, got {error.found}", tensor.name)
    _wrong_count(tensor, count, error.found + 1, model)


def _wrong_count(tensor: Tensor, count: int, found: int, model: str) -> NoReturn:
    where = f"for inference input '{tensor.name}' for model '{model}'"
    if found < count:
        refuse(f"expected {count} string elements {where}, got {found}", tensor.name)
    text = f"unexpected number of string elements {found} {where}, expecting {count}"
    refuse(text, tensor.name)
