"""Laws of streamed execution: one end for each request, and nothing made in vain."""

from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.runtime.fakes import config

from penstock_runtime import execution_stream
from penstock_runtime.backends.base import SLOW_READER_S
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.context import RequestContext
from penstock_runtime.errors import PenstockError
from penstock_runtime.execution import Desk
from penstock_runtime.execution_stream import FIRST_LOOK_NS, LOOK_NS, execute_stream
from penstock_runtime.observability.snapshot import StatisticsSnapshot
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.request import InferRequest, InferResponse
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.batch_scheduler import BatchScheduler
from penstock_runtime.scheduling.dynamic_batcher import DynamicBatcher
from penstock_runtime.scheduling.timer import Timer
from penstock_runtime.stream import OneOutput
from penstock_runtime.stream_lane import Lane, LaneStream

US = 1000


class Laned(LaneStream):
    """A stream whose lane takes everything and keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0
        self.gave_way: list[int] = []
        self.room = True
        self.patience: list[float] = []

    def lane(self, like: InferResponse) -> Lane | None:
        return self._take_one

    def open_lane(self, kind: OneOutput, shape: tuple[int, ...]) -> Lane | None:
        return None

    def _take_one(self, outputs: Mapping[str, Any]) -> bool:
        self.taken += 1
        return self.room

    def give_way(self, timeout_s: float) -> None:
        self.gave_way.append(self.taken)

    def wait_for_room(self, timeout_s: float) -> bool:
        self.patience.append(timeout_s)
        return self.room


class Model:
    """A decoupled model that does something after each response; it counts what it made."""

    def __init__(self, count: int, after: Callable[[int], object] = lambda _: None) -> None:
        self.count = count
        self.after = after
        self.made = 0
        self.closed = False

    def stream(self, inputs: Any, context: RequestContext) -> Iterator[Mapping[str, Any]]:
        try:
            for number in range(self.count):
                self.made += 1
                yield {"Y": np.zeros((1, 2), np.float32)}
                self.after(number)
        finally:
            self.closed = True

    def close(self) -> None:
        """Nothing is held."""


class Clock:
    """A time that goes on by so much whenever it is asked for."""

    def __init__(self, step_ns: int) -> None:
        self.now = 0
        self.step_ns = step_ns

    def __call__(self) -> int:
        self.now += self.step_ns
        return self.now


def execute(
    model: Model, stream: LaneStream, deadline_ns: int | None = None
) -> tuple[StatisticsSnapshot, PenstockError | None]:
    """Execute one request; what was counted, and the error that it got."""
    statistics = ModelStatistics("m", 1, decoupled=True)
    scheduler = BatchScheduler(DynamicBatcher(config()), statistics, Timer())
    desk = Desk("m_0_0", BatchPlan(config(), 1), scheduler, statistics)
    request = InferRequest("m", (), deadline_ns=deadline_ns)
    execute_stream(desk, model, Batch.of([Pending(request, stream)]))
    assert stream.ended
    return statistics.snapshot(), stream._error


def test_every_response_is_counted_under_its_index() -> None:
    """Once each, and the first in its histogram, whichever way they took; then the empty last."""
    snapshot, error = execute(Model(300), Laned())

    counts = {index: r.success.count for index, r in snapshot.response_stats.items()}
    assert error is None
    assert counts == {str(n): 1 for n in range(300)} | {"300": 0}
    assert snapshot.response_stats["300"].empty_response.count == 1
    assert snapshot.latency.first_response.count == 1
    assert (snapshot.success.count, snapshot.fail.count) == (1, 0)


def test_what_was_sent_before_a_failure_is_counted_and_so_is_the_failure() -> None:
    """A request moves one counter, a response another."""

    def fail(number: int) -> None:
        if number == 40:
            raise ValueError("enough")

    snapshot, error = execute(Model(100, fail), Laned())

    assert sum(r.success.count for r in snapshot.response_stats.values()) == 41
    assert snapshot.response_stats["41"].fail.count == 1
    assert (snapshot.success.count, snapshot.fail.count) == (0, 1)
    assert error is not None
    assert error.message == "execution failed: ValueError"


def test_a_cancelled_request_makes_one_more_response_at_most() -> None:
    """The model is stopped at the next one it gives, and its generator closed."""
    stream = Laned()
    model = Model(10**9, lambda number: stream.cancel() if number == 70 else None)

    snapshot, error = execute(model, stream)

    assert (model.made, model.closed) == (72, True)
    assert sum(r.cancel.count for r in snapshot.response_stats.values()) == 1
    assert snapshot.fail.count == 1
    assert error is not None


def test_a_request_past_its_deadline_makes_one_more_response_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However fast its model is."""
    clock = Clock(0)
    monkeypatch.setattr(execution_stream, "time", SimpleNamespace(monotonic_ns=clock))

    def pass_time(number: int) -> None:
        clock.now = 1000 if number == 70 else 0

    model = Model(10**9, pass_time)
    snapshot, error = execute(model, Laned(), deadline_ns=1000)

    assert (model.made, model.closed) == (72, True)
    assert error is not None
    assert error.status.value == "DEADLINE_EXCEEDED"
    assert sum(r.success.count for r in snapshot.response_stats.values()) == 71


def test_a_reader_that_takes_nothing_does_not_keep_the_instance() -> None:
    """Once there is no room, and none in time, the request ends."""
    stream = Laned()

    def fill(number: int) -> None:
        stream.room = number < 5

    _, error = execute(Model(10**9, fill), stream)

    assert error is not None
    assert error.reason == "SLOW_READER"
    assert stream.patience == [0.0, 0.0, SLOW_READER_S]


@pytest.mark.parametrize(
    ("step_us", "first", "then"),
    [(1, FIRST_LOOK_NS // US, LOOK_NS // US), (10_000, 1, 1)],
)
def test_the_loop_goes_first_every_now_and_then(
    monkeypatch: pytest.MonkeyPatch, step_us: int, first: int, then: int
) -> None:
    """Sooner for the first response, and never before there is a second."""
    clock = Clock(step_us * US)
    monkeypatch.setattr(execution_stream, "time", SimpleNamespace(monotonic_ns=clock))
    stream = Laned()

    execute(Model(5000), stream)

    assert stream.gave_way[0] == pytest.approx(first, abs=3)
    gaps = [b - a for a, b in zip(stream.gave_way, stream.gave_way[1:], strict=False)]
    assert all(gap == pytest.approx(then, abs=3) for gap in gaps)
