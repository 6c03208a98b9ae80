"""The backend for models of TorchServe: a `.mar` archive or its content, called through its handler
without TorchServe's server.

With torchserve installed handlers get its own classes, else a stand-in for the few that most use.
"""

from penstock_runtime.backends.base import LoadedModel, ModelSource
from penstock_runtime.backends.host import prepare_openmp, torch_uses_gpus
from penstock_runtime.backends.torchserve.completion import complete_config
from penstock_runtime.backends.torchserve.files import find_settings, recognises
from penstock_runtime.backends.torchserve.model import load
from penstock_runtime.config import ModelConfig


class TorchServeBackend:
    """Models of TorchServe, executed in this process."""

    name = "torchserve"
    aliases = ()

    @property
    def uses_gpu(self) -> bool:
        """Whether the installed torch is built for it."""
        return torch_uses_gpus()

    def recognises(self, source: ModelSource) -> bool:
        """Whether the version directory holds a .mar, or a MAR-INF/MANIFEST.json."""
        return recognises(source)

    def complete(self, source: ModelSource) -> ModelConfig:
        """The configuration with what manifest and configuration files say; no code runs."""
        return complete_config(source.config, find_settings(source), self.name)

    def load(self, source: ModelSource) -> LoadedModel:
        """The model, unpacked into a private folder until it is closed."""
        prepare_openmp()
        return load(source)
