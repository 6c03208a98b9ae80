"""ONNX models written to disk for a test."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tests.runtime.model_folders import source_of

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.config import ModelConfig

Dims = Sequence[int | str | None]
# name, element type, dims
Declared = tuple[str, int, Dims]


def version(root: Path) -> Path:
    """A new version directory."""
    directory = root / "m" / "1"
    directory.mkdir(parents=True)
    return directory


def graph(
    nodes: Sequence[tuple[str, Sequence[str], Sequence[str]]],
    inputs: Sequence[Declared],
    outputs: Sequence[Declared],
    **constants: Any,
) -> Any:
    """A model of these nodes: operator, inputs, outputs; constants are numpy arrays."""
    made = helper.make_graph(
        [helper.make_node(operator, list(a), list(b)) for operator, a, b in nodes],
        "g",
        [helper.make_tensor_value_info(*declared) for declared in inputs],
        [helper.make_tensor_value_info(*declared) for declared in outputs],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(made, opset_imports=opset, ir_version=8)


def stored(root: Path, model: Any, config: ModelConfig | None = None) -> ModelSource:
    """The model as version 1."""
    directory = version(root)
    onnx.save(model, str(directory / "model.onnx"))
    return source_of(directory, config)


def sums(first: int = TensorProto.FLOAT, dims: Dims = ("batch", 4)) -> Any:
    """Sum and difference of a and b."""
    return graph(
        [("Add", ["a", "b"], ["sum"]), ("Sub", ["a", "b"], ["difference"])],
        [("a", first, dims), ("b", first, dims)],
        [("sum", first, dims), ("difference", first, dims)],
    )


def identity(kind: int, dims: Dims = ("batch", 3)) -> Any:
    """One input that is the one output."""
    return graph([("Identity", ["x"], ["y"])], [("x", kind, dims)], [("y", kind, dims)])


def linear(weights: Any) -> Any:
    """x times the weights."""
    rows, columns = weights.shape
    kind = TensorProto.FLOAT
    return graph(
        [("MatMul", ["x", "w"], ["y"])],
        [("x", kind, ("batch", rows))],
        [("y", kind, ("batch", columns))],
        w=weights,
    )


def outside(model: Any, location: str) -> Any:
    """The model with its first constant said to lie in a file."""
    tensor = model.graph.initializer[0]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(data)))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return model
