"""All that models find in `triton_python_backend_utils`, with a server and without."""

from penstock_runtime.backends.triton_python.auto_complete import ModelConfig
from penstock_runtime.backends.triton_python.constants import (
    TRITONSERVER_MEMORY_CPU,
    TRITONSERVER_MEMORY_CPU_PINNED,
    TRITONSERVER_MEMORY_GPU,
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_END,
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_START,
    TRITONSERVER_REQUEST_RELEASE_ALL,
    TRITONSERVER_REQUEST_RELEASE_RESCHEDULE,
    TRITONSERVER_RESPONSE_COMPLETE_FINAL,
)
from penstock_runtime.backends.triton_python.control import (
    get_model_dir,
    is_model_ready,
    load_model,
    unload_model,
)
from penstock_runtime.backends.triton_python.datatypes import (
    TRITON_STRING_TO_NUMPY,
    numpy_to_triton_type,
    triton_string_to_numpy,
    triton_to_numpy_type,
)
from penstock_runtime.backends.triton_python.failures import TritonError, TritonModelException
from penstock_runtime.backends.triton_python.iterator import ResponseIterator
from penstock_runtime.backends.triton_python.logger import Logger
from penstock_runtime.backends.triton_python.lookup import (
    get_input_config_by_name,
    get_input_tensor_by_name,
    get_output_config_by_name,
    get_output_tensor_by_name,
    using_decoupled_model_transaction_policy,
)
from penstock_runtime.backends.triton_python.metrics import Metric, MetricFamily
from penstock_runtime.backends.triton_python.request import InferenceRequest
from penstock_runtime.backends.triton_python.response import InferenceResponse
from penstock_runtime.backends.triton_python.sender import InferenceResponseSender
from penstock_runtime.backends.triton_python.strings import (
    deserialize_bytes_tensor,
    serialize_byte_tensor,
)
from penstock_runtime.backends.triton_python.tensor import Tensor
from penstock_runtime.backends.triton_python.values import InferenceTrace, PreferredMemory

__all__ = [
    "TRITONSERVER_MEMORY_CPU",
    "TRITONSERVER_MEMORY_CPU_PINNED",
    "TRITONSERVER_MEMORY_GPU",
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_END",
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_START",
    "TRITONSERVER_REQUEST_RELEASE_ALL",
    "TRITONSERVER_REQUEST_RELEASE_RESCHEDULE",
    "TRITONSERVER_RESPONSE_COMPLETE_FINAL",
    "TRITON_STRING_TO_NUMPY",
    "InferenceRequest",
    "InferenceResponse",
    "InferenceResponseSender",
    "InferenceTrace",
    "Logger",
    "Metric",
    "MetricFamily",
    "ModelConfig",
    "PreferredMemory",
    "ResponseIterator",
    "Tensor",
    "TritonError",
    "TritonModelException",
    "deserialize_bytes_tensor",
    "get_input_config_by_name",
    "get_input_tensor_by_name",
    "get_model_dir",
    "get_output_config_by_name",
    "get_output_tensor_by_name",
    "is_model_ready",
    "load_model",
    "numpy_to_triton_type",
    "serialize_byte_tensor",
    "triton_string_to_numpy",
    "triton_to_numpy_type",
    "unload_model",
    "using_decoupled_model_transaction_policy",
]
