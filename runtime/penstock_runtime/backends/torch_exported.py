"""Programs of torch.export: loading them, and what they know of their own inputs and outputs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass
from torch.export.pt2_archive._package import PT2ArchiveReader

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.failure import load_failure
from penstock_runtime.backends.torch_archive import check_archive, check_samples
from penstock_runtime.backends.torch_program import Parameter, TorchProgram, Values
from penstock_runtime.datatype import BY_TORCH_NAME, DataType
from penstock_runtime.errors import InvalidArgument, PenstockError


@dataclass(frozen=True, slots=True)
class ExportedTensor:
    """One input or output: `dims` with -1 for what may vary; `batch` is the symbol of a first
    dimension that may, and `least` and `most` are its range (None: without end).
    """

    name: str
    datatype: DataType
    dims: tuple[int, ...]
    batch: str = ""
    least: int = 0
    most: int | None = None


def open_exported(source: ModelSource, path: Path) -> ExportedProgram:
    """Check the archive, then load it."""
    try:
        reader = PT2ArchiveReader(str(path))
        check_archive(path, reader)
        check_samples(path, reader, _load_weights)
        return torch.export.load(str(path))
    except PenstockError:
        raise
    except Exception as error:
        raise load_failure(error, source.config.name, path.name) from error


def _load_weights(stream: Any) -> Any:
    return torch.load(stream, map_location="cpu", weights_only=True)


def load_exported(source: ModelSource, path: Path, device: torch.device) -> TorchProgram:
    """The program on its device, called with tensors by name."""
    program = open_exported(source, path)
    if device.type != "cpu":
        program = move_to_device_pass(program, device)
    positional, keywords = _call_names(source, program)
    module = program.module()

    def call(values: Values) -> Any:
        arguments = [values.get(name) for name in positional]
        return module(*arguments, **{name: values[name] for name in keywords})

    constants = _constants(program)
    parameters = tuple(
        Parameter(name, name) for name in (*positional, *keywords) if name not in constants
    )
    held = (*program.state_dict.values(), *program.constants.values())
    tensors = tuple(t for t in held if isinstance(t, torch.Tensor))
    return TorchProgram(call, parameters, tensors)


def exported_inputs(source: ModelSource, program: ExportedProgram) -> tuple[ExportedTensor, ...]:
    """The inputs in the order of the call."""
    positional, keywords = _call_names(source, program)
    values = [node.meta.get("val") for node in _user_inputs(program)]
    return tuple(
        _described(source, program, name, value)
        for name, value in zip((*positional, *keywords), values, strict=True)
        if value is not None
    )


def exported_outputs(source: ModelSource, program: ExportedProgram) -> tuple[ExportedTensor, ...]:
    """The outputs: under their keys for a dictionary, else OUTPUT__0 and so on."""
    spec = program.call_spec.out_spec
    nodes = {node.name: node for node in program.graph.nodes}
    found = [nodes[name] for name in program.graph_signature.user_outputs if isinstance(name, str)]
    flat = spec is None or spec.is_leaf() or all(c.is_leaf() for c in spec.children())
    if not found or not flat:
        raise _unfit(source, "its outputs are no tensor, tuple or dictionary of tensors")
    keys = spec.context if spec is not None and spec.type is dict else None
    names = [str(key) for key in keys] if keys else [f"OUTPUT__{i}" for i in range(len(found))]
    return tuple(
        _described(source, program, name, node.meta.get("val"))
        for name, node in zip(names, found, strict=True)
    )


def _user_inputs(program: ExportedProgram) -> list[Any]:
    wanted = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is torch.export.graph_signature.InputKind.USER_INPUT
    }
    return [n for n in program.graph.nodes if n.op == "placeholder" and n.name in wanted]


def _constants(program: ExportedProgram) -> frozenset[str]:
    """Parameters that were None when the program was made, and stay so."""
    return frozenset(n.name for n in _user_inputs(program) if n.meta.get("val") is None)


def _call_names(
    source: ModelSource, program: ExportedProgram
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the positional arguments and of the keywords."""
    spec = program.call_spec.in_spec
    args, kwargs = spec.child(0), spec.child(1)
    if not all(child.is_leaf() for child in (*args.children(), *kwargs.children())):
        raise _unfit(source, "it takes tuples, lists or dictionaries, not tensors alone")
    names = [node.name for node in _user_inputs(program)]
    return tuple(names[: args.num_children]), tuple(str(key) for key in kwargs.context or ())


def _described(
    source: ModelSource, program: ExportedProgram, name: str, value: Any
) -> ExportedTensor:
    if not isinstance(value, torch.Tensor):
        raise _unfit(source, f"'{name}' is a {type(value).__name__}, no tensor")
    datatype = BY_TORCH_NAME.get(str(value.dtype).removeprefix("torch."))
    if datatype is None:
        raise _unfit(source, f"'{name}' is {value.dtype}, which no v2 datatype stands for")
    dims = tuple(dim if isinstance(dim, int) else -1 for dim in value.shape)
    if not dims or dims[0] != -1:
        return ExportedTensor(name, datatype, dims)
    symbol = value.shape[0].node.expr  # type: ignore[attr-defined]
    bounds = program.range_constraints.get(symbol)
    least, most = (0, None) if bounds is None else (_finite(bounds.lower), _finite(bounds.upper))
    return ExportedTensor(name, datatype, dims, str(symbol), least or 0, most)


def _finite(bound: Any) -> int | None:
    try:
        return int(bound)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None


def _unfit(source: ModelSource, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"model '{source.config.name}': the exported program does not fit, {why}"
    )
