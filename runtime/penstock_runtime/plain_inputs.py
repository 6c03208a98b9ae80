"""The path of ordinary requests through validation: raw numbers for every input, in the right
shape.

It refuses nothing: whatever it does not recognise is left to the careful path, so that every
refusal has one place and one text.
"""

from math import prod
from typing import Any, NamedTuple

import numpy as np

from penstock_runtime.config import ModelConfig, ModelInput
from penstock_runtime.datatype import DataType
from penstock_runtime.request import InferRequest

_VIEW = memoryview


class PlainArrays(NamedTuple):
    """Views on the wire bytes by input name, and the rows of the request."""

    arrays: dict[str, Any]
    rows: int


class _Plain(NamedTuple):
    """What must be known of an input."""

    datatype: DataType
    dtype: np.dtype[Any]
    dims: tuple[int, ...]
    fixed: bool


class PlainInputs:
    """Recognises the ordinary requests to one model."""

    def __init__(self, config: ModelConfig) -> None:
        self._max_batch = config.max_batch_size
        self._count = len(config.input)
        self._known = {d.name: _plain(d) for d in config.input if _is_plain(d)}

    def arrays(self, request: InferRequest) -> PlainArrays | None:
        """The inputs of an ordinary request; None for any other."""
        inputs, known_inputs = request.inputs, self._known
        if request.outputs or len(inputs) != self._count:
            return None
        arrays: dict[str, Any] = {}
        rows, batched = 0, self._max_batch > 0
        for tensor in inputs:
            known = known_inputs.get(tensor.name)
            shape, data = tensor.shape, tensor.array
            if known is None or known.datatype is not tensor.datatype or type(data) is not _VIEW:
                return None
            dims = shape[1:] if batched else shape
            if (dims != known.dims if known.fixed else not _matches(dims, known.dims)) or not shape:
                return None
            if len(data) != prod(shape) * known.dtype.itemsize or not data:
                return None
            if batched and (rows or shape[0]) != shape[0]:
                return None
            rows = shape[0]
            arrays[tensor.name] = np.ndarray(shape, known.dtype, data)
        if len(arrays) != len(inputs) or (batched and not 0 < rows <= self._max_batch):
            return None
        return PlainArrays(arrays, rows if batched else 1)


def _is_plain(declared: ModelInput) -> bool:
    return declared.data_type is not DataType.BYTES and not (
        declared.reshape is not None or declared.is_shape_tensor or declared.optional
    )


def _plain(declared: ModelInput) -> _Plain:
    datatype = declared.data_type
    return _Plain(datatype, datatype.numpy, declared.dims, -1 not in declared.dims)


def _matches(dims: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    """Whether the dims fit, where some that are declared are wildcards."""
    if len(dims) != len(declared):
        return False
    for got, want in zip(dims, declared, strict=True):
        if (got != want and want != -1) or got < 0:
            return False
    return True
