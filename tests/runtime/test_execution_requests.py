"""Requests in the hands of a model: one last answer, one counter, whoever ends them and when."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.fakes import config

from penstock_runtime import execution_requests
from penstock_runtime.backends.base import RequestExecutable, RequestTask
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.config import TransactionPolicy
from penstock_runtime.errors import Internal, Unavailable
from penstock_runtime.execution import Desk
from penstock_runtime.execution_requests import HeldTasks, execute_requests
from penstock_runtime.held_task import HeldTask
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.request import InferRequest
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.batch_scheduler import BatchScheduler
from penstock_runtime.scheduling.dynamic_batcher import DynamicBatcher
from penstock_runtime.scheduling.gate import Gate
from penstock_runtime.scheduling.timer import Timer
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import tensor

Work = Callable[[Sequence[RequestTask]], None]


class Model(RequestExecutable):
    """A model that does with its requests what it is told."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def execute_requests(self, tasks: Sequence[RequestTask]) -> None:
        self.work(tasks)

    def finalize(self) -> None:
        """Nothing has begun."""

    def close(self) -> None:
        """Nothing is held."""


class House:
    """One instance, its scheduler and its counters."""

    def __init__(self, *, decoupled: bool = False) -> None:
        settings = replace(config(), model_transaction_policy=TransactionPolicy(decoupled))
        self.statistics = ModelStatistics("m", 1, decoupled=decoupled)
        self.scheduler = BatchScheduler(DynamicBatcher(settings), self.statistics, Timer())
        self.desk = Desk("m_0_0", BatchPlan(settings, 1), self.scheduler, self.statistics)
        self.alarms: list[tuple[int, Callable[[], None]]] = []
        self.held = HeldTasks(lambda at, ring: self.alarms.append((at, ring)))

    def run(self, work: Work, count: int = 1, deadline_ns: int | None = None) -> list[Any]:
        """Submit and execute so many requests; their streams."""
        streams = [ResponseStream() for _ in range(count)]
        arrays = {"X": np.zeros((1, 2), np.float32)}
        members: list[Pending] = []
        for stream in streams:
            request = InferRequest("m", (tensor("X", arrays["X"]),), deadline_ns=deadline_ns)
            self.scheduler.submit(Pending(request, stream, arrays))
            batch = self.scheduler.next_work(Gate())
            assert isinstance(batch, Batch)
            members += batch.members
        execute_requests(self.desk, Model(work), Batch.of(members), self.held)
        return streams

    def counted(self) -> tuple[int, int]:
        """Successes and failures."""
        snapshot = self.statistics.snapshot()
        return snapshot.success.count, snapshot.fail.count


def outputs() -> dict[str, Any]:
    """What fits the model."""
    return {"Y": np.ones((1, 2), np.float32)}


ENDS: dict[str, Callable[[HeldTask, ResponseStream], None]] = {
    "answer": lambda task, _: task.send(outputs()),
    "finish": lambda task, _: task.finish(),
    "fail": lambda task, _: task.fail(Internal("no")),
    "wrong": lambda task, _: task.send({"Y": np.ones((1, 3), np.float32)}),
    "cancel": lambda _, stream: stream.cancel(),
}


@given(
    decoupled=st.booleans(),
    before=st.lists(st.sampled_from(sorted(ENDS)), max_size=3),
    raises=st.booleans(),
    after=st.lists(st.sampled_from(sorted(ENDS)), max_size=3),
    forgotten=st.booleans(),
)
def test_whatever_happens_a_request_ends_once_and_is_counted_once(
    decoupled: bool, before: list[str], raises: bool, after: list[str], forgotten: bool
) -> None:
    """Answered, failed, cancelled or dropped, in any order, before and after the model returned."""
    house = House(decoupled=decoupled)
    tasks: list[HeldTask] = []

    def work(handed: Sequence[RequestTask]) -> None:
        tasks.extend(task for task in handed if isinstance(task, HeldTask))
        for name in before:
            ENDS[name](tasks[0], tasks[0].pending.stream if tasks[0].pending else ResponseStream())
        if raises:
            raise Internal("raised")

    (stream,) = house.run(work)
    for name in after:
        ENDS[name](tasks[0], stream)
    if forgotten or not tasks[0].ended:
        house.held.end()

    assert tasks[0].ended
    assert stream.ended
    assert sum(house.counted()) == 1
    assert house.scheduler.unanswered == 0
    assert len(house.held) == 0


