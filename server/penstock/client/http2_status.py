"""How the ends of a stream read as errors of the client."""

from collections.abc import Sequence

from penstock.client.errors import InferenceError, from_status
from penstock.transport.http2.faults import ConnectionFault
from penstock.transport.http2.frames import ErrorCode
from penstock_runtime.errors import Status

# By their numbers in gRPC.
_NAMES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
# Those not named are INTERNAL (gRPC over HTTP/2, "Errors").
_RESETS = {
    ErrorCode.REFUSED_STREAM: Status.UNAVAILABLE,
    ErrorCode.CANCEL: Status.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: Status.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: Status.PERMISSION_DENIED,
}


def error_of_status(
    code: int, text: str, metadata: Sequence[tuple[str, str | bytes]]
) -> InferenceError | None:
    """The error of a gRPC status by its number; None for OK."""
    if code == 0:
        return None
    name = _NAMES[code] if 0 < code < len(_NAMES) else f"status {code}"
    return from_status(name, text, metadata)


def error_of_reset(code: int) -> InferenceError:
    """The error of a stream that the server reset with this HTTP/2 error code."""
    known = code in ErrorCode.__members__.values()
    name = ErrorCode(code).name if known else f"code {code}"
    status = _RESETS[ErrorCode(code)] if known and code in _RESETS else Status.INTERNAL
    return InferenceError(status, f"the server reset the stream with {name}")


def broken(fault: ConnectionFault) -> str:
    """Why a connection cannot go on: the server's mistake, unless it is ours."""
    if fault.__cause__ is not None:
        return f"a defect of this client broke the connection: {fault.__cause__!r}"
    return f"the server broke the protocol: {fault}"


def unavailable(text: str) -> InferenceError:
    """The error of a call that no server could be asked, or whose connection was lost."""
    return InferenceError(Status.UNAVAILABLE, text)


def cancelled(text: str = "the call was cancelled") -> InferenceError:
    """The error of a call that its own side ended."""
    return InferenceError(Status.CANCELLED, text)
