"""What protobuf knows of a configuration's fields, read off the type hints of its dataclasses.

Type hints say everything but the names of enums and the width of integers; those stand in the two
tables here. Nothing is written per message.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from types import MappingProxyType, NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from penstock_runtime.config import (
    BatchInput,
    BatchOutput,
    InstanceGroup,
    LatestVersions,
    ModelConfig,
    ModelInput,
    RateLimiter,
    RateLimiterResource,
    SecondaryDevice,
    Warmup,
)
from penstock_runtime.config_extra import Graph, GraphLowerBound, GraphSpec, Optimization
from penstock_runtime.config_kinds import (
    FLOAT32_MAX,
    Datatype,
    Enumeration,
    Flag,
    Integer,
    Kind,
    ListOf,
    MapOf,
    Misfit,
    Real,
    Text,
    shown,
)
from penstock_runtime.config_scheduling import (
    DynamicBatching,
    Ensembling,
    LengthBatching,
    QueuePolicy,
    SequenceBatching,
    SequenceControl,
    SequenceDirect,
    SequenceOldest,
)
from penstock_runtime.datatype import DataType

# A caller can act on a few faults; an answer may not grow with what is wrong.
FAULT_LIMIT = 16

_INT32 = Integer(-(2**31), 2**31 - 1)
_UINT32 = Integer(0, 2**32 - 1)
_UNSET = object()

_INT64 = Integer(-(2**63), 2**63 - 1)
_UINT64 = Integer(0, 2**64 - 1)
_FLOAT32 = Real(FLOAT32_MAX)

ENUMS: Mapping[tuple[type, str], tuple[str, ...]] = MappingProxyType(
    {
        (ModelInput, "format"): ("FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW"),
        (InstanceGroup, "kind"): (
            "KIND_AUTO",
            "KIND_GPU",
            "KIND_CPU",
            "KIND_MODEL",
            "KIND_PROCESS",
        ),
        (SecondaryDevice, "kind"): ("KIND_NVDLA",),
        (BatchInput, "kind"): (
            "BATCH_ELEMENT_COUNT",
            "BATCH_ACCUMULATED_ELEMENT_COUNT",
            "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
            "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE",
            "BATCH_ITEM_SHAPE",
            "BATCH_ITEM_SHAPE_FLATTEN",
        ),
        (BatchOutput, "kind"): ("BATCH_SCATTER_WITH_INPUT_SHAPE",),
        (QueuePolicy, "timeout_action"): ("REJECT", "DELAY"),
        (LengthBatching, "strategy"): ("SORT", "BUCKET"),
        (SequenceControl, "kind"): (
            "CONTROL_SEQUENCE_START",
            "CONTROL_SEQUENCE_READY",
            "CONTROL_SEQUENCE_END",
            "CONTROL_SEQUENCE_CORRID",
        ),
        (Optimization, "priority"): ("PRIORITY_DEFAULT", "PRIORITY_MAX", "PRIORITY_MIN"),
    }
)
"""The names of an enum field, by number."""

NUMBERS: Mapping[tuple[type, str], tuple[int, ...]] = MappingProxyType(
    {(InstanceGroup, "kind"): (1001,)}
)
"""The numbers of the last names, where these are not Triton's and keep away from its own."""

WIDTHS: Mapping[tuple[type, str], Kind] = MappingProxyType(
    {
        (ModelConfig, "max_batch_size"): _INT32,
        (LatestVersions, "num_versions"): _UINT32,
        (RateLimiterResource, "count"): _UINT32,
        (RateLimiter, "priority"): _UINT32,
        (InstanceGroup, "count"): _INT32,
        (InstanceGroup, "gpus"): _INT32,
        (Warmup, "batch_size"): _UINT32,
        (Warmup, "count"): _UINT32,
        (QueuePolicy, "default_timeout_microseconds"): _UINT64,
        (QueuePolicy, "max_queue_size"): _UINT32,
        (DynamicBatching, "preferred_batch_size"): _INT32,
        (DynamicBatching, "max_queue_delay_microseconds"): _UINT64,
        (DynamicBatching, "priority_levels"): _UINT64,
        (DynamicBatching, "default_priority_level"): _UINT64,
        (DynamicBatching, "priority_queue_policy"): _UINT64,
        (SequenceBatching, "max_sequence_idle_microseconds"): _UINT64,
        (SequenceControl, "int32_false_true"): _INT32,
        (SequenceControl, "fp32_false_true"): _FLOAT32,
        (SequenceDirect, "max_queue_delay_microseconds"): _UINT64,
        (SequenceDirect, "minimum_slot_utilization"): _FLOAT32,
        (SequenceOldest, "max_candidate_sequences"): _INT32,
        (SequenceOldest, "preferred_batch_size"): _INT32,
        (SequenceOldest, "max_queue_delay_microseconds"): _UINT64,
        (Ensembling, "max_inflight_requests"): _UINT32,
        (Graph, "level"): _INT32,
        (GraphSpec, "batch_size"): _INT32,
        (GraphLowerBound, "batch_size"): _INT32,
        (Optimization, "gather_kernel_buffer_threshold"): _UINT32,
    }
)
"""Numbers that are not of 64 bits and signed; for a map, its key."""

