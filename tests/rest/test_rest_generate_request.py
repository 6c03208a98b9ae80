"""The flat object of a generate request becomes the tensors and parameters that a model has."""

from typing import Any

import pytest

from penstock.codec.decode import decode_parts
from penstock.rest.generate_request import read_generate_request
from penstock_runtime.config import ModelConfig, ModelInput
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.request import InferRequest

BATCHED = ModelConfig(
    name="m",
    max_batch_size=4,
    input=(
        ModelInput("text", DataType.BYTES, (1,)),
        ModelInput("tokens", DataType.INT64, (-1,)),
        ModelInput("heat", DataType.FP32, (2, -1)),
    ),
)
PLAIN = ModelConfig(
    name="m",
    input=(
        ModelInput("text", DataType.BYTES, (1,)),
        ModelInput("scalar", DataType.FP32, ()),
        ModelInput("id", DataType.INT32, (1,)),
        ModelInput("parameters", DataType.INT32, (1,)),
    ),
)


def request(document: Any, config: ModelConfig = BATCHED) -> InferRequest:
    """The request that a document stands for."""
    return decode_parts(read_generate_request(document, "m", "1", config), 1)


@pytest.mark.parametrize(
    ("name", "value", "shape"),
    [
        ("text", "hello", (1, 1)),
        ("text", ["hello"], (1, 1)),
        ("text", [["a"], ["b"]], (2, 1)),
        ("tokens", 5, (1, 1)),
        ("tokens", [1, 2, 3], (1, 3)),
        ("tokens", [[1, 2], [3, 4]], (2, 2)),
        ("tokens", [], (1, 0)),
        ("heat", [1, 2, 3, 4], (1, 2, 2)),
        ("heat", [[1, 2, 3], [4, 5, 6]], (1, 2, 3)),
        ("heat", [[[1], [2]]], (1, 2, 1)),
    ],
)
def test_a_value_gets_the_shape_of_its_input(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """A batch of one around what the input's dims make of it, or the value's own nesting."""
    (tensor,) = request({name: value}).inputs

    assert (tensor.name, tensor.shape) == (name, shape)


def test_without_batches_the_dims_are_the_shape() -> None:
    """A single value is [1], or [] where the input has no dimensions."""
    found = request({"text": "a", "scalar": 2}, PLAIN)

    assert [tensor.shape for tensor in found.inputs] == [(1,), ()]
    assert [tensor.datatype for tensor in found.inputs] == [DataType.BYTES, DataType.FP32]


def test_what_is_no_input_is_a_parameter() -> None:
    """Beside the inputs or in the object `parameters`, which may hold inputs too."""
    found = request(
        {"text": "a", "id": "r1", "top": 3, "parameters": {"tokens": [1], "stream": False}}
    )

    assert found.id == "r1"
    assert [tensor.name for tensor in found.inputs] == ["text", "tokens"]
    assert found.parameters == {"top": 3, "stream": False}


def test_an_input_may_have_any_name() -> None:
    """An input that is called id, or parameters, is an input."""
    found = request({"id": 7, "parameters": 8}, PLAIN)

    assert (found.id, [tensor.name for tensor in found.inputs]) == ("", ["id", "parameters"])


def test_scheduling_parameters_are_understood() -> None:
    """As in an infer request."""
    found = request({"text": "a", "priority": 2, "sequence_id": 9, "sequence_end": True})

    assert (found.priority, found.correlation_id, found.sequence_end) == (2, 9, True)


@pytest.mark.parametrize(
    ("document", "part"),
    [
        ({"text": {"a": 1}}, "'text' is an object, expected the value of an input or an array"),
        ({"text": None}, "'text' is null"),
        ({"text": 5}, "data of input 'text' has an integer, expected strings"),
        ({"tokens": [[1], [2, 3]]}, "rows of different lengths"),
        ({"tokens": 1 << 63}, "out of range for datatype 'INT64'"),
        ({"text": "a", "nested": {"x": 1}}, "parameter 'nested' is an object, expected"),
        ({"text": "a", "list": [1]}, "parameter 'list' is an array, expected"),
        ({"text": "a", "parameters": 1}, "'parameters' is an integer, expected an object"),
        ({"text": "a", "parameters": {"text": "b"}}, "'text' is in 'parameters' and beside it"),
        ({"text": "a", "id": 7}, "'id' is an integer, expected a string"),
        ({"text": "a", "triton_x": 7}, "parameter keys starting with 'triton_' are reserved"),
        ({"text": "a", "parameters": {str(n): n for n in range(65)}}, "65 parameters"),
    ],
)
def test_what_cannot_be_mapped_is_said(document: Any, part: str) -> None:
    """InvalidArgument names the field."""
    with pytest.raises(InvalidArgument) as refused:
        request(document)

    assert part in refused.value.message


def test_a_count_that_fits_no_shape_is_left_to_the_models_check() -> None:
    """Five values do not fill [2,-1]: the shape is one that the model refuses."""
    (tensor,) = request({"heat": [1, 2, 3, 4, 5]}).inputs

    assert (tensor.shape, tensor.array.size) == ((1, 2, 2), 5)
