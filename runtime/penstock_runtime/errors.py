"""The one error tree. An error names the thing, the number that was wrong and what was expected.

Each class stands for one status of the wire; the server translates it once, at its edge. A message
is for the caller: it never holds a path, a key, a pointer or a stack trace (those go to the log).
"""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar


class Status(Enum):
    """Canonical status of an answer; names are those of gRPC."""

    UNKNOWN = "UNKNOWN"
    INTERNAL = "INTERNAL"
    NOT_FOUND = "NOT_FOUND"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNAVAILABLE = "UNAVAILABLE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    CANCELLED = "CANCELLED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    UNAUTHENTICATED = "UNAUTHENTICATED"


class FailureReason(Enum):
    """Label of the failure counter: why a request did not succeed."""

    REJECTED = "REJECTED"
    CANCELED = "CANCELED"
    BACKEND = "BACKEND"
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of the request that was wrong, and why."""

    field: str
    description: str


class PenstockError(Exception):
    """Base of every error that a caller may see.

    `reason` is a stable machine-readable word; `retry_after_ns` hints when a retry may succeed, and
    below 0 that none will;
    `scheduled` is True for errors of the engine (validation, queue, model), whose text carries the
    request id on the wire, and False for errors of the protocol layer.
    """

    status: ClassVar[Status] = Status.UNKNOWN
    failure: FailureReason = FailureReason.OTHER

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        retry_after_ns: int | None = None,
        violations: tuple[Violation, ...] = (),
        failure: FailureReason | None = None,
        scheduled: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.retry_after_ns = retry_after_ns
        self.violations = violations
        self.scheduled = scheduled
        if failure is not None:
            self.failure = failure


class UnknownError(PenstockError):
    """A failure that no one can classify."""


class Internal(PenstockError):
    """The server, or a model in it, broke a promise."""

    status = Status.INTERNAL


class NotFound(PenstockError):
    """A model, version or region that is not there."""

    status = Status.NOT_FOUND


class InvalidArgument(PenstockError):
    """The request is wrong, whatever the state of the server."""

    status = Status.INVALID_ARGUMENT


class Unavailable(PenstockError):
    """Not now; a retry may succeed."""

    status = Status.UNAVAILABLE


class Unsupported(PenstockError):
    """The server does not offer this."""

    status = Status.UNIMPLEMENTED


class AlreadyExists(PenstockError):
    """The name is taken."""

    status = Status.ALREADY_EXISTS


class InstanceDied(Unavailable):
    """The process of an instance ended while it had the request, which is not tried again: it may
    have been the cause.
    """


class Cancelled(PenstockError):
    """The caller gave up."""

    status = Status.CANCELLED
    failure = FailureReason.CANCELED


class DeadlineExceeded(PenstockError):
    """The caller's deadline passed before the work was done."""

    status = Status.DEADLINE_EXCEEDED
    failure = FailureReason.REJECTED


class ResourceExhausted(PenstockError):
    """A bound of the server was reached."""

    status = Status.RESOURCE_EXHAUSTED


class FailedPrecondition(PenstockError):
    """The server is not in the state that the call needs."""

    status = Status.FAILED_PRECONDITION


class PermissionDenied(PenstockError):
    """The caller may not do this."""

    status = Status.PERMISSION_DENIED


class Unauthenticated(PenstockError):
    """The caller did not say who it is."""

    status = Status.UNAUTHENTICATED
