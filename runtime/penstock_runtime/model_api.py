"""What the author of a model imports: tensor annotations, the `model` decorator, the context and
the arguments of `load`.

It knows nothing of servers, schedulers or backends: everything here only records what was said.

    @model(max_batch_size=32)
    def predict(x: Annotated[np.ndarray, FP32[4]]) -> Annotated[np.ndarray, FP32[1]]:
        return x.sum(axis=1, keepdims=True)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, overload

from penstock_runtime.config import ModelConfig
from penstock_runtime.config_scheduling import DynamicBatching, LengthBatching, QueuePolicy
from penstock_runtime.context import RequestContext
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument

Context = RequestContext
SETTINGS = "__penstock_model__"
TargetT = TypeVar("TargetT", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor as an annotation: datatype and dims, -1 for any size.

    The dims do not count the batch dimension when the model has a max_batch_size. `name` is the
    tensor's name where it differs from the parameter's or the field's.
    """

    datatype: DataType
    dims: tuple[int, ...]
    name: str = ""
    optional: bool = False

    def named(self, name: str) -> "TensorSpec":
        """The same tensor under this name, which need not be a Python identifier."""
        return replace(self, name=name)

    def __or__(self, other: object) -> "TensorSpec":
        """`FP32[16] | None`: an input that a request may leave out."""
        return replace(self, optional=True) if other is None else NotImplemented

    __ror__ = __or__

    def __repr__(self) -> str:
        text = f"{self.datatype.value}[{', '.join(map(str, self.dims))}]"
        text += f".named({self.name!r})" if self.name else ""
        return text + (" | None" if self.optional else "")


class TensorType:
    """A datatype that becomes a tensor annotation by its dims: FP32[-1, 16]."""

    __slots__ = ("datatype",)

    def __init__(self, datatype: DataType) -> None:
        self.datatype = datatype

    def __getitem__(self, dims: int | tuple[int, ...]) -> TensorSpec:
        """The tensor of these dims; each is positive, or -1 for any size."""
        sizes = dims if isinstance(dims, tuple) else (dims,)
        for size in sizes:
            if type(size) is not int or (size != -1 and size < 1):
                raise InvalidArgument(
                    f"{self.datatype.value}{list(sizes)!r}: a dim is a positive int or -1 for any"
                    f" size, got {size!r}"
                )
        return TensorSpec(self.datatype, sizes)

    def __repr__(self) -> str:
        return self.datatype.value


BOOL = TensorType(DataType.BOOL)
UINT8 = TensorType(DataType.UINT8)
UINT16 = TensorType(DataType.UINT16)
UINT32 = TensorType(DataType.UINT32)
UINT64 = TensorType(DataType.UINT64)
INT8 = TensorType(DataType.INT8)
INT16 = TensorType(DataType.INT16)
INT32 = TensorType(DataType.INT32)
INT64 = TensorType(DataType.INT64)
FP16 = TensorType(DataType.FP16)
BF16 = TensorType(DataType.BF16)
FP32 = TensorType(DataType.FP32)
FP64 = TensorType(DataType.FP64)
BYTES = TensorType(DataType.BYTES)


@dataclass(frozen=True, slots=True)
class ModelArgs:
    """What a model is told when it is loaded.

    `directory` holds this version's files and `root` is the model's own folder; `device` is in
    torch's words, cpu or cuda:N; `parameters` are the free parameters of the configuration.
    """

    name: str
    version: int
    directory: Path
    root: Path
    device: str
    parameters: Mapping[str, str]
    config: ModelConfig


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What a model's code says of how it wants to be served; a configuration file may say more.

    `max_batch_size` 0 leaves it to the configuration; `batching` None turns the dynamic batcher
    off; `labels` maps an output to the file of its class names.
    """

    max_batch_size: int = 0
    batching: DynamicBatching | None = field(default_factory=DynamicBatching)
    instances: int = 1
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


Batching = bool | DynamicBatching | Mapping[str, Any]


@overload
def model(target: TargetT, /) -> TargetT: ...


@overload
def model(
    *,
    max_batch_size: int = 0,
    batching: Batching = True,
    instances: int = 1,
    name: str = "",
    labels: Mapping[str, str] | None = None,
) -> Callable[[TargetT], TargetT]: ...


def model(
    target: TargetT | None = None,
    /,
    *,
    max_batch_size: int = 0,
    batching: Batching = True,
    instances: int = 1,
    name: str = "",
    labels: Mapping[str, str] | None = None,
) -> TargetT | Callable[[TargetT], TargetT]:
    """Mark a function or a class as the model of its file, and record how it is to be served.

    `batching` is True, False, a DynamicBatching or a mapping of its fields, for instance
    {"max_queue_delay_microseconds": 500}. The function or class itself stays as it is.
    """
    settings = make_settings(max_batch_size, batching, instances, name, labels)

    def mark(marked: TargetT) -> TargetT:
        setattr(marked, SETTINGS, settings)
        return marked

    return mark if target is None else mark(target)


def make_settings(
    max_batch_size: object = 0,
    batching: object = True,
    instances: object = 1,
    name: str = "",
    labels: Mapping[str, str] | None = None,
) -> ModelSettings:
    """The settings of these values; InvalidArgument names the one that is wrong."""
    return ModelSettings(
        _count("max_batch_size", max_batch_size, 0),
        _batching(batching),
        _count("instances", instances, 1),
        name,
        MappingProxyType(dict(labels or {})),
    )


def _count(what: str, value: object, least: int) -> int:
    if type(value) is not int or value < least:
        raise InvalidArgument(f"{what} of a model is an int of at least {least}, got {value!r}")
    return value


def _batching(value: object) -> DynamicBatching | None:
    if isinstance(value, bool):
        return DynamicBatching() if value else None
    if isinstance(value, DynamicBatching):
        return value
    if isinstance(value, Mapping):
        return _from_mapping(DynamicBatching, "batching", value)
    raise InvalidArgument(
        f"batching of a model is a bool, a DynamicBatching or a mapping of its fields, got"
        f" {value!r}"
    )


_NESTED: Mapping[str, type] = {
    "default_queue_policy": QueuePolicy,
    "length_batching": LengthBatching,
}
SettingsT = TypeVar("SettingsT")


def _from_mapping(kind: type[SettingsT], where: str, values: Mapping[str, Any]) -> SettingsT:
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise InvalidArgument(f"{where} has no field {unknown[0]!r}, only {', '.join(known)}")
    return kind(**{key: _nested(key, value) for key, value in values.items()})


def _nested(key: str, value: object) -> object:
    if isinstance(value, Mapping) and key in _NESTED:
        return _from_mapping(_NESTED[key], key, value)
    return tuple(value) if isinstance(value, list) else value
