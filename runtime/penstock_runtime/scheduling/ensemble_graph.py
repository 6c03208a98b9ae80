"""The graph of an ensemble: which step makes which tensor, which one reads it, and in how many
copies a tensor comes into being during one request. Made once, of configurations only; pure.

A decoupled step gives any number of responses. Each of them opens a frame of its own, in which the
steps after it are executed once; a step that also reads tensors from before the decoupled step gets
those in every frame. So the decoupled steps make a tree of scopes, and whatever is read together
must lie on one way through that tree: otherwise nobody could say which response goes with which.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from penstock_runtime.config import ModelConfig
from penstock_runtime.config_check_sequence import ensemble_problems
from penstock_runtime.errors import InvalidArgument

ROOT = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One step: pairs of the model's own name and the ensemble's tensor, in and out.

    It is executed in frames of `scope`, and its outputs lie in `opens`: the same, unless it is
    decoupled. `asks` are the outputs to ask for, empty for all; `writes` says that the model may
    write to its inputs, `keeps` that others may have its outputs too.
    """

    index: int
    model: str
    version: str
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    decoupled: bool
    writes: bool = False
    keeps: bool = False
    scope: int = ROOT
    opens: int = ROOT
    asks: tuple[str, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The ensemble's tensors that it needs, each once."""
        return tuple(dict.fromkeys(tensor for _, tensor in self.inputs))

    def __str__(self) -> str:
        return f"step {self.index} '{self.model}'"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one kind of request needs of a graph: its steps, by index, and who uses what.

    `uses` counts how often a tensor is waited for in its own frame: by each step, by each scope
    below that reads it, and by the caller. `below` are the tensors of a scope (first) that a scope
    right under it (second) reads, there or deeper. `private` are the tensors whose memory is surely
    nobody else's, whatever the models return. `emits` is the scope each of whose frames makes
    one response, `way` the scopes from the root to it.
    """

    steps: Mapping[int, Step]
    outputs: tuple[str, ...]
    in_scope: Mapping[int, tuple[Step, ...]]
    readers: Mapping[str, tuple[Step, ...]]
    makers: Mapping[str, Step]
    uses: Mapping[str, int]
    below: Mapping[tuple[int, int], tuple[str, ...]]
    scopes: Mapping[str, int]
    private: frozenset[str]
    emits: int
    way: tuple[int, ...]


class EnsembleGraph:
    """The graph of one ensemble. `composing` are the configurations of its steps' models, in order,
    and `names` those under which they serve, if these are others.

    InvalidArgument for what is wrong with the configuration, or cannot be told apart when it runs.
    """

    def __init__(
        self,
        config: ModelConfig,
        composing: Sequence[ModelConfig],
        names: Sequence[str] | None = None,
    ) -> None:
        for problem in ensemble_problems(config):
            if problem.severity == "error":
                raise InvalidArgument(f"{problem.field}: {problem.message}")
        self.name = config.name
        self.inputs = {tensor.name: tensor for tensor in config.input}
        self.outputs = tuple(tensor.name for tensor in config.output)
        self.parents: list[int] = [ROOT]
        self._opened_by: dict[int, Step] = {}
        self._scopes: dict[str, int] = dict.fromkeys(self.inputs, ROOT)
        self.steps = self._placed(_steps(config, composing, names))
        self.makers = {tensor: step for step in self.steps for _, tensor in step.outputs}
        self._deepest([self._scopes[name] for name in self.outputs], self.outputs, "the outputs")
        self._all_outputs = [frozenset(o.name for o in model.output) for model in composing]

    @property
    def decoupled(self) -> bool:
        """Whether a request may get any number of responses."""
        return any(step.decoupled for step in self.steps)

    # -- scopes ----------------------------------------------------------------------------------

    def _placed(self, steps: Sequence[Step]) -> tuple[Step, ...]:
        """The steps with their scopes, worked out from the inputs on."""
        placed: dict[int, Step] = {}
        while len(placed) < len(steps):
            for step in steps:
                if step.index in placed or not all(t in self._scopes for t in step.reads):
                    continue
                placed[step.index] = self._place(step)
        return tuple(placed[index] for index in sorted(placed))

    def _place(self, step: Step) -> Step:
        scope = self._deepest([self._scopes[t] for t in step.reads], step.reads, f"{step} reads")
        opens = scope
        if step.decoupled:
            opens = len(self.parents)
            self.parents.append(scope)
        placed = replace(step, scope=scope, opens=opens)
        if step.decoupled:
            self._opened_by[opens] = placed
        for _, tensor in step.outputs:
            self._scopes[tensor] = opens
        return placed

    def _deepest(self, scopes: Sequence[int], names: Sequence[str], who: str) -> int:
        """The scope that lies below all the others; InvalidArgument where there is none."""
        found, found_name = ROOT, ""
        for scope, name in zip(scopes, names, strict=True):
            if found in self.way(scope):
                found, found_name = scope, name
            elif scope not in self.way(found):
                one, other = self._opened_by[found], self._opened_by[scope]
                raise InvalidArgument(
                    f"ensemble '{self.name}': {who} '{found_name}' and '{name}', which come from "
                    f"different decoupled models ({one} and {other}): their responses cannot be "
                    "told which belongs to which"
                )
        return found

    def way(self, scope: int) -> tuple[int, ...]:
        """The scopes from the root to this one."""
        found = [scope]
        while found[-1] != ROOT:
            found.append(self.parents[found[-1]])
        return tuple(reversed(found))

    # -- what a request needs --------------------------------------------------------------------

    def plan(self, wanted: Collection[str], absent: Collection[str] = ()) -> Plan:
        """What a request needs that wants these outputs (none: all of them) and brings no inputs of
        the names in `absent`.

        As in Triton, a step is left out when all it makes leads to outputs that are not wanted.
        """
        outputs = tuple(name for name in self.outputs if not wanted or name in wanted)
        left_out = self._left_out(outputs)
        kept = [_without(s, absent) for s in self.steps if s.index not in left_out]
        readers = {
            tensor: tuple(step for step in kept if tensor in step.reads) for tensor in self._scopes
        }
        used = {tensor for tensor, by in readers.items() if by or tensor in outputs}
        steps = {step.index: self._asking(step, used) for step in kept}
        emits = self._deepest([self._scopes[name] for name in outputs], outputs, "the outputs")
        below = self._below(readers)
        uses = self._uses(readers, below, outputs)
        return Plan(
            steps=steps,
            outputs=outputs,
            in_scope={
                scope: tuple(step for step in steps.values() if step.scope == scope)
                for scope in range(len(self.parents))
            },
            readers={t: tuple(steps[s.index] for s in by) for t, by in readers.items()},
            makers=self.makers,
            uses=uses,
            below=below,
            scopes=self._scopes,
            private=self._private(readers, uses),
            emits=emits,
            way=self.way(emits),
        )

    def _left_out(self, outputs: Collection[str]) -> set[int]:
        """Indices of the steps that make nothing but what leads to outputs that are not wanted."""
        readers = {t: [s.index for s in self.steps if t in s.reads] for t in self._scopes}
        left_out: set[int] = set()

        def in_vain(tensor: str) -> bool:
            leads_on = tensor in self.outputs or bool(readers[tensor])
            return tensor not in outputs and leads_on and left_out.issuperset(readers[tensor])

        before = -1
        while len(left_out) != before:
            before = len(left_out)
            left_out |= {s.index for s in self.steps if all(in_vain(t) for _, t in s.outputs)}
        return left_out

    def _asking(self, step: Step, used: Collection[str]) -> Step:
        """The step with what to ask its model for: of some outputs that are not used, the rest."""
        own = tuple(name for name, tensor in step.outputs if tensor in used)
        asks_all = not own or set(own) == self._all_outputs[step.index]
        return replace(step, asks=() if asks_all else own)

    def _below(
        self, readers: Mapping[str, Sequence[Step]]
    ) -> dict[tuple[int, int], tuple[str, ...]]:
        found: dict[tuple[int, int], list[str]] = {}
        for tensor, by in readers.items():
            scope = self._scopes[tensor]
            ways = [self.way(step.scope) for step in by if step.scope != scope]
            for child in {way[way.index(scope) + 1] for way in ways}:
                found.setdefault((scope, child), []).append(tensor)
        return {key: tuple(names) for key, names in found.items()}

    def _uses(
        self,
        readers: Mapping[str, Sequence[Step]],
        below: Mapping[tuple[int, int], Sequence[str]],
        outputs: Collection[str],
    ) -> dict[str, int]:
        uses = {
            tensor: sum(step.scope == self._scopes[tensor] for step in by)
            for tensor, by in readers.items()
        }
        for names in below.values():
            for tensor in names:
                uses[tensor] += 1
        for name in outputs:
            uses[name] += 1
        return uses

    def _private(
        self, readers: Mapping[str, Sequence[Step]], uses: Mapping[str, int]
    ) -> frozenset[str]:
        """Tensors that one step alone reads, once, and whose model can have returned no memory but
        its own or such a tensor's.
        """
        private: set[str] = set()
        # In the order of the scopes' working out a maker's inputs come before its outputs.
        for tensor, scope in self._scopes.items():
            by, maker = readers[tensor], self.makers.get(tensor)
            once = len(by) == 1 and uses[tensor] == 1 and by[0].scope == scope
            twice = once and sum(name == tensor for _, name in by[0].inputs) > 1
            alone = maker is None or (private.issuperset(maker.reads) and not maker.keeps)
            if once and alone and not twice:
                private.add(tensor)
        return frozenset(private)

    def __repr__(self) -> str:
        return f"<EnsembleGraph of '{self.name}', {len(self.steps)} steps>"


def _steps(
    config: ModelConfig, composing: Sequence[ModelConfig], names: Sequence[str] | None
) -> list[Step]:
    ensemble = config.ensemble_scheduling
    if ensemble is None:
        raise InvalidArgument(f"model '{config.name}' is no ensemble")
    return [
        Step(
            index,
            step.model_name if names is None else names[index],
            "" if step.model_version == -1 else str(step.model_version),
            tuple(step.input_map.items()),
            tuple(step.output_map.items()),
            model.decoupled,
            _may_write(model),
            _may_keep(model),
        )
        for index, (step, model) in enumerate(zip(ensemble.step, composing, strict=True))
    ]


def _may_write(model: ModelConfig) -> bool:
    """Whether the model may write to the arrays that it is given.

    What is handed over is read-only, but torch knows no such memory, and what stands inside another
    ensemble is not known here.
    """
    return model.ensemble_scheduling is not None or "torch" in model.backend


def _may_keep(model: ModelConfig) -> bool:
    """Whether what the model answers may be memory that others get as well."""
    cache = model.response_cache
    return model.ensemble_scheduling is not None or (cache is not None and cache.enable)


def _without(step: Step, absent: Collection[str]) -> Step:
    if not absent:
        return step
    return replace(step, inputs=tuple(pair for pair in step.inputs if pair[1] not in absent))
