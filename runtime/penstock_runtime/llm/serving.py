"""What a folder that generates is served as: its configuration, and the engine behind it."""

from penstock_runtime.backends.base import LoadedModel, ModelSource
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import Unsupported


def complete_generative(source: ModelSource) -> ModelConfig:
    """The configuration of a model that generates."""
    raise _missing(source)


def load_generative(source: ModelSource) -> LoadedModel:
    """A model that generates."""
    raise _missing(source)


def _missing(source: ModelSource) -> Unsupported:
    return Unsupported(f"model '{source.config.name}' generates, which is not there yet")
