"""Arrays as the messages of mlserver and back, with the types of the package that is installed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from penstock_runtime.backends.arrays import WrongValue, as_array
from penstock_runtime.config import ModelConfig
from penstock_runtime.context import RequestContext
from penstock_runtime.datatype import BY_WIRE_NAME, AnyArray, DataType
from penstock_runtime.errors import FailureReason, Internal, InvalidArgument
from penstock_runtime.request import Parameter, Parameters
from penstock_runtime.tensor import object_array, to_host


@dataclass(frozen=True, slots=True)
class Likeness:
    """What requests must have in common to be executed as one: parameters and wanted outputs."""

    parameters: tuple[tuple[str, Parameter], ...]
    outputs: tuple[str, ...]


def likeness_of(context: RequestContext) -> Likeness:
    """The likeness of one request."""
    return Likeness(tuple(sorted(context.parameters.items())), context.requested_outputs)


class MessagePlan:
    """How the tensors of one model meet mlserver's messages; `types` is mlserver.types."""

    def __init__(self, config: ModelConfig, types: Any) -> None:
        self.model = config.name
        self._types = types
        self._inputs = {declared.name: declared.data_type for declared in config.input}
        self._outputs = {output.name: output.data_type for output in config.output}

    def request(self, inputs: Mapping[str, Any], contexts: Sequence[RequestContext]) -> Any:
        """An InferenceRequest of these arrays, for requests of one likeness."""
        types, first = self._types, contexts[0]
        made: dict[str, Any] = {
            "inputs": [self._input(name, array) for name, array in inputs.items()]
        }
        if first.requested_outputs:
            made["outputs"] = [types.RequestOutput(name=n) for n in first.requested_outputs]
        # `headers` is mlserver's own name for what the call brought.
        parameters: dict[str, Any] = {k: v for k, v in first.parameters.items() if k != "headers"}
        if len(contexts) == 1:
            made["id"] = first.id or None
            if first.headers:
                parameters["headers"] = dict(first.headers)
        if parameters:
            made["parameters"] = self._parameters(parameters)
        return types.InferenceRequest(**made)

    def arrays(self, response: Any) -> dict[str, AnyArray]:
        """The outputs of an InferenceResponse; Internal for one that is not what it says."""
        found = {}
        for output in response.outputs:
            if output.name not in self._outputs:
                known = ", ".join(self._outputs)
                raise self._broken(output.name, "is not declared", f"one of {known}")
            found[output.name] = self._array(output)
        return found

    def _parameters(self, given: Mapping[str, Any]) -> Any:
        try:
            return self._types.Parameters(**given)
        except ValueError as error:
            raise InvalidArgument(
                "a parameter of the request is not of the type that mlserver expects of it",
                scheduled=True,
            ) from error

    def _input(self, name: str, array: Any) -> Any:
        host = to_host(array)
        return self._types.RequestInput(
            name=name,
            shape=list(host.shape),
            datatype=self._inputs[name].value,
            data=host.reshape(-1).tolist(),
        )

    def _array(self, output: Any) -> AnyArray:
        datatype = BY_WIRE_NAME.get(str(getattr(output.datatype, "value", output.datatype)))
        data, shape = getattr(output.data, "root", output.data), tuple(output.shape)
        if datatype is None:
            raise self._broken(output.name, f"is {output.datatype}", "a datatype such as FP32")
        try:
            array = _texts(data, shape) if datatype is DataType.BYTES else _numbers(data, datatype)
        except WrongValue as error:
            raise self._broken(output.name, str(error), datatype.value) from error
        if array.size != prod(shape):
            text = ",".join(map(str, shape))
            raise self._broken(
                output.name, f"has {array.size} elements", f"{prod(shape)} for its shape [{text}]"
            )
        return array.reshape(shape)

    def _broken(self, output: str, found: str, expected: str) -> Internal:
        return Internal(
            f"output '{output[:128]}' of model '{self.model}' {found}, expected {expected}",
            failure=FailureReason.BACKEND,
            scheduled=True,
        )


def said(response: Any) -> Parameters:
    """The parameters of a response that the protocol can carry."""
    parameters = getattr(response, "parameters", None)
    if parameters is None:
        return {}
    given: Mapping[str, Any] = parameters.model_dump(exclude_none=True)
    return {k: v for k, v in given.items() if isinstance(v, bool | int | float | str)}


def _numbers(data: Any, datatype: DataType) -> AnyArray:
    # mlserver writes None for NaN.
    if datatype.numpy.kind == "f" and isinstance(data, list) and None in data:
        data = [np.nan if item is None else item for item in data]
    array: AnyArray = as_array(data, datatype)
    return array


def _texts(data: Any, shape: tuple[int, ...]) -> AnyArray:
    count = prod(shape)
    if isinstance(data, list) and len(data) == 1 and count > 1 and isinstance(data[0], bytes):
        # How mlserver's NumpyCodec packs an array of fixed-width bytes: all of them in one.
        width, rest = divmod(len(data[0]), count)
        if width and not rest:
            return object_array(np.frombuffer(data[0], f"S{width}").tolist())
    array: AnyArray = as_array(data, DataType.BYTES)
    return array
