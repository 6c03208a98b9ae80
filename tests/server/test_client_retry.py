"""The client's retry policy, deadlines and error details, with a clock that the test moves."""

import math
from collections.abc import Iterable
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.client.deadline import NS, Deadline
from penstock.client.errors import DETAILS, MOST_DELAY_S, PUSHBACK, InferenceError, from_failed_call
from penstock.client.retry import NO_RETRIES, Retries, RetryPolicy
from penstock_protos import rpc_status
from penstock_runtime.errors import Status, Violation

UNAVAILABLE = InferenceError(Status.UNAVAILABLE, "not now")
PLAIN = RetryPolicy(attempts=4, initial_backoff_s=0.1, max_backoff_s=0.3, jitter=0)


class Code(Enum):
    """Stands for grpc.StatusCode."""

    UNAVAILABLE = 14
    ABORTED = 10
    INVALID_ARGUMENT = 3


class Failed:
    """Stands for grpcio's error of a call."""

    def __init__(self, code: Code, text: str, *trailing: tuple[str, str | bytes]) -> None:
        self._code, self._text, self._trailing = code, text, trailing

    def code(self) -> Code:
        return self._code

    def details(self) -> str:
        return self._text

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        return self._trailing


def delays(policy: RetryPolicy, error: InferenceError, deadline_ns: int | None) -> list[int]:
    """The waits of a call that always fails with `error`, on a clock that only waiting moves."""
    now, waits = 0, []
    retries = Retries(policy, deadline_ns, chance=lambda: 0.5)
    while (delay := retries.delay_after(error, now)) is not None:
        waits.append(delay)
        now += delay
    return waits


def test_waits_grow_up_to_their_bound_and_attempts_are_counted() -> None:
    """Four attempts have three waits, each twice the last, none over the bound."""
    waits = delays(PLAIN, UNAVAILABLE, None)

    assert waits == [NS // 10, 2 * NS // 10, 3 * NS // 10]


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.UNAVAILABLE])
def test_only_unavailable_is_sent_again(status: Status) -> None:
    """Any other status is the answer, at once."""
    waits = delays(PLAIN, InferenceError(status, "no"), None)

    assert waits == []


def test_the_server_says_when_to_come_back() -> None:
    """A pushback of the server replaces the wait of the policy."""
    error = InferenceError(Status.UNAVAILABLE, "busy", retry_after_s=0.007)

    waits = delays(PLAIN, error, None)

    assert waits == [7_000_000] * 3


