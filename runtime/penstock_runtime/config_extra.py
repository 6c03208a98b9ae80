"""The parts of a configuration that only other servers act on, or a backend that reads them.

They are read so that what is wrong in them is refused when the model is loaded, and kept in
`ModelConfig.extra` so that the ModelConfig RPC gives them back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Graph:
    """Level of graph optimisation."""

    level: int = 0


@dataclass(frozen=True, slots=True)
class GraphShape:
    """Dimensions of one input of a captured graph, without the batch."""

    dim: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GraphLowerBound:
    """The smallest sizes that may be padded up to a captured graph."""

    batch_size: int = 0
    input: Mapping[str, GraphShape] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """A batch size and shapes to capture a CUDA graph for."""

    batch_size: int = 0
    input: Mapping[str, GraphShape] = field(default_factory=lambda: MappingProxyType({}))
    graph_lower_bound: GraphLowerBound | None = None


@dataclass(frozen=True, slots=True)
class Cuda:
    """Options of CUDA execution."""

    graphs: bool = False
    busy_wait_events: bool = False
    graph_spec: tuple[GraphSpec, ...] = ()
    output_copy_stream: bool = False


@dataclass(frozen=True, slots=True)
class Accelerator:
    """An execution accelerator and its options."""

    name: str = ""
    parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class ExecutionAccelerators:
    """Accelerators per kind of device."""

    gpu_execution_accelerator: tuple[Accelerator, ...] = ()
    cpu_execution_accelerator: tuple[Accelerator, ...] = ()


@dataclass(frozen=True, slots=True)
class PinnedMemoryBuffer:
    """Whether a pinned buffer is used."""

    enable: bool = False


@dataclass(frozen=True, slots=True)
class Optimization:
    """How the framework may optimise the model."""

    graph: Graph | None = None
    priority: str = "PRIORITY_DEFAULT"
    cuda: Cuda | None = None
    execution_accelerators: ExecutionAccelerators | None = None
    input_pinned_memory: PinnedMemoryBuffer | None = None
    output_pinned_memory: PinnedMemoryBuffer | None = None
    gather_kernel_buffer_threshold: int = 0
    eager_batching: bool = False


@dataclass(frozen=True, slots=True)
class ModelOperations:
    """Libraries of custom operations."""

    op_library_filename: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Agent:
    """A repository agent and its options."""

    name: str = ""
    parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class ModelRepositoryAgents:
    """Agents that act on the model's folder."""

    agents: tuple[Agent, ...] = ()


@dataclass(frozen=True, slots=True)
class MetricIdentifier:
    """The metric family that a control is about."""

    family: str = ""


@dataclass(frozen=True, slots=True)
class HistogramOptions:
    """Upper bounds of the buckets, ascending."""

    buckets: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class MetricControl:
    """How one metric family of the model is collected."""

    metric_identifier: MetricIdentifier | None = None
    histogram_options: HistogramOptions | None = None


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """How the model's metrics are collected."""

    metric_control: tuple[MetricControl, ...] = ()


@dataclass(frozen=True, slots=True)
class ExtraConfig:
    """Every top-level field that ends in `ModelConfig.extra`."""

    cc_model_filenames: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    optimization: Optimization | None = None
    model_operations: ModelOperations | None = None
    model_repository_agents: ModelRepositoryAgents | None = None
    model_metrics: ModelMetrics | None = None
