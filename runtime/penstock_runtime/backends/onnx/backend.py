"""The backend for ONNX models: `model.onnx`, executed by ONNX Runtime.

onnxruntime is imported when the first such model is completed or loaded, not before.
"""

import importlib
from dataclasses import replace
from types import ModuleType

from penstock_runtime.backends.base import LoadedModel, ModelSource
from penstock_runtime.backends.host import prepare_openmp
from penstock_runtime.backends.onnx.completion import complete_config
from penstock_runtime.backends.onnx.files import find_files, recognises
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import Unsupported


class OnnxBackend:
    """Models that ONNX Runtime executes, in this process."""

    name = "onnxruntime"
    aliases = ("onnxruntime_onnx", "onnx", "libtriton_onnxruntime.so")

    @property
    def uses_gpu(self) -> bool:
        """Whether the onnxruntime that is installed was built for CUDA."""
        return bool(_model().has_cuda())

    def recognises(self, source: ModelSource) -> bool:
        """Whether the version directory holds model.onnx."""
        return recognises(source)

    def complete(self, source: ModelSource) -> ModelConfig:
        """The configuration with the model's own inputs and outputs, and its batch size."""
        config, files = source.config, find_files(source)
        if config.input and config.output:
            # Complete; it is held against the model when that is loaded, which costs time once.
            return replace(config, backend=config.backend or self.name)
        return complete_config(config, _model().read_signature(source, files), self.name)

    def load(self, source: ModelSource) -> LoadedModel:
        """The model; its weights are loaded once per device when the first instance asks."""
        loaded: LoadedModel = _model().load(source, find_files(source))
        return loaded


def _model() -> ModuleType:
    prepare_openmp()
    try:
        return importlib.import_module("penstock_runtime.backends.onnx.model")
    except ImportError as error:
        raise Unsupported(
            "ONNX models need onnxruntime, which is not installed: pip install 'penstock[onnx]'"
        ) from error
