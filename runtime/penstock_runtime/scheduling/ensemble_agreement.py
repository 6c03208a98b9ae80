"""Whether the models that serve the steps of an ensemble still are what its graph was made for:
each may have been loaded again since, as another one.
"""

from collections.abc import Sequence
from weakref import ReferenceType, ref

from penstock_runtime.config import ModelConfig
from penstock_runtime.config_check_ensemble import declarations, step_problems
from penstock_runtime.dispatch import Serving


class Agreement:
    """What an ensemble and its models, `composing` by step, agreed on when it was loaded."""

    def __init__(self, config: ModelConfig, composing: Sequence[ModelConfig]) -> None:
        self._config = config
        self._declared = declarations(config, composing)
        self._decoupled = [model.decoupled for model in composing]
        # Weakly: a model must not be kept in memory when it is replaced.
        self._found: dict[int, tuple[ReferenceType[Serving], str]] = {}

    def problem(self, index: int, model: Serving) -> str:
        """What does not fit between a step and the model that serves it; "" if all does."""
        known = self._found.get(index)
        if known is not None and known[0]() is model:
            return known[1]
        text = self._look(index, model)
        self._found[index] = (ref(model), text)
        return text

    def _look(self, index: int, model: Serving) -> str:
        if model.decoupled is not self._decoupled[index]:
            return f"it is {'decoupled' if model.decoupled else 'not decoupled'} now"
        found = step_problems(self._config, index, model.config, self._declared)
        return next((problem.message for problem in found if problem.severity == "error"), "")

    def __repr__(self) -> str:
        return f"<Agreement of '{self._config.name}' with {len(self._decoupled)} models>"
