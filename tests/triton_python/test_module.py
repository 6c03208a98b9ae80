"""The module that models import, under a plain test: no server is needed to try a model's file."""

import importlib.util
import json
import logging
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from hypothesis import given
from hypothesis import strategies as st
from tests.triton_python.serving import MODELS

from penstock_runtime.backends.triton_python import api
from penstock_runtime.config import ModelConfig
from penstock_runtime.config_reader import config_to_dict

ATOMS = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())


def load(name: str) -> ModuleType:
    """The file of a model as a module, as any test would load it."""
    path = MODELS / name / "1" / "model.py"
    spec = importlib.util.spec_from_file_location(f"plain_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def request(**arrays: Any) -> Any:
    """A request with these inputs."""
    inputs = [pb_utils.Tensor(name, array) for name, array in arrays.items()]
    return pb_utils.InferenceRequest(
        request_id="r", inputs=inputs, requested_output_names=["UPPER", "LENGTH"], model_name="m"
    )


def test_a_model_can_be_tried_without_a_server() -> None:
    """Its class, requests made by hand, and what it returns."""
    model = load("add_sub").TritonPythonModel()
    one = np.array([[1.0, 2.0]], np.float32)

    (response,) = model.execute([request(INPUT0=one, INPUT1=one * 3)])

    assert not response.has_error()
    total = pb_utils.get_output_tensor_by_name(response, "OUTPUT0")
    assert total is not None
    assert total.as_numpy().tolist() == [[4.0, 8.0]]
    assert pb_utils.get_output_tensor_by_name(response, "NOTHING") is None


def test_errors_strings_metrics_and_logs_work_without_a_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody is told of metrics, lines go to the log."""
    failing, counting = load("errors").TritonPythonModel(), load("counts").TritonPythonModel()
    counting.initialize({"model_name": "counts", "model_version": "1"})
    caplog.set_level(logging.DEBUG, "penstock.model")

    (failed,) = failing.execute([request(CODE=np.array([[3]], np.int32))])
    (told,) = counting.execute([request(X=np.array([5.0], np.float32))])
    for level, word in enumerate(("info", "warn", "error", "verbose")):
        pb_utils.Logger.log(word, level)
        getattr(pb_utils.Logger, f"log_{word}")(word)

    assert failed.error().code() == pb_utils.TritonError.INVALID_ARG
    assert failed.error().message() == "error of code 3"
    assert told.output_tensors()[0].as_numpy().tolist() == [1.0, 5.0]
    assert [(each.levelname, each.message) for each in caplog.records] == [
        *(("INFO", "info"),) * 2,
        *(("WARNING", "warn"),) * 2,
        *(("ERROR", "error"),) * 2,
        *(("DEBUG", "verbose"),) * 2,
    ]


@pytest.mark.parametrize(
    "call",
    [
        lambda: pb_utils.InferenceRequest(model_name="m").exec(),
        lambda: pb_utils.InferenceRequest(model_name="m").get_response_sender(),
        lambda: pb_utils.InferenceRequest().exec(),
        lambda: pb_utils.load_model("m"),
        lambda: pb_utils.unload_model("m"),
        lambda: pb_utils.is_model_ready("m"),
        pb_utils.get_model_dir,
        lambda: pb_utils.InferenceRequest(model_name="m").set_release_flags(2),
        lambda: pb_utils.InferenceRequest(model_name="m").set_release_flags(7),
        lambda: pb_utils.InferenceRequest(model_name="m", correlation_id=1.5),  # type: ignore[arg-type]
        lambda: pb_utils.InferenceRequest(inputs=[3]),  # type: ignore[list-item]
        lambda: pb_utils.InferenceRequest(parameters={"a": [1]}),
        lambda: pb_utils.InferenceResponse([3]),  # type: ignore[list-item]
        lambda: pb_utils.InferenceResponse([], "no"),  # type: ignore[arg-type]
        lambda: pb_utils.InferenceResponse([], None, {"a": None}),
        lambda: pb_utils.TritonError("x", 9),
        lambda: pb_utils.PreferredMemory(9),
        lambda: pb_utils.MetricFamily("n", "", 9),
        lambda: pb_utils.MetricFamily("n", "", 0).Metric(labels=[1]),  # type: ignore[arg-type]
        lambda: pb_utils.MetricFamily("h", "", 2).Metric(buckets=5),  # type: ignore[arg-type]
        lambda: pb_utils.triton_string_to_numpy("TYPE_BF16"),
    ],
)
def test_what_cannot_be_raises_the_exception_of_models(call: Any) -> None:
    """Among it all that needs a server."""
    with pytest.raises(pb_utils.TritonModelException):
        call()


def test_a_request_gives_back_what_it_was_made_of() -> None:
    """Every member, with Triton's defaults."""
    plain = pb_utils.InferenceRequest(inputs=[], requested_output_names=[], model_name="m")
    full = pb_utils.InferenceRequest(
        "r", "s", [], ["Y"], "m", 2, 3, 500, pb_utils.PreferredMemory(2, 1), None, {"a": 1}
    )
    full.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_ALL)

    def members(asked: Any) -> list[Any]:
        return [
            asked.request_id(),
            asked.correlation_id(),
            asked.flags(),
            asked.timeout(),
            asked.requested_output_names(),
            json.loads(asked.parameters()),
            asked.preferred_memory().memory_type,
            asked.trace().get_context(),
            asked.is_cancelled(),
        ]

    assert members(plain) == ["", 0, 0, 0, [], {}, 0, None, False]
    assert members(full) == ["r", "s", 3, 500, ["Y"], {"a": 1}, 2, None, False]


