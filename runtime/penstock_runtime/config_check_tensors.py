"""Checks of what goes into a model and comes out: inputs, outputs, ragged batches, warm-up."""

import math
from collections.abc import Mapping, Sequence

from penstock_runtime.config import (
    BatchInput,
    BatchOutput,
    ModelConfig,
    ModelInput,
    ModelOutput,
    Warmup,
    WarmupInput,
)
from penstock_runtime.config_problem import (
    Problems,
    bad_dims,
    below,
    error,
    fits,
    not_a_file_name,
    not_one_of,
    repeated,
    shape_text,
    unknown,
    warning,
)
from penstock_runtime.config_schema import ENUMS
from penstock_runtime.datatype import DataType

_RAGGED_TYPES = (DataType.INT32, DataType.INT64, DataType.FP32)
# A warm-up tensor is made in memory; the wire carries no larger one.
_WARMUP_BYTES = 2**31 - 1


def tensor_problems(config: ModelConfig) -> Problems:
    """Names, dimensions, formats and reshapes of inputs and outputs."""
    yield from repeated("input", supplied_names(config))
    yield from repeated("output", (tensor.name for tensor in config.output))
    for index, tensor in enumerate(config.input):
        yield from _tensor(f"input[{index}]", tensor)
        yield from _input(f"input[{index}]", tensor, config.max_batch_size)
    for index, output in enumerate(config.output):
        yield from _tensor(f"output[{index}]", output)
        yield from not_a_file_name(f"output[{index}].label_filename", output.label_filename)


def supplied_names(config: ModelConfig) -> list[str]:
    """Every tensor that the model is given: by the client, or by the batchers."""
    names = [tensor.name for tensor in config.input]
    for batch_input in config.batch_input:
        names += batch_input.target_name
    sequence = config.sequence_batching
    if sequence is not None:
        names += [control.name for control in sequence.control_input]
        names += [state.input_name for state in sequence.state]
    dynamic = config.dynamic_batching
    if dynamic is not None and dynamic.length_batching is not None:
        names += [dynamic.length_batching.mask_name] if dynamic.length_batching.mask_name else []
    return names


def _tensor(field: str, tensor: ModelInput | ModelOutput) -> Problems:
    if not tensor.name:
        yield error(f"{field}.name", "is empty", "name the tensor as the model does")
    bad = [*bad_dims(f"{field}.dims", tensor.dims)]
    if not tensor.dims and tensor.reshape is None:
        fix = "write dims: [ 1 ], or leave it if each request brings one value"
        yield warning(f"{field}.dims", "is empty: the tensor is a scalar", fix)
    if tensor.reshape is not None:
        bad += bad_dims(f"{field}.reshape.shape", tensor.reshape.shape)
    yield from bad
    # Only sizes that are known to be sound have a product worth working out.
    if tensor.reshape is not None and not bad:
        yield from _reshape(field, tensor.dims, tensor.reshape.shape)


def _input(field: str, tensor: ModelInput, max_batch_size: int) -> Problems:
    formats = ENUMS[ModelInput, "format"]
    yield from not_one_of(f"{field}.format", tensor.format, formats)
    if tensor.format in formats[1:] and len(tensor.dims) != 3:
        message = f"{tensor.format} needs 3 dims, got {len(tensor.dims)}"
        yield error(f"{field}.format", message, "give 3 dims or remove the format")
    yield from _shape_tensor(field, tensor)
    if tensor.allow_ragged_batch and max_batch_size < 1:
        message = "has no effect, because max_batch_size is 0"
        yield warning(f"{field}.allow_ragged_batch", message, "set max_batch_size")


def _shape_tensor(field: str, tensor: ModelInput) -> Problems:
    if not tensor.is_shape_tensor:
        return
    if tensor.allow_ragged_batch:
        message = "contradicts is_shape_tensor: a batch has one shape for all"
        yield error(f"{field}.allow_ragged_batch", message, "remove one of the two")
    if tensor.data_type is DataType.BYTES:
        message = "TYPE_STRING holds no shape"
        yield error(f"{field}.data_type", message, "choose an integer type")


def _reshape(field: str, dims: Sequence[int], shape: Sequence[int]) -> Problems:
    if _segments(dims) != _segments(shape):
        message = f"{shape_text(shape)} has not the elements of dims {shape_text(dims)}"
        fix = "keep the product, between the -1 too, and the number of -1"
        yield error(f"{field}.reshape.shape", message, fix)


def _segments(dims: Sequence[int]) -> list[int]:
    """Elements before, between and after the wildcards: equal for shapes of the same elements."""
    products = [1]
    for dim in dims:
        if dim == -1:
            products.append(1)
        else:
            products[-1] *= dim
    return products


def ragged_problems(config: ModelConfig) -> Problems:
    """Inputs that the batcher makes for a ragged batch, and outputs that it cuts back."""
    inputs = {tensor.name: tensor for tensor in config.input}
    outputs = {tensor.name: tensor for tensor in config.output}
    for index, batch_input in enumerate(config.batch_input):
        yield from _batch_input(f"batch_input[{index}]", batch_input, inputs)
    for index, batch_output in enumerate(config.batch_output):
        yield from _batch_output(f"batch_output[{index}]", batch_output, inputs, outputs)
    targets = [name for one in config.batch_output for name in one.target_name]
    yield from repeated("batch_output", targets)
    if (config.batch_input or config.batch_output) and config.max_batch_size < 1:
        field = "batch_input" if config.batch_input else "batch_output"
        yield error(field, "needs batches, but max_batch_size is 0", "set max_batch_size")


