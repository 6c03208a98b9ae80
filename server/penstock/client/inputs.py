"""What a caller may pass for an input, as tensors."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from penstock_runtime.datatype import BY_TORCH_NAME, AnyArray, from_numpy
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.tensor import Tensor, to_host

# A numpy or torch array, a Tensor, text, bytes, a number, or a nested sequence of these.
InputValue = Any


def as_tensors(inputs: Mapping[str, InputValue]) -> tuple[Tensor, ...]:
    """The inputs of a request, in the order given."""
    return tuple(as_tensor(name, value) for name, value in inputs.items())


def as_tensor(name: str, value: InputValue) -> Tensor:
    """The input `name`, with the datatype that its value has.

    Sequences take numpy's datatypes: a float is FP64, an int is INT64, text and bytes are BYTES.
    A Tensor keeps its own, which is how a BF16 input is made of numpy.
    """
    if isinstance(value, Tensor):
        return Tensor(name, value.datatype, value.shape, value.array)
    if hasattr(value, "detach"):
        datatype = BY_TORCH_NAME.get(str(value.dtype).removeprefix("torch."))
        if datatype is None:
            raise InvalidArgument(f"input '{name}' is {value.dtype}, which has no v2 datatype")
        return Tensor(name, datatype, tuple(value.shape), to_host(value))
    array = value if isinstance(value, np.ndarray) else _from_sequence(name, value)
    return Tensor(name, from_numpy(array.dtype), array.shape, array)


def _from_sequence(name: str, value: InputValue) -> AnyArray:
    # As objects: numpy's fixed-width text would cut the zero bytes off the end of an element.
    array = np.asarray(value, dtype=object if _holds_text(value) else None)
    if array.dtype != object:
        return array
    if not all(isinstance(item, str | bytes) for item in array.reshape(-1).tolist()):
        raise InvalidArgument(
            f"input '{name}' mixes text with something else, or its rows differ in length"
        )
    return array


def _holds_text(value: InputValue) -> bool:
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return isinstance(value, str | bytes)
