"""A torch model in memory on one device: something to call with tensors by parameter name, however
it was stored.
"""

import inspect
import mmap
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.entry import Target
from penstock_runtime.backends.failure import load_failure, summary
from penstock_runtime.backends.host import cpu_threads
from penstock_runtime.backends.python_program import construct, model_args
from penstock_runtime.backends.safetensors_file import DTYPES, StoredTensor, read_header
from penstock_runtime.errors import InvalidArgument, PenstockError
from penstock_runtime.signature import read_signature

Values = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a forward: what the code calls it, and what the tensor is called."""

    key: str
    name: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class TorchProgram:
    """A module on its device. `call` takes tensors by parameter key; `warm_calls` is how many calls
    it needs before its speed settles.
    """

    call: Callable[[Values], Any]
    parameters: tuple[Parameter, ...]
    tensors: tuple[torch.Tensor, ...]
    warm_calls: int = 1

    def memory_bytes(self) -> dict[str, int]:
        """Bytes of parameters and buffers per device; memory that two share is counted once."""
        storages = {}
        for tensor in self.tensors:
            storage = tensor.untyped_storage()
            storages[tensor.device, storage.data_ptr()] = storage.nbytes()
        held: dict[str, int] = {}
        for (device, _), size in storages.items():
            held[str(device)] = held.get(str(device), 0) + size
        return held


def limit_threads() -> None:
    """Leave one core to the server, unless OMP_NUM_THREADS says how many threads to use."""
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(cpu_threads())


# -- TorchScript -----------------------------------------------------------------------------------


def load_script(source: ModelSource, path: Path, device: torch.device) -> TorchProgram:
    """A TorchScript archive; the archive's own reader never unpickles Python objects."""
    try:
        module = _load_quietly(path, device)
    except PenstockError:
        raise
    except Exception as error:
        raise load_failure(error, source.config.name, path.name) from error
    module.eval()
    # The profiling executor compiles during the first call and again after the second.
    return TorchProgram(
        lambda values: module(**values), _script_parameters(source, module), _held(module), 2
    )


def _load_quietly(path: Path, device: torch.device) -> Any:
    # torch advises authors to move on to torch.export; whoever serves a file cannot act on that.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]


def _script_parameters(source: ModelSource, module: Any) -> tuple[Parameter, ...]:
    parameters = []
    for argument in module.forward.schema.arguments[1:]:
        kind = str(argument.type)
        if kind not in ("Tensor", "Optional[Tensor]"):
            raise InvalidArgument(
                f"model '{source.config.name}': forward takes '{argument.name}' of type {kind},"
                " expected a Tensor"
            )
        parameters.append(Parameter(argument.name, argument.name, not argument.has_default_value()))
    return tuple(parameters)


# -- nn.Module -------------------------------------------------------------------------------------


def module_class(model: str, target: Target) -> type[torch.nn.Module]:
    """The target, if it is a class of modules; InvalidArgument for anything else."""
    if inspect.isclass(target) and issubclass(target, torch.nn.Module):
        return target
    raise InvalidArgument(
        f"model '{model}': {getattr(target, '__name__', target)!r} is no torch.nn.Module; for any"
        ' other Python model say backend: "python"'
    )


def load_module(
    source: ModelSource, target: Target, device: torch.device, weights: Path | None, pickled: bool
) -> TorchProgram:
    """An object of an nn.Module class, filled with exactly the weights of the file."""
    name = source.config.name
    parameters = tuple(
        Parameter(field.key, field.name, not field.optional)
        for field in read_signature(target, "forward").inputs
    )
    try:
        module: torch.nn.Module = construct(
            module_class(name, target), model_args(source, str(device))
        )
    except PenstockError:
        raise
    except (Exception, SystemExit) as error:
        raise load_failure(error, name, "__init__") from error
    if weights is not None:
        _fill(name, module, read_pickle(weights) if pickled else read_safetensors(weights))
    module.to(device).eval().requires_grad_(False)
    return TorchProgram(lambda values: module(**values), parameters, _held(module))


def _fill(model: str, module: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    _repeat_tied(module, tensors)
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        found = " ".join(str(error).split())
        raise InvalidArgument(
            f"model '{model}': the weights do not fit {type(module).__name__}: {found[:400]}"
        ) from error


def _repeat_tied(module: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Weights under two names are stored once: give the second name what the first has."""
    by_memory = {
        (tensor.data_ptr(), tensor.shape): name
        for name, tensor in module.state_dict().items()
        if name in tensors
    }
    for name, tensor in module.state_dict().items():
        twin = by_memory.get((tensor.data_ptr(), tensor.shape))
        if name not in tensors and twin is not None and tensor.numel():
            tensors[name] = tensors[twin]


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, mapped rather than read. Raises InvalidArgument for a broken file."""
    header = read_header(path)
    if not any(stored.nbytes for stored in header.values()):
        return {name: _empty(stored) for name, stored in header.items()}
    with path.open("rb") as file:
        # Private pages: what is written to them never reaches the file.
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return {name: _mapped(data, stored) for name, stored in header.items()}


def _mapped(data: mmap.mmap, stored: StoredTensor) -> torch.Tensor:
    if not stored.elements:
        return _empty(stored)
    raw = torch.frombuffer(data, dtype=torch.uint8, count=stored.nbytes, offset=stored.start)
    dtype_name, size = DTYPES[stored.dtype]
    if stored.start % size:
        raw = raw.clone()
    return raw.view(getattr(torch, dtype_name)).reshape(stored.shape)


def _empty(stored: StoredTensor) -> torch.Tensor:
    return torch.empty(stored.shape, dtype=getattr(torch, DTYPES[stored.dtype][0]))


def read_pickle(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a state dict that torch.save wrote, read by the weights-only unpickler."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InvalidArgument(
            f"{path.name} is no state dict of tensors: {summary(error)}"
        ) from error
    if isinstance(tensors, dict) and all(isinstance(t, torch.Tensor) for t in tensors.values()):
        return dict(tensors)
    raise InvalidArgument(f"{path.name} holds a {type(tensors).__name__}, expected a state dict")


def _held(module: Any) -> tuple[torch.Tensor, ...]:
    return (*module.parameters(), *module.buffers())
