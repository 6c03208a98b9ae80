"""Names of gRPC's statuses, by their numbers and by the HTTP/2 codes that stand for them."""

from penstock.transport.http2.frames import ErrorCode

NAMES = (
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
_RESETS = {
    0x7: "UNAVAILABLE",
    0x8: "CANCELLED",
    0xB: "RESOURCE_EXHAUSTED",
    0xC: "PERMISSION_DENIED",
}


def name_of_status(number: int) -> str:
    """The name of a status; a number that gRPC does not have is UNKNOWN."""
    return NAMES[number] if 0 <= number < len(NAMES) else "UNKNOWN"


def name_of_reset(code: int) -> str:
    """What a call ends with whose stream was reset with this error code."""
    return _RESETS.get(code, "INTERNAL")


def name_of_code(code: int) -> str:
    """The name of an HTTP/2 error code, or its number."""
    return ErrorCode(code).name if code in ErrorCode._value2member_map_ else f"code {code}"
