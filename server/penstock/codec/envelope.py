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
from penstock.codec.places import read_place, refuse_places
from penstock.codec.prescan import Parts
from penstock.codec.wire import shown
from penstock_protos.inference import ModelInferRequest
from penstock_runtime.datatype import AnyArray, DataType, from_wire
from penstock_runtime.errors import InvalidArgument, Violation
from penstock_runtime.memory.places import REGION, Place
from penstock_runtime.request import CLASSIFICATION, RequestedOutput

_MOST_REMEMBERED = 1024
_LONGEST_REMEMBERED = 1024

_InputTensor = ModelInferRequest.InferInputTensor
_OutputTensor = ModelInferRequest.InferRequestedOutputTensor


Source = Place | AnyArray | None


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request without its id, parameters and raw data; one entry per input.

    `typed` holds flat arrays when the request has typed contents; `bools` are the indices of the
    BOOL inputs among raw ones. A request that uses shared memory has neither but `sources`: where
    an input lies, or its flat array, or None for the next raw entry.
    """

    model_name: str
    model_version: str
    names: tuple[str, ...]
    datatypes: tuple[DataType, ...]
    shapes: tuple[tuple[int, ...], ...]
    outputs: tuple[RequestedOutput, ...]
    bools: tuple[int, ...]
    typed: tuple[AnyArray, ...] | None
    sources: tuple[Source, ...] | None = None


_REMEMBERED: dict[bytes, Envelope] = {}
# Apart from the others, which are used without a look at what they are.
_PLACED: dict[bytes, Envelope] = {}

recall = _REMEMBERED.get
"""The envelope of this head, if one that was equal has been opened before."""


def open_envelope(parts: Parts, *, places: bool = False) -> Envelope:
    """Read a request's head and check where the data of its inputs comes from.

    Without `places` the use of shared memory is Unsupported.
    """
    if places and parts.head in _PLACED:
        return _PLACED[parts.head]
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
    sources = _Sources(message, parts, floats, places).of(inputs, datatypes)
    outputs = tuple(_requested(output, places) for output in message.outputs)
    placed = any(type(source) is Place for source in sources) or (
        places and any(REGION in output.parameters for output in outputs)
    )
    typed = tuple(source for source in sources if isinstance(source, np.ndarray))
    envelope = Envelope(
        message.model_name,
        message.model_version,
        names,
        datatypes,
        tuple(tuple(tensor.shape) for tensor in inputs),
        outputs,
        () if typed or placed else _bools(datatypes),
        typed if typed and not placed else None,
        sources if placed else None,
    )
    if not typed:
        _remember(_PLACED if placed else _REMEMBERED, parts.head, envelope)
    return envelope


def _bools(datatypes: tuple[DataType, ...]) -> tuple[int, ...]:
    return tuple(i for i, datatype in enumerate(datatypes) if datatype is DataType.BOOL)


def _remember(known: dict[bytes, Envelope], head: bytes, envelope: Envelope) -> None:
    if len(head) > _LONGEST_REMEMBERED:
        return
    # Starting afresh costs the regular callers one miss each, and is safe from any thread.
    if len(known) >= _MOST_REMEMBERED:
        known.clear()
    known[head] = envelope


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


def _requested(output: _OutputTensor, places: bool) -> RequestedOutput:
    placed = REGION in output.parameters
    both = placed and CLASSIFICATION in output.parameters
    if placed and not places and not both:
        refuse_places()
    if places and output.parameters and not both:
        read_place(output.parameters, "output", output.name)
    parameters = read_output_parameters(output.parameters)
    if both:
        raise InvalidArgument("output can't set both 'shared_memory_region' and 'classification'")
    return RequestedOutput(output.name, parameters)


class _Sources:
    """Where the data of each input comes from: shared memory, or else raw entries or typed
    contents, never both.
    """

    def __init__(
        self,
        message: ModelInferRequest,
        parts: Parts,
        floats: tuple[PackedFloats | None, ...],
        places: bool,
    ) -> None:
        self._model = message.model_name
        self._head = parts.head
        self._raw = bool(parts.raws)
        self._floats = floats
        self._places = places

    def of(
        self, inputs: tuple[_InputTensor, ...], datatypes: tuple[DataType, ...]
    ) -> tuple[Source, ...]:
        """The place of an input, the flat array of its typed contents, or None: it is raw."""
        sources: list[Source] = []
        for index, tensor in enumerate(inputs):
            place = self._place(tensor) if tensor.parameters else None
            if place is not None:
                sources.append(place)
            elif not self._raw:
                sources.append(self._array(index, tensor, datatypes[index]))
            else:
                if tensor.HasField("contents"):
                    self._refuse_contents(tensor.name)
                sources.append(None)
        return tuple(sources)

    def _place(self, tensor: _InputTensor) -> Place | None:
        if not self._places:
            if REGION in tensor.parameters:
                refuse_places()
            return None
        place = read_place(tensor.parameters, "input", tensor.name)
        if place is not None and tensor.HasField("contents"):
            refuse(
                "unexpected 'content' provided when using shared memory for input tensor "
                f"'{shown(tensor.name)}' for model '{shown(self._model)}'",
                tensor.name,
            )
        return place

    def _refuse_contents(self, name: str) -> NoReturn:
        refuse(
            "contents field must not be specified when using raw_input_contents for "
            f"'{shown(name)}' for model '{shown(self._model)}'",
            name,
        )

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
