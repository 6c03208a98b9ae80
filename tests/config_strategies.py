"""Hypothesis strategies for configurations, read off the same schema as the reader."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from types import MappingProxyType
from typing import Any

from hypothesis import strategies as st

from penstock_runtime.config import ModelConfig, VersionPolicy, WarmupInput
from penstock_runtime.config_extra import ExtraConfig
from penstock_runtime.config_kinds import (
    FLOAT32_MAX,
    Datatype,
    Enumeration,
    Flag,
    Integer,
    Kind,
    ListOf,
    MapOf,
    Real,
    Text,
)
from penstock_runtime.config_scheduling import SequenceBatching, SequenceInitialState
from penstock_runtime.config_schema import FieldSpec, Message, fields_of
from penstock_runtime.datatype import DataType

ONEOFS: Mapping[type[Any], tuple[str, ...]] = MappingProxyType(
    {
        ModelConfig: ("dynamic_batching", "sequence_batching", "ensemble_scheduling"),
        VersionPolicy: ("latest", "all", "specific"),
        SequenceBatching: ("direct", "oldest"),
        SequenceInitialState: ("zero_data", "data_file"),
        WarmupInput: ("zero_data", "random_data", "input_data_file"),
    }
)
"""Fields of which protobuf holds one at most."""


def configs() -> st.SearchStrategy[ModelConfig]:
    """Configurations with any field set to any value that protobuf can hold."""
    return st.builds(_with_extra, messages(ModelConfig), messages(ExtraConfig))


def _with_extra(values: dict[str, Any], extra: dict[str, Any]) -> ModelConfig:
    kept = fields_of(ExtraConfig).write(ExtraConfig(**extra), full=False)
    return ModelConfig(**values, extra=MappingProxyType(kept))


@st.composite
def messages(draw: st.DrawFn, cls: type[Any]) -> dict[str, Any]:
    """Attributes for a dataclass, most of them left out."""
    specs = fields_of(cls).specs
    if not specs:
        return {}
    kept = draw(st.sets(st.sampled_from([spec.attribute for spec in specs]), max_size=4))
    oneof = ONEOFS.get(cls, ())
    chosen = draw(st.sampled_from(oneof)) if oneof else ""
    return {
        spec.attribute: draw(_value(cls, spec))
        for spec in specs
        if spec.required
        or (spec.attribute in kept and (spec.attribute not in oneof or spec.attribute == chosen))
    }


def _value(cls: type[Any], spec: FieldSpec) -> st.SearchStrategy[Any]:
    field = next(field for field in fields(cls) if field.name == spec.attribute)
    if spec.required or _default(field) != spec.kind.zero:
        # Protobuf does not tell a zero from a field that is not set.
        return _values(spec.kind).filter(lambda value: value != spec.kind.zero)
    return _values(spec.kind)


def _default(field: "Field[Any]") -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _values(kind: Kind) -> st.SearchStrategy[Any]:
    if isinstance(kind, Message):
        cls = kind.cls
        return st.deferred(lambda: messages(cls).map(lambda values: cls(**values)))
    if isinstance(kind, ListOf):
        return st.lists(_values(kind.item), max_size=2).map(tuple)
    if isinstance(kind, MapOf):
        maps = st.dictionaries(_values(kind.key), _values(kind.item), max_size=2)
        return maps.map(MappingProxyType)
    return _scalars(kind)


def _scalars(kind: Kind) -> st.SearchStrategy[Any]:
    if isinstance(kind, Text):
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    if isinstance(kind, Flag):
        return st.booleans()
    if isinstance(kind, Integer):
        return st.integers(kind.low, kind.high)
    if isinstance(kind, Real):
        # Eighths are the same number in 32 bits, in 64 bits and in decimal text.
        narrow = st.integers(-(2**20), 2**20).map(lambda eighths: eighths / 8)
        return narrow if kind.high == FLOAT32_MAX else st.floats(allow_nan=False)
    if isinstance(kind, Datatype):
        return st.sampled_from(DataType)
    assert isinstance(kind, Enumeration)
    return st.sampled_from(kind.names)
