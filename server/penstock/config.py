"""Everything that can be set, put together from `penstock.options`, where each is declared once:
name, default, group, help. Flags, environment, file and documentation all come from here;
config_sources reads them.

Names, units and defaults are those of Triton's flags wherever Triton has the flag.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from penstock.config_foreign import FOREIGN, ForeignFlag
from penstock.options.access import AccessOptions
from penstock.options.bounds import CacheOptions, LimitOptions
from penstock.options.flag import FlagInfo
from penstock.options.grpc import GrpcOptions
from penstock.options.http import HttpOptions
from penstock.options.memory import SharedMemoryOptions
from penstock.options.observed import LoggingOptions, MetricsOptions
from penstock.options.serving import RepositoryOptions, ServingOptions
from penstock.options.tracing import TracingOptions

GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "server": "the server as a whole",
        "repository": "where models come from and when they are loaded",
        "grpc": "the gRPC port",
        "http": "the HTTP port",
        "access": "who may call what",
        "metrics": "the metrics port",
        "logging": "what is written to the log",
        "tracing": "single requests, step by step",
        "cache": "responses that are kept and given again, for the models that ask for it",
        "memory": "memory that clients share with the server",
        "limits": "bounds beyond which the answer is immediate and retryable",
        "ignored": "flags of Triton that are accepted and have no effect here",
    }
)


@dataclass(frozen=True)
class ServerOptions(
    ServingOptions,
    RepositoryOptions,
    GrpcOptions,
    HttpOptions,
    AccessOptions,
    MetricsOptions,
    LoggingOptions,
    TracingOptions,
    CacheOptions,
    SharedMemoryOptions,
    LimitOptions,
):
    """The options of one server; a tuple is an option that may be given several times."""

    # Set by the reader, not by a flag.
    ignored: tuple[str, ...] = ()
    """Flags of Triton that were given and have no effect."""
    http_off: str = ""
    """Why HTTP is not served although nobody said that it should not be."""
    grpc_response_delay_s: float = 0.0
    """A hook of Triton's tests: every RPC but inference waits so long before it answers."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One option as a user meets it."""

    field: str
    default: Any
    info: FlagInfo

    @property
    def name(self) -> str:
        """The flag's name without dashes in front."""
        return self.field.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable of the same meaning."""
        return f"PENSTOCK_{self.field.upper()}"

    @property
    def repeated(self) -> bool:
        """Whether it may be given several times."""
        return isinstance(self.default, tuple)


FLAGS: tuple[Flag, ...] = tuple(
    Flag(f.name, f.default, f.metadata["flag"]) for f in fields(ServerOptions) if f.metadata
)
FOREIGN_FLAGS: Mapping[str, ForeignFlag] = FOREIGN
