"""Errors as TGI's clients expect them: {"error", "error_type"}, and the statuses that it has."""

from collections.abc import Mapping
from types import MappingProxyType

from penstock.rest.documents import write_document
from penstock.rest.exchange import Reply
from penstock.rest.refusals import outcome
from penstock.status import HTTP_CODES, text_of
from penstock_runtime.errors import PenstockError, Status

GENERATION = 424
"""For what went wrong in the model itself."""

_CODES: Mapping[Status, int] = MappingProxyType(
    {**HTTP_CODES, Status.INVALID_ARGUMENT: 422, Status.FAILED_PRECONDITION: 422}
)
_MODEL_CODES: Mapping[Status, int] = MappingProxyType({**_CODES, Status.INTERNAL: GENERATION})
_TYPES: Mapping[Status, str] = MappingProxyType(
    {
        Status.RESOURCE_EXHAUSTED: "overloaded",
        Status.UNAVAILABLE: "overloaded",
        Status.INTERNAL: "generation",
        Status.UNKNOWN: "generation",
        Status.CANCELLED: "incomplete_generation",
        Status.DEADLINE_EXCEEDED: "incomplete_generation",
    }
)


def refused(error: PenstockError, request_id: str = "") -> Reply:
    """The answer to a request that fails."""
    code, headers = outcome(error, _MODEL_CODES if error.scheduled else _CODES)
    return Reply((error_document(error, request_id),), code, headers=headers)


def error_document(error: PenstockError, request_id: str = "") -> bytes:
    """What a caller is told of an error; all that is the caller's own doing is "validation"."""
    kind = _TYPES.get(error.status, "validation")
    return write_document({"error": text_of(error, request_id), "error_type": kind})
