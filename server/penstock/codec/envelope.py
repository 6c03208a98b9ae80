"""What a request has in common with others of its kind: model, version, names, datatypes, shapes
and requested outputs.

Envelopes are remembered by the bytes that they were read from, so that a caller who sends the same
kind of request again pays only for what differs. The memory is bounded in number and in size.
"""

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from google.protobuf.message import DecodeError

from penstock.codec.contents import Owner, read_contents
from penstock.codec.contents_scan import PackedFloats
from penstock.codec.input_scan import measure
from penstock.codec.parameters import read_output_parameters
from penstock.codec.prescan import Parts
from penstock.codec.wire import shown
from penstock_protos.inference import ModelInferRequest
from penstock_runtime.datatype import AnyArray, DataType, from_wire
from penstock_runtime.errors import InvalidArgument, Unsupported, Violation
from penstock_runtime.request import CLASSIFICATION, RequestedOutput

_SHARED_MEMORY = "shared_memory_region"
_MOST_REMEMBERED = 1024
_LONGEST_REMEMBERED = 1024

_InputTensor = ModelInferRequest.InferInputTensor
_OutputTensor = ModelInferRequest.InferRequestedOutputTensor


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request without its id, parameters and raw data; one entry per input.

    `typed` holds flat arrays when the request has typed contents; `bools` are the indices of the
    BOOL inputs among raw ones.
    """

    model_name: str
    model_version: str
    names: tuple[str, ...]
    datatypes: tuple[DataType, ...]
    shapes: tuple[tuple[int, ...], ...]
    outputs: tuple[RequestedOutput, ...]
    bools: tuple[int, ...]
    typed: tuple[AnyArray, ...] | None


_REMEMBERED: dict[bytes, Envelope] = {}

recall = _REMEMBERED.get
"""The envelope of this head, if one that was equal has been opened before."""


def open_envelope(parts: Parts) -> Envelope:
    """Read a request's head and check where the data of its inputs comes from."""
    floats = measure(parts.head).floats
    try:
        message = ModelInferRequest.FromString(parts.head)
    except DecodeError:
        raise InvalidArgument("the request is malformed, or a text in it is not UTF-8") from None
    if not message.model_name:
        raise InvalidArgument("the request has no model_name, expected the name of a model")
    inputs = tuple(message.inputs)
    names = tuple(tensor.name for tensor in inputs)
    _check_duplicates(names)
    datatypes = tuple(_datatype(tensor) for tensor in inputs)
    typed = _Sources(message, parts, floats).typed(inputs, datatypes)
    envelope = Envelope(
        message.model_name,
        message.model_version,
        names,
        datatypes,
        tuple(tuple(tensor.shape) for tensor in inputs),
        tuple(_requested(output) for output in message.outputs),
        () if typed else tuple(i for i, dt in enumerate(datatypes) if dt is DataType.BOOL),
        typed,
    )
    if typed is None:
        _remember(parts.head, envelope)
    return envelope


def _remember(head: bytes, envelope: Envelope) -> None:
    if len(head) > _LONGEST_REMEMBERED:
        return
    # Starting afresh costs the regular callers one miss each, and is safe from any thread.
    if len(_REMEMBERED) >= _MOST_REMEMBERED:
        _REMEMBERED.clear()
    _REMEMBERED[head] = envelope


def _check_duplicates(names: tuple[str, ...]) -> None:
    if len(set(names)) == len(names):
        return
    seen: set[str] = set()
    for name in names:
        if name in seen:
            refuse(f"input '{shown(name)}' already exists in request", name)
        seen.add(name)


def _datatype(tensor: _InputTensor) -> DataType:
    try:
        return from_wire(tensor.datatype)
    except InvalidArgument as error:
        refuse(f"input '{shown(tensor.name)}': {error.message}", tensor.name)


def _requested(output: _OutputTensor) -> RequestedOutput:
    shared = _SHARED_MEMORY in output.parameters
    if shared and CLASSIFICATION not in output.parameters:
        _refuse_shared_memory()
    parameters = read_output_parameters(output.parameters)
    if shared:
        raise InvalidArgument("output can't set both 'shared_memory_region' and 'classification'")
    return RequestedOutput(output.name, parameters)


class _Sources:
    """Where the data of each input comes from: raw entries or typed contents, never both."""

    def __init__(
        self,
        message: ModelInferRequest,
        parts: Parts,
        floats: tuple[PackedFloats | None, ...],
    ) -> None:
        self._model = message.model_name
        self._head = parts.head
        self._raw = bool(parts.raws)
        self._floats = floats

    def typed(
        self, inputs: tuple[_InputTensor, ...], datatypes: tuple[DataType, ...]
    ) -> tuple[AnyArray, ...] | None:
        """The flat arrays of inputs with typed contents; None when the data is raw."""
        arrays: list[AnyArray] = []
        for index, tensor in enumerate(inputs):
            if tensor.parameters and _SHARED_MEMORY in tensor.parameters:
                _refuse_shared_memory()
            if not self._raw:
                arrays.append(self._array(index, tensor, datatypes[index]))
            elif tensor.HasField("contents"):
                refuse(
                    "contents field must not be specified when using raw_input_contents for "
                    f"'{shown(tensor.name)}' for model '{shown(self._model)}'",
                    tensor.name,
                )
        return tuple(arrays) if arrays else None

    def _array(self, index: int, tensor: _InputTensor, datatype: DataType) -> AnyArray:
        if not tensor.HasField("contents"):
            refuse_missing_data(tensor.name, self._model)
        run = self._floats[index]
        if run is not None and datatype is (DataType.FP64 if run.double else DataType.FP32):
            return np.frombuffer(self._head, datatype.numpy, run.count, run.start)
        owner = Owner("input", tensor.name, self._model)
        array = read_contents(tensor.contents, datatype, owner)
        if array is not None:
            return array
        if 0 not in tensor.shape:
            refuse_missing_data(tensor.name, self._model)
        return np.empty(0, datatype.numpy)


def _refuse_shared_memory() -> NoReturn:
    raise Unsupported(
        "Client shared memory is disabled. "
        "Start the server with '--allow-client-shm=true' to enable."
    )


def refuse_missing_data(name: str, model: str) -> NoReturn:
    """Refuse an input for which the request holds no data."""
    refuse(
        f"unable to find data for input tensor '{shown(name)}' for model '{shown(model)}' "
        "in request.",
        name,
    )


def refuse(text: str, name: str) -> NoReturn:
    """Refuse the request because of the input of this name."""
    raise InvalidArgument(text, violations=(Violation(f"inputs[{shown(name)}]", text),))