def test_a_wait_past_the_deadline_is_not_begun() -> None:
    """The call fails with its last error rather than sleep through its deadline."""
    waits = delays(PLAIN, UNAVAILABLE, NS // 4)

    assert waits == [NS // 10]


def test_no_retries_means_one_attempt() -> None:
    """The policy for callers who retry themselves."""
    assert delays(NO_RETRIES, UNAVAILABLE, None) == []


@given(
    st.builds(
        RetryPolicy,
        attempts=st.integers(1, 8),
        initial_backoff_s=st.floats(0, 1),
        max_backoff_s=st.floats(0, 2),
        jitter=st.floats(0, 1),
    ),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 5 * NS),
)
def test_waits_stay_within_bound_count_and_deadline(
    policy: RetryPolicy, chance: float, deadline_ns: int
) -> None:
    """Whatever the policy: attempts, jitter's share and the deadline are never exceeded."""
    retries, now, waits = Retries(policy, deadline_ns, chance=lambda: chance), 0, []

    while (delay := retries.delay_after(UNAVAILABLE, now)) is not None:
        waits.append(delay)
        now += delay

    assert len(waits) < policy.attempts
    assert all(w <= policy.max_backoff_s * (1 + policy.jitter) * NS for w in waits)
    assert now <= deadline_ns


@pytest.mark.parametrize(("attempts", "jitter"), [(0, 0.1), (3, 1.5), (3, -0.1)])
def test_a_senseless_policy_is_refused(attempts: int, jitter: float) -> None:
    """No attempt at all, or a jitter that is no share, is an error where it is written."""
    with pytest.raises(ValueError, match="expected"):
        RetryPolicy(attempts=attempts, jitter=jitter)


def test_status_details_become_the_error() -> None:
    """Reason, retry delay and violations come out of the serialised status."""
    bad = rpc_status.BadRequest()
    bad.field_violations.add(field="inputs[0].shape", description="expected [-1,16], got [16]")
    info = rpc_status.ErrorInfo(reason="WRONG_SHAPE")
    retry = rpc_status.RetryInfo(retry_delay=rpc_status.Duration(seconds=1, nanos=500_000_000))
    status = rpc_status.Status()
    for name, detail in [("BadRequest", bad), ("ErrorInfo", info), ("RetryInfo", retry)]:
        status.details.add(
            type_url=f"type.googleapis.com/google.rpc.{name}", value=detail.SerializeToString()
        )
    failed = Failed(Code.INVALID_ARGUMENT, "bad", (DETAILS, status.SerializeToString()))

    error = from_failed_call(failed)

    assert str(error) == "INVALID_ARGUMENT: bad"
    assert (error.status, error.reason) == (Status.INVALID_ARGUMENT, "WRONG_SHAPE")
    assert error.retry_after_s == 1.5
    assert error.violations == (Violation("inputs[0].shape", "expected [-1,16], got [16]"),)
    assert not error.retryable


@pytest.mark.parametrize(
    ("pushback", "retryable", "after"),
    [
        ("250", True, 0.25),
        ("0", True, 0.0),
        ("-1", False, None),
        ("soon", False, None),
        ("9" * 400, True, MOST_DELAY_S),
    ],
)
def test_pushback_delays_or_forbids(pushback: str, retryable: bool, after: float | None) -> None:
    """Milliseconds are honoured up to a day; a negative or unreadable number forbids the retry."""
    error = from_failed_call(Failed(Code.UNAVAILABLE, "busy", (PUSHBACK, pushback)))

    assert (error.retryable, error.retry_after_s) == (retryable, after)


@pytest.mark.parametrize(
    ("seconds", "after"), [(-5, 0.0), (-(1 << 62), 0.0), (1 << 62, MOST_DELAY_S), (3, 3.0)]
)
def test_a_delay_of_a_server_is_one_that_can_be_waited(seconds: int, after: float) -> None:
    """Neither negative nor longer than a day, whatever the server says."""
    retry = rpc_status.RetryInfo(retry_delay=rpc_status.Duration(seconds=seconds))
    status = rpc_status.Status()
    status.details.add(
        type_url="type.googleapis.com/google.rpc.RetryInfo", value=retry.SerializeToString()
    )
    failed = Failed(Code.UNAVAILABLE, "busy", (DETAILS, status.SerializeToString()))

    assert from_failed_call(failed).retry_after_s == after


def test_unreadable_details_leave_status_and_text() -> None:
    """Details that are no message do not hide the error itself."""
    error = from_failed_call(Failed(Code.UNAVAILABLE, "busy", (DETAILS, b"\xff\xff\xff")))

    assert (error.status, error.message) == (Status.UNAVAILABLE, "busy")


def test_an_unknown_code_keeps_its_name_in_the_text() -> None:
    """A status that the protocol does not use becomes UNKNOWN and says what it was."""
    error = from_failed_call(Failed(Code.ABORTED, "raced"))

    assert str(error) == "UNKNOWN: ABORTED: raced"


@pytest.mark.parametrize("timeout", [0, -1, math.nan])
def test_a_deadline_lies_in_the_future(timeout: float) -> None:
    """A time-out of nothing is a mistake of the caller."""
    with pytest.raises(ValueError, match="expected more than 0"):
        Deadline.after(timeout, 0)


def test_an_infinite_timeout_is_no_deadline() -> None:
    """math.inf asks for a call without a deadline."""
    deadline = Deadline.after(math.inf, 5)

    assert deadline.remaining_s(10**18) is None
    assert not deadline.passed(10**18)
