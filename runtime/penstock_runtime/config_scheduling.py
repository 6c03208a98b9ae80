"""The scheduling half of a model's configuration: queues, batchers, sequences, ensembles. Frozen
values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from penstock_runtime.datatype import DataType


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """How long and how many requests may wait; `timeout_action` is REJECT or DELAY, 0 means no
    limit.
    """

    timeout_action: str = "REJECT"
    default_timeout_microseconds: int = 0
    allow_timeout_override: bool = False
    max_queue_size: int = 0


@dataclass(frozen=True, slots=True)
class LengthBatching:
    """Length-aware batching: requests of like length share a batch, padded with a mask.

    The length of a request is the size of the first variable dimension of the inputs named in
    `input`, or the byte length for a TYPE_STRING input (which is grouped but never padded). SORT
    takes the nearest lengths while the padded share stays within `max_padding`; BUCKET keeps to one
    bucket, and pads to its boundary. `mask_name` is an extra input of the model, [batch, length], 1
    where data is real. `unpad_output` names outputs that are cut back to each request's own length.
    `max_batch_elements` bounds batch x padded length (0: no bound).
    """

    input: tuple[str, ...] = ()
    strategy: str = "SORT"
    bucket_boundaries: tuple[int, ...] = ()
    pad_value: float = 0.0
    mask_name: str = ""
    mask_data_type: DataType = DataType.INT64
    unpad_output: tuple[str, ...] = ()
    max_padding: float = 0.0
    max_batch_elements: int = 0


@dataclass(frozen=True, slots=True)
class DynamicBatching:
    """How the dynamic batcher forms batches; see Triton's semantics, which the static mode keeps
    exactly. With `slo_p99_ms` the batcher chooses its sizes and its delay to keep that goal.
    """

    preferred_batch_size: tuple[int, ...] = ()
    max_queue_delay_microseconds: int = 0
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority_level: int = 0
    default_queue_policy: QueuePolicy | None = None
    priority_queue_policy: Mapping[int, QueuePolicy] = field(
        default_factory=lambda: MappingProxyType({})
    )
    length_batching: LengthBatching | None = None
    slo_p99_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class SequenceControl:
    """One control tensor: its kind, and its false/true values or data type."""

    kind: str = "CONTROL_SEQUENCE_START"
    int32_false_true: tuple[int, ...] = ()
    fp32_false_true: tuple[float, ...] = ()
    bool_false_true: tuple[bool, ...] = ()
    data_type: DataType | None = None


@dataclass(frozen=True, slots=True)
class SequenceControlInput:
    """An input of the model that carries sequence controls."""

    name: str
    control: tuple[SequenceControl, ...] = ()


@dataclass(frozen=True, slots=True)
class SequenceInitialState:
    """The first value of an implicit state."""

    data_type: DataType
    dims: tuple[int, ...] = ()
    zero_data: bool = False
    data_file: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class SequenceState:
    """An implicit state: the output of one step is the input of the next."""

    input_name: str
    output_name: str
    data_type: DataType
    dims: tuple[int, ...] = ()
    initial_state: tuple[SequenceInitialState, ...] = ()
    use_same_buffer_for_input_output: bool = False
    use_growable_memory: bool = False


@dataclass(frozen=True, slots=True)
class SequenceDirect:
    """The direct strategy: a sequence owns a row of the batch."""

    max_queue_delay_microseconds: int = 0
    minimum_slot_utilization: float = 0.0


@dataclass(frozen=True, slots=True)
class SequenceOldest:
    """The oldest strategy: a dynamic batcher over candidate sequences."""

    max_candidate_sequences: int = 0
    preferred_batch_size: tuple[int, ...] = ()
    max_queue_delay_microseconds: int = 0
    preserve_ordering: bool = False


@dataclass(frozen=True, slots=True)
class SequenceBatching:
    """How requests of one sequence are routed to one slot."""

    max_sequence_idle_microseconds: int = 0
    direct: SequenceDirect | None = None
    oldest: SequenceOldest | None = None
    control_input: tuple[SequenceControlInput, ...] = ()
    state: tuple[SequenceState, ...] = ()
    iterative_sequence: bool = False


@dataclass(frozen=True, slots=True)
class EnsembleStep:
    """One model of an ensemble and how its tensors are named there."""

    model_name: str
    model_version: int = -1
    input_map: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    output_map: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    model_namespace: str = ""


@dataclass(frozen=True, slots=True)
class Ensembling:
    """A graph of models that is served as one."""

    step: tuple[EnsembleStep, ...] = ()
    max_inflight_requests: int = 0
