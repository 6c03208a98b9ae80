"""A model of MLServer in memory: its class, and the one object of it that every instance asks."""

import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from penstock_runtime.backends.async_runner import AsyncRunner
from penstock_runtime.backends.base import AnyExecutable, ModelSource, Placement
from penstock_runtime.backends.failure import load_failure, log_close_failure
from penstock_runtime.backends.host import release_memory
from penstock_runtime.backends.mlserver.classes import import_mlserver
from penstock_runtime.backends.mlserver.instance import (
    Hosted,
    MLServerExecutable,
    MLServerStreamingExecutable,
)
from penstock_runtime.backends.mlserver.messages import MessagePlan
from penstock_runtime.backends.mlserver.settings import SETTINGS_FILE
from penstock_runtime.backends.module_loader import ModelModules
from penstock_runtime.errors import Internal, PenstockError

# How long unload() may take: a model that never ends must not keep a server from doing so.
_UNLOAD_S = 10.0


class LoadedMLServer:
    """One version of a model of MLServer."""

    def __init__(self, source: ModelSource, modules: ModelModules, found: type[Any]) -> None:
        self._source = source
        self._modules = modules
        self._class: type[Any] | None = found
        self._plan = MessagePlan(source.config, import_mlserver("mlserver.types"))
        self._hosted: Hosted | None = None
        self._lock = threading.Lock()

    def executable(self, placement: Placement) -> AnyExecutable:  # noqa: ARG002 - the protocol's
        """A new instance; the first one makes the model's object and awaits its load()."""
        with self._lock:
            if self._hosted is None:
                self._hosted = self._start()
        config = self._source.config
        batched = config.max_batch_size > 0
        if config.decoupled:
            return MLServerStreamingExecutable(self._plan, self._hosted, batched=batched)
        return MLServerExecutable(self._plan, self._hosted, batched=batched)

    def memory_bytes(self) -> Mapping[str, int]:
        """Nothing: what such a model allocates is its own affair."""
        return {}

    def close(self) -> None:
        """Await unload(), end the event loop, drop the code and return memory to the system."""
        hosted, self._hosted, self._class = self._hosted, None, None
        if hosted is not None:
            try:
                ends = time.monotonic() + _UNLOAD_S
                hosted.runner.run(hosted.model.unload(), lambda: time.monotonic() > ends)
            except (Exception, SystemExit) as error:
                log_close_failure(error, self._source.config.name, "unload")
            hosted.runner.close()
        self._modules.close()
        release_memory()

    def _start(self) -> Hosted:
        name = self._source.config.name
        runner = AsyncRunner(name)
        try:
            return self._load(runner)
        except PenstockError:
            runner.close()
            raise
        except (Exception, SystemExit) as error:
            runner.close()
            raise load_failure(error, name, "load") from error

    def _load(self, runner: AsyncRunner) -> Hosted:
        name, found = self._source.config.name, self._class
        assert found is not None, "the model has been closed"
        package = import_mlserver()
        settings = package.ModelSettings.parse_file(str(self._source.directory / SETTINGS_FILE))
        settings.name = name
        entered = partial(import_mlserver("mlserver.context").model_context, settings)
        with entered():
            model = found(settings)
        ready = runner.run(_loaded(model, entered), lambda: False)
        if not ready:
            raise Internal(
                f"load of model '{name}' said that it is not ready", reason="LOAD_FAILED"
            )
        model.ready = True
        return Hosted(model, runner, entered)


async def _loaded(model: Any, entered: Any) -> Any:
    with entered():
        return await model.load()
