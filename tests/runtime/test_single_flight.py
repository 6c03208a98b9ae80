"""Laws of equal requests at one time: one is executed for all, and nobody suffers for another's
failure, cancellation or deadline.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from tests.runtime.cached_models import (
    MIB,
    ROW,
    TIMER,
    Held,
    ask,
    busy,
    counts,
    start,
    until,
    values,
)
from tests.runtime.fakes import request

from penstock_runtime.errors import Cancelled, DeadlineExceeded, FailureReason, Internal
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.request import InferResponse
from penstock_runtime.response_cache import ResponseCache
from penstock_runtime.scheduling.base import Pending, QueueStats, Refused, Retired
from penstock_runtime.scheduling.caching_scheduler import CachingScheduler
from penstock_runtime.scheduling.queue_report import NOTHING_WAITS, QueueReport
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import tensor


@pytest.fixture
def held() -> Iterator[Held]:
    """A model that waits; let go at the end whatever happens."""
    made = Held()
    yield made
    made.go.set()


def test_equal_requests_at_one_time_are_executed_once(held: Held) -> None:
    """From many threads; the first is a miss, the others are hits, and each has its own id."""
    model = start(held, instances=2)
    leader = busy(model, held, id_="0")
    streams: dict[str, ResponseStream] = {}

    def submit(number: int) -> None:
        streams[str(number)] = ask(model, id_=str(number))

    threads = [threading.Thread(target=submit, args=(n,)) for n in range(1, 33)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert model.unanswered == 33
    held.go.set()
    answers = {id_: stream.collect()[0] for id_, stream in {"0": leader, **streams}.items()}

    assert all(answers[id_].id == id_ for id_ in answers)
    assert all(a.outputs[0].numpy().tolist() == [2.0, 4.0] for a in answers.values())
    assert counts(model) == (33, 0, 1, 32, 1)
    assert model.unanswered == 0
    model.stop()


def test_a_call_of_a_model_never_waits_for_a_request_that_may_wait_for_it(held: Held) -> None:
    """What is executed further out may have made the call: it is executed itself."""
    model = start(held, instances=2)
    outer = busy(model, held)

    inner = ask(model, depth=1)
    until(lambda: len(held.executed) == 2)
    beside = ask(model)
    held.go.set()

    assert [values(stream) for stream in (outer, inner, beside)] == [[2.0, 4.0]] * 3
    assert counts(model) == (3, 0, 2, 1, 2)
    model.stop()


def test_a_failure_is_the_executed_ones_alone() -> None:
    """Those who waited are executed themselves, and a failure is never kept."""
    held = Held(failures=1)
    model = start(held)
    leader = busy(model, held)
    others = [ask(model) for _ in range(3)]

    held.go.set()

    with pytest.raises(Internal, match="execution failed"):
        leader.collect()
    assert [values(stream) for stream in others] == [[2.0, 4.0]] * 3
    assert counts(model) == (3, 1, 3, 0, 4)
    model.stop()


def test_a_request_that_is_cancelled_while_it_waits_in_the_queue_takes_nobody_along(
    held: Held,
) -> None:
    """One of the others is executed for the rest."""
    model = start(held)
    blocker = busy(model, held, values=(9.0, 9.0))
    leader = ask(model)
    others = [ask(model) for _ in range(3)]

    leader.cancel()
    until(lambda: model.unanswered == 4)
    held.go.set()

    with pytest.raises(Cancelled):
        leader.collect()
    assert values(blocker) == [18.0, 18.0]
    assert [values(stream) for stream in others] == [[2.0, 4.0]] * 3
    assert counts(model) == (4, 1, 2, 2, 3)
    assert model.statistics.snapshot().failures[FailureReason.CANCELED] == 1
    model.stop()


def test_what_was_cancelled_while_it_was_executed_is_not_kept(held: Held) -> None:
    """A model that sees that its caller is gone may return early: its answer is for nobody."""
    model = start(held)
    leader = busy(model, held)
    others = [ask(model) for _ in range(2)]

    leader.cancel()
    held.go.set()

    assert [values(stream) for stream in others] == [[2.0, 4.0]] * 2
    assert len(held.executed) == 2
    assert counts(model)[1:] == (1, 1 + len(held.executed) - 1, 1, 2)
    model.stop()


def test_who_gives_up_while_it_waits_for_another_is_answered_at_once(held: Held) -> None:
    """The one that is executed does not notice."""
    model = start(held)
    leader, other = busy(model, held), ask(model)

    other.cancel()

    with pytest.raises(Cancelled):
        other.collect()
    assert model.unanswered == 1
    held.go.set()
    assert values(leader) == [2.0, 4.0]
    assert counts(model) == (1, 1, 1, 0, 1)
    model.stop()


def test_a_deadline_ends_the_wait_for_another(held: Held) -> None:
    """Although no queue holds the request."""
    model = start(held)
    leader = busy(model, held)
    soon = time.monotonic_ns() + 30_000_000
    late, later = ask(model, deadline_ns=soon), ask(model, deadline_ns=soon + 20_000_000)

    for stream in (late, later):
        with pytest.raises(DeadlineExceeded):
            stream.collect(5)
    held.go.set()

    assert values(leader) == [2.0, 4.0]
    assert counts(model) == (1, 2, 1, 0, 1)
    model.stop()


def test_a_drain_waits_for_those_who_wait_and_executes_them_if_it_must() -> None:
    """They were accepted; whoever comes later is refused."""
    held = Held(failures=1)
    model = start(held)
    leader = busy(model, held)
    other = ask(model)
    drained: list[bool] = []
    draining = threading.Thread(target=lambda: drained.append(model.drain(10)))

    draining.start()
    until(lambda: not model._scheduler._accepting)  # type: ignore[attr-defined]
    with pytest.raises(Retired):
        ask(model)
    held.go.set()
    draining.join(10)

    with pytest.raises(Internal):
        leader.collect()
    assert values(other) == [2.0, 4.0]
    assert drained == [True]
    model.stop()


def test_a_stop_answers_those_who_wait(held: Held) -> None:
    """Nobody is left without an answer when time ran out."""
    model = start(held)
    blocker = busy(model, held, values=(9.0, 9.0))
    leader, other = ask(model), ask(model)

    assert not model.drain(0.01)
    stopping = threading.Thread(target=model.stop)
    stopping.start()

    for stream in (leader, other):
        with pytest.raises(Retired):
            stream.collect(5)
    held.go.set()
    stopping.join(10)
    blocker.collect()


def test_an_answer_larger_than_the_cache_is_for_those_who_wait_and_nobody_else(held: Held) -> None:
    """Shared, but not kept."""
    model = start(held, ResponseCache(100))
    leader, other = busy(model, held), ask(model)

    held.go.set()
    assert values(leader) == values(other) == [2.0, 4.0]
    assert values(ask(model)) == [2.0, 4.0]

    assert counts(model)[2:] == (2, 1, 2)
    model.stop()


def test_under_load_every_request_is_answered_rightly_and_counted_once() -> None:
    """Many threads, few keys, failures and cancellations among them, in little room."""

    def function(array: Any) -> Any:
        time.sleep(0.0005)
        if (array[..., 0] == 3).any():
            raise ValueError("three")
        return array * 2

    model = start(function, ResponseCache(4000), instances=2)
    wrong: list[object] = []
    sent = [0] * 8

    def work(number: int) -> None:
        for turn in range(60):
            value = float((turn * (number + 1)) % 7)
            stream = ask(model, (value, 1.0))
            sent[number] += 1
            if turn % 11 == number:
                stream.cancel()
            try:
                if values(stream) != [value * 2, 2.0]:
                    wrong.append(value)
            except (Cancelled, Internal):
                pass

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    success, fail, _, hits, misses = counts(model)
    assert not wrong
    assert success + fail == sum(sent)
    assert success - hits <= misses <= sum(sent) - hits
    assert model.unanswered == 0
    model.stop()


class Queue:
    """A scheduler that only takes in."""

    unanswered = 0

    def __init__(self) -> None:
        self.taken: list[Pending] = []

    def submit(self, pending: Pending) -> None:
        self.taken.append(pending)

    def submit_all(self, pendings: Sequence[Pending]) -> Sequence[Refused]:
        self.taken.extend(pendings)
        return ()

    def drain(self, timeout_s: float) -> bool:
        return timeout_s >= 0

    def stop(self) -> None:
        self.taken.clear()

    def stats(self) -> QueueStats:
        return QueueStats(len(self.taken), 0, 0)

    def report(self) -> QueueReport:
        return NOTHING_WAITS


class Broken(ResponseStream):
    """A stream that takes no answer."""

    def put(self, response: InferResponse) -> bool:
        raise ValueError(response.id)


def test_a_stream_that_takes_no_answer_is_its_callers_alone() -> None:
    """Whoever executes learns of it and gives an error instead; those who wait have an answer."""
    queue = Queue()
    door = CachingScheduler(queue, ResponseCache(MIB), ModelStatistics("m", 1), TIMER)
    streams = [Broken(), ResponseStream()]
    for stream in streams:
        door.submit(Pending(request(ROW), stream, {"X": np.array(ROW)}))
    (pending,) = queue.taken

    with pytest.raises(ValueError, match="a"):
        pending.stream.put(InferResponse("m", "1", "a", (tensor("Y", [3.0]),)))
    pending.stream.fail(Internal("not taken"))

    assert values(streams[1]) == [3.0]
    with pytest.raises(Internal, match="not taken"):
        streams[0].collect()
    assert door.drain(0)


@pytest.mark.parametrize(
    "response",
    [
        InferResponse("m", "1", "a", (), empty=True),
        InferResponse("m", "1", "a", (tensor("Y", [3.0])._replace(shape=(2,)),)),
        InferResponse("m", "1", "a", (tensor("Y", [3.0]),), {"said": 1}),
    ],
)
def test_what_is_no_whole_answer_is_not_shared(response: InferResponse) -> None:
    """The others are executed."""
    queue, cache = Queue(), ResponseCache(MIB)
    door = CachingScheduler(queue, cache, ModelStatistics("m", 1), TIMER)
    for _ in range(3):
        door.submit(Pending(request(ROW), ResponseStream(), {"X": np.array(ROW)}))

    queue.taken[0].stream.put(response)

    assert len(queue.taken) == 3
    assert cache.stats().entries == 0
    assert door.unanswered == 0
