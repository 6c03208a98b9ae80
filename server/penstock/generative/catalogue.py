"""Which language models a server has, and which of them a caller means."""

from collections.abc import Iterable
from enum import Enum

from penstock.auth.caller import Permit
from penstock.generative.adapters import Adapted, adapted
from penstock_runtime.config import ModelConfig
from penstock_runtime.core import InferenceCore
from penstock_runtime.errors import InvalidArgument, NotFound, Violation
from penstock_runtime.model import Model

SAMPLING = "sampling_parameters"
_FEW = 16
"""How many names an error lists."""


class Task(Enum):
    """What a language model is for; the value is what it does, in the words of an error."""

    GENERATE = "generates text"
    EMBED = "gives embeddings"
    RERANK = "scores a document for a query"


def task_of(config: ModelConfig) -> Task | None:
    """What a model is for, by the names of its tensors; None if it is no language model."""
    if config.find_input(SAMPLING) is not None and config.find_output("text_output") is not None:
        return Task.GENERATE
    if config.find_output("embedding") is not None and config.find_input("text_input") is not None:
        return Task.EMBED
    if config.find_output("score") is not None and config.find_input("document") is not None:
        return Task.RERANK
    return None


class Catalogue:
    """The language models of one server, as they come and go."""

    def __init__(self, core: InferenceCore) -> None:
        self._core = core

    def models(self, permit: Permit, tasks: Iterable[Task] = Task) -> list[Model]:
        """Those that the caller may use, each in the version that serves, by name."""
        wanted = frozenset(tasks)
        found: dict[str, Model] = {}
        for model in self._core.repository.models():
            name = model.config.name
            if task_of(model.config) in wanted and permit.sees(name):
                other = found.get(name)
                found[name] = model if other is None or other.version < model.version else other
        return [found[name] for name in sorted(found)]

    def choose(self, permit: Permit, name: str, task: Task) -> Model:
        """The model of this name; with "" the only one that there is for the task.

        NotFound, PermissionDenied, Unavailable, or InvalidArgument for a model that is for other
        things and for a choice among several.
        """
        if not name:
            return self._only(permit, task)
        permit.check(name)
        model = self._core.model(name)
        if task_of(model.config) is not task:
            others = self._listed(permit, task)
            _refuse(f"model '{name}' is not one that {task.value}, expected one of: {others}")
        return model

    def choose_adapted(self, permit: Permit, name: str) -> tuple[Model, str]:
        """A model that generates, and the adapter in a name such as `model:adapter`, or in one that
        is an adapter's.
        """
        known = self._names()
        base, _, adapter = name.partition(":")
        if name not in known and adapter and base in known:
            return self.choose(permit, base, Task.GENERATE), adapter
        if name and name not in known:
            for each in self.adapted(permit):
                if each.id == name:
                    return each.model, each.adapter
        return self.choose(permit, name, Task.GENERATE), ""

    def adapted(self, permit: Permit) -> list[Adapted]:
        """The adapters of the models that generate and that the caller may use."""
        return adapted(self.models(permit, (Task.GENERATE,)), self._names())

    def _names(self) -> set[str]:
        return {model.config.name for model in self._core.repository.models()}

    def _only(self, permit: Permit, task: Task) -> Model:
        models = self.models(permit, (task,))
        if not models:
            raise NotFound(f"there is no model here that {task.value}")
        if len(models) > 1:
            _refuse(f"'model' is not given, expected one of: {self._listed(permit, task)}")
        return models[0]

    def _listed(self, permit: Permit, task: Task) -> str:
        names = [model.config.name for model in self.models(permit, (task,))]
        more = len(names) - _FEW
        return ", ".join(names[:_FEW]) + (f" and {more} more" if more > 0 else "") or "none"


def _refuse(text: str) -> None:
    raise InvalidArgument(text, violations=(Violation("model", text),))
