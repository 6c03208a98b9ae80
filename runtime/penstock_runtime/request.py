"""A request, its response, and what the runtime measured in between. Frozen; times are monotonic
nanoseconds.

What is made for every request is a named tuple: a frozen dataclass costs three times as much.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from penstock_runtime.observability.tracing import Trace
from penstock_runtime.tensor import Tensor

Parameter = bool | int | float | str
Parameters = Mapping[str, Parameter]
EMPTY: Parameters = MappingProxyType({})
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
CLASSIFICATION = "classification"


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that the caller asked for, with its parameters (classification, shared memory)."""

    name: str
    parameters: Parameters = field(default_factory=lambda: EMPTY)

    @property
    def classes(self) -> int:
        """How many of each row's highest values are wanted, as text; 0: the output as it is."""
        return int(self.parameters.get(CLASSIFICATION, 0))


class InferRequest(NamedTuple):
    """One inference request.

    `model_version` is "" for the latest; `outputs` empty means all; `deadline_ns` is the monotonic
    time after which nobody waits for the answer; `priority` 0 means the model's default;
    `timeout_us` is the `timeout` parameter; `headers` are the call's metadata that models may see.
    Requests whose `likeness` is the same object, other than None, differ in nothing but id,
    deadline and the numbers in their inputs, whose arrays are numpy's already. The few that are
    traced have a `trace`; a request that is made for another model gets a `child` of it. `depth`
    counts the requests that this one is a part of. The caller of a `single` one takes one response,
    whatever its model gives others; `gathered` says how a decoupled model's become one.
    """

    model_name: str
    inputs: tuple[Tensor, ...]
    model_version: str = ""
    id: str = ""
    outputs: tuple[RequestedOutput, ...] = ()
    parameters: Parameters = EMPTY
    headers: Mapping[str, str] = NO_HEADERS
    deadline_ns: int | None = None
    priority: int = 0
    timeout_us: int = 0
    correlation_id: int | str = 0
    sequence_start: bool = False
    sequence_end: bool = False
    received_ns: int = 0
    likeness: object = None
    trace: Trace | None = None
    depth: int = 0
    single: bool = False
    gathered: str = ""

    def input(self, name: str) -> Tensor | None:
        """The input of this name, if the request has one."""
        return next((t for t in self.inputs if t.name == name), None)


class Timing(NamedTuple):
    """Where one request's time went, in nanoseconds, and in what company it was executed.

    With `cache_hit` it was not: the response cache had its answer.
    """

    queue_ns: int = 0
    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0
    batch_size: int = 0
    instance: str = ""
    cache_hit: bool = False


class InferResponse(NamedTuple):
    """One response. `final` marks the last of its request; `empty` one that only says so."""

    model_name: str
    model_version: str
    id: str = ""
    outputs: tuple[Tensor, ...] = ()
    parameters: Parameters = EMPTY
    final: bool = True
    empty: bool = False
    timing: Timing | None = None

    def output(self, name: str) -> Tensor | None:
        """The output of this name, if the response has one."""
        return next((t for t in self.outputs if t.name == name), None)
