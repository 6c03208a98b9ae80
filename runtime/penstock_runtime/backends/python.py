"""The backend for models that are Python code: a `model.py` with a class or a function whose
annotations say what goes in and out.

A file whose model turns out to be a torch.nn.Module is handed to the torch backend. One with a
class TritonPythonModel is written for Triton's Python backend, and executed as it is.
"""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from penstock_runtime.backends.base import LoadedModel, ModelSource
from penstock_runtime.backends.completion import complete_from_signature
from penstock_runtime.backends.entry import (
    DEFAULT_FILENAME,
    Target,
    is_triton_class,
    load_target,
)
from penstock_runtime.backends.files import has_file
from penstock_runtime.backends.host import prepare_openmp
from penstock_runtime.backends.module_loader import ModelModules
from penstock_runtime.backends.python_program import LoadedPython
from penstock_runtime.backends.torch import TorchBackend
from penstock_runtime.backends.torch_files import WEIGHTS
from penstock_runtime.config import ModelConfig
from penstock_runtime.signature import read_signature


@dataclass(frozen=True, slots=True)
class _Opened:
    """The executed file of a model, and what in it is the model."""

    modules: ModelModules
    target: Target


class PythonBackend:
    """Models in Python, executed in this process."""

    name = "python"
    aliases = ("libtriton_python.so",)
    uses_gpu = False

    def __init__(self, torch: TorchBackend) -> None:
        self._torch = torch

    def recognises(self, source: ModelSource) -> bool:
        """Whether there is a Python file, and no weights beside it that torch should load."""
        filename = source.config.default_model_filename or DEFAULT_FILENAME
        is_python = filename.endswith(".py") and has_file(source, filename)
        return is_python and not has_file(source, WEIGHTS)

    def complete(self, source: ModelSource) -> ModelConfig:
        """The configuration with what the annotations say; the model's file is executed for it."""
        with _opened(source) as opened:
            if self._is_torch(source, opened.target):
                return self._torch.complete(source)
            if is_triton_class(opened.target):
                # Only here and in `load`: a server without such models starts sooner.
                from penstock_runtime.backends.triton_python.auto_complete import completed

                return completed(source.config, opened.target, self.name)
            return complete_from_signature(source.config, read_signature(opened.target), self.name)

    def load(self, source: ModelSource) -> LoadedModel:
        """Execute the model's file as it is now; instances are made of what it defines."""
        if source.config.backend == self._torch.name:
            return self._torch.load(source)
        opened = _open(source)
        try:
            if is_triton_class(opened.target):
                from penstock_runtime.backends.triton_python.program import LoadedTriton

                return LoadedTriton(source, opened.modules, opened.target)
            signature = read_signature(opened.target)
            return LoadedPython(source, opened.modules, opened.target, signature)
        except BaseException:
            opened.modules.close()
            raise

    def _is_torch(self, source: ModelSource, target: Target) -> bool:
        return source.config.backend != self.name and is_torch_module(target)


def is_torch_module(target: Target) -> bool:
    """Whether the target is a class of torch modules; torch is not imported to find out."""
    torch = sys.modules.get("torch.nn")
    return torch is not None and inspect.isclass(target) and issubclass(target, torch.Module)


def _open(source: ModelSource) -> _Opened:
    # The model may import torch or another user of OpenMP.
    prepare_openmp()
    modules = ModelModules(source.directory)
    try:
        return _Opened(modules, load_target(source, modules))
    except BaseException:
        modules.close()
        raise


@contextmanager
def _opened(source: ModelSource) -> Iterator[_Opened]:
    opened = _open(source)
    try:
        yield opened
    finally:
        opened.modules.close()
