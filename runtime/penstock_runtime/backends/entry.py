"""Which object of a model's Python file is the model: what the configuration names, else what is
decorated, else the class TritonPythonModel, else the class Model, else the function predict.
"""

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.failure import load_failure
from penstock_runtime.backends.files import confined
from penstock_runtime.backends.module_loader import ModelModules
from penstock_runtime.errors import InvalidArgument, PenstockError
from penstock_runtime.model_api import SETTINGS

DEFAULT_FILENAME = "model.py"
TRITON_CLASS = "TritonPythonModel"
_ENTRY = re.compile(r"(?:([A-Za-z_]\w*):)?([A-Za-z_]\w*)")
Target = Callable[..., Any]


def load_target(source: ModelSource, modules: ModelModules) -> Target:
    """Execute the model's file and give the function or class that is the model.

    Raises Internal when the file raises, InvalidArgument when it holds no model.
    """
    filename = source.config.default_model_filename or DEFAULT_FILENAME
    stem, name = _entry(source)
    path = confined(source, f"{stem}.py" if stem else filename)
    module = _execute(source, modules, path)
    if name:
        return _named(source, module, path, name)
    return _chosen(source, modules, module, path)


def is_triton_class(target: Target) -> bool:
    """Whether the target is a model written for Triton's Python backend."""
    if not inspect.isclass(target):
        return False
    home = sys.modules.get(target.__module__)
    return target.__name__ == TRITON_CLASS or getattr(home, TRITON_CLASS, None) is target


def _entry(source: ModelSource) -> tuple[str, str]:
    """File stem and object name of the parameter `entry`, each "" when it does not say."""
    text = source.config.parameter("entry")
    match = _ENTRY.fullmatch(text)
    if text and match is None:
        raise InvalidArgument(
            f"model '{source.config.name}': parameter entry is {text[:64]!r}, expected 'Name' or"
            " 'file:Name', with a file of the version directory (without .py)"
        )
    return (match[1] or "", match[2]) if match else ("", "")


def _execute(source: ModelSource, modules: ModelModules, path: Path) -> ModuleType:
    try:
        return modules.load(path)
    except PenstockError:
        raise
    except (Exception, SystemExit) as error:
        raise load_failure(error, source.config.name, path.name) from error


def _named(source: ModelSource, module: ModuleType, path: Path, name: str) -> Target:
    target = getattr(module, name, None)
    if callable(target):
        return target  # type: ignore[no-any-return]
    raise InvalidArgument(
        f"model '{source.config.name}': {path.name} has no class or function '{name}' (parameter"
        f" entry), it has {_shown(_own(module, None))}"
    )


def _chosen(source: ModelSource, modules: ModelModules, module: ModuleType, path: Path) -> Target:
    own = _own(module, modules)
    marked = [name for name, found in own.items() if SETTINGS in vars(found)]
    if len(marked) > 1:
        raise InvalidArgument(
            f"model '{source.config.name}': {path.name} has {len(marked)} models"
            f" ({', '.join(marked)}); say which in the parameter entry"
        )
    # Before the class Model: beside Triton's class that is a part of it.
    triton = vars(module).get(TRITON_CLASS)
    if not marked and inspect.isclass(triton):
        return triton
    for name in (*marked, "Model", "predict"):
        if name in own:
            return own[name]
    raise InvalidArgument(
        f"model '{source.config.name}': {path.name} defines no model; expected something"
        f" decorated with @model, a class TritonPythonModel or Model, or a function predict, found"
        f" {_shown(own)}"
    )


def _own(module: ModuleType, modules: ModelModules | None) -> dict[str, Target]:
    """Public classes and functions of a module; those that the model's own files define."""
    return {
        name: found
        for name, found in vars(module).items()
        if (inspect.isclass(found) or inspect.isfunction(found))
        and not name.startswith("_")
        and (modules is None or modules.owns(found.__module__ or ""))
    }


def _shown(own: dict[str, Target]) -> str:
    return ", ".join(sorted(own)) or "neither classes nor functions"
