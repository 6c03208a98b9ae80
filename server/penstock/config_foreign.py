"""Flags of Triton's that are not options here: accepted without effect, or refused because a server
that ignored them would not be what its operator believes it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class ForeignFlag:
    """A flag of Triton's; `refused` says why a value that switches it on (or, with `when_off`,
    off) ends the start.
    """

    name: str
    refused: str = ""
    when_off: bool = False

    def refuses(self, on: bool) -> bool:
        """Whether a value that switches the flag on, or off, ends the start."""
        return bool(self.refused) and on is not self.when_off


_IGNORED = (
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
    "sagemaker-port",
    "sagemaker-safe-port-range",
    "sagemaker-thread-count",
    "allow-vertex-ai",
    "vertex-ai-port",
    "vertex-ai-thread-count",
    "vertex-ai-default-model",
)
_REFUSED = {
    "model-load-gpu-limit": "no limit is kept here: models load as far as there is memory",
    "trace-file": "say --trace-config=triton,file=PATH",
    "trace-level": "say --trace-config=level=TIMESTAMPS (or TENSORS)",
    "trace-rate": "say --trace-config=rate=N",
    "trace-count": "say --trace-config=count=N",
    "trace-log-frequency": "say --trace-config=triton,log-frequency=N",
}
_ALWAYS_ON = {
    "allow-grpc": "gRPC is always served; --grpc-address=127.0.0.1 keeps it to this machine",
}

FOREIGN: Mapping[str, ForeignFlag] = MappingProxyType(
    {name: ForeignFlag(name) for name in _IGNORED}
    | {name: ForeignFlag(name, why) for name, why in _REFUSED.items()}
    | {name: ForeignFlag(name, why, when_off=True) for name, why in _ALWAYS_ON.items()}
)
