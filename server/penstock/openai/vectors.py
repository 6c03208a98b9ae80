"""Embeddings as OpenAI tells them: as numbers or as base64, whole or their first dimensions."""

import base64
from typing import Any

import numpy as np

from penstock.generative.fields import refuse
from penstock_runtime.datatype import AnyArray


def shortened(vector: AnyArray, dimensions: int | None) -> AnyArray:
    """The first dimensions, of length 1 again; models that were trained for it keep most of the
    meaning. InvalidArgument if there are not so many.
    """
    if dimensions is None or dimensions == vector.size:
        return vector
    if dimensions > vector.size:
        refuse(
            "dimensions", f"is {dimensions}, expected at most {vector.size}, which the model has"
        )
    first = vector[:dimensions]
    length = float(np.linalg.norm(first))
    return first / np.float32(length) if length > 0 else first


def written(vector: AnyArray, *, as_base64: bool) -> Any:
    """A list of numbers, or the base64 of little-endian float32."""
    values = np.ascontiguousarray(vector, "<f4")
    return base64.b64encode(values.tobytes()).decode() if as_base64 else values.tolist()
