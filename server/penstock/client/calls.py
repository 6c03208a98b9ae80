"""Every call of the client as a value: method, request bytes, and how its answer is read. No I/O,
so that the blocking and the asyncio client share it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from penstock.client.base import Buffer
from penstock.client.errors import InferenceError
from penstock.client.inputs import InputValue, as_tensors
from penstock.client.result import InferResult
from penstock.codec.request_encoder import encode_request
from penstock.codec.response_decoder import StreamError, decode_response, decode_stream_response
from penstock_protos import health as health_pb
from penstock_protos import inference as pb
from penstock_protos.model_config import ModelConfig
from penstock_runtime.errors import PenstockError, Status
from penstock_runtime.memory.places import Place
from penstock_runtime.request import EMPTY, InferRequest, Parameters, RequestedOutput

T = TypeVar("T")
M = TypeVar("M", bound=Message)

RegionStatus = pb.SystemSharedMemoryStatusResponse.RegionStatus
Outputs = Sequence[str] | Mapping[str, Place | None]
"""Names of outputs; or by name a place in shared memory, or None for the message."""

INFERENCE = "/inference.GRPCInferenceService/"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
# On a stream an error is a message beside the answers, unless this asks for a true status.
TRUE_STATUS = (("triton_grpc_error", "true"),)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call to make. `retry` is False where doing it twice is not the same as doing it once."""

    method: str
    request: bytes
    decode: Callable[[Buffer], T]
    retry: bool = True

    def read(self, answer: Buffer) -> T:
        """The answer as a value; an InferenceError when it is not what the protocol says."""
        try:
            return self.decode(answer)
        except (DecodeError, PenstockError) as error:
            name = self.method.rpartition("/")[2]
            text = f"the answer to {name} cannot be read: {error}"
            raise InferenceError(Status.INTERNAL, text) from error


def server_live() -> Call[bool]:
    """Whether the server runs."""
    return _call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse, lambda a: a.live)


def server_ready() -> Call[bool]:
    """Whether the server takes requests."""
    return _call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse, lambda a: a.ready)


def model_ready(model: str, version: str) -> Call[bool]:
    """Whether a model takes requests."""
    request = pb.ModelReadyRequest(name=model, version=version)
    return _call("ModelReady", request, pb.ModelReadyResponse, lambda a: a.ready)


def server_metadata() -> Call[pb.ServerMetadataResponse]:
    """Name, version and extensions of the server."""
    return _call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse, _same)


def model_metadata(model: str, version: str) -> Call[pb.ModelMetadataResponse]:
    """Names, datatypes and shapes of a model's inputs and outputs."""
    request = pb.ModelMetadataRequest(name=model, version=version)
    return _call("ModelMetadata", request, pb.ModelMetadataResponse, _same)


def model_config(model: str, version: str) -> Call[ModelConfig]:
    """A model's complete configuration."""
    request = pb.ModelConfigRequest(name=model, version=version)
    return _call("ModelConfig", request, pb.ModelConfigResponse, lambda a: a.config)


def statistics(model: str, version: str) -> Call[list[pb.ModelStatistics]]:
    """Counters of one model version, or of all."""
    request = pb.ModelStatisticsRequest(name=model, version=version)
    return _call(
        "ModelStatistics", request, pb.ModelStatisticsResponse, lambda a: list(a.model_stats)
    )


def index(ready: bool) -> Call[list[pb.RepositoryIndexResponse.ModelIndex]]:
    """What the repository holds and in which state it is."""
    request = pb.RepositoryIndexRequest(ready=ready)
    return _call("RepositoryIndex", request, pb.RepositoryIndexResponse, lambda a: list(a.models))


def load(
    model: str,
    config: str | Mapping[str, object] | None,
    files: Mapping[str, bytes | Path] | None,
) -> Call[None]:
    """Load or reload a model; see Client.load."""
    request = pb.RepositoryModelLoadRequest(model_name=model)
    if config is None and files:
        config = {}
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        request.parameters["config"].string_param = text
    for name, content in (files or {}).items():
        data = content.read_bytes() if isinstance(content, Path) else content
        request.parameters[f"file:{name}"].bytes_param = data
    answer = pb.RepositoryModelLoadResponse
    return _call("RepositoryModelLoad", request, answer, _nothing, retry=False)


