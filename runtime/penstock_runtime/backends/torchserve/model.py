"""A TorchServe model in memory: its unpacked files, its code, and a handler per instance."""

import logging
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from penstock_runtime.backends.base import AnyExecutable, ModelSource, Placement
from penstock_runtime.backends.failure import load_failure
from penstock_runtime.backends.module_loader import ModelModules
from penstock_runtime.backends.torchserve.files import ModelFolder, find_settings, unpack
from penstock_runtime.backends.torchserve.handler import importable, load_module, make_handler
from penstock_runtime.backends.torchserve.instance import TorchServeExecutable
from penstock_runtime.backends.torchserve.package import Package, find_package
from penstock_runtime.backends.torchserve.rows import RowPlan
from penstock_runtime.backends.torchserve.settings import Settings
from penstock_runtime.backends.torchserve.stand_in.context import Metrics
from penstock_runtime.errors import PenstockError

_log = logging.getLogger("penstock.model")

# What handlers are told is the server's version: that of the interface which they are given.
VERSION = "0.12.0"


class LoadedTorchServe:
    """One version of a TorchServe model."""

    def __init__(
        self,
        source: ModelSource,
        settings: Settings,
        folder: ModelFolder,
        modules: ModelModules,
        package: Package,
    ) -> None:
        self._source = source
        self._settings = settings
        self._folder = folder
        self._modules = modules
        self._package = package
        self._plan = RowPlan(source.config)
        self._module: ModuleType | None = None

    def executable(self, placement: Placement) -> AnyExecutable:
        """A new instance: a handler is made and initialised in the calling thread."""
        name = self._source.config.name
        context = self._context(placement)
        try:
            with importable(self._folder.path):
                handler = make_handler(name, self._settings, self._executed())
                handler.initialize(context)
        except PenstockError:
            raise
        except (Exception, SystemExit) as error:
            raise load_failure(error, name, "initialize") from error
        return TorchServeExecutable(self._plan, handler, context, self._package.processor)

    def memory_bytes(self) -> Mapping[str, int]:
        """Nothing: what a handler allocates is its own affair."""
        return {}

    def close(self) -> None:
        """Drop the code, and remove what was unpacked."""
        self._module = None
        self._modules.close()
        self._folder.close()

    def _executed(self) -> ModuleType:
        # Under the lock of `importable`: of several instances one executes the file.
        if self._module is None:
            self._module = load_module(
                self._source.config.name,
                self._settings,
                self._folder.path,
                self._modules,
                self._package,
            )
        return self._module

    def _context(self, placement: Placement) -> Any:
        config, settings = self._source.config, self._settings
        return self._package.context(
            config.name,
            str(self._folder.path),
            settings.manifest,
            max(1, config.max_batch_size),
            placement.device_id if placement.kind == "KIND_GPU" else None,
            VERSION,
            metrics=Metrics(),
            model_yaml_config=dict(settings.document),
        )


def load(source: ModelSource) -> LoadedTorchServe:
    """Unpack the archive and find its package; the handler's code runs with the first instance."""
    settings = find_settings(source)
    if needed := settings.manifest["model"].get("requirementsFile"):
        _log.warning(
            "model '%s' brings %s: nothing is installed for a model; what is not there already"
            " fails when it is imported",
            source.config.name,
            str(needed)[:64],
        )
    package = find_package()
    folder = unpack(source)
    try:
        modules = ModelModules(folder.path, package.provided)
    except BaseException:
        folder.close()
        raise
    return LoadedTorchServe(source, settings, folder, modules, package)
