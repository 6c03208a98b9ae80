"""The one translation of errors into what a caller sees: code, text, trailing metadata.

What is not an error of ours is a defect: the caller learns a number, the log gets the traceback
under the same number.
"""

import logging
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from penstock_protos import rpc_status
from penstock_runtime.errors import Internal, PenstockError, Status

logger = logging.getLogger("penstock.status")

DOMAIN = "penstock"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
DETAILS_KEY = "grpc-status-details-bin"
WRONG_REQUEST = "WRONG_REQUEST"
"""The reason of whatever is wrong with a field and has no reason of its own."""
MAX_TEXT = 4096
"""Characters of a status text: what is longer would not fit into a client's header limit."""

CODES: Mapping[Status, int] = MappingProxyType(
    {
        Status.CANCELLED: 1,
        Status.UNKNOWN: 2,
        Status.INVALID_ARGUMENT: 3,
        Status.DEADLINE_EXCEEDED: 4,
        Status.NOT_FOUND: 5,
        Status.ALREADY_EXISTS: 6,
        Status.PERMISSION_DENIED: 7,
        Status.RESOURCE_EXHAUSTED: 8,
        Status.FAILED_PRECONDITION: 9,
        Status.UNIMPLEMENTED: 12,
        Status.INTERNAL: 13,
        Status.UNAVAILABLE: 14,
        Status.UNAUTHENTICATED: 16,
    }
)
"""Statuses and their numbers in gRPC."""

HTTP_CODES: Mapping[Status, int] = MappingProxyType(
    {
        Status.CANCELLED: 499,
        Status.UNKNOWN: 500,
        Status.INVALID_ARGUMENT: 400,
        Status.DEADLINE_EXCEEDED: 504,
        Status.NOT_FOUND: 404,
        Status.ALREADY_EXISTS: 409,
        Status.PERMISSION_DENIED: 403,
        Status.RESOURCE_EXHAUSTED: 429,
        Status.FAILED_PRECONDITION: 400,
        Status.UNIMPLEMENTED: 501,
        Status.INTERNAL: 500,
        Status.UNAVAILABLE: 503,
        Status.UNAUTHENTICATED: 401,
    }
)
"""Statuses and their numbers in HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ends when it does not succeed."""

    status: Status
    text: str
    trailing: tuple[tuple[str, str | bytes], ...] = ()

    @property
    def code(self) -> int:
        """The number of the status in gRPC."""
        return CODES[self.status]


def translate(error: BaseException, request_id: str = "") -> Answer:
    """What the caller sees of an error; `request_id` is named in errors of the engine."""
    known = public_error(error)
    text = text_of(known, request_id)
    return Answer(known.status, text, tuple(_trailing(known, text)))


def text_of(error: PenstockError, request_id: str = "") -> str:
    """The status text: with the request's id in front exactly when the engine raised the error."""
    text = error.message
    if error.scheduled:
        text = f"[request id: {request_id or '<id_unknown>'}] {text}"
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."


def public_error(error: BaseException) -> PenstockError:
    """The error itself if a caller may see it, else one that bears the number of its log entry."""
    if isinstance(error, PenstockError):
        return error
    log_id = secrets.token_hex(4)
    logger.error("unexpected error, log id %s", log_id, exc_info=error)
    return Internal(f"internal error (log id {log_id})")


def _trailing(error: PenstockError, text: str) -> Iterator[tuple[str, str | bytes]]:
    if error.retry_after_ns is not None:
        # Negative is gRPC's word for: do not try again.
        after_ms = -(-error.retry_after_ns // 1_000_000)
        yield PUSHBACK_KEY, str(-1 if error.retry_after_ns < 0 else max(1, after_ms))
    details = list(_details(error))
    if details:
        code = CODES[error.status]
        status = rpc_status.Status(code=code, message=text, details=details)
        yield DETAILS_KEY, status.SerializeToString()


def _details(error: PenstockError) -> Iterator[rpc_status.Any]:
    if error.violations:
        fields = [
            rpc_status.BadRequest.FieldViolation(field=v.field, description=v.description)
            for v in error.violations
        ]
        yield _packed("BadRequest", rpc_status.BadRequest(field_violations=fields))
    reason = reason_of(error)
    if reason:
        yield _packed("ErrorInfo", rpc_status.ErrorInfo(reason=reason, domain=DOMAIN))
    if error.retry_after_ns is not None and error.retry_after_ns >= 0:
        seconds, nanos = divmod(error.retry_after_ns, 1_000_000_000)
        delay = rpc_status.Duration(seconds=seconds, nanos=nanos)
        yield _packed("RetryInfo", rpc_status.RetryInfo(retry_delay=delay))


def reason_of(error: PenstockError) -> str:
    """The stable word for what went wrong, "" if there is none."""
    return error.reason or (WRONG_REQUEST if error.violations else "")


def _packed(
    name: str, message: rpc_status.BadRequest | rpc_status.ErrorInfo | rpc_status.RetryInfo
) -> rpc_status.Any:
    url = f"type.googleapis.com/google.rpc.{name}"
    return rpc_status.Any(type_url=url, value=message.SerializeToString())
