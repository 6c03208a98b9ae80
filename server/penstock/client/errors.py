"""What a failed call says: its status, and the details that came with it."""

from collections.abc import Iterable
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from penstock_protos import rpc_status
from penstock_runtime.errors import Status, Violation

DETAILS = "grpc-status-details-bin"
PUSHBACK = "grpc-retry-pushback-ms"
MOST_DELAY_S = 86_400.0
"""What a server may ask to wait: one that says more means that nobody should wait for it."""
_BY_NAME = {status.value: status for status in Status}


class InferenceError(Exception):
    """A call that failed.

    `retry_after_s` says when a retry may succeed (None: the server did not say; a day at most),
    `retryable` whether the same call may be sent again at all, `reason` is a stable word for
    programs, and `violations` are the fields of the request that were wrong.
    """

    def __init__(
        self,
        status: Status,
        message: str,
        *,
        reason: str = "",
        retry_after_s: float | None = None,
        violations: tuple[Violation, ...] = (),
        retryable: bool | None = None,
    ) -> None:
        super().__init__(f"{status.value}: {message}")
        self.status = status
        self.message = message
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.violations = violations
        self.retryable = status is Status.UNAVAILABLE if retryable is None else retryable


class FailedCall(Protocol):
    """What grpcio's errors offer, blocking and asyncio alike."""

    def code(self) -> Any:
        """The status code, an enum with a name."""

    def details(self) -> str | None:
        """The text of the status."""

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """What the server sent after its last message."""


def from_failed_call(failed: FailedCall) -> InferenceError:
    """The error that a failed call of grpcio stands for."""
    name = str(failed.code().name)
    return from_status(name, failed.details() or "", failed.trailing_metadata() or ())


def from_status(
    name: str, text: str, trailing: Iterable[tuple[str, str | bytes]] = ()
) -> InferenceError:
    """The error of a status by its name in gRPC; one that we have no word for is UNKNOWN."""
    status = _BY_NAME.get(name)
    if status is None:
        status, text = Status.UNKNOWN, f"{name}: {text}"
    return _with_details(status, text, dict(trailing))


def _with_details(status: Status, text: str, trailing: dict[str, str | bytes]) -> InferenceError:
    reason, delay, violations = _read_details(trailing.get(DETAILS))
    pushback = _read_pushback(trailing.get(PUSHBACK))
    forbidden = pushback is not None and pushback < 0
    if pushback is not None:
        delay = None if forbidden else min(pushback, MOST_DELAY_S * 1000) / 1000
    return InferenceError(
        status,
        text,
        reason=reason,
        retry_after_s=delay,
        violations=violations,
        retryable=status is Status.UNAVAILABLE and not forbidden,
    )


def _read_pushback(value: str | bytes | None) -> int | None:
    """Milliseconds; negative, or unreadable as gRPC has it, forbids a retry."""
    if value is None:
        return None
    try:
        return int(value)
    except ValueError:
        return -1


def _read_details(data: str | bytes | None) -> tuple[str, float | None, tuple[Violation, ...]]:
    """Reason, retry delay in seconds and violations out of a serialised google.rpc.Status."""
    reason: str = ""
    delay: float | None = None
    violations: tuple[Violation, ...] = ()
    if not isinstance(data, bytes):
        return reason, delay, violations
    try:
        for detail in rpc_status.Status.FromString(data).details:
            match detail.type_url.rpartition("/")[2]:
                case "google.rpc.ErrorInfo":
                    reason = rpc_status.ErrorInfo.FromString(detail.value).reason
                case "google.rpc.RetryInfo":
                    delay = _delay_s(rpc_status.RetryInfo.FromString(detail.value))
                case "google.rpc.BadRequest":
                    violations = _violations(rpc_status.BadRequest.FromString(detail.value))
    except DecodeError:
        # Details are a courtesy: the status and its text stand without them.
        return reason, delay, violations
    return reason, delay, violations


def _delay_s(info: rpc_status.RetryInfo) -> float:
    said = info.retry_delay.seconds + info.retry_delay.nanos / 1e9
    return min(max(said, 0.0), MOST_DELAY_S)


def _violations(bad: rpc_status.BadRequest) -> tuple[Violation, ...]:
    return tuple(Violation(each.field, each.description) for each in bad.field_violations)
