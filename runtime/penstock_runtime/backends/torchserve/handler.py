"""The handler of a TorchServe model: found, made and initialised as TorchServe does it."""

import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from penstock_runtime.backends.failure import load_failure
from penstock_runtime.backends.module_loader import ModelModules
from penstock_runtime.backends.torchserve.package import BASE, BUILT_IN, Package
from penstock_runtime.backends.torchserve.settings import Settings
from penstock_runtime.errors import InvalidArgument, PenstockError

# sys.path belongs to everyone: one handler at a time may have its folder there.
_PATH_LOCK = threading.Lock()
_DEFAULT_ENTRY = "handle"


@dataclass(frozen=True, slots=True)
class Handler:
    """How a handler is called: with the data of a batch and a context."""

    handle: Callable[[Any, Any], Any]
    initialize: Callable[[Any], Any]


def load_module(
    model: str, settings: Settings, folder: Path, modules: ModelModules, package: Package
) -> ModuleType:
    """The module of the handler, executed; Internal with what it raised."""
    name = settings.handler
    try:
        if name in modules.siblings:
            return modules.load(folder / f"{name}.py")
        if not settings.is_file and name in (BASE, *BUILT_IN):
            return package.built_in(model, name)
    except PenstockError:
        raise
    except (Exception, SystemExit) as error:
        raise load_failure(error, model, f"{name}.py") from error
    raise InvalidArgument(
        f"model '{model}': the archive has no {name}.py, and torchserve has no handler of that name"
    )


def make_handler(model: str, settings: Settings, module: ModuleType) -> Handler:
    """A handler of a module: its function, else an object of the one class that it defines."""
    name = settings.entry or _DEFAULT_ENTRY
    function = getattr(module, name, None)
    if inspect.isfunction(function):
        return Handler(function, lambda context: function(None, context))
    classes = [
        found
        for found in vars(module).values()
        if inspect.isclass(found) and found.__module__ == module.__name__
    ]
    if len(classes) != 1 or not callable(getattr(classes[0], name, None)):
        raise InvalidArgument(
            f"model '{model}': {settings.handler}.py has neither a function {name}(data, context)"
            f" nor one class with such a method, but {len(classes)} classes"
        )
    made = classes[0]()
    return Handler(getattr(made, name), getattr(made, "initialize", _nothing))


def _nothing(_context: Any) -> None:
    """For handlers without a step of their own."""


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """The folder on sys.path, where TorchServe has it while a handler is initialised.

    What is imported from it is forgotten again, so that two models may both have a model.py.
    """
    with _PATH_LOCK:
        before, quiet = set(sys.modules), sys.dont_write_bytecode
        # At the end: nothing of ours may be hidden by a file of a model.
        sys.path.append(str(folder))
        sys.dont_write_bytecode = True
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path.remove(str(folder))
            sys.dont_write_bytecode = quiet
            sys.path_importer_cache.pop(str(folder), None)
            for name in set(sys.modules) - before:
                _forget(name, folder)


def _forget(name: str, folder: Path) -> None:
    found = getattr(sys.modules.get(name), "__spec__", None)
    origin = getattr(found, "origin", None)
    private = name.startswith("_penstock_model_")
    if origin and not private and Path(origin).is_relative_to(folder):
        del sys.modules[name]