OUTSIDE = frozenset({(ModelConfig, "extra")})
"""Attributes that are not a field of their own."""

_SCALARS: Mapping[type, Kind] = MappingProxyType(
    {str: Text(), bool: Flag(), int: _INT64, float: Real(), DataType: Datatype()}
)


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One field: its attribute in the dataclass, its name in protobuf, and its kind."""

    attribute: str
    name: str
    kind: Kind
    required: bool


class Fields:
    """The fields of a message, found by their name in snake case or in camel case."""

    __slots__ = ("by_key", "specs")

    def __init__(self, specs: Iterable[FieldSpec]) -> None:
        self.specs = tuple(specs)
        self.by_key = {spec.name: spec for spec in self.specs}
        self.by_key.update({_camel(spec.name): spec for spec in self.specs})

    def read(self, value: object) -> dict[str, Any]:
        """Attributes that are set, from a JSON object; Misfit names every field that is wrong.

        As in protobuf, null and a zero are a field that is not set.
        """
        if not isinstance(value, Mapping):
            raise Misfit(f"expected an object, got {shown(value)}")
        seen: dict[str, object] = {}
        wrong = Misfit("")
        wrong.faults.clear()
        for key, item in value.items():
            try:
                self._read_field(key, item, seen)
            except Misfit as misfit:
                wrong.faults += misfit.faults
            if len(wrong.faults) >= FAULT_LIMIT:
                raise wrong
        for spec in self.specs:
            if spec.required and seen.get(spec.attribute, _UNSET) is _UNSET:
                wrong.faults.append((spec.name, "is required"))
        if wrong.faults:
            raise wrong
        return {name: item for name, item in seen.items() if item is not _UNSET}

    def _read_field(self, key: object, value: object, seen: dict[str, object]) -> None:
        spec = self.by_key.get(key) if isinstance(key, str) else None
        if spec is None:
            raise Misfit(self._unknown(key)).inside(_step(key))
        if spec.attribute in seen:
            raise Misfit("given twice").inside(spec.name)
        seen[spec.attribute] = _UNSET
        if value is None:
            return
        try:
            item = spec.kind.read(value)
        except Misfit as misfit:
            seen[spec.attribute] = None
            raise misfit.inside(spec.name) from None
        if item != spec.kind.zero:
            seen[spec.attribute] = item

    def _unknown(self, key: object) -> str:
        names = [spec.name for spec in self.specs]
        close = difflib.get_close_matches(str(key)[:64], names, 1) if names else []
        return "unknown field" + (f", did you mean {close[0]}?" if close else "")

    def write(self, value: object, full: bool) -> dict[str, object]:
        """The JSON object of a dataclass: what is not protobuf's zero, or with `full` all there
        is.
        """
        written: dict[str, object] = {}
        for spec in self.specs:
            item = getattr(value, spec.attribute)
            if item is not None and (full or item != spec.kind.zero):
                written[spec.name] = spec.kind.write(item, full)
        return written


def _step(key: object) -> str:
    return key[:64] if isinstance(key, str) and key[:64].isidentifier() else f"[{shown(key)}]"


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


@dataclass(frozen=True, slots=True)
class Message:
    """The kind of a dataclass; `zero` is None for one that may be absent, else its default."""

    cls: type[Any]
    zero: object = None

    def read(self, value: object) -> object:
        """The dataclass."""
        return self.cls(**fields_of(self.cls).read(value))

    def write(self, value: object, full: bool) -> object:
        """A dictionary of its fields."""
        return fields_of(self.cls).write(value, full)


def fields_of(cls: type[Any]) -> Fields:
    """The fields of a dataclass that protobuf knows; worked out once."""
    found = _FIELDS.get(cls)
    if found is None:
        hints = get_type_hints(cls)
        known = [field for field in fields(cls) if (cls, field.name) not in OUTSIDE]
        found = Fields(_spec(cls, field, hints[field.name]) for field in known)
        _FIELDS[cls] = found
    return found


_FIELDS: dict[type[Any], Fields] = {}


def _spec(cls: type[Any], field: "Field[Any]", hint: Any) -> FieldSpec:
    # Words that Python keeps to itself end with an underscore in a dataclass.
    name = field.name.rstrip("_")
    kind = _kind(hint, (cls, field.name))
    if isinstance(kind, Message) and get_origin(hint) is not UnionType:
        kind = Message(kind.cls, None if field.default is MISSING else field.default)
    required = field.default is MISSING and field.default_factory is MISSING
    return FieldSpec(field.name, name, kind, required)


def _kind(hint: Any, place: tuple[type, str]) -> Kind:
    """The kind that a type hint stands for; `place` finds names and widths."""
    arguments = [argument for argument in get_args(hint) if argument not in (NoneType, Ellipsis)]
    origin = get_origin(hint)
    if origin is UnionType:
        return _kind(arguments[0], place)
    if origin is tuple:
        return ListOf(_kind(arguments[0], place))
    if origin is Mapping:
        item = _kind(arguments[1], (NoneType, ""))
        return MapOf(_kind(arguments[0], place), item)
    if isinstance(hint, type) and is_dataclass(hint):
        return Message(hint)
    if place in ENUMS:
        return Enumeration(ENUMS[place], NUMBERS.get(place, ()))
    return WIDTHS.get(place) or _SCALARS[hint]