@given(st.dictionaries(st.text(), ATOMS, max_size=5))
def test_parameters_are_written_as_dictionaries_and_read_as_json(parameters: Any) -> None:
    """Text, numbers and truth values, whole."""
    response = pb_utils.InferenceResponse([], None, parameters)

    assert json.loads(response.parameters()) == parameters


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_strings_are_serialized_and_back(items: list[bytes]) -> None:
    """Any bytes, in order."""
    array = np.empty(len(items), dtype=np.object_)
    array[:] = items

    packed = pb_utils.serialize_byte_tensor(array)

    assert packed is not None
    data = packed.item() if packed.size else b""
    assert pb_utils.deserialize_bytes_tensor(data).tolist() == items


@pytest.mark.parametrize("data", [b"\x01", b"\x05\0\0\0ab", b"\xff\xff\xff\xff"])
def test_a_buffer_that_is_cut_off_is_no_strings(data: bytes) -> None:
    """Nothing is read behind its end."""
    with pytest.raises(pb_utils.TritonModelException, match="ends after the buffer"):
        pb_utils.deserialize_bytes_tensor(data)


def test_types_have_numbers_and_names() -> None:
    """As Triton numbers them."""
    assert [pb_utils.triton_to_numpy_type(i) for i in (0, 1, 8, 11, 13, 14)] == [
        None,
        np.bool_,
        np.int32,
        np.float32,
        np.object_,
        None,
    ]
    assert [pb_utils.numpy_to_triton_type(t) for t in (np.bool_, np.float64, object, "S3")] == [
        1,
        12,
        13,
        13,
    ]
    assert pb_utils.numpy_to_triton_type(np.complex64) is None
    assert pb_utils.triton_string_to_numpy("TYPE_STRING") is np.object_
    assert pb_utils.triton_string_to_numpy("TYPE_BOOL") is bool


def test_constants_are_those_of_triton() -> None:
    """By number."""
    assert (
        pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
        pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START,
        pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END,
        pb_utils.TRITONSERVER_REQUEST_RELEASE_ALL,
        pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE,
    ) == (1, 1, 2, 1, 2)


def builder(**fields: Any) -> pb_utils.ModelConfig:
    """A builder for a configuration with these fields."""
    return pb_utils.ModelConfig(
        json.dumps({**config_to_dict(ModelConfig(name="m"), full=True), **fields})
    )


X = {"name": "X", "data_type": "TYPE_FP32", "dims": [2]}


def test_a_builder_fills_in_what_is_open() -> None:
    """And takes again what is said already."""
    config = builder(input=[{"name": "X", "data_type": "TYPE_INVALID", "dims": []}])

    config.set_max_batch_size(8)
    config.set_dynamic_batching()
    config.set_dynamic_batching()
    config.add_input({**X, "optional": True})
    config.add_input(X)
    config.add_output({**X, "name": "Y"})
    config.set_model_transaction_policy({"decoupled": True})

    made = config.as_dict()
    assert made["max_batch_size"] == 8
    assert made["dynamic_batching"] == {}
    assert made["input"] == [{**X, "optional": True}]
    assert made["output"] == [{**X, "name": "Y"}]
    assert made["model_transaction_policy"] == {"decoupled": True}


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.set_max_batch_size(2),
        lambda c: c.add_input({**X, "data_type": "TYPE_INT32"}),
        lambda c: c.add_input({**X, "dims": [3]}),
        lambda c: c.add_input({**X, "shape": [2]}),
        lambda c: c.add_input({"name": "Z", "dims": [3]}),
        lambda c: c.add_output({"data_type": "TYPE_FP32", "dims": [3]}),
        lambda c: c.add_output({**X, "optional": True}),
        lambda c: c.set_dynamic_batching(),
        lambda c: c.set_model_transaction_policy({"decoupled": False}),
        lambda c: c.set_model_transaction_policy({"coupled": False}),
    ],
)
def test_a_builder_changes_nothing_that_is_said(change: Any) -> None:
    """ValueError names the model and what contradicts what."""
    config = builder(
        max_batch_size=4,
        input=[X],
        sequence_batching={},
        model_transaction_policy={"decoupled": True},
    )
    before = json.dumps(config.as_dict())

    with pytest.raises(ValueError, match="of model 'm'"):
        change(config)

    assert json.dumps(config.as_dict()) == before


def test_models_get_this_module_whatever_else_has_its_name() -> None:
    """With a server and without it has the same classes."""
    assert sys.modules["triton_python_backend_utils"].__name__ in (
        "triton_python_backend_utils",
        api.__name__,
    )
    assert pb_utils.Tensor is api.Tensor
    assert set(api.__all__) <= set(vars(pb_utils))
