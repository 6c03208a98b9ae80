"""What the code of a model may use of the server that runs it: other models, their loading and
unloading, and metrics of its own. One for all models of a server.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from penstock_runtime.dispatch import Dispatch
from penstock_runtime.errors import Unavailable
from penstock_runtime.llm.calls import Calls
from penstock_runtime.observability.custom_metrics import CustomMetrics
from penstock_runtime.observability.engine_metrics import EngineBook
from penstock_runtime.repository.overrides import LoadOverrides
from penstock_runtime.wait_graph import WaitGraph

Reading = Callable[[str, int, int], None]
"""Told, from any thread, how many bytes of how many are read of a model's weights."""


class Repository(Protocol):
    """Where models come and go."""

    def load(self, name: str, overrides: LoadOverrides) -> None:
        """Load or reload; returns once the new version serves."""

    def unload(self, name: str, unload_dependents: bool = False) -> None:
        """Take the model out of service."""


class Control:
    """Loads and unloads models. `bind` it before the first model is loaded."""

    def __init__(self) -> None:
        self._repository: Repository | None = None

    def bind(self, repository: Repository) -> None:
        """From now on models are loaded there."""
        self._repository = repository

    @property
    def repository(self) -> Repository:
        """Where models are loaded; Unavailable before there is one."""
        if self._repository is None:
            raise Unavailable("models cannot be loaded before the repository is open")
        return self._repository


@dataclass(frozen=True, slots=True)
class ModelServices:
    """`waits` knows which instance waits for which model, `loads` which load for which; `engines`
    are those of language models, whose requests are recorded in `calls`; `reading` is told how far
    large weights are read.
    """

    dispatch: Dispatch
    metrics: CustomMetrics
    control: Control = field(default_factory=Control)
    waits: WaitGraph = field(default_factory=WaitGraph)
    loads: WaitGraph = field(default_factory=WaitGraph)
    engines: EngineBook = field(default_factory=EngineBook)
    calls: Calls | None = None
    reading: Reading | None = None
