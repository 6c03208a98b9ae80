"""Torch models written to disk for a test, and the modules that their answers are held against."""

import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tests.runtime.model_folders import source_of

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.datatype import AnyArray, DataType

Edit = Callable[[bytes], bytes]

MODULE = """
from typing import Annotated
import torch
from penstock_runtime.model_api import *

@model(max_batch_size=8)
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)
        self.register_buffer("shift", torch.ones(3))
    def forward(self, x: FP32[4]) -> FP32[3].named("y"):
        return self.linear(x) + self.shift
"""


class Net(torch.nn.Module):
    """The module that most tests store in one form or another."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One linear layer and a shift."""
        shifted: torch.Tensor = self.linear(x) + self.shift
        return shifted


class Two(torch.nn.Module):
    """Two inputs that do not commute, and two outputs."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Difference and product."""
        return a - b, a * b


def net() -> Net:
    """A Net with always the same weights."""
    torch.manual_seed(7)
    return Net().eval()


def rows(count: int) -> AnyArray:
    """Rows of four floats, all different."""
    return np.arange(count * 4, dtype=np.float32).reshape(count, 4) / 8


def version(root: Path) -> Path:
    """A new version directory."""
    directory = root / "m" / "1"
    directory.mkdir(parents=True)
    return directory


def tensors(*names: str, dims: tuple[int, ...]) -> tuple[Any, ...]:
    """Declarations of FP32 inputs."""
    return tuple(ModelInput(name, DataType.FP32, dims) for name in names)


def outputs(*names: str, dims: tuple[int, ...]) -> tuple[Any, ...]:
    """Declarations of FP32 outputs."""
    return tuple(ModelOutput(name, DataType.FP32, dims) for name in names)


def net_config(**changes: Any) -> ModelConfig:
    """What a configuration file says of a Net."""
    config = ModelConfig(
        name="m",
        max_batch_size=8,
        input=tensors("x", dims=(4,)),
        output=outputs("y", dims=(3,)),
    )
    return replace(config, **changes)


def script(root: Path, module: torch.nn.Module, config: ModelConfig) -> ModelSource:
    """The module as TorchScript."""
    directory = version(root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(directory / "model.pt"))  # type: ignore[no-untyped-call]
    return source_of(directory, config)


def exported(root: Path, module: torch.nn.Module, *args: Any, **options: Any) -> ModelSource:
    """The module as a program of torch.export."""
    directory = version(root)
    program = torch.export.export(module, args, **options)
    torch.export.save(program, directory / "model.pt2")
    return source_of(directory)


def module_folder(root: Path, text: str, state: dict[str, torch.Tensor]) -> ModelSource:
    """A model.py with an nn.Module, and its weights as safetensors."""
    directory = version(root)
    (directory / "model.py").write_text(text)
    save_file(state, directory / "model.safetensors")
    return source_of(directory)


class Canary:
    """An object whose pickle creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def poison(path: Path) -> bytes:
    """A pickle that creates the file."""
    return pickle.dumps({"weight": Canary(path)})


def edited(path: Path, edits: dict[str, Edit], added: dict[str, bytes] | None = None) -> None:
    """Rewrite a zip archive, some members changed and some added."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    top = next(iter(members)).partition("/")[0]
    for name, edit in edits.items():
        members[f"{top}/{name}"] = edit(members[f"{top}/{name}"])
    for name, data in (added or {}).items():
        members[f"{top}/{name}"] = data
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def edit_json(change: Callable[[Any], None]) -> Edit:
    """The edit of a JSON member."""

    def edit(data: bytes) -> bytes:
        document = json.loads(data)
        change(document)
        return json.dumps(document).encode()

    return edit
