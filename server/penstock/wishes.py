"""What a caller may ask of an answer beside the protocol's own words."""

from collections.abc import Mapping

from penstock_runtime.request import InferRequest

TRUE_STATUS_METADATA = "triton_grpc_error"
BARE_METADATA = "penstock-bare-stream"
TYPED_METADATA = "penstock-typed-output"
TYPED_PARAMETER = "penstock_typed_output"
TIMING_PARAMETER = "penstock_timing"


def wants_typed(request: InferRequest, metadata_says: bool) -> bool:
    """Whether the outputs are wanted in typed contents rather than raw."""
    parameters = request.parameters
    if not parameters:
        return metadata_says
    return bool(parameters.get(TYPED_PARAMETER, metadata_says))


def metadata_flag(metadata: Mapping[str, str], key: str) -> bool:
    """Whether a call's metadata switches something on."""
    return metadata.get(key, "").lower() in ("true", "1")
