"""Laws of waiting for a time: however far it is, it harms nobody."""

import threading
import time
from collections.abc import Callable

import pytest

from penstock_runtime.scheduling.gate import Gate
from penstock_runtime.scheduling.timer import Timer

FAR = [10**9 * 3_600 * 24 * 365 * 300, 99_999_999 * 3_600 * 10**9, 10**30]
"""Nanoseconds; the first is more than a lock can be waited for."""


@pytest.mark.parametrize("far_ns", FAR)
def test_appointments_are_kept_however_far_others_are(far_ns: int) -> None:
    """What is centuries away neither ends the timer's thread nor keeps it from what is near."""
    timer, rung = Timer(), threading.Event()

    timer.call_at(time.monotonic_ns() + far_ns, lambda: None)
    # The thread must have begun to wait for it.
    time.sleep(0.05)
    timer.call_at(time.monotonic_ns() + 1_000_000, rung.set)

    assert rung.wait(20)


def test_appointments_are_kept_in_the_order_of_their_times() -> None:
    """Also those that have passed, and although one of them fails."""
    timer, kept, done = Timer(), list[int](), threading.Event()
    now = time.monotonic_ns()

    def keep(number: int) -> Callable[[], None]:
        return lambda: kept.append(number)

    def fail() -> None:
        raise ValueError("an appointment that fails")

    timer.call_at(now + 90_000_000, done.set)
    timer.call_at(now + 60_000_000, keep(2))
    timer.call_at(now + 50_000_000, fail)
    timer.call_at(now + 40_000_000, keep(1))
    timer.call_at(now - 1, keep(0))

    assert done.wait(20)
    assert kept == [0, 1, 2]


@pytest.mark.parametrize("far_ns", FAR)
def test_whoever_waits_at_a_gate_may_wait_for_any_time(far_ns: int) -> None:
    """An instance that sleeps until a batch is due does not end for its being far."""
    gate = Gate()
    gate.open()

    assert gate.wait(far_ns / 1e9)
