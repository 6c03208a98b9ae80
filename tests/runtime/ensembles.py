"""Ensembles of small arithmetic models: their configurations, random ones, and what they ought to
answer, worked out directly.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from penstock_runtime.backends.ensemble import LoadedEnsemble
from penstock_runtime.batch import BatchPlan
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput, TransactionPolicy
from penstock_runtime.config_scheduling import EnsembleStep, Ensembling
from penstock_runtime.datatype import DataType
from penstock_runtime.dispatch import Dispatch, Serving
from penstock_runtime.errors import NotFound
from penstock_runtime.labels import NO_LABELS, Labels
from penstock_runtime.model import Model
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.request import InferRequest, InferResponse, Timing
from penstock_runtime.scheduling.ensemble_agreement import Agreement
from penstock_runtime.scheduling.ensemble_graph import EnsembleGraph
from penstock_runtime.scheduling.ensemble_scheduler import EnsembleScheduler
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import Tensor

INT = DataType.INT64


@dataclass(frozen=True, slots=True)
class Part:
    """A step: the tensors that it reads and makes. `times` are the responses of a decoupled one."""

    reads: tuple[str, ...]
    makes: tuple[str, ...]
    times: int | None = None


@dataclass(frozen=True, slots=True)
class Whole:
    """An ensemble of parts, in the order in which they can be worked out."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parts: tuple[Part, ...]
    limit: int = 0
    config: ModelConfig = field(init=False)
    composing: tuple[ModelConfig, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", ensemble(self))
        models = tuple(part_model(i, part) for i, part in enumerate(self.parts))
        object.__setattr__(self, "composing", models)

    def graph(self) -> EnsembleGraph:
        """Its graph."""
        return EnsembleGraph(self.config, self.composing)


def part_model(index: int, part: Part) -> ModelConfig:
    """The configuration of a part's model: inputs I0, I1 ..., outputs O0, O1 ..."""
    return ModelConfig(
        name=f"m{index}",
        backend="python",
        input=tuple(ModelInput(f"I{i}", INT, (1,)) for i in range(len(part.reads))),
        output=tuple(ModelOutput(f"O{i}", INT, (1,)) for i in range(len(part.makes))),
        model_transaction_policy=TransactionPolicy(part.times is not None),
    )


def step(index: int, part: Part) -> EnsembleStep:
    """Its step."""
    return EnsembleStep(
        f"m{index}",
        input_map={f"I{i}": name for i, name in enumerate(part.reads)},
        output_map={f"O{i}": name for i, name in enumerate(part.makes)},
    )


def ensemble(whole: Whole) -> ModelConfig:
    """The configuration of the whole, "e"."""
    return ModelConfig(
        name="e",
        platform="ensemble",
        input=tuple(ModelInput(name, INT, (1,)) for name in whole.inputs),
        output=tuple(ModelOutput(name, INT, (1,)) for name in whole.outputs),
        ensemble_scheduling=Ensembling(
            tuple(step(index, part) for index, part in enumerate(whole.parts)), whole.limit
        ),
    )


def changed(whole: Whole, index: int, **fields: Any) -> list[ModelConfig]:
    """The models of its steps, one of them with other fields."""
    models = list(whole.composing)
    models[index] = replace(models[index], **fields)
    return models


# -- what the parts do -------------------------------------------------------------------------


def compute(index: int, values: Sequence[int], output: int, response: int = 0) -> int:
    """One output of a part's model: differs by the part, the output, the response and the order of
    the inputs.
    """
    total = sum(value * (position + 2) for position, value in enumerate(values))
    return (total * 7 + index * 13 + output * 5 + response * 3 + 1) % 100_003


def number(name: str, value: int) -> Tensor:
    """A tensor of one number."""
    return Tensor(name, INT, (1,), np.array([value], np.int64))


def expected(whole: Whole, values: Mapping[str, int]) -> list[dict[str, int]]:
    """The responses of the whole, by recursion over its parts."""
    return list(_responses(whole, 0, dict(values)))


def _responses(whole: Whole, at: int, known: dict[str, int]) -> Iterator[dict[str, int]]:
    if at == len(whole.parts):
        yield {name: known[name] for name in whole.outputs}
        return
    part = whole.parts[at]
    read = [known[name] for name in part.reads]
    for response in range(1 if part.times is None else part.times):
        made = {n: compute(at, read, i, response) for i, n in enumerate(part.makes)}
        yield from _responses(whole, at + 1, known | made)


# -- random ones -------------------------------------------------------------------------------


@st.composite
def plain_wholes(draw: st.DrawFn, most: int = 7) -> Whole:
    """Ensembles of ordinary models: any acyclic graph with branches and fan-in."""
    inputs = tuple(f"in{i}" for i in range(draw(st.integers(1, 3))))
    known, parts = list(inputs), []
    for index in range(draw(st.integers(1, most))):
        reads = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
        makes = tuple(f"t{index}_{i}" for i in range(draw(st.integers(1, 2))))
        parts.append(Part(tuple(reads), makes))
        known += makes
    made = [name for name in known if name not in inputs]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    return Whole(inputs, tuple(outputs), tuple(parts), draw(st.integers(0, 2)))


@st.composite
def decoupled_wholes(draw: st.DrawFn, most: int = 6) -> Whole:
    """Ensembles with decoupled models in a chain, ordinary ones that join what comes before with
    what comes after, and an output of the innermost.
    """
    known = ["in0", "in1"]
    parts: list[Part] = []
    last: tuple[str, ...] = ("in0",)
    for index in range(draw(st.integers(1, most))):
        makes = (f"t{index}_0", f"t{index}_1")
        others = draw(st.lists(st.sampled_from(known), max_size=2))
        if draw(st.booleans()) and sum(part.times is not None for part in parts) < 3:
            # It reads of the innermost, so that all decoupled models lie on one way.
            parts.append(Part((last[0], *others), makes, draw(st.integers(0, 3))))
            last = makes
        else:
            parts.append(Part((draw(st.sampled_from(known)), *others), makes))
        known += makes
    outputs = [last[-1] if last != ("in0",) else known[-1]]
    outputs += draw(st.lists(st.sampled_from(known[2:]), max_size=2))
    return Whole(
        ("in0", "in1"), tuple(dict.fromkeys(outputs)), tuple(parts), draw(st.integers(0, 2))
    )


# -- as models that serve ----------------------------------------------------------------------


class FakeServing:
    """A model at the seam of the dispatch: `act` is called with each request and its stream."""

    def __init__(self, config: ModelConfig, act: Callable[["Asked"], None] | None = None) -> None:
        self.config = config
        self.decoupled = config.decoupled
        self.class_labels: Labels = NO_LABELS
        self.healthy = True
        self.loads = (id(self),)
        self.asked: list[Asked] = []
        self._act = act

    def submit(self, request: InferRequest, stream: ResponseStream) -> None:
        """Note the request, and act."""
        asked = Asked(self, request, stream)
        self.asked.append(asked)
        if self._act is not None:
            self._act(asked)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A request that a fake model has got."""

    model: FakeServing
    request: InferRequest
    stream: ResponseStream

    @property
    def values(self) -> list[int]:
        """Its inputs, in the order of their names."""
        return [int(t.numpy()[0]) for t in sorted(self.request.inputs)]

    def answer(self, *values: int, final: bool = True, timing: Timing | None = None) -> bool:
        """Give a response with these outputs."""
        outputs = tuple(number(f"O{i}", value) for i, value in enumerate(values))
        name = self.model.config.name
        response = InferResponse(name, "1", self.request.id, outputs, final=final, timing=timing)
        return self.stream.put(response)

    def end(self) -> None:
        """End a decoupled request."""
        self.stream.put(InferResponse(self.model.config.name, "1", empty=True))

    def compute(self, part: Part) -> None:
        """Answer as the part of this model does."""
        index = int(self.model.config.name.removeprefix("m"))
        for response in range(1 if part.times is None else part.times):
            outputs = range(len(part.makes))
            values = [compute(index, self.values, i, response) for i in outputs]
            self.answer(*values, final=part.times is None)
        if part.times is not None:
            self.end()


class Served:
    """An ensemble whose steps' models are fakes; `models` are by name and may be changed."""

    def __init__(
        self, whole: Whole, act: Callable[[Asked], None] | None = None, **fields: Any
    ) -> None:
        self.models = {config.name: FakeServing(config, act) for config in whole.composing}
        self.dispatch = Dispatch()
        self.dispatch.bind(self.find)
        graph = whole.graph()
        decoupled = TransactionPolicy(graph.decoupled)
        self.config = replace(whole.config, model_transaction_policy=decoupled, **fields)
        self.statistics = ModelStatistics("e", 1, decoupled=graph.decoupled)
        form = BatchPlan(self.config, 1)
        self.scheduler = EnsembleScheduler(
            self.config,
            graph,
            Agreement(self.config, whole.composing),
            form,
            self.dispatch,
            self.statistics,
        )
        loaded = LoadedEnsemble("e")
        self.model = Model(self.config, 1, loaded, self.scheduler, (), self.statistics)

    def find(self, name: str, version: str) -> Serving:
        """What serves under a name."""
        if name not in self.models:
            raise NotFound(f"Request for unknown model: '{name}' is not found")
        return self.models[name]

    def ask(self, stream: ResponseStream | None = None, **more: Any) -> ResponseStream:
        """A request with the numbers 3, 10, 21 as its inputs; its stream."""
        stream = stream if stream is not None else ResponseStream()
        names = zip((declared.name for declared in self.config.input), (3, 10, 21), strict=False)
        inputs = tuple(number(name, value) for name, value in names)
        self.model.submit(InferRequest("e", inputs, **{"id": "r", **more}), stream)
        return stream

    def next(self, name: str) -> Asked:
        """The oldest request that a model has got and nobody has looked at."""
        return self.models[name].asked.pop(0)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Successes, failures, and requests inside."""
        found = self.statistics.snapshot()
        return found.success.count, found.fail.count, self.model.unanswered


def numbers(stream: ResponseStream) -> list[dict[str, int]]:
    """The responses of a stream that has ended, those that carry outputs."""
    return [
        {tensor.name: int(tensor.numpy()[0]) for tensor in response.outputs}
        for response in stream.collect(10)
        if not response.empty
    ]
