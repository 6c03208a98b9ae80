"""The body of an infer request: a document, and behind it the binary data of the inputs that have
theirs there.

The document becomes the very head that a request over gRPC has, so that everything behind it (what
is checked, in which order, in which words) is one for both. Binary data stays a view on the body.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from penstock.codec.envelope import refuse, refuse_missing_data
from penstock.codec.prescan import MOST_INPUTS, MOST_OUTPUTS, MOST_PARAMETERS, Parts
from penstock.codec.wire import shown
from penstock.rest.documents import expect_object, expect_text, kind_of, read_object
from penstock.rest.exchange import Piece
from penstock.rest.tensor_values import read_values
from penstock_protos.inference import InferParameter, ModelInferRequest
from penstock_runtime.datatype import from_wire
from penstock_runtime.errors import InvalidArgument

HEADER_LENGTH = "inference-header-content-length"
_BINARY, _BINARY_SIZE, _ALL_BINARY = "binary_data", "binary_data_size", "binary_data_output"
_REGION = "shared_memory_region"
_INT64_MAX, _UINT64_MAX = (1 << 63) - 1, (1 << 64) - 1

Input = ModelInferRequest.InferInputTensor
Output = ModelInferRequest.InferRequestedOutputTensor


@dataclass(frozen=True, slots=True)
class Wishes:
    """Which outputs are wanted as binary data: those named, and what holds for the others."""

    named: Mapping[str, bool]
    others: bool = False

    def binary(self, output: str) -> bool:
        """Whether this output is."""
        return self.named.get(output, self.others)


@dataclass(frozen=True, slots=True)
class Body:
    """A body taken apart, nothing of it read."""

    document: Piece
    binary: memoryview


def split_body(body: bytes, header_length: str | None) -> Body:
    """The document and what is behind it, by the header that says where; InvalidArgument."""
    view = memoryview(body)
    if header_length is None:
        return Body(body, view[len(view) :])
    digits = header_length.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise InvalidArgument(
            f"header Inference-Header-Content-Length: expected a number of bytes, got"
            f" {digits[:32]!r}"
        )
    length = int(digits)
    if length > len(body):
        raise InvalidArgument(
            f"header Inference-Header-Content-Length says {length} bytes, the body has {len(body)}"
        )
    return Body(view[:length], view[length:])


def read_infer_request(body: Body, model: str, version: str) -> tuple[Parts, Wishes]:
    """The request for a model, taken apart as one over gRPC is; InvalidArgument."""
    document = read_object(body.document)
    parameters = dict(expect_object(document.get("parameters", {}), "'parameters'"))
    everything = _flag(parameters.pop(_ALL_BINARY, False), _ALL_BINARY)
    head = ModelInferRequest(model_name=model, model_version=version)
    wishes = _outputs(head, document.get("outputs", []), everything)
    options = write_parameters(parameters)
    raws = _Inputs(head, model, body.binary).read(document.get("inputs"))
    identity = expect_text(document.get("id", ""), "'id'").encode()
    # A numpy array takes the place of a view where the data came as JSON.
    return Parts(head.SerializeToString(), identity, options, raws), wishes


def write_parameters(parameters: Mapping[str, Any]) -> bytes:
    """The parameters of a request as gRPC has them."""
    found = infer_parameters(parameters)
    return ModelInferRequest(parameters=found).SerializeToString() if found else b""


def infer_parameters(parameters: Mapping[str, Any]) -> dict[str, InferParameter]:
    """Parameters with the types that their values have in JSON; InvalidArgument names one that has
    none.
    """
    if len(parameters) > MOST_PARAMETERS:
        raise InvalidArgument(
            f"{len(parameters)} parameters in one place, expected at most {MOST_PARAMETERS}"
        )
    return {
        expect_text(key, "the name of a parameter"): _parameter(key, value)
        for key, value in parameters.items()
    }


def _parameter(key: str, value: Any) -> InferParameter:
    if isinstance(value, bool):
        return InferParameter(bool_param=value)
    if isinstance(value, int):
        return _integer(key, value)
    if isinstance(value, float):
        return InferParameter(double_param=value)
    if isinstance(value, str):
        return InferParameter(string_param=expect_text(value, f"parameter '{shown(key)}'"))
    raise InvalidArgument(
        f"parameter '{shown(key)}' is {kind_of(value)}, expected a boolean, a number or a string"
    )


def _integer(key: str, value: int) -> InferParameter:
    if -_INT64_MAX - 1 <= value <= _INT64_MAX:
        return InferParameter(int64_param=value)
    if not 0 <= value <= _UINT64_MAX:
        raise InvalidArgument(f"parameter '{shown(key)}' has a number of more than 64 bits")
    if key == "sequence_id":
        # An id of 64 bits without a sign, which gRPC carries with one.
        return InferParameter(int64_param=value - _UINT64_MAX - 1)
    return InferParameter(uint64_param=value)


# -- outputs -------------------------------------------------------------------------------------


def _outputs(head: ModelInferRequest, outputs: Any, everything: bool) -> Wishes:
    named: dict[str, bool] = {}
    for output in _list(outputs, "outputs", MOST_OUTPUTS):
        name = expect_text(output.get("name"), "the name of an output")
        parameters = dict(expect_object(output.get("parameters", {}), "parameters of an output"))
        named[name] = _flag(parameters.pop(_BINARY, everything), _BINARY)
        head.outputs.append(Output(name=name, parameters=infer_parameters(parameters)))
    return Wishes(named, everything)


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument(f"parameter '{name}' is {kind_of(value)}, expected a boolean")
    return value


def _list(items: Any, what: str, most: int) -> Sequence[Mapping[str, Any]]:
    if not isinstance(items, list):
        raise InvalidArgument(f"'{what}' is {kind_of(items)}, expected an array")
    if len(items) > most:
        raise InvalidArgument(f"{len(items)} {what}, expected at most {most}")
    return [expect_object(item, f"an entry of '{what}'") for item in items]


# -- inputs --------------------------------------------------------------------------------------


class _Inputs:
    """Reads the inputs of one request, and cuts their binary data off, one behind the other."""

    def __init__(self, head: ModelInferRequest, model: str, binary: memoryview) -> None:
        self._head = head
        self._model = model
        self._binary = binary
        self._at = 0

    def read(self, inputs: Any) -> tuple[Any, ...]:
        """The data of every input that has some in the body."""
        if inputs is None:
            raise InvalidArgument("the request has no 'inputs', expected an array of tensors")
        raws = [self._input(entry) for entry in _list(inputs, "inputs", MOST_INPUTS)]
        left = len(self._binary) - self._at
        if left:
            raise InvalidArgument(
                f"the body has {left} bytes of binary data that belong to no input"
            )
        return tuple(raw for raw in raws if raw is not None)

    def _input(self, entry: Mapping[str, Any]) -> Any:
        name = expect_text(entry.get("name"), "the name of an input")
        datatype = expect_text(entry.get("datatype"), f"'datatype' of input '{shown(name)}'")
        parameters = dict(expect_object(entry.get("parameters", {}), "parameters of an input"))
        size = parameters.pop(_BINARY_SIZE, None)
        shape = _shape(entry.get("shape"), name)
        self._head.inputs.append(
            Input(
                name=name,
                datatype=datatype,
                shape=shape,
                parameters=infer_parameters(parameters),
            )
        )
        if _REGION in parameters:
            return self._in_region(name, size is not None or "data" in entry)
        if size is not None:
            return self._cut(size, name, "data" in entry)
        if "data" not in entry:
            refuse_missing_data(name, self._model)
        try:
            kind = from_wire(datatype)
        except InvalidArgument as error:
            refuse(f"input '{shown(name)}': {error.message}", name)
        return read_values(entry["data"], kind, name)

    def _in_region(self, name: str, also_here: bool) -> None:
        if also_here:
            refuse(
                f"unexpected 'content' provided when using shared memory for input tensor"
                f" '{shown(name)}' for model '{shown(self._model)}'",
                name,
            )

    def _cut(self, size: Any, name: str, also_json: bool) -> memoryview:
        if also_json:
            _refuse_input(name, "has both 'data' and binary data")
        left = len(self._binary) - self._at
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            _refuse_input(name, "has a 'binary_data_size' that is no number of bytes")
        if size > left:
            _refuse_input(name, f"has a 'binary_data_size' of {size}, {left} bytes are left")
        self._at += size
        return self._binary[self._at - size : self._at]


def _shape(shape: Any, name: str) -> list[int]:
    if not isinstance(shape, list) or any(type(dim) is not int for dim in shape):
        _refuse_input(name, "has no 'shape' that is an array of integers")
    if any(not -_INT64_MAX - 1 <= dim <= _INT64_MAX for dim in shape):
        _refuse_input(name, "has a dimension of more than 64 bits")
    return shape


def _refuse_input(name: str, problem: str) -> NoReturn:
    refuse(f"input '{shown(name)}' {problem}", name)