def _batch_input(field: str, batch_input: BatchInput, inputs: Mapping[str, ModelInput]) -> Problems:
    yield from not_one_of(f"{field}.kind", batch_input.kind, ENUMS[BatchInput, "kind"])
    yield from _targets(f"{field}.target_name", batch_input.target_name)
    yield from _source(f"{field}.source_input", batch_input.source_input, inputs)
    if batch_input.data_type not in _RAGGED_TYPES:
        names = [one.config_name for one in _RAGGED_TYPES]
        yield from not_one_of(f"{field}.data_type", batch_input.data_type.config_name, names)


def _batch_output(
    field: str,
    batch_output: BatchOutput,
    inputs: Mapping[str, ModelInput],
    outputs: Mapping[str, ModelOutput],
) -> Problems:
    yield from not_one_of(f"{field}.kind", batch_output.kind, ENUMS[BatchOutput, "kind"])
    yield from _targets(f"{field}.target_name", batch_output.target_name)
    yield from _source(f"{field}.source_input", batch_output.source_input, inputs)
    sources = [inputs[name] for name in batch_output.source_input if name in inputs]
    for name in batch_output.target_name:
        yield from unknown(f"{field}.target_name", name, outputs, "output")
        if name in outputs and sources:
            yield from _scattered(f"{field}.target_name", outputs[name], sources[0])


def _scattered(field: str, output: ModelOutput, source: ModelInput) -> Problems:
    """Each wildcard takes the size that the input has in its place."""
    dims = source.reshape.shape if source.reshape is not None else source.dims
    if any(dim == -1 and at >= len(dims) for at, dim in enumerate(output.dims)):
        message = (
            f"dims {shape_text(output.dims)} of '{output.name}' have a -1 where input"
            f" '{source.name}' {shape_text(dims)} has no dimension"
        )
        yield error(field, message, "give the output's size there, or another source_input")


def _targets(field: str, names: Sequence[str]) -> Problems:
    if not names or not all(names):
        yield error(field, f"must be one name or more, got {list(names)[:4]}", "name the tensor")


def _source(field: str, names: Sequence[str], inputs: Mapping[str, ModelInput]) -> Problems:
    if len(names) != 1 or not names[0]:
        yield error(field, f"must be one name, got {list(names)[:4]}", "give exactly one name")
    for name in names:
        yield from unknown(field, name, inputs, "input")
        if name in inputs and inputs[name].optional:
            message = f"'{name}' is optional: a request without it has no shape to tell of"
            yield error(field, message, "remove optional from the input")


def warmup_problems(config: ModelConfig) -> Problems:
    """Requests that are run before the model is ready."""
    inputs = {tensor.name: tensor for tensor in config.input}
    supplied = dict.fromkeys(supplied_names(config))
    required = {name for name, tensor in inputs.items() if not tensor.optional}
    for index, warmup in enumerate(config.model_warmup):
        field = f"model_warmup[{index}]"
        yield from _warmup_batch(field, warmup, config.max_batch_size)
        missing = sorted(required - warmup.inputs.keys())
        if missing:
            yield error(f"{field}.inputs", f"misses the inputs {missing[:8]}", "add them")
        for name, tensor in warmup.inputs.items():
            place = f'{field}.inputs["{name}"]'
            yield from unknown(place, name, supplied, "input")
            yield from _warmup_input(place, tensor, max(warmup.batch_size, 1))
            yield from _warmup_match(place, tensor, inputs, name)


def _warmup_batch(field: str, warmup: Warmup, max_batch_size: int) -> Problems:
    yield from below(f"{field}.batch_size", warmup.batch_size, 0)
    yield from below(f"{field}.count", warmup.count, 0)
    if warmup.batch_size > max(max_batch_size, 1):
        message = f"must be <= max_batch_size {max_batch_size}, got {warmup.batch_size}"
        yield error(f"{field}.batch_size", message, "lower it")


def _warmup_input(field: str, tensor: WarmupInput, batch_size: int) -> Problems:
    yield from bad_dims(f"{field}.dims", tensor.dims, wildcard=False)
    size = math.prod(max(dim, 1) for dim in tensor.dims[:64]) * max(tensor.data_type.size, 1)
    if size * batch_size > _WARMUP_BYTES:
        message = f"takes {size * batch_size} bytes, more than {_WARMUP_BYTES}"
        yield error(f"{field}.dims", message, "warm up with smaller tensors")
    sources = tensor.zero_data + tensor.random_data + bool(tensor.input_data_file)
    if sources != 1:
        message = f"must have one of zero_data, random_data and input_data_file, got {sources}"
        yield error(field, message, "write zero_data: true, or another one")
    yield from not_a_file_name(f"{field}.input_data_file", tensor.input_data_file)


def _warmup_match(
    field: str, tensor: WarmupInput, inputs: Mapping[str, ModelInput], name: str
) -> Problems:
    expected = inputs.get(name)
    if expected is None:
        return
    if tensor.data_type is not expected.data_type:
        got, wanted = tensor.data_type.config_name, expected.data_type.config_name
        yield error(f"{field}.data_type", f"is {got}, the input is {wanted}", f"write {wanted}")
    if not fits(expected.dims, tensor.dims):
        message = f"{shape_text(tensor.dims)} is none of the input's {shape_text(expected.dims)}"
        yield error(f"{field}.dims", message, "give the input's dims, without the batch dimension")
