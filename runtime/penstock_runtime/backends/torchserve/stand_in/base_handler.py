"""The handler that others derive from: a model that is loaded by what its manifest says, and three
steps of which any can be replaced.
"""

import importlib
import os
from typing import Any

import torch

from penstock_runtime.backends.onnx.external import locations
from penstock_runtime.backends.torchserve.stand_in.handling import (
    list_classes_from_module,
    load_label_mapping,
)


class BaseHandler:
    """Loads TorchScript, a state dict for a class in `modelFile`, or an ONNX model; calls it."""

    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: Any = None
        self.device: Any = None
        self.initialized = False
        self.context: Any = None
        self.model_pt_path: str | None = None
        self.manifest: Any = None
        self.map_location: str | None = None
        self.model_yaml_config: Any = {}
        self.explain = False
        self.target = 0

    def initialize(self, context: Any) -> None:
        """Load the model for the device that the context names."""
        properties = context.system_properties
        self.context, self.manifest = context, context.manifest
        self.model_yaml_config = context.model_yaml_config
        gpu = properties.get("gpu_id")
        on_gpu = gpu is not None and torch.cuda.is_available()
        self.map_location = "cuda" if on_gpu else "cpu"
        self.device = torch.device(f"cuda:{gpu}" if on_gpu else "cpu")
        model_dir = properties["model_dir"]
        self.model = self._load(model_dir, self.manifest["model"])
        self.mapping = load_label_mapping(os.path.join(model_dir, "index_to_name.json"))
        self.initialized = True

    def _load(self, model_dir: str, described: Any) -> Any:
        serialized, code = described.get("serializedFile"), described.get("modelFile")
        self.model_pt_path = os.path.join(model_dir, serialized) if serialized else None
        path = self.model_pt_path
        if code:
            return self._load_pickled_model(model_dir, code, path).to(self.device).eval()
        if path is not None and path.endswith(".pt"):
            return self._load_torchscript_model(path).eval()
        if path is not None and path.endswith(".onnx"):
            return _onnx_session(path)
        raise RuntimeError(f"the manifest names no weights that can be loaded, only {serialized!r}")

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return torch.jit.load(model_pt_path, map_location=self.device)  # type: ignore[no-untyped-call]

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: Any) -> Any:
        """An object of the one class in `model_file`, with the state dict in `model_pt_path`."""
        if not os.path.isfile(os.path.join(model_dir, model_file)):
            raise RuntimeError(f"{model_file} is not in the archive")
        module = importlib.import_module(model_file.partition(".")[0])
        found = list_classes_from_module(module, torch.nn.Module)
        if len(found) != 1:
            raise ValueError(f"{model_file} has {len(found)} classes of modules, expected one")
        model = found[0]()
        if model_pt_path:
            model.load_state_dict(_state(model_pt_path, self.device))
        return model

    def preprocess(self, data: Any) -> Any:
        """The data of a batch as a tensor."""
        return torch.as_tensor(data, device=self.device)

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """What the model gives for it."""
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    def postprocess(self, data: Any) -> Any:
        """That as a list with one item per request."""
        return data.tolist()

    def handle(self, data: Any, context: Any) -> Any:
        """All three steps, for one batch."""
        self.context = context
        return self.postprocess(self.inference(self.preprocess(data)))

    def get_device(self) -> Any:
        """Where the model is."""
        return self.device


def _state(path: str, device: Any) -> Any:
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path, device=str(device))
    return torch.load(path, map_location=device, weights_only=True)


def _onnx_session(path: str) -> Any:
    import onnxruntime

    with open(path, "rb") as file:
        if locations(file.read(), os.path.basename(path)):
            raise RuntimeError("the ONNX model keeps weights in files of their own")
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
