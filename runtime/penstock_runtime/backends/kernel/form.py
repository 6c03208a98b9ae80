"""What a kernel looks like as a model: its tensors, its parameters, and how a batch runs it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from penstock_kernels.declare import Kernel
from penstock_runtime.backends.base import Arrays, ModelSource
from penstock_runtime.backends.completion import provided_inputs
from penstock_runtime.backends.kernel.options import Options
from penstock_runtime.backends.kernel.place import Place
from penstock_runtime.config import BatchInput, ModelConfig, ModelInput, ModelOutput
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.errors import InvalidArgument

AnyTensor = ModelInput | ModelOutput
T = TypeVar("T", ModelInput, ModelOutput)


class Step(Protocol):
    """One kernel with its parameters; it keeps nothing between two batches."""

    @property
    def kernel(self) -> Kernel:
        """What it runs."""

    def run(self, inputs: Arrays, place: Place) -> dict[str, Any]:
        """The outputs of one batch. ValueError or InvalidArgument for inputs that it refuses."""


class Tabled(ABC):
    """A step whose kernel reads tables beside the requests' own bytes: where those are put
    together on a device, the tables go down with them.
    """

    @abstractmethod
    def tables(self, told: Arrays) -> dict[str, Any]:
        """The tables of a batch by name, the host's, made of the inputs that tell of it.
        InvalidArgument for a batch that the step would refuse.
        """


@dataclass(frozen=True, slots=True)
class Declared:
    """The tensors of a kernel as a model, without the batch."""

    input: tuple[ModelInput, ...]
    output: tuple[ModelOutput, ...]
    batch_input: tuple[BatchInput, ...] = ()


@dataclass(frozen=True, slots=True)
class Form:
    """A kernel as a model: the parameters that it takes, what these make of its tensors, and the
    step that they make.
    """

    options: Sequence[str]
    declare: Callable[[Options, ModelConfig], Declared]
    make: Callable[[Options, ModelSource], Step]


def completed(config: ModelConfig, declared: Declared, backend: str) -> ModelConfig:
    """The configuration with the kernel's tensors; InvalidArgument where it says others."""
    provided = provided_inputs(config)
    inputs = tuple(tensor for tensor in declared.input if tensor.name not in provided)
    wants_batches = config.max_batch_size > 0 and config.sequence_batching is None
    batching = config.dynamic_batching or (DynamicBatching() if wants_batches else None)
    found = tuple(
        replace(tensor, allow_ragged_batch=by_name(inputs, tensor.name).allow_ragged_batch)
        for tensor in _agreed(config, "input", config.input, inputs)
    )
    return replace(
        config,
        backend=config.backend or backend,
        input=found,
        output=_agreed(config, "output", config.output, declared.output),
        batch_input=config.batch_input or declared.batch_input,
        dynamic_batching=batching,
    )


def by_name(tensors: Sequence[ModelInput], name: str) -> ModelInput:
    """The one of this name."""
    return next(tensor for tensor in tensors if tensor.name == name)


def _agreed(
    config: ModelConfig, what: str, said: tuple[T, ...], declared: tuple[T, ...]
) -> tuple[T, ...]:
    """What the configuration says, if it says anything and that fits; else what is declared."""
    known: Mapping[str, T] = {tensor.name: tensor for tensor in declared}
    for tensor in said:
        if tensor.name not in known:
            raise _conflict(config, what, f"'{tensor.name}'", " and ".join(known))
        wanted = known[tensor.name]
        fits = len(tensor.dims) == len(wanted.dims) and all(
            -1 in (a, b) or a == b for a, b in zip(tensor.dims, wanted.dims, strict=True)
        )
        if tensor.data_type is not wanted.data_type or not fits:
            raise _conflict(config, what, f"'{tensor.name}' {_text(tensor)}", _text(wanted))
    needed = [t for t in declared if not (isinstance(t, ModelInput) and t.optional)]
    for tensor in needed if said else ():
        if tensor.name not in {one.name for one in said}:
            raise _conflict(config, what, f"no '{tensor.name}'", " and ".join(known))
    return said or declared


def _text(tensor: AnyTensor) -> str:
    return f"{tensor.data_type.value}[{', '.join(map(str, tensor.dims))}]"


def _conflict(config: ModelConfig, what: str, found: str, expected: str) -> InvalidArgument:
    return InvalidArgument(
        f"model '{config.name}': the configuration has {what} {found}, but its kernel has"
        f" {expected}"
    )
