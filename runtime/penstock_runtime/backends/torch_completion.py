"""A configuration completed by what a stored torch model knows of itself.

A program of torch.export knows everything; TorchScript knows the names of its inputs and nothing
more; an nn.Module knows what its author annotated.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.completion import complete_from_signature
from penstock_runtime.backends.entry import Target
from penstock_runtime.backends.torch_exported import (
    ExportedTensor,
    exported_inputs,
    exported_outputs,
    open_exported,
)
from penstock_runtime.backends.torch_files import TorchFile, TorchKind
from penstock_runtime.backends.torch_program import load_script, module_class
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.signature import read_signature

# Triton's own default for models that can be batched and do not say how far.
DEFAULT_MAX_BATCH_SIZE = 4


def complete_program(source: ModelSource, file: TorchFile, backend: str) -> ModelConfig:
    """The configuration of a TorchScript or exported program; loads it only if something is
    missing.
    """
    config = replace(source.config, backend=source.config.backend or backend)
    if config.input and config.output:
        return config
    if file.kind is TorchKind.EXPORTED:
        return _from_exported(config, source, file)
    raise _script_needs(config, source, file)


def complete_module(config: ModelConfig, target: Target, backend: str) -> ModelConfig:
    """The configuration of an nn.Module class, from the annotations of its forward."""
    config = replace(config, backend=config.backend or backend)
    signature = read_signature(module_class(config.name, target), "forward")
    if signature.kind.streams or signature.kind.is_async or signature.wants_context:
        raise InvalidArgument(
            f"model '{config.name}': {signature.name} of a torch module takes tensors and returns"
            ' tensors; for streams, coroutines or the context say backend: "python"'
        )
    annotated = [field for field in signature.inputs if field.spec is not None]
    if config.input and config.output and not annotated:
        return config
    return complete_from_signature(config, signature, backend)


def _from_exported(config: ModelConfig, source: ModelSource, file: TorchFile) -> ModelConfig:
    if config.ragged_inputs or config.batch_input or config.batch_output:
        raise InvalidArgument(
            f"model '{config.name}': a program does not know what its flat tensors are to a client;"
            " list inputs and outputs in the configuration"
        )
    program = open_exported(source, file.path)
    inputs, outputs = exported_inputs(source, program), exported_outputs(source, program)
    limit = _batch_limit(inputs, outputs)
    if config.max_batch_size and limit == 0:
        raise InvalidArgument(
            f"model '{config.name}': max_batch_size is {config.max_batch_size} in the"
            " configuration, but the program was exported without a first dimension that varies"
            " alike in all inputs and outputs"
        )
    if limit and config.max_batch_size > limit > 0:
        raise InvalidArgument(
            f"model '{config.name}': max_batch_size is {config.max_batch_size} in the"
            f" configuration, but the program was exported for at most {limit}"
        )
    if not config.max_batch_size and limit and not config.input and not config.output:
        size = DEFAULT_MAX_BATCH_SIZE if limit < 0 else limit
        config = replace(config, max_batch_size=size, dynamic_batching=_batching(config))
    skipped = 1 if config.max_batch_size else 0
    return replace(
        config,
        input=config.input
        or tuple(ModelInput(t.name, t.datatype, t.dims[skipped:]) for t in inputs),
        output=config.output
        or tuple(ModelOutput(t.name, t.datatype, t.dims[skipped:]) for t in outputs),
    )


def _batching(config: ModelConfig) -> DynamicBatching | None:
    return None if config.sequence_batching else config.dynamic_batching or DynamicBatching()


def _batch_limit(inputs: Sequence[ExportedTensor], outputs: Sequence[ExportedTensor]) -> int:
    """The largest batch: 0 when the first dimension is no batch, -1 when there is no limit."""
    tensors = (*inputs, *outputs)
    first = tensors[0]
    if not first.batch or first.least > 1 or any(t.batch != first.batch for t in tensors):
        return 0
    return -1 if first.most is None else first.most


def _script_needs(config: ModelConfig, source: ModelSource, file: TorchFile) -> InvalidArgument:
    names = [p.name for p in load_script(source, file.path, torch.device("cpu")).parameters]
    example = names[0] if names else "INPUT__0"
    return InvalidArgument(
        f"model '{config.name}': TorchScript does not know datatypes and dims of its inputs"
        f" ({', '.join(names)}) and outputs; list them in the configuration, for instance"
        f' input [{{ name: "{example}" data_type: TYPE_FP32 dims: [ 16 ] }}]'
        ' output [{ name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ 4 ] }]'
    )
