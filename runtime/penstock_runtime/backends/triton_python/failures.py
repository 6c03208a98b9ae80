"""Errors as models see and make them, and what they are in this house."""

from collections.abc import Mapping
from types import MappingProxyType

from penstock_runtime.errors import (
    AlreadyExists,
    Cancelled,
    FailureReason,
    Internal,
    InvalidArgument,
    NotFound,
    PenstockError,
    Status,
    Unavailable,
    UnknownError,
    Unsupported,
)


class TritonModelException(Exception):
    """What a call of this module raises when it fails; a model may raise it as well."""


class TritonError:
    """The error of one response: a text for the caller, and a code that becomes the status."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7

    __slots__ = ("_code", "_message")

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        if code not in _KINDS:
            raise TritonModelException(f"error code {code!r} is unknown, expected 0 to 7")
        self._message = str(message)
        self._code = code

    def message(self) -> str:
        """The text."""
        return self._message

    def code(self) -> int:
        """The code, one of this class's numbers."""
        return self._code

    def __repr__(self) -> str:
        return f"TritonError({self._message!r}, code={self._code})"


_KINDS: Mapping[int, type[PenstockError]] = MappingProxyType(
    {
        TritonError.UNKNOWN: UnknownError,
        TritonError.INTERNAL: Internal,
        TritonError.NOT_FOUND: NotFound,
        TritonError.INVALID_ARG: InvalidArgument,
        TritonError.UNAVAILABLE: Unavailable,
        TritonError.UNSUPPORTED: Unsupported,
        TritonError.ALREADY_EXISTS: AlreadyExists,
        TritonError.CANCELLED: Cancelled,
    }
)
# Statuses that models have no code for come as the nearest that they have.
_CODES: Mapping[Status, int] = MappingProxyType(
    {
        **{kind.status: code for code, kind in _KINDS.items()},
        Status.DEADLINE_EXCEEDED: TritonError.UNAVAILABLE,
        Status.RESOURCE_EXHAUSTED: TritonError.UNAVAILABLE,
        Status.FAILED_PRECONDITION: TritonError.UNAVAILABLE,
        Status.PERMISSION_DENIED: TritonError.INVALID_ARG,
        Status.UNAUTHENTICATED: TritonError.INVALID_ARG,
    }
)


def to_penstock(error: TritonError) -> PenstockError:
    """What the caller of a request gets whose response is this error: the model's own words."""
    kind = _KINDS[error.code()]
    return kind(
        error.message(), reason="MODEL_ERROR", failure=FailureReason.BACKEND, scheduled=True
    )


def to_triton(error: PenstockError) -> TritonError:
    """What a model sees of a call that failed."""
    return TritonError(error.message, _CODES.get(error.status, TritonError.INTERNAL))