def unload(model: str, unload_dependents: bool) -> Call[None]:
    """Unload a model; see Client.unload."""
    request = pb.RepositoryModelUnloadRequest(model_name=model)
    if unload_dependents:
        request.parameters["unload_dependents"].bool_param = True
    answer = pb.RepositoryModelUnloadResponse
    return _call("RepositoryModelUnload", request, answer, _nothing, retry=False)


def register_shared_memory(name: str, key: str, byte_size: int, offset: int) -> Call[None]:
    """Let the server open a shared memory object; see Client.register_shared_memory."""
    request = pb.SystemSharedMemoryRegisterRequest(
        name=name, key=key, byte_size=byte_size, offset=offset
    )
    answer = pb.SystemSharedMemoryRegisterResponse
    return _call("SystemSharedMemoryRegister", request, answer, _nothing, retry=False)


def unregister_shared_memory(name: str) -> Call[None]:
    """Let the server forget a region, or all."""
    request = pb.SystemSharedMemoryUnregisterRequest(name=name)
    answer = pb.SystemSharedMemoryUnregisterResponse
    return _call("SystemSharedMemoryUnregister", request, answer, _nothing)


def shared_memory(name: str) -> Call[dict[str, RegionStatus]]:
    """The regions that are registered."""
    request = pb.SystemSharedMemoryStatusRequest(name=name)
    answer = pb.SystemSharedMemoryStatusResponse
    return _call("SystemSharedMemoryStatus", request, answer, lambda a: dict(a.regions))


def health(service: str) -> Call[str]:
    """Name of the serving status of one service."""

    def read(answer: Buffer) -> str:
        status = health_pb.HealthCheckResponse.FromString(bytes(answer)).status
        return health_pb.HealthCheckResponse.ServingStatus.Name(status)

    request = health_pb.HealthCheckRequest(service=service)
    return Call(HEALTH_CHECK, request.SerializeToString(), read)


def infer(
    model: str,
    inputs: Mapping[str, InputValue],
    *,
    version: str = "",
    outputs: Outputs = (),
    parameters: Parameters = EMPTY,
    id: str = "",  # noqa: A002 - the protocol's name for it
    priority: int = 0,
) -> Call[InferResult]:
    """One request to one model; see Client.infer."""
    request = InferRequest(
        model_name=model,
        model_version=version,
        id=id,
        inputs=as_tensors(inputs),
        outputs=requested(outputs),
        parameters=parameters,
        priority=priority,
    )
    return Call(INFERENCE + "ModelInfer", bytes(encode_request(request)), read_result)


def requested(outputs: Outputs) -> tuple[RequestedOutput, ...]:
    """The outputs of a request: by name, and where each is wanted if that is said."""
    if not isinstance(outputs, Mapping):
        return tuple(RequestedOutput(name) for name in outputs)
    return tuple(
        RequestedOutput(name) if place is None else RequestedOutput(name, place.parameters)
        for name, place in outputs.items()
    )


def read_result(answer: Buffer) -> InferResult:
    """A ModelInferResponse as a result."""
    return InferResult(decode_response(answer))


def read_stream_result(answer_bytes: Buffer) -> InferResult | None:
    """One message of a stream; None for the empty one that only ends it.

    Raises the error that a message of a server without true statuses holds.
    """
    answer = decode_stream_response(answer_bytes)
    if isinstance(answer, StreamError):
        raise InferenceError(Status.UNKNOWN, answer.message)
    return None if answer.empty else InferResult(answer)


def _call(
    name: str,
    request: Message,
    answer: type[M],
    pick: Callable[[M], T],
    retry: bool = True,
) -> Call[T]:
    def read(data: Buffer) -> T:
        return pick(answer.FromString(bytes(data)))

    return Call(INFERENCE + name, request.SerializeToString(), read, retry)


def _same(answer: M) -> M:
    return answer


def _nothing(_: Message) -> None:
    return None
