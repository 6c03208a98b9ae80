"""A torch model in memory: one program per device, shared by all instances there."""

import threading
from collections.abc import Mapping

import torch

from penstock_runtime.backends.base import AnyExecutable, ModelSource, Placement
from penstock_runtime.backends.entry import Target, load_target
from penstock_runtime.backends.module_loader import ModelModules
from penstock_runtime.backends.torch_completion import complete_module, complete_program
from penstock_runtime.backends.torch_exported import load_exported
from penstock_runtime.backends.torch_files import TorchFile, TorchKind
from penstock_runtime.backends.torch_instance import TorchExecutable, TorchPlan
from penstock_runtime.backends.torch_program import (
    TorchProgram,
    limit_threads,
    load_module,
    load_script,
)
from penstock_runtime.config import ModelConfig


class LoadedTorch:
    """One version of a torch model."""

    def __init__(
        self, source: ModelSource, file: TorchFile, modules: ModelModules | None, target: Target
    ) -> None:
        self._source = source
        self._file = file
        self._modules = modules
        self._target = target
        self._programs: dict[str, TorchProgram] = {}
        self._lock = threading.Lock()

    def executable(self, placement: Placement) -> AnyExecutable:
        """A new instance on the device, warm; the first one there loads the weights."""
        config, device = self._source.config, torch.device(placement.device)
        program = self.program(device)
        made = TorchExecutable(TorchPlan(config, program.parameters), program, device)
        made.warm_up(config)
        return made

    def program(self, device: torch.device) -> TorchProgram:
        """The program of this device."""
        with self._lock:
            key = str(device)
            if key not in self._programs:
                self._programs[key] = self._load(device)
            return self._programs[key]

    def memory_bytes(self) -> Mapping[str, int]:
        """Bytes of weights and buffers per device."""
        held: dict[str, int] = {}
        for program in list(self._programs.values()):
            for device, size in program.memory_bytes().items():
                held[device] = held.get(device, 0) + size
        return held

    def close(self) -> None:
        """Drop the programs; whoever retires the model returns their memory."""
        self._programs.clear()
        self._target = _no_model
        if self._modules is not None:
            self._modules.close()

    def _load(self, device: torch.device) -> TorchProgram:
        file, source = self._file, self._source
        if file.kind is TorchKind.SCRIPT:
            return load_script(source, file.path, device)
        if file.kind is TorchKind.EXPORTED:
            return load_exported(source, file.path, device)
        return load_module(source, self._target, device, file.weights, file.pickled)


def complete(source: ModelSource, file: TorchFile, backend: str) -> ModelConfig:
    """The configuration with what the stored model knows."""
    if file.kind is not TorchKind.MODULE:
        return complete_program(source, file, backend)
    modules = ModelModules(source.directory)
    try:
        return complete_module(source.config, load_target(source, modules), backend)
    finally:
        modules.close()


def load(source: ModelSource, file: TorchFile) -> LoadedTorch:
    """Execute the model's file if it has one, and load the weights for the first device."""
    limit_threads()
    if file.kind is not TorchKind.MODULE:
        return LoadedTorch(source, file, None, _no_model)
    modules = ModelModules(source.directory)
    try:
        return LoadedTorch(source, file, modules, load_target(source, modules))
    except BaseException:
        modules.close()
        raise


def _no_model() -> None:
    """Stands for the class of a model that has none, or has been closed."""
