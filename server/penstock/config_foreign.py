"""Flags of Triton's that are not options here: accepted without effect, or refused because a server
that ignored them would not be what its operator believes it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class ForeignFlag:
    """A flag of Triton's; `refused` says why a value that switches it on ends the start."""

    name: str
    refused: str = ""


_IGNORED = (
    "allow-grpc",
    "http-thread-count",
    "grpc-infer-allocation-pool-size",
    "grpc-infer-thread-count",
    "grpc-max-response-pool-size",
    "allow-gpu-metrics",
    "allow-cpu-metrics",
    "metrics-interval-ms",
    "backend-config",
    "backend-directory",
    "host-policy",
    "cache-directory",
    "pinned-memory-pool-byte-size",
    "cuda-memory-pool-byte-size",
    "cuda-virtual-address-size",
    "min-supported-compute-capability",
    "buffer-manager-thread-count",
    "enable-peer-access",
    "repoagent-directory",
    "strict-model-config",
    "allow-sagemaker",
    "allow-vertex-ai",
)
_REFUSED: Mapping[str, str] = MappingProxyType({})

FOREIGN: Mapping[str, ForeignFlag] = MappingProxyType(
    {name: ForeignFlag(name) for name in _IGNORED}
    | {name: ForeignFlag(name, why) for name, why in _REFUSED.items()}
)
