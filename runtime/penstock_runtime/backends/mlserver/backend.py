"""The backend for models of MLServer: `model-settings.json` and a class that derives from
mlserver.MLModel, executed with mlserver's own types and codecs and without its server.

mlserver is imported when the first such model is completed or loaded, not before.
"""

from penstock_runtime.backends.base import LoadedModel, ModelSource
from penstock_runtime.backends.host import prepare_openmp
from penstock_runtime.backends.mlserver.classes import (
    PREFIX,
    check_pickle_allowed,
    find_class,
    streams_only,
)
from penstock_runtime.backends.mlserver.completion import complete_config
from penstock_runtime.backends.mlserver.model import LoadedMLServer
from penstock_runtime.backends.mlserver.settings import Settings, find_settings, has_settings
from penstock_runtime.backends.module_loader import ModelModules
from penstock_runtime.config import ModelConfig


class MLServerBackend:
    """Models of MLServer, executed in this process."""

    name = "mlserver"
    aliases = ()
    uses_gpu = False

    def recognises(self, source: ModelSource) -> bool:
        """Whether the version directory holds a model-settings.json."""
        return has_settings(source)

    def complete(self, source: ModelSource) -> ModelConfig:
        """The configuration with what the settings say; a class of the model's own files is
        executed to see whether it streams.
        """
        settings = find_settings(source)
        streams = not source.config.decoupled and self._streams(source, settings)
        return complete_config(source.config, settings, self.name, streams=streams)

    def load(self, source: ModelSource) -> LoadedModel:
        """Execute the model's files; its one object is made when the first instance asks."""
        settings = find_settings(source)
        check_pickle_allowed(source, settings)
        prepare_openmp()
        modules = ModelModules(source.directory)
        try:
            return LoadedMLServer(source, modules, find_class(source, settings, modules))
        except BaseException:
            modules.close()
            raise

    def _streams(self, source: ModelSource, settings: Settings) -> bool:
        # None of MLServer's runtimes answers with streams only, and they need not be there yet.
        if settings.implementation.startswith(PREFIX):
            return False
        modules = ModelModules(source.directory)
        try:
            return streams_only(find_class(source, settings, modules))
        finally:
            modules.close()
