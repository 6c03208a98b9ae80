"""Which class a model's `implementation` is: one of the model's own files, or an MLServer runtime
that is installed.

A text of the repository names what is imported here, so it may name nothing else.
"""

import importlib
import inspect
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.failure import load_failure
from penstock_runtime.backends.mlserver.settings import Settings
from penstock_runtime.backends.module_loader import ModelModules
from penstock_runtime.errors import InvalidArgument, PenstockError, Unsupported

PREFIX = "mlserver_"
# Runtimes that read nothing but pickles, whatever the file is called.
_PICKLING = ("mlserver_sklearn", "mlserver_mlflow", "mlserver_alibi", "mlserver_catboost")
_PICKLES = (".pkl", ".pickle", ".joblib", ".dill")


def import_mlserver(name: str = "mlserver") -> ModuleType:
    """The real package, or a module of it; Unsupported where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unsupported(
            "models of MLServer need mlserver, which is not installed: pip install"
            " 'penstock[mlserver]'"
        ) from error


def check_pickle_allowed(source: ModelSource, settings: Settings) -> None:
    """Refuse a runtime that would unpickle, unless the operator allows it for this model."""
    module = settings.implementation.partition(".")[0]
    pickled = PurePosixPath(settings.uri).suffix.lower() in _PICKLES
    if source.allow_pickle or not module.startswith(PREFIX):
        return
    if module.startswith(_PICKLING) or pickled:
        raise InvalidArgument(
            f"model '{source.config.name}': {module} reads a pickle, which can run code when it is"
            " read; start the server with --allow-pickle for this model if it comes from where you"
            " trust programs"
        )


def find_class(source: ModelSource, settings: Settings, modules: ModelModules) -> type[Any]:
    """The class of the model. Raises InvalidArgument for a name that leads nowhere, Internal with
    what the model's own file raised.
    """
    base = import_mlserver().MLModel
    path, _, name = settings.implementation.rpartition(".")
    module = _module(source, path, modules)
    found = getattr(module, name, None)
    if not inspect.isclass(found) or not issubclass(found, base):
        raise InvalidArgument(
            f"model '{source.config.name}': implementation {settings.implementation[:128]!r} is no"
            " class that derives from mlserver.MLModel"
        )
    return found


def streams_only(found: type[Any]) -> bool:
    """Whether a class answers with streams: it has a predict_stream of its own and no predict."""
    base = import_mlserver().MLModel
    return found.predict_stream is not base.predict_stream and found.predict is base.predict


def _module(source: ModelSource, path: str, modules: ModelModules) -> ModuleType:
    model, head = source.config.name, path.partition(".")[0]
    if head in modules.siblings:
        return _own(model, path, modules)
    if not head.startswith(PREFIX):
        raise InvalidArgument(
            f"model '{model}': implementation '{path[:128]}' is neither a file of the model's"
            f" folder nor an MLServer runtime ({PREFIX}...)"
        )
    try:
        return importlib.import_module(path)
    except ImportError as error:
        package = head.replace("_", "-")
        raise Unsupported(
            f"model '{model}' needs the MLServer runtime {head}, which is not installed or lacks"
            f" something: pip install {package}"
        ) from error


def _own(model: str, path: str, modules: ModelModules) -> ModuleType:
    try:
        return importlib.import_module(f"{modules.package}.{path}")
    except PenstockError:
        raise
    except (Exception, SystemExit) as error:
        raise load_failure(error, model, f"{path.replace('.', '/')}.py") from error
