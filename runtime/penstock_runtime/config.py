"""A model's configuration: everything a config.pbtxt can say, as frozen values, whatever file it
came from.

Field names are those of Triton's ModelConfig message, so that text, JSON and YAML all say the same.
How a mapping becomes these values is in config_reader; what a backend knows of a model completes
them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from penstock_runtime.config_scheduling import (
    DynamicBatching,
    Ensembling,
    SequenceBatching,
)
from penstock_runtime.datatype import DataType

NO_STRINGS: Mapping[str, str] = MappingProxyType({})
# Backends of decoupled models that give a caller who takes one response the whole answer in it.
ANSWERING_WHOLE = frozenset({"llm"})


@dataclass(frozen=True, slots=True)
class Reshape:
    """The shape that the model itself sees; -1 takes the value of the matching wildcard."""

    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One input; `dims` are without the batch dimension when max_batch_size > 0, -1 is a
    wildcard.
    """

    name: str
    data_type: DataType
    dims: tuple[int, ...] = ()
    format: str = "FORMAT_NONE"
    reshape: Reshape | None = None
    is_shape_tensor: bool = False
    allow_ragged_batch: bool = False
    optional: bool = False
    is_non_linear_format_io: bool = False


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """One output; `dims` as for an input."""

    name: str
    data_type: DataType
    dims: tuple[int, ...] = ()
    label_filename: str = ""
    reshape: Reshape | None = None
    is_shape_tensor: bool = False
    is_non_linear_format_io: bool = False


@dataclass(frozen=True, slots=True)
class BatchInput:
    """An extra input that tells the model about the batch (ragged batching)."""

    kind: str = "BATCH_ELEMENT_COUNT"
    target_name: tuple[str, ...] = ()
    data_type: DataType = DataType.INT32
    source_input: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchOutput:
    """How an output of a ragged batch is cut back."""

    target_name: tuple[str, ...] = ()
    kind: str = "BATCH_SCATTER_WITH_INPUT_SHAPE"
    source_input: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LatestVersions:
    """Serve the highest `num_versions` versions."""

    num_versions: int = 1


@dataclass(frozen=True, slots=True)
class AllVersions:
    """Serve every version there is."""


