"""Laws of the sequence scheduler: who is woken, who is answered, and when all is over."""

from collections.abc import Callable
from typing import cast

import pytest
from tests.runtime.fakes import HandClock
from tests.runtime.sequence_fakes import SECOND, ask, batcher, layout

from penstock_runtime.assembly import HOLD_BACKLOG_HOOK, HOLD_HOOK, hold_until_hook
from penstock_runtime.errors import Cancelled, FailureReason, PenstockError
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.scheduling.base import Pending, Retired
from penstock_runtime.scheduling.gate import Gate
from penstock_runtime.scheduling.sequence_batcher import SequenceBatcher
from penstock_runtime.scheduling.sequence_scheduler import SequenceScheduler
from penstock_runtime.scheduling.timer import Timer


class HandTimer:
    """A timer that keeps its appointments when it is told the time."""

    def __init__(self) -> None:
        self.due: list[tuple[int, Callable[[], None]]] = []

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> None:
        self.due.append((when_ns, callback))

    def keep(self, now: int) -> None:
        """Call what is due."""
        ready = [entry for entry in self.due if entry[0] <= now]
        self.due = [entry for entry in self.due if entry[0] > now]
        for _, callback in ready:
            callback()


class Bench:
    """A scheduler, its clock and its timer, and what was counted."""

    def __init__(self, decider: SequenceBatcher) -> None:
        self.clock, self.timer = HandClock(), HandTimer()
        self.statistics = ModelStatistics("m", 1)
        timer = cast(Timer, self.timer)
        self.scheduler = SequenceScheduler(decider, self.statistics, timer, clock=self.clock)
        self.gate = Gate()

    def submit(self, *pendings: Pending) -> None:
        for pending in pendings:
            self.scheduler.submit(pending)

    def run(self) -> list[Pending]:
        """The requests of the next step, answered at once."""
        ran = [one for one in layout(self.scheduler.next_work(self.gate)) if one is not None]
        for pending in ran:
            pending.stream.close()
        self.scheduler.answered(len(ran))
        return ran

    def wait(self, until: int) -> None:
        self.clock.now = until
        self.timer.keep(until)

    def failures(self, reason: FailureReason) -> int:
        return self.statistics.snapshot().failures[reason]


def error_of(pending: Pending) -> PenstockError:
    """What the request was answered with."""
    with pytest.raises(PenstockError) as answered:
        pending.stream.collect(1.0)
    return answered.value


def test_what_waits_when_the_model_stops_is_answered_once() -> None:
    """The instance gets nothing more, and every request its one answer."""
    bench = Bench(batcher(slots=1))
    asked = [ask(1, "S"), ask(1), ask(2, "S")]
    bench.submit(*asked)

    assert bench.run() == asked[:1]
    bench.scheduler.stop()

    assert [isinstance(error_of(one), Retired) for one in asked[1:]] == [True, True]
    assert bench.scheduler.next_work(bench.gate) is None
    assert bench.scheduler.unanswered == 0
    with pytest.raises(Retired):
        bench.submit(ask(1))


def test_a_draining_model_refuses_starts_and_is_done_with_the_last_end() -> None:
    """Answered is not enough, as long as a sequence may go on."""
    bench = Bench(batcher(slots=2))
    bench.submit(ask(1, "S"))
    bench.run()

    assert not bench.scheduler.drain(0.0)
    with pytest.raises(Retired):
        bench.submit(ask(2, "S"))
    with pytest.raises(Retired):
        bench.submit(ask(2))
    bench.submit(ask(1, "E"))
    assert not bench.scheduler.drain(0.0)
    bench.run()

    assert bench.scheduler.drain(0.0)


def test_silence_ends_a_drain_too() -> None:
    """The timer sees to it, with every instance asleep."""
    bench = Bench(batcher(slots=1, idle_ns=SECOND))
    bench.submit(ask(1, "S"))
    bench.run()

    assert not bench.scheduler.drain(0.0)
    bench.wait(SECOND)

    assert bench.scheduler.drain(0.0)
    assert bench.scheduler.open_sequences == 0


def test_a_cancelled_sequence_is_answered_and_counted_once_each() -> None:
    """The one that was cancelled, and those that go with it."""
    bench = Bench(batcher(slots=1))
    asked = [ask(1, "S"), ask(1), ask(1)]
    bench.submit(*asked)

    asked[1].stream.cancel()

    assert all(isinstance(error_of(one), Cancelled) for one in asked)
    assert bench.failures(FailureReason.CANCELED) == 3
    assert bench.scheduler.unanswered == 0


def test_a_timeout_in_the_backlog_is_kept_by_the_timer() -> None:
    """With every instance busy."""
    bench = Bench(batcher(slots=1))
    bench.submit(ask(1, "S"))
    layout(bench.scheduler.next_work(bench.gate))
    late = ask(2, "S", timeout_us=1000)
    bench.submit(late)

    bench.wait(1_000_000)

    assert error_of(late).message == "timeout of the corresponding sequence has been expired"
    assert bench.failures(FailureReason.REJECTED) == 1


def test_a_refused_request_stays_with_its_caller() -> None:
    """Of several the others are accepted."""
    bench = Bench(batcher(slots=1))
    good, bad = ask(1, "S"), ask(2)

    refused = bench.scheduler.submit_all([good, bad])

    assert [pending for pending, _ in refused] == [bad]
    assert bench.scheduler.unanswered == 1


def test_the_hooks_of_tritons_tests_are_read_from_the_environment() -> None:
    """Each by its name; what is no number does nothing."""
    environ = {HOLD_HOOK: "3", HOLD_BACKLOG_HOOK: "x"}

    assert hold_until_hook(environ) == 3
    assert hold_until_hook(environ, HOLD_BACKLOG_HOOK) == 0
    assert hold_until_hook({HOLD_BACKLOG_HOOK: "4"}, HOLD_BACKLOG_HOOK) == 4
