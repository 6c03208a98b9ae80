"""An InferRequest becomes a serialized ModelInferRequest: the client's side of `decode`."""

from penstock.codec.parameters import write_parameters
from penstock.codec.places import placed_entry
from penstock.codec.tensor_writer import Part, add_raw, check_size, slot, typed_entries
from penstock.codec.wire import sized, text
from penstock_runtime.memory.places import Place
from penstock_runtime.request import InferRequest, Parameter, Parameters, RequestedOutput

_MODEL_NAME, _MODEL_VERSION, _ID, _PARAMETERS = b"\x0a", b"\x12", b"\x1a", b"\x22"
_OUTPUTS, _RAW = b"\x32", b"\x3a"
_OUTPUT_NAME, _OUTPUT_PARAMETERS = b"\x0a", b"\x12"


def encode_request(request: InferRequest, typed: bool = False) -> bytes:
    """A ModelInferRequest with every input's data raw, or typed if asked for.

    Inputs that have no typed form (FP16, BF16) make the whole request raw. The deadline and the
    headers travel with the call, not in the message. InvalidArgument above 2^31-1 bytes; Internal
    when an input's array does not fill its shape. An input whose array is a Place is told of only.
    """
    inputs = [tensor for tensor in request.inputs if type(tensor.array) is not Place]
    whole = len(inputs) == len(request.inputs)
    entries = typed_entries(request.inputs) if typed and whole else None
    places = [slot(tensor, _RAW) for tensor in inputs] if entries is None else []
    parts: list[Part] = [
        text(_MODEL_NAME, request.model_name),
        text(_MODEL_VERSION, request.model_version),
        text(_ID, request.id),
        write_parameters(_PARAMETERS, all_parameters(request)),
        b"".join(map(placed_entry, request.inputs)) if entries is None else entries,
        b"".join(map(_requested, request.outputs)),
    ]
    size = sum(map(len, parts)) + sum(len(p.before) + max(p.size, 0) for p in places)
    check_size(size, "Request")
    for place, tensor in zip(places, inputs, strict=False):
        size += add_raw(parts, tensor, place)
    check_size(size, "Request")
    return b"".join(parts)


def all_parameters(request: InferRequest) -> Parameters:
    """The request's parameters as the wire has them: the custom ones and the scheduling ones."""
    found: dict[str, Parameter] = dict(request.parameters)
    if request.correlation_id or request.sequence_start or request.sequence_end:
        found["sequence_id"] = _signed(request.correlation_id)
        found["sequence_start"] = request.sequence_start
        found["sequence_end"] = request.sequence_end
    if request.priority:
        found["priority"] = request.priority
    if request.timeout_us:
        found["timeout"] = request.timeout_us
    return found


def _signed(correlation_id: int | str) -> int | str:
    """The id as the int64 that servers take: the same 64 bits."""
    if isinstance(correlation_id, int) and 1 << 63 <= correlation_id < 1 << 64:
        return correlation_id - (1 << 64)
    return correlation_id


def _requested(output: RequestedOutput) -> bytes:
    name = text(_OUTPUT_NAME, output.name)
    return sized(_OUTPUTS, name + write_parameters(_OUTPUT_PARAMETERS, output.parameters))
