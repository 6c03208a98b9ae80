"""What an ensemble knows of the models that it is made of: found when it is loaded, held against
its configuration, and asked for their labels and their health while it serves.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice

from penstock_runtime.config import ModelConfig
from penstock_runtime.config_check_ensemble import (
    circle,
    composing_problems,
    part_names,
    step_names,
    steps_of,
)
from penstock_runtime.config_scheduling import EnsembleStep
from penstock_runtime.config_schema import FAULT_LIMIT
from penstock_runtime.dispatch import Dispatch, Serving
from penstock_runtime.errors import (
    FailedPrecondition,
    InvalidArgument,
    PenstockError,
    Violation,
)
from penstock_runtime.labels import Labels
from penstock_runtime.model import Model
from penstock_runtime.scheduling.ensemble_agreement import Agreement
from penstock_runtime.scheduling.ensemble_scheduler import MOST_DEPTH

_asked = threading.local()


class EnsembleModel(Model):
    """One version of an ensemble that serves. `composing` and `agreement` are set by whoever makes
    it.
    """

    composing: "ComposingModels"
    agreement: Agreement

    @property
    def healthy(self) -> bool:
        """Whether the model of every step serves, fits and can execute."""
        return self.composing.are_healthy(self.agreement)

    @property
    def loads(self) -> tuple[int, ...]:
        """Its own and those of the models of its steps."""
        return (*super().loads, *self.composing.loads())


class ComposingModels:
    """The models of one ensemble's steps, whichever serve at the moment."""

    def __init__(self, config: ModelConfig, dispatch: Dispatch) -> None:
        self._name = config.name
        self._dispatch = dispatch
        self._steps = [
            replace(step, model_name=self._served(names))
            for step, names in zip(steps_of(config), step_names(config), strict=True)
        ]

    def _served(self, names: Sequence[str]) -> str:
        """The first of these names under which a model serves; else the last."""
        for name in names[:-1]:
            try:
                self._dispatch.model(name)
            except PenstockError:
                continue
            return name
        return names[-1]

    @property
    def names(self) -> list[str]:
        """The names under which the steps' models serve, in order."""
        return [step.model_name for step in self._steps]

    def model(self, step: EnsembleStep) -> Serving:
        """The model that serves a step; NotFound or Unavailable if none."""
        version = "" if step.model_version == -1 else str(step.model_version)
        return self._dispatch.model(step.model_name, version)

    def maker(self, index: int) -> Serving:
        """The model that serves the step of this index."""
        return self.model(self._steps[index])

    def configs(self) -> list[ModelConfig]:
        """The configurations of the steps' models. InvalidArgument names a step that has none."""
        found: list[ModelConfig] = []
        for index, step in enumerate(self._steps):
            try:
                found.append(self.model(step).config)
            except PenstockError as error:
                version = f" version {step.model_version}" if step.model_version != -1 else ""
                raise InvalidArgument(
                    f"ensemble '{self._name}' needs model '{step.model_name}'{version} for step "
                    f"{index}, which does not serve: {error.message}",
                    reason="STEP_NOT_READY",
                ) from error
        return found

    def check(self, config: ModelConfig, composing: Sequence[ModelConfig]) -> None:
        """InvalidArgument for steps that do not fit their models, or lead back to the ensemble."""
        found = circle(self._name, lambda name: self._names(config, name))
        if found:
            raise InvalidArgument(f"ensemble '{self._name}' contains itself: {' -> '.join(found)}")
        problems = composing_problems(config, composing)
        errors = list(islice((p for p in problems if p.severity == "error"), FAULT_LIMIT))
        if errors:
            raise InvalidArgument(
                f"{errors[0].field}: {errors[0].message}",
                reason="INVALID_MODEL_CONFIG",
                violations=tuple(Violation(p.field, p.message) for p in errors),
            )

    def _names(self, config: ModelConfig, name: str) -> list[str]:
        """The models that one is made of, the ensemble's own as it is about to be."""
        try:
            of = config if name == self._name else self._dispatch.model(name).config
        except PenstockError:
            return []
        return list(part_names(of))

    def are_healthy(self, agreement: Agreement) -> bool:
        """Whether the model of every step serves, fits and can execute."""
        try:
            with _one_deeper():
                models = list(map(self.model, self._steps))
                return not any(map(agreement.problem, count(), models)) and all(
                    model.healthy for model in models
                )
        except PenstockError:
            return False

    def loads(self) -> tuple[int, ...]:
        """The loads of the models that serve; none while one is missing, which answers nothing."""
        try:
            with _one_deeper():
                models = map(self.model, self._steps)
                return tuple(number for model in models for number in model.loads)
        except PenstockError:
            return ()


@contextmanager
def _one_deeper() -> Iterator[None]:
    """Ask the models of an ensemble something that ensembles ask theirs. FailedPrecondition when
    that leads too deep: two loads at a time can make a circle that neither of them saw.
    """
    depth = getattr(_asked, "depth", 0)
    if depth >= MOST_DEPTH:
        raise FailedPrecondition(f"ensembles are {depth} deep in each other")
    _asked.depth = depth + 1
    try:
        yield
    finally:
        _asked.depth = depth


class ComposedLabels(Mapping[str, tuple[bytes, ...]]):
    """The labels of an ensemble's outputs: its own, or those of the models that make them."""

    def __init__(self, config: ModelConfig, own: Labels, models: ComposingModels) -> None:
        self._own = own
        self._models = models
        self._makers = {
            name: (index, output)
            for index, step in enumerate(steps_of(config))
            for output, name in step.output_map.items()
            if config.find_output(name) is not None and name not in own
        }

    def __getitem__(self, name: str) -> tuple[bytes, ...]:
        if name in self._own:
            return self._own[name]
        index, output = self._makers[name]
        # Looked up when they are asked for: the model may have been loaded again.
        return self._models.maker(index).class_labels[output]

    def get(self, name: str, default: tuple[bytes, ...] = ()) -> tuple[bytes, ...]:  # type: ignore[override]
        """The labels of an output; the default too where its model does not serve."""
        try:
            return self[name]
        except (KeyError, PenstockError):
            return default

    def __iter__(self) -> Iterator[str]:
        return iter((*self._own, *self._makers))

    def __len__(self) -> int:
        return len(self._own) + len(self._makers)
