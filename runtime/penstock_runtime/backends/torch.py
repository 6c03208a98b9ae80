"""The backend for torch models: TorchScript (`model.pt`), torch.export (`model.pt2`), and an
nn.Module class in `model.py` with `model.safetensors`.

torch is imported when the first such model is completed or loaded, not before.
"""

import importlib
from types import ModuleType

from penstock_runtime.backends.base import LoadedModel, ModelSource
from penstock_runtime.backends.host import prepare_openmp, torch_uses_gpus
from penstock_runtime.backends.torch_files import find_file, recognises
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import Unsupported


class TorchBackend:
    """Models that torch executes, in this process."""

    name = "pytorch"
    aliases = ("torch", "libtorch", "pytorch_libtorch", "libtriton_pytorch.so")
    takes_device_arrays = True

    @property
    def uses_gpu(self) -> bool:
        """Whether the installed torch is built for it."""
        return torch_uses_gpus()

    def recognises(self, source: ModelSource) -> bool:
        """Whether the version directory holds model.pt, model.pt2, or model.py with weights."""
        return recognises(source)

    def complete(self, source: ModelSource) -> ModelConfig:
        """The configuration with what the model itself knows; InvalidArgument says what is left."""
        file = find_file(source)
        config: ModelConfig = _torch_model().complete(source, file, self.name)
        return config

    def load(self, source: ModelSource) -> LoadedModel:
        """The model, its weights loaded once per device when the first instance asks."""
        file = find_file(source)
        loaded: LoadedModel = _torch_model().load(source, file)
        return loaded


def _torch_model() -> ModuleType:
    prepare_openmp()
    try:
        return importlib.import_module("penstock_runtime.backends.torch_model")
    except ImportError as error:
        raise Unsupported(
            "torch models need torch, which is not installed: pip install 'penstock[torch]'"
        ) from error
