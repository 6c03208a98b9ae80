"""The backend of ensembles, which have no code and no instances: all there is to load of one is its
configuration.
"""

from collections.abc import Mapping
from dataclasses import replace

from penstock_runtime.backends.base import Executable, LoadedModel, ModelSource, Placement
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import Internal


class EnsembleBackend:
    """Models that are made of other models."""

    name = "ensemble"
    uses_gpu = False

    def recognises(self, source: ModelSource) -> bool:
        """Whether the configuration has steps; the files do not matter."""
        return source.config.ensemble_scheduling is not None

    def complete(self, source: ModelSource) -> ModelConfig:
        """The configuration under Triton's name for its kind."""
        return replace(source.config, platform=source.config.platform or self.name)

    def load(self, source: ModelSource) -> LoadedModel:
        """Nothing that takes memory."""
        return LoadedEnsemble(source.config.name)


class LoadedEnsemble:
    """An ensemble as the rest of a model sees what was loaded."""

    def __init__(self, name: str) -> None:
        self._name = name

    def executable(self, placement: Placement) -> Executable:
        """Nothing is executed here."""
        raise Internal(f"ensemble '{self._name}' has no instance '{placement.name}'")

    def close(self) -> None:
        """There is nothing to give back."""

    def memory_bytes(self) -> Mapping[str, int]:
        """The models of the steps count their own."""
        return {}
