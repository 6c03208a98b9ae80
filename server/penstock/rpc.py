"""The service as data: every method that is served, its kind, its category and who handles it.

A transport serves what `bind` makes of the table; nothing here knows how bytes travel.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Kind(Enum):
    """How many messages each side sends: one, or any number."""

    UNARY = "unary"
    STREAM = "stream"


class Category(Enum):
    """What a method is about; the values are the words of Triton's restricted protocols."""

    HEALTH = "health"
    METADATA = "metadata"
    INFERENCE = "inference"
    SHARED_MEMORY = "shared-memory"
    MODEL_CONFIG = "model-config"
    MODEL_REPOSITORY = "model-repository"
    STATISTICS = "statistics"
    TRACE = "trace"
    LOGGING = "logging"
    REFLECTION = "reflection"


@dataclass(frozen=True, slots=True)
class Rpc:
    """One method: its full name on the wire, and the name of the handler that answers it."""

    service: str
    name: str
    category: Category
    handler: str
    kind: Kind = Kind.UNARY
    path: str = field(init=False)
    """The name that a request carries."""

    def __post_init__(self) -> None:
        # Not a property: it is asked for with every call.
        object.__setattr__(self, "path", f"/{self.service}/{self.name}")


INFERENCE_SERVICE = "inference.GRPCInferenceService"
REPOSITORY_SERVICE = "inference.model_repository.ModelRepositoryService"
HEALTH_SERVICE = "grpc.health.v1.Health"
REFLECTION_SERVICES = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)

_INFERENCE = (
    ("ServerLive", Category.HEALTH, "server_live"),
    ("ServerReady", Category.HEALTH, "server_ready"),
    ("ModelReady", Category.HEALTH, "model_ready"),
    ("ServerMetadata", Category.METADATA, "server_metadata"),
    ("ModelMetadata", Category.METADATA, "model_metadata"),
    ("ModelInfer", Category.INFERENCE, "model_infer"),
    ("ModelConfig", Category.MODEL_CONFIG, "model_config"),
    ("ModelStatistics", Category.STATISTICS, "model_statistics"),
    ("SystemSharedMemoryStatus", Category.SHARED_MEMORY, "system_shared_memory_status"),
    ("SystemSharedMemoryRegister", Category.SHARED_MEMORY, "system_shared_memory_register"),
    ("SystemSharedMemoryUnregister", Category.SHARED_MEMORY, "system_shared_memory_unregister"),
    ("CudaSharedMemoryStatus", Category.SHARED_MEMORY, "cuda_shared_memory_status"),
    ("CudaSharedMemoryRegister", Category.SHARED_MEMORY, "cuda_shared_memory_register"),
    ("CudaSharedMemoryUnregister", Category.SHARED_MEMORY, "cuda_shared_memory_unregister"),
    ("TraceSetting", Category.TRACE, "trace_setting"),
    ("LogSettings", Category.LOGGING, "log_settings"),
)
_REPOSITORY = (
    ("RepositoryIndex", "repository_index"),
    ("RepositoryModelLoad", "repository_model_load"),
    ("RepositoryModelUnload", "repository_model_unload"),
)


def _rows() -> Iterator[Rpc]:
    for name, category, handler in _INFERENCE:
        yield Rpc(INFERENCE_SERVICE, name, category, handler)
    yield Rpc(
        INFERENCE_SERVICE,
        "ModelStreamInfer",
        Category.INFERENCE,
        "model_stream_infer",
        Kind.STREAM,
    )
    # MLServer's clients call the same three methods under a service of their own.
    for service in (INFERENCE_SERVICE, REPOSITORY_SERVICE):
        for name, handler in _REPOSITORY:
            yield Rpc(service, name, Category.MODEL_REPOSITORY, handler)
    yield Rpc(HEALTH_SERVICE, "Check", Category.HEALTH, "health_check")
    yield Rpc(HEALTH_SERVICE, "List", Category.HEALTH, "health_list")
    # One request, many responses: for the handler that is a stream with one message in it.
    yield Rpc(HEALTH_SERVICE, "Watch", Category.HEALTH, "health_watch", Kind.STREAM)
    for service in REFLECTION_SERVICES:
        yield Rpc(
            service, "ServerReflectionInfo", Category.REFLECTION, "reflection_info", Kind.STREAM
        )


TABLE: tuple[Rpc, ...] = tuple(_rows())
SERVICES: tuple[str, ...] = tuple(dict.fromkeys(rpc.service for rpc in TABLE))


def bind(*owners: object) -> list[tuple[Rpc, Any]]:
    """Every row with its handler: the attribute of that name of the first owner who has it."""
    bound = []
    for rpc in TABLE:
        owner = next((o for o in owners if hasattr(o, rpc.handler)), None)
        if owner is None:
            raise LookupError(f"nobody handles {rpc.path}: expected a method {rpc.handler}")
        bound.append((rpc, getattr(owner, rpc.handler)))
    return bound
