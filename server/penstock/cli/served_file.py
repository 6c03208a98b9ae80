"""One Python file served as a model: a repository of one, whose code leads back to the file."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from penstock.cli.command import CommandError
from penstock_runtime.errors import InvalidArgument

_CONFIG = 'backend: "python"\nparameters { key: "entry" value { string_value: "served" } }\n'
_CODE = """\
import sys
from pathlib import Path

from penstock.cli.served_file import load

served = load(Path({path!r}), {name!r}, Path(__file__).parents[1], sys.modules[__name__])
"""


def split_source(source: str) -> tuple[Path, str] | None:
    """File and object of `FILE.py` or `FILE.py:NAME`; None for anything else."""
    path, separator, name = source.rpartition(":")
    if not separator or not path.endswith(".py"):
        path, name = source, ""
    return (Path(path), name) if path.endswith(".py") else None


@contextmanager
def repository_of(file: Path, name: str, model_name: str) -> Iterator[Path]:
    """A model repository, for the time of the block, that holds this file as its only model."""
    if not file.is_file():
        raise CommandError(f"{file} is not there, expected a Python file with a model")
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        version = Path(folder) / (model_name or file.stem) / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(_CONFIG)
        (version / "model.py").write_text(_CODE.format(path=str(file.resolve()), name=name))
        yield Path(folder)


def load(path: Path, name: str, folder: Path, owner: ModuleType) -> Callable[..., Any]:
    """The model of a file: what is called `name`, else what is marked with @model, else Model or
    predict. Modules beside the file can be imported; label files beside it are brought into
    `folder`, the model's, since none is read from elsewhere. All of it is forgotten with `owner`,
    the module that asks.
    """
    # Here, in the process that has the model: one that only starts it does without numpy.
    from penstock_runtime.backends.module_loader import ModelModules

    modules = ModelModules(path.parent)
    weakref.finalize(owner, modules.close).atexit = False
    module = modules.load(path)
    found = getattr(module, name, None) if name else _only_model(module, path)
    if not callable(found):
        raise InvalidArgument(f"{path.name} has no class or function {name!r}")
    _bring_labels(found, path.parent, folder)
    return found  # type: ignore[no-any-return]


def _bring_labels(found: Any, home: Path, folder: Path) -> None:
    from penstock_runtime.model_api import SETTINGS

    settings = getattr(found, "__dict__", {}).get(SETTINGS)
    for name in settings.labels.values() if settings is not None else ():
        source, target = home / name, folder / name
        inside = target.resolve().is_relative_to(folder.resolve())
        # What is not brought is missed, and told of, when the labels are read.
        if inside and source.is_file() and not _is_copy(target, source):
            target.parent.mkdir(parents=True, exist_ok=True)
            # Other processes may read it meanwhile. A hidden name is no part of the model.
            private = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.copy2(source, private)
            private.replace(target)


def _is_copy(target: Path, source: Path) -> bool:
    """Whether it is there already: a file anew in the folder would be a reason to load again."""
    if not target.is_file():
        return False
    there, here = target.stat(), source.stat()
    return (there.st_size, there.st_mtime_ns) == (here.st_size, here.st_mtime_ns)


def _only_model(module: ModuleType, path: Path) -> Any:
    from penstock_runtime.model_api import SETTINGS

    own = {k: v for k, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__}
    marked = [key for key, value in own.items() if SETTINGS in getattr(value, "__dict__", {})]
    if len(marked) > 1:
        raise InvalidArgument(
            f"{path.name} has {len(marked)} models, say which: {path.name}:{marked[0]}"
        )
    for key in (*marked, "Model", "predict"):
        if key in own:
            return own[key]
    raise InvalidArgument(
        f"{path.name} defines no model; expected something decorated with @model, a class Model or"
        " a function predict"
    )
