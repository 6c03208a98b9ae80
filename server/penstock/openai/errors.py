"""Errors as OpenAI's clients expect them: {"error": {"message", "type", "param", "code"}}."""

from collections.abc import Mapping
from types import MappingProxyType

from penstock.rest.documents import write_document
from penstock.rest.exchange import Reply
from penstock.rest.refusals import outcome
from penstock.status import HTTP_CODES, text_of
from penstock_runtime.errors import PenstockError, Status

# OpenAI has no 504: a request that took too long is one that its clients try again.
CODES: Mapping[Status, int] = MappingProxyType({**HTTP_CODES, Status.DEADLINE_EXCEEDED: 408})

_TYPES: Mapping[Status, str] = MappingProxyType(
    {
        Status.INVALID_ARGUMENT: "invalid_request_error",
        Status.FAILED_PRECONDITION: "invalid_request_error",
        Status.NOT_FOUND: "invalid_request_error",
        Status.ALREADY_EXISTS: "invalid_request_error",
        Status.UNIMPLEMENTED: "invalid_request_error",
        Status.UNAUTHENTICATED: "authentication_error",
        Status.PERMISSION_DENIED: "permission_error",
        Status.RESOURCE_EXHAUSTED: "rate_limit_error",
        Status.DEADLINE_EXCEEDED: "timeout_error",
        Status.CANCELLED: "cancelled_error",
        Status.UNAVAILABLE: "service_unavailable_error",
    }
)
_CODES: Mapping[Status, str] = MappingProxyType(
    {
        Status.NOT_FOUND: "model_not_found",
        Status.UNAUTHENTICATED: "invalid_api_key",
        Status.RESOURCE_EXHAUSTED: "rate_limit_exceeded",
    }
)

# Clients look for this one, to send less.
_TOO_LONG = "context_length_exceeded"
_REASONS: Mapping[str, str] = MappingProxyType(
    {"PROMPT_TOO_LONG": _TOO_LONG, "NEVER_FITS": _TOO_LONG}
)


def refused(error: PenstockError, request_id: str = "") -> Reply:
    """The answer to a request that fails."""
    code, headers = outcome(error, CODES)
    return Reply((error_document(error, request_id),), code, headers=headers)


def error_document(error: PenstockError, request_id: str = "") -> bytes:
    """What a caller is told of an error; `param` is the field that was wrong."""
    status = error.status
    said = {
        "message": text_of(error, request_id),
        "type": _TYPES.get(status, "server_error"),
        "param": error.violations[0].field if error.violations else None,
        "code": _REASONS.get(error.reason) or error.reason.lower() or _CODES.get(status),
    }
    return write_document({"error": said})
