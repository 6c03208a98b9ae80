"""A Python model in memory: its code, executed once, and one object per instance."""

import inspect
import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from penstock_runtime.backends.async_runner import AsyncRunner
from penstock_runtime.backends.base import AnyExecutable, ModelSource, Placement
from penstock_runtime.backends.entry import Target
from penstock_runtime.backends.failure import load_failure, log_close_failure
from penstock_runtime.backends.host import release_memory
from penstock_runtime.backends.module_loader import ModelModules
from penstock_runtime.backends.python_instance import (
    CallPlan,
    PythonExecutable,
    PythonStreamingExecutable,
)
from penstock_runtime.errors import PenstockError, Unavailable
from penstock_runtime.model_api import ModelArgs
from penstock_runtime.signature import Signature, method_of


def model_args(source: ModelSource, device: str) -> ModelArgs:
    """What the model is told when it is loaded on a device."""
    config = source.config
    return ModelArgs(
        name=config.name,
        version=source.version,
        directory=source.directory,
        root=source.root,
        device=device,
        parameters=MappingProxyType({k: v.string_value for k, v in config.parameters.items()}),
        config=config,
    )


def construct(target: Any, args: ModelArgs, **attributes: Any) -> Any:
    """An object of the class, its __init__ called with the arguments if it takes any.

    The attributes are set before, so that __init__ already finds them.
    """
    made = target.__new__(target)
    for name, value in attributes.items():
        setattr(made, name, value)
    target.__init__(made, *_wanted(target.__init__, args, 1))
    return made


def _wanted(hook: Any, args: ModelArgs, own: int) -> tuple[ModelArgs, ...]:
    """The arguments if the hook has a positional parameter for them beside its own (self)."""
    positional = [
        p
        for p in inspect.signature(hook).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return (args,) if len(positional) > own else ()


class LoadedPython:
    """One version of a Python model; the weights that its instances share live here."""

    def __init__(
        self, source: ModelSource, modules: ModelModules, target: Target, signature: Signature
    ) -> None:
        self._source = source
        self._modules = modules
        self._target: Target | None = target
        self._signature = signature
        self._plan = CallPlan(source.config, signature)
        self._runner = AsyncRunner(source.config.name) if signature.kind.is_async else None
        self._shared: dict[str, Any] = {}
        self._lock = threading.Lock()

    def executable(self, placement: Placement) -> AnyExecutable:
        """A new instance: constructed, loaded and warmed up in the calling thread."""
        target = self._target
        if target is None:
            raise Unavailable(f"model '{self._source.config.name}' has been closed")
        if not inspect.isclass(target):
            return self._wrap(target, lambda: None)
        made = self._construct(target, model_args(self._source, placement.device))
        return self._wrap(
            getattr(made, method_of(target)), partial(unload, made, self._source.config.name)
        )

    def close(self) -> None:
        """End the event loop, drop code and shared weights, and return memory to the system."""
        if self._runner is not None:
            self._runner.close()
        self._shared.clear()
        self._target = None
        self._modules.close()
        release_memory()

    def memory_bytes(self) -> Mapping[str, int]:
        """Nothing: what a Python model allocates is its own affair."""
        return {}

    def _wrap(self, call: Target, ending: Callable[[], None]) -> AnyExecutable:
        if self._signature.kind.streams:
            return PythonStreamingExecutable(self._plan, call, self._runner, ending)
        return PythonExecutable(self._plan, call, self._runner, ending)

    def _construct(self, target: type, args: ModelArgs) -> Any:
        attributes = {}
        if hasattr(target, "load_shared"):
            attributes["shared"] = self._shared_on(target, args)
        doing = "__init__"
        try:
            made = construct(target, args, **attributes)
            for doing in ("load", "warmup"):
                hook = getattr(made, doing, None)
                if hook is not None:
                    self._finish(hook(*_wanted(hook, args, 0)))
        except PenstockError:
            raise
        except (Exception, SystemExit) as error:
            raise load_failure(error, args.name, doing) from error
        return made

    def _shared_on(self, target: Any, args: ModelArgs) -> Any:
        # Under the lock, so that of several instances that start at once only one loads.
        with self._lock:
            if args.device not in self._shared:
                try:
                    loaded = self._finish(target.load_shared(args))
                except PenstockError:
                    raise
                except (Exception, SystemExit) as error:
                    raise load_failure(error, args.name, "load_shared") from error
                self._shared[args.device] = loaded
            return self._shared[args.device]

    def _finish(self, result: Any) -> Any:
        """What a hook gave; a coroutine is awaited on the model's loop."""
        if not inspect.iscoroutine(result):
            return result
        if self._runner is None:
            self._runner = AsyncRunner(self._source.config.name)
        return self._runner.run(result, lambda: False)


def unload(made: Any, model: str) -> None:
    """Call the model's unload hook, if it has one; what it raises is logged."""
    hook = getattr(made, "unload", None)
    if hook is None:
        return
    try:
        hook()
    except (Exception, SystemExit) as error:
        log_close_failure(error, model, "unload")
