"""A generate request: a flat object whose names are those of the model's inputs, or of parameters.

What a value leaves open (its datatype, its batch, the dimensions around it) is taken from the
model's configuration.
"""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from penstock.codec.prescan import MOST_INPUTS, Parts
from penstock.codec.wire import shown
from penstock.rest.documents import expect_text, kind_of
from penstock.rest.infer_request import Input, write_parameters
from penstock.rest.tensor_values import read_values
from penstock_protos.inference import ModelInferRequest
from penstock_runtime.config import ModelConfig, ModelInput
from penstock_runtime.errors import InvalidArgument

ID, NESTED = "id", "parameters"


def read_generate_request(
    document: Mapping[str, Any], model: str, version: str, config: ModelConfig
) -> Parts:
    """The request for a model, taken apart as one over gRPC is; InvalidArgument."""
    declared = {tensor.name: tensor for tensor in config.input}
    head = ModelInferRequest(model_name=model, model_version=version)
    raws: list[Any] = []
    parameters: dict[str, Any] = {}
    identity = ""
    for key, value in _entries(document, declared):
        tensor = declared.get(key)
        if tensor is not None:
            raws.append(_input(head, tensor, value, config.max_batch_size > 0))
        elif key == ID:
            identity = expect_text(value, "'id'")
        else:
            parameters[key] = value
    options = write_parameters(parameters)
    return Parts(head.SerializeToString(), identity.encode(), options, tuple(raws))


def _entries(
    document: Mapping[str, Any], declared: Mapping[str, ModelInput]
) -> Iterator[tuple[str, Any]]:
    """Names and values, those in the object `parameters` among them; each name once."""
    nested = document.get(NESTED) if NESTED not in declared else None
    if nested is not None and not isinstance(nested, dict):
        raise InvalidArgument(f"'{NESTED}' is {kind_of(nested)}, expected an object")
    for key, value in document.items():
        if key != NESTED or NESTED in declared:
            yield expect_text(key, "a name"), value
    for key, value in (nested or {}).items():
        if key in document:
            raise InvalidArgument(f"'{shown(key)}' is in '{NESTED}' and beside it, expected once")
        yield expect_text(key, f"a name in '{NESTED}'"), value


def _input(head: ModelInferRequest, tensor: ModelInput, value: Any, batched: bool) -> Any:
    if len(head.inputs) >= MOST_INPUTS:
        raise InvalidArgument(f"more than {MOST_INPUTS} inputs")
    if isinstance(value, dict) or value is None:
        raise InvalidArgument(
            f"'{tensor.name}' is {kind_of(value)}, expected the value of an input or an array"
        )
    batched = batched and not tensor.is_shape_tensor
    array = read_values(
        value if isinstance(value, list) else [value], tensor.data_type, tensor.name
    )
    shape = _shape(value, tensor, batched, array.size)
    name, datatype = tensor.name, tensor.data_type.value
    head.inputs.append(Input(name=name, datatype=datatype, shape=shape))
    return array


def _shape(value: Any, tensor: ModelInput, batched: bool, count: int) -> list[int]:
    """The shape of a value: its own if it is nested as the input is, else what the input's dims
    make of so many elements, as a batch of one.
    """
    own = _nesting(value)
    rank = len(tensor.dims) + batched
    if len(own) == rank:
        return own
    if batched and len(own) == rank - 1:
        return [1, *own]
    return [1] * batched + _filled(tensor.dims, count)


def _nesting(value: Any) -> list[int]:
    """How many elements each level of an array has; none for a value that is no array."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def _filled(dims: tuple[int, ...], count: int) -> list[int]:
    """The dims, their last wildcard such that they hold so many elements and the others 1.

    Where that cannot be, the shape is one that the model's own check refuses, in its own words.
    """
    shape = [1 if dim < 0 else dim for dim in dims]
    wild = [index for index, dim in enumerate(dims) if dim < 0]
    rest = prod(shape)
    if wild and rest:
        shape[wild[-1]] = count // rest
    return shape
