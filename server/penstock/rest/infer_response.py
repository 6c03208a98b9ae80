"""An inference response as HTTP carries it: a document, and behind it the binary data of the
outputs that are wanted so.
"""

from typing import Any

import numpy as np

from penstock.rest.documents import write_document
from penstock.rest.exchange import Piece
from penstock.rest.infer_request import Wishes
from penstock.rest.tensor_values import write_values
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Internal
from penstock_runtime.memory.places import Place
from penstock_runtime.request import InferResponse, Parameters
from penstock_runtime.tensor import Tensor, raw_bytes

# Values that take about a millisecond to write one by one.
_HEAVY_ELEMENTS = 4096


def is_heavy_reply(response: InferResponse, wishes: Wishes) -> bool:
    """Whether writing a response takes long enough to hold up the loop."""
    return any(
        output.elements > _HEAVY_ELEMENTS
        for output in response.outputs
        if output.datatype is DataType.BYTES or not wishes.binary(output.name)
    )


def write_response(response: InferResponse, wishes: Wishes) -> tuple[tuple[Piece, ...], int | None]:
    """The body in pieces, and the length of the document if there is binary data behind it."""
    document: dict[str, Any] = {
        "model_name": response.model_name,
        "model_version": response.model_version,
    }
    if response.id:
        document["id"] = response.id
    if response.parameters:
        document["parameters"] = plain(response.parameters)
    blobs: list[Piece] = []
    document["outputs"] = [
        _output(output, blobs, binary=wishes.binary(output.name)) for output in response.outputs
    ]
    text = write_document(document)
    return (text, *filter(len, blobs)), len(text) if _any_binary(response, wishes) else None


def _output(output: Tensor, blobs: list[Piece], *, binary: bool) -> dict[str, Any]:
    if type(output.array) is Place:
        return {**_described(output), "parameters": dict(output.array.parameters)}
    return _binary(output, blobs) if binary else _values(output)


def plain(parameters: Parameters) -> dict[str, Any]:
    """Parameters with numpy's scalars as the Python values that they stand for."""
    return {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in parameters.items()
    }


def _any_binary(response: InferResponse, wishes: Wishes) -> bool:
    return any(wishes.binary(output.name) for output in response.outputs)


def _described(output: Tensor) -> dict[str, Any]:
    shape = [int(dim) for dim in output.shape]
    return {"name": output.name, "datatype": output.datatype.value, "shape": shape}


def _values(output: Tensor) -> dict[str, Any]:
    return {**_described(output), "data": write_values(output)}


def _binary(output: Tensor, blobs: list[Piece]) -> dict[str, Any]:
    raw = memoryview(raw_bytes(output)).cast("B")
    if output.datatype is not DataType.BYTES:
        expected = output.elements * output.datatype.size
        if len(raw) != expected:
            raise Internal(f"{output!r} holds {len(raw)} bytes, expected {expected}")
    blobs.append(raw)
    return {**_described(output), "parameters": {"binary_data_size": len(raw)}}
