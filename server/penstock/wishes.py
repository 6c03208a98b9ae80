"""What a caller may ask of an answer beside the protocol's own words."""

from collections.abc import Mapping

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.gathered_stream import WAYS
from penstock_runtime.request import InferRequest

TRUE_STATUS_METADATA = "triton_grpc_error"
BARE_METADATA = "penstock-bare-stream"
TYPED_METADATA = "penstock-typed-output"
TYPED_PARAMETER = "penstock_typed_output"
TIMING_PARAMETER = "penstock_timing"
GATHER_PARAMETER = "penstock_responses"
UNORDERED_METADATA = "penstock-unordered-stream"


def wants_typed(request: InferRequest, metadata_says: bool) -> bool:
    """Whether the outputs are wanted in typed contents rather than raw."""
    parameters = request.parameters
    if not parameters:
        return metadata_says
    return bool(parameters.get(TYPED_PARAMETER, metadata_says))


def wants_gathered(request: InferRequest) -> str:
    """How the responses of a decoupled model are to become the one of a call; "" where nothing is
    said of that. InvalidArgument for what is none of the ways.
    """
    way = request.parameters.get(GATHER_PARAMETER, "")
    if way != "" and way not in WAYS:
        given = str(way)[:64]
        raise InvalidArgument(
            f"parameter '{GATHER_PARAMETER}' is {given!r}, expected one of {', '.join(WAYS)}"
        )
    return str(way)


def metadata_flag(metadata: Mapping[str, str], key: str) -> bool:
    """Whether a call's metadata switches something on."""
    return metadata.get(key, "").lower() in ("true", "1")
