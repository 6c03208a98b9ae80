"""A Triton model in memory: its class, and one object of it per instance."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

from penstock_runtime.backends.async_runner import AsyncRunner
from penstock_runtime.backends.base import AnyExecutable, ModelSource, Placement
from penstock_runtime.backends.failure import load_failure
from penstock_runtime.backends.module_loader import ModelModules
from penstock_runtime.backends.triton_python.handover import Handover
from penstock_runtime.backends.triton_python.instance import TritonExecutable
from penstock_runtime.backends.triton_python.orphans import ORPHANS
from penstock_runtime.backends.triton_python.scope import HOSTS, Host, Scope, entered
from penstock_runtime.config_reader import config_to_dict
from penstock_runtime.errors import InvalidArgument, PenstockError, Unavailable


class LoadedTriton:
    """One version of a Triton model."""

    def __init__(self, source: ModelSource, modules: ModelModules, target: Any) -> None:
        name = source.config.name
        execute = getattr(target, "execute", None)
        if not callable(execute):
            raise InvalidArgument(f"model '{name}': class TritonPythonModel has no execute()")
        self._source = source
        self._modules = modules
        self._target: Any = target
        self._handover = Handover(source.config, modules.imported)
        self._runner = AsyncRunner(name) if inspect.iscoroutinefunction(execute) else None
        self._hosts: set[Host] = set()
        ORPHANS.watch()

    def executable(self, placement: Placement) -> AnyExecutable:
        """A new instance, initialised in the calling thread."""
        target, source = self._target, self._source
        if target is None:
            raise Unavailable(f"model '{source.config.name}' has been closed")
        host = self._enter(placement)
        doing = "__init__"
        try:
            with entered(Scope(host, loads=True)):
                made = target()
                doing = "initialize"
                initialize = getattr(made, "initialize", None)
                if initialize is not None:
                    initialize(instance_args(source, placement))
        except PenstockError:
            raise
        except (Exception, SystemExit) as error:
            raise load_failure(error, source.config.name, doing) from error
        return TritonExecutable(made, host, self._handover, self._runner, self._leave)

    def _enter(self, placement: Placement) -> Host:
        source = self._source
        services = source.services
        lending, folder = self._handover.lending, str(source.directory)
        name, version = source.config.name, source.version
        host = Host(name, version, services, folder, lending, placement.name)
        self._hosts.add(host)
        HOSTS.add(host)
        if services is not None:
            services.waits.add_instance(host.key)
        return host

    def _leave(self, host: Host) -> None:
        """An instance is gone; more than once does no harm."""
        try:
            self._hosts.remove(host)
        except KeyError:
            return
        HOSTS.remove(host)
        services = self._source.services
        if services is not None:
            services.waits.remove_instance(host.key)
            services.metrics.release(host)

    def close(self) -> None:
        """End the event loop, and forget the code and its metrics."""
        if self._runner is not None:
            self._runner.close()
        for host in tuple(self._hosts):
            self._leave(host)
        self._target = None
        self._modules.close()

    def memory_bytes(self) -> Mapping[str, int]:
        """Nothing: what a model allocates is its own affair."""
        return {}


def instance_args(source: ModelSource, placement: Placement) -> dict[str, str]:
    """What `initialize` is told, all of it text."""
    return {
        "model_config": json.dumps(config_to_dict(source.config, full=True)),
        "model_instance_kind": placement.kind.removeprefix("KIND_"),
        "model_instance_device_id": str(placement.device_id),
        "model_instance_name": placement.name,
        "model_repository": str(source.root),
        "model_version": str(source.version),
        "model_name": source.config.name,
    }