def test_a_batch_is_one_execution_however_late_its_answers() -> None:
    """What was answered by the end of the call is counted with it, the rest when it comes."""
    house = House()
    kept: list[RequestTask] = []

    def work(tasks: Sequence[RequestTask]) -> None:
        tasks[0].send(outputs())
        kept.extend(tasks[1:])

    house.run(work, count=3)
    early = house.statistics.snapshot()
    for task in kept:
        task.send(outputs())
    late = house.statistics.snapshot()

    assert (early.success.count, early.execution_count, early.inference_count) == (1, 1, 3)
    assert (late.success.count, late.execution_count, late.inference_count) == (3, 1, 3)


def test_what_a_model_raises_fails_all_that_have_no_answer() -> None:
    """Those that have one keep it."""
    house = House()

    def work(tasks: Sequence[RequestTask]) -> None:
        tasks[1].send(outputs())
        raise Internal("broken", scheduled=True)

    streams = house.run(work, count=3)

    assert house.counted() == (1, 2)
    assert [stream._error and stream._error.message for stream in streams] == [
        "broken",
        None,
        "broken",
    ]


def test_whoever_watches_a_request_hears_that_its_caller_gave_up() -> None:
    """Once, also when it has before; not when it is answered."""
    house = House()
    heard: list[str] = []
    tasks: list[RequestTask] = []
    streams = house.run(tasks.extend, count=2)
    for name, task in zip("ab", tasks, strict=True):
        task.on_abandon(lambda name=name: heard.append(name))  # type: ignore[misc]
        task.on_abandon(lambda: heard.append("forgotten"))()

    streams[0].cancel()
    streams[0].cancel()
    tasks[1].send(outputs())
    tasks[0].on_abandon(lambda: heard.append("late"))

    assert heard == ["a", "late"]
    assert [task.abandoned for task in tasks] == [True, False]


def test_a_model_that_goes_leaves_no_request_behind() -> None:
    """What it kept is answered UNAVAILABLE, what it keeps later too."""
    house = House(decoupled=True)
    (first,) = house.run(lambda _: None)

    house.held.end()
    (second,) = house.run(lambda _: None)

    assert isinstance(first._error, Unavailable)
    assert isinstance(second._error, Unavailable)


def test_a_deadline_ends_a_request_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its time, by one appointment for all; nobody has to look."""
    house = House(decoupled=True)
    far = 2**61
    (late,) = house.run(lambda _: None, deadline_ns=far)
    (later,) = house.run(lambda _: None, deadline_ns=far + 5)
    (never,) = house.run(lambda _: None)

    ((at, ring),) = house.alarms
    monkeypatch.setattr(execution_requests, "time", SimpleNamespace(monotonic_ns=lambda: far))
    ring()

    assert at == far
    assert late._error.status.value == "DEADLINE_EXCEEDED"
    assert (later.ended, never.ended) == (False, False)
    assert house.alarms[1][0] == far + 5
    assert house.counted() == (0, 1)


def test_what_a_model_keeps_of_a_request_does_not_hold_its_data() -> None:
    """Once it is answered, however long a sender or a request is kept."""
    house = House(decoupled=True)
    kept: list[RequestTask] = []
    house.run(kept.extend)
    before = [*kept[0].arrays, *kept[0].request.inputs]

    kept[0].finish()

    assert len(before) == 2
    assert not kept[0].arrays
    assert not kept[0].request.inputs


@pytest.mark.parametrize("parameters", [{}, {"a": 1}])
def test_responses_of_a_decoupled_request_come_in_order_and_say_which_is_the_last(
    parameters: dict[str, Any],
) -> None:
    """The last one with outputs bears the mark itself."""
    house = House(decoupled=True)

    def work(tasks: Sequence[RequestTask]) -> None:
        for last in (False, False, True):
            tasks[0].send(outputs(), parameters, last=last)

    (stream,) = house.run(work)
    responses = stream.collect()

    assert [(r.final, r.empty, dict(r.parameters)) for r in responses] == [
        (False, False, parameters),
        (False, False, parameters),
        (True, False, parameters),
    ]
    assert {i: r.success.count for i, r in house.statistics.snapshot().response_stats.items()} == {
        "0": 1,
        "1": 1,
        "2": 1,
    }
