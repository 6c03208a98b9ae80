"""A configuration completed by what an ONNX model says of itself, and held against it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from penstock_runtime.backends.completion import kept_outputs, provided_inputs
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument

# Triton's own default for models that can be batched and do not say how far.
DEFAULT_MAX_BATCH_SIZE = 4

DATATYPES: Mapping[str, DataType] = MappingProxyType(
    {
        "tensor(bool)": DataType.BOOL,
        "tensor(uint8)": DataType.UINT8,
        "tensor(uint16)": DataType.UINT16,
        "tensor(uint32)": DataType.UINT32,
        "tensor(uint64)": DataType.UINT64,
        "tensor(int8)": DataType.INT8,
        "tensor(int16)": DataType.INT16,
        "tensor(int32)": DataType.INT32,
        "tensor(int64)": DataType.INT64,
        "tensor(float16)": DataType.FP16,
        "tensor(bfloat16)": DataType.BF16,
        "tensor(float)": DataType.FP32,
        "tensor(double)": DataType.FP64,
        "tensor(string)": DataType.BYTES,
    }
)


@dataclass(frozen=True, slots=True)
class OnnxTensor:
    """One input or output; `kind` as ONNX Runtime writes it, `dims` with -1 for what may vary. No
    dims are those of a scalar, or of a model that does not even say how many there are.
    """

    name: str
    kind: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class OnnxSignature:
    """What goes in and out of a model."""

    inputs: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]

    @property
    def batched(self) -> bool:
        """Whether the first dimension of everything that must be there may vary."""
        needed = [t for t in (*self.inputs, *self.outputs) if not t.optional]
        return bool(needed) and all(t.dims and t.dims[0] == -1 for t in needed)


def complete_config(config: ModelConfig, signature: OnnxSignature, backend: str) -> ModelConfig:
    """The configuration with everything filled in that it leaves open.

    As Triton does: a model whose tensors all have a first dimension that may vary is batched.
    Raises InvalidArgument where the two contradict each other.
    """
    config = replace(config, backend=config.backend or backend)
    if not config.max_batch_size and not config.input and not config.output and signature.batched:
        config = replace(
            config,
            max_batch_size=DEFAULT_MAX_BATCH_SIZE,
            dynamic_batching=None
            if config.sequence_batching
            else config.dynamic_batching or DynamicBatching(),
        )
    skipped = 1 if config.max_batch_size else 0
    completed = replace(
        config,
        input=config.input or tuple(_inputs(config, signature, skipped)),
        output=config.output or tuple(_outputs(config, signature, skipped)),
    )
    check_signature(completed, signature)
    return completed


def check_signature(config: ModelConfig, signature: OnnxSignature) -> None:
    """InvalidArgument where a configuration and its model contradict each other."""
    inputs = {tensor.name: tensor for tensor in signature.inputs}
    outputs = {tensor.name: tensor for tensor in signature.outputs}
    for declared in config.input:
        _check(config, "input", declared, inputs)
    for output in (*config.output, *kept_outputs(config)):
        _check(config, "output", output, outputs)
    named = {*provided_inputs(config), *(declared.name for declared in config.input)}
    for name in named - inputs.keys():
        raise _unknown(config, "input", name, inputs)
    for tensor in signature.inputs:
        if tensor.name not in named and not tensor.optional:
            raise InvalidArgument(
                f"model '{config.name}': the model needs the input '{tensor.name}', which the"
                f" configuration does not name; it has {', '.join(sorted(named))}"
            )


def _inputs(config: ModelConfig, signature: OnnxSignature, skipped: int) -> list[ModelInput]:
    provided = provided_inputs(config)
    return [
        ModelInput(t.name, datatype_of(config, "input", t), _dims(config, t, skipped))
        for t in signature.inputs
        if t.name not in provided and not t.optional
    ]


def _outputs(config: ModelConfig, signature: OnnxSignature, skipped: int) -> list[ModelOutput]:
    kept = {output.name for output in kept_outputs(config)}
    return [
        ModelOutput(t.name, datatype_of(config, "output", t), _dims(config, t, skipped))
        for t in signature.outputs
        if t.name not in kept
    ]


def datatype_of(config: ModelConfig, what: str, tensor: OnnxTensor) -> DataType:
    """The datatype of a tensor; InvalidArgument for what is no tensor of the protocol."""
    datatype = DATATYPES.get(tensor.kind)
    if datatype is not None:
        return datatype
    raise InvalidArgument(
        f"model '{config.name}': {what} '{tensor.name}' is {tensor.kind[:80]}, which is no tensor"
        " of the protocol; where the rest is enough, list the others in the configuration"
    )


def _dims(config: ModelConfig, tensor: OnnxTensor, skipped: int) -> tuple[int, ...]:
    if skipped and tensor.dims[:1] != (-1,):
        raise _no_batch(config, tensor.name, tensor.dims)
    return tensor.dims[skipped:]


def _check(
    config: ModelConfig,
    what: str,
    declared: ModelInput | ModelOutput,
    known: Mapping[str, OnnxTensor],
) -> None:
    tensor = known.get(declared.name)
    if tensor is None:
        raise _unknown(config, what, declared.name, known)
    datatype = datatype_of(config, what, tensor)
    if declared.data_type is not datatype:
        raise InvalidArgument(
            f"model '{config.name}': {what} '{declared.name}' is {declared.data_type.value} in the"
            f" configuration, but {datatype.value} in the model"
        )
    # With `reshape` the model sees another shape than its clients.
    dims = declared.reshape.shape if declared.reshape is not None else declared.dims
    seen = (-1, *dims) if config.max_batch_size else dims
    if not tensor.dims:
        return
    if config.max_batch_size and tensor.dims[0] != -1:
        raise _no_batch(config, declared.name, tensor.dims)
    if _fits(seen, tensor.dims):
        return
    raise InvalidArgument(
        f"model '{config.name}': {what} '{declared.name}' has the shape {list(seen)} in the"
        f" configuration, but {list(tensor.dims)} in the model"
    )


def _fits(one: Sequence[int], other: Sequence[int]) -> bool:
    return len(one) == len(other) and all(
        -1 in (a, b) or a == b for a, b in zip(one, other, strict=True)
    )


def _no_batch(config: ModelConfig, name: str, dims: Sequence[int]) -> InvalidArgument:
    return InvalidArgument(
        f"model '{config.name}': max_batch_size is {config.max_batch_size} in the configuration,"
        f" but '{name}' has the shape {list(dims)} in the model, whose first dimension is no batch"
    )


def _unknown(
    config: ModelConfig, what: str, name: str, known: Mapping[str, OnnxTensor]
) -> InvalidArgument:
    return InvalidArgument(
        f"model '{config.name}': the configuration names {what} '{name}', which the model does not"
        f" have; it has {', '.join(known) or 'none'}"
    )