@dataclass(frozen=True, slots=True)
class SpecificVersions:
    """Serve exactly these versions."""

    versions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which version directories are served; exactly one choice is set."""

    latest: LatestVersions | None = None
    all: AllVersions | None = None
    specific: SpecificVersions | None = None


@dataclass(frozen=True, slots=True)
class RateLimiterResource:
    """A resource that an execution occupies."""

    name: str = ""
    # `global` is a keyword of Python; the reader maps the name.
    global_: bool = False
    count: int = 1


@dataclass(frozen=True, slots=True)
class RateLimiter:
    """What an instance needs before it may execute."""

    resources: tuple[RateLimiterResource, ...] = ()
    priority: int = 0


@dataclass(frozen=True, slots=True)
class SecondaryDevice:
    """A further device of an instance; kept for the ModelConfig RPC, nothing is placed there."""

    kind: str = "KIND_NVDLA"
    device_id: int = 0


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """`count` instances on each of `gpus` (KIND_GPU), in host memory (KIND_CPU), or each in a
    process of its own, on those GPUs if there are any (KIND_PROCESS). `in_place`: whoever brings a
    request may execute it, for the model promises never to wait.
    """

    name: str = ""
    kind: str = "KIND_AUTO"
    count: int = 1
    rate_limiter: RateLimiter | None = None
    gpus: tuple[int, ...] = ()
    profile: tuple[str, ...] = ()
    passive: bool = False
    secondary_devices: tuple[SecondaryDevice, ...] = ()
    host_policy: str = ""
    in_place: bool = False


@dataclass(frozen=True, slots=True)
class WarmupInput:
    """One tensor of a warm-up request; exactly one source of data is set."""

    data_type: DataType
    dims: tuple[int, ...] = ()
    zero_data: bool = False
    random_data: bool = False
    input_data_file: str = ""


@dataclass(frozen=True, slots=True)
class Warmup:
    """A request that is executed `count` times before the model is READY."""

    name: str = ""
    batch_size: int = 0
    inputs: Mapping[str, WarmupInput] = field(default_factory=lambda: MappingProxyType({}))
    count: int = 0


@dataclass(frozen=True, slots=True)
class TransactionPolicy:
    """`decoupled`: a request may get any number of responses."""

    decoupled: bool = False


@dataclass(frozen=True, slots=True)
class ResponseCache:
    """Whether answers may come from the response cache."""

    enable: bool = False


@dataclass(frozen=True, slots=True)
class ModelParameter:
    """A free parameter of the model."""

    string_value: str = ""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that is known about how to serve a model.

    `extra` keeps, untouched, the fields that only other servers act on (optimization, agents,
    metrics ...), so that the ModelConfig RPC gives back what the file said.
    """

    name: str = ""
    platform: str = ""
    backend: str = ""
    runtime: str = ""
    version_policy: VersionPolicy | None = None
    max_batch_size: int = 0
    input: tuple[ModelInput, ...] = ()
    output: tuple[ModelOutput, ...] = ()
    batch_input: tuple[BatchInput, ...] = ()
    batch_output: tuple[BatchOutput, ...] = ()
    dynamic_batching: DynamicBatching | None = None
    sequence_batching: SequenceBatching | None = None
    ensemble_scheduling: Ensembling | None = None
    instance_group: tuple[InstanceGroup, ...] = ()
    default_model_filename: str = ""
    metric_tags: Mapping[str, str] = field(default_factory=lambda: NO_STRINGS)
    parameters: Mapping[str, ModelParameter] = field(default_factory=lambda: MappingProxyType({}))
    model_warmup: tuple[Warmup, ...] = ()
    model_transaction_policy: TransactionPolicy = TransactionPolicy()
    response_cache: ResponseCache | None = None
    extra: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def decoupled(self) -> bool:
        """Whether a request may get any number of responses."""
        return self.model_transaction_policy.decoupled

    @property
    def answers_whole(self) -> bool:
        """Whether a caller that takes one response only can be answered."""
        return not self.decoupled or self.backend in ANSWERING_WHOLE

    @property
    def ragged_inputs(self) -> frozenset[str]:
        """Inputs that the model gets flat, those of all requests of a batch one after the other."""
        if self.max_batch_size < 1:
            return frozenset()
        return frozenset(i.name for i in self.input if i.allow_ragged_batch)

    @property
    def has_rows(self) -> bool:
        """Whether all that the model takes and gives has a row for each row of the batch."""
        tensors: tuple[ModelInput | ModelOutput, ...] = (*self.input, *self.output)
        uneven = self.batch_input or self.batch_output or self.ragged_inputs
        return self.max_batch_size > 0 and not (uneven or any(t.is_shape_tensor for t in tensors))

    @property
    def alone(self) -> bool:
        """Whether requests are executed one by one: what must be merged even for one of them goes
        as a batch.
        """
        batches = self.dynamic_batching is not None and self.max_batch_size > 0
        return not (batches or self.ragged_inputs or self.batch_input)

    @property
    def in_place(self) -> bool:
        """Whether its instance may be executed by whoever brings a request."""
        return any(group.in_place for group in self.instance_group)

    def parameter(self, key: str, default: str = "") -> str:
        """The text of a free parameter."""
        found = self.parameters.get(key)
        return default if found is None else found.string_value

    def find_input(self, name: str) -> ModelInput | None:
        """The input of this name."""
        return next((i for i in self.input if i.name == name), None)

    def find_output(self, name: str) -> ModelOutput | None:
        """The output of this name."""
        return next((o for o in self.output if o.name == name), None)
