"""Parameters of a request are typed, bounded and checked before anything else of it."""

from typing import Any

import pytest
from tests.server.codec_strategies import message

from penstock.codec.decode import decode_request
from penstock.codec.parameters import EMPTY_FINAL_RESPONSE
from penstock_protos.inference import InferParameter, InferTensorContents, ModelInferRequest
from penstock_runtime.errors import InvalidArgument

Input = ModelInferRequest.InferInputTensor
Output = ModelInferRequest.InferRequestedOutputTensor
Contents = InferTensorContents
NOW = 1_000


def refusal(request: ModelInferRequest | bytes) -> str:
    """The text with which the request is refused, the same the second time."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    texts = set()
    for _ in range(2):
        with pytest.raises(InvalidArgument) as caught:
            decode_request(data, NOW)
        texts.add(caught.value.message)
    (text,) = texts
    return text


def with_parameter(key: str, **value: Any) -> ModelInferRequest:
    """A request with one parameter."""
    return message(parameters={key: InferParameter(**value)})


def test_scheduling_parameters_become_fields() -> None:
    """Sequence, priority and timeout leave the custom parameters."""
    data = message(
        parameters={
            "sequence_id": InferParameter(int64_param=-1),
            "sequence_start": InferParameter(bool_param=True),
            "sequence_end": InferParameter(bool_param=True),
            "priority": InferParameter(uint64_param=3),
            "timeout": InferParameter(int64_param=500),
            EMPTY_FINAL_RESPONSE: InferParameter(bool_param=True),
            "text": InferParameter(string_param=""),
        }
    ).SerializeToString()

    request = decode_request(data, NOW)

    assert request.correlation_id == (1 << 64) - 1
    assert (request.sequence_start, request.sequence_end) == (True, True)
    assert (request.priority, request.timeout_us) == (3, 500)
    assert request.parameters == {EMPTY_FINAL_RESPONSE: True, "text": ""}


def test_sequence_id_may_be_text() -> None:
    """A correlation id keeps its kind."""
    data = with_parameter("sequence_id", string_param="s-1").SerializeToString()

    assert decode_request(data, NOW).correlation_id == "s-1"


WRONG_TYPES = [
    ("sequence_id", {"uint64_param": 1}, "int64_param or string_param"),
    ("sequence_id", {"double_param": 1.0}, "int64_param or string_param"),
    ("sequence_start", {"int64_param": 1}, "bool_param"),
    ("sequence_end", {"string_param": "true"}, "bool_param"),
    ("priority", {"string_param": "1"}, "int64_param or uint64_param"),
    ("timeout", {"uint64_param": 1}, "int64_param"),
    ("timeout", {"double_param": float("nan")}, "int64_param"),
    (EMPTY_FINAL_RESPONSE, {"int64_param": 1}, "bool_param"),
    ("mine", {"uint64_param": 1}, "bool_param, int64_param, string_param or double_param"),
    ("mine", {}, "bool_param, int64_param, string_param or double_param"),
]


@pytest.mark.parametrize(("key", "value", "expected"), WRONG_TYPES)
def test_parameter_of_the_wrong_type_is_refused(
    key: str, value: dict[str, Any], expected: str
) -> None:
    """The text names the key and the types that it may have."""
    text = refusal(with_parameter(key, **value))

    assert text == f"invalid value type for '{key}' parameter, expected {expected}."


WRONG_VALUES = [
    ("priority", {"int64_param": -1}, "expected value >= 0."),
    ("priority", {"uint64_param": 1 << 63}, "expected value <= 9223372036854775807."),
    ("timeout", {"int64_param": -1}, "expected value >= 0."),
    ("timeout", {"int64_param": 1 << 62}, "expected value <= 9223372036854775."),
]


@pytest.mark.parametrize(("key", "value", "expected"), WRONG_VALUES)
def test_parameter_out_of_range_is_refused(key: str, value: dict[str, Any], expected: str) -> None:
    """Negative or absurdly large values are refused, never wrapped."""
    text = refusal(with_parameter(key, **value))

    assert text == f"invalid value for '{key}', {expected}"


@pytest.mark.parametrize("key", ["triton_final_response", "triton_", "triton_anything"])
def test_reserved_keys_are_refused(key: str) -> None:
    """Only the documented reserved key may be set by a caller."""
    text = refusal(with_parameter(key, bool_param=True))

    assert text == (
        "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following "
        "keys starting with 'triton_' are allowed: triton_enable_empty_final_response"
    )


def test_classification_is_an_integer() -> None:
    """A requested output's classification of another type is refused."""
    wrong = {"classification": InferParameter(string_param="2")}

    text = refusal(message(outputs=[Output(name="y", parameters=wrong)]))

    assert text == "invalid value type for 'classification' parameter, expected int64_param."


@pytest.mark.parametrize("count", [0, -1, -(2**63)])
def test_classification_is_of_one_class_or_more(count: int) -> None:
    """Nothing, and less than nothing, is no number of classes."""
    wrong = {"classification": InferParameter(int64_param=count)}

    text = refusal(message(outputs=[Output(name="y", parameters=wrong)]))

    assert text == (
        f"invalid value for 'classification' parameter, expected value > 0, got {count}."
    )


def test_classification_does_not_go_into_shared_memory() -> None:
    """Both at once are refused as such, whether shared memory is there or not."""
    both = {
        "classification": InferParameter(int64_param=1),
        "shared_memory_region": InferParameter(string_param="r"),
    }

    text = refusal(message(outputs=[Output(name="y", parameters=both)]))

    assert text == "output can't set both 'shared_memory_region' and 'classification'"


def test_forwarded_headers_join_the_parameters() -> None:
    """Headers that the server forwards are parameters to the model; reserved names are refused."""
    data = with_parameter("k", int64_param=1).SerializeToString()

    request = decode_request(data, NOW, forwarded={"x-user": "ann"})

    assert request.parameters == {"k": 1, "x-user": "ann"}
    with pytest.raises(InvalidArgument) as caught:
        decode_request(data, NOW, forwarded={"Triton_secret": "v"})
    assert caught.value.message == (
        "Header 'Triton_secret' is reserved for Triton usage and cannot be forwarded."
    )


def test_parameters_come_before_the_inputs() -> None:
    """Of several faults the first in the protocol's order is reported."""
    tensor = Input(name="x", datatype="FP32", shape=[2], contents=Contents(fp32_contents=[1, 2]))
    both = message(inputs=[tensor, tensor], parameters={"priority": InferParameter(int64_param=-1)})

    assert "priority" in refusal(both)
    both.ClearField("parameters")
    assert "already exists" in refusal(both)
    del both.inputs[1]
    assert "contents field must not be specified" in refusal(both)
