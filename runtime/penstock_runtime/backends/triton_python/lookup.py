"""Tensors of requests and responses, and parts of a configuration, by their names."""

from collections.abc import Iterable, Mapping
from typing import Any

from penstock_runtime.backends.triton_python.request import InferenceRequest
from penstock_runtime.backends.triton_python.response import InferenceResponse
from penstock_runtime.backends.triton_python.tensor import Tensor


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    """The input of this name; None if there is none."""
    return _named(inference_request.inputs(), name)


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    """The output of this name; None if there is none."""
    return _named(inference_response.output_tensors(), name)


def get_input_config_by_name(model_config: Mapping[str, Any], name: str) -> Any:
    """The input of this name in a configuration; None if there is none."""
    return _configured(model_config, "input", name)


def get_output_config_by_name(model_config: Mapping[str, Any], name: str) -> Any:
    """The output of this name in a configuration; None if there is none."""
    return _configured(model_config, "output", name)


def using_decoupled_model_transaction_policy(model_config: Mapping[str, Any]) -> bool:
    """Whether a configuration says that a request may get any number of responses."""
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def _named(tensors: Iterable[Tensor], name: str) -> Tensor | None:
    return next((tensor for tensor in tensors if tensor.name() == name), None)


def _configured(model_config: Mapping[str, Any], kind: str, name: str) -> Any:
    return next((each for each in model_config.get(kind, ()) if each["name"] == name), None)
