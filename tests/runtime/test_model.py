"""Laws of a model under way: scheduler, instances and executables together, with real threads."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.runtime.fakes import FakeLoaded, config, request

from penstock_runtime.backends.base import Arrays, Placement
from penstock_runtime.batch import BatchPlan
from penstock_runtime.config import ModelConfig, TransactionPolicy
from penstock_runtime.config_scheduling import DynamicBatching, QueuePolicy
from penstock_runtime.context import RequestContext
from penstock_runtime.errors import (
    DeadlineExceeded,
    FailureReason,
    Internal,
    InvalidArgument,
    PenstockError,
    Unavailable,
)
from penstock_runtime.instance import ModelInstance
from penstock_runtime.model import Model
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.scheduling.base import Retired
from penstock_runtime.scheduling.batch_scheduler import BatchScheduler
from penstock_runtime.scheduling.timer import Timer
from penstock_runtime.starting import make_batcher
from penstock_runtime.stream import ResponseStream

ROW = [[1.0, 2.0]]
TIMER = Timer()


def start(loaded: Any, model_config: ModelConfig, instances: int = 1) -> Model:
    """A model whose instances run what was loaded."""
    statistics = ModelStatistics("m", 1)
    rules = model_config.dynamic_batching
    scheduler = BatchScheduler(
        make_batcher(model_config),
        statistics,
        TIMER,
        instances=instances,
        preserve_ordering=bool(rules and rules.preserve_ordering),
    )
    plan = BatchPlan(model_config, 1)
    made = tuple(
        ModelInstance(Placement(f"m_0_{i}"), loaded, plan, scheduler, statistics)
        for i in range(instances)
    )
    for instance in made:
        instance.start()
        instance.wait_ready()
    return Model(model_config, 1, loaded, scheduler, made, statistics)


def ask(model: Model, values: object = ROW, **more: Any) -> ResponseStream:
    """Submit a request; its stream."""
    stream = ResponseStream()
    model.submit(request(values, **more), stream)
    return stream


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """An event that a model's function waits for; set at the end whatever happens."""
    event = threading.Event()
    yield event
    event.set()


def waits_for(event: threading.Event) -> Callable[[Any], Any]:
    """A model that answers its input once the event is set."""

    def function(array: Any) -> Any:
        assert event.wait(30)
        return array

    return function


BATCHED = config(batching=DynamicBatching())


def test_requests_that_wait_for_a_busy_instance_leave_as_one_batch(held: threading.Event) -> None:
    """While the only instance is busy the batch grows; each member gets its own rows."""
    loaded = FakeLoaded(waits_for(held))
    model = start(loaded, BATCHED)
    first = ask(model)
    while model.queue_stats().requests:
        time.sleep(0.001)
    others = [ask(model, [[float(i), 0.0]]) for i in range(5)]

    held.set()
    answers = [stream.collect()[0].outputs[0].array for stream in [first, *others]]
    model.drain(5)
    model.stop()

    assert loaded.executables[0].batches == [1, 5]
    for i, answer in enumerate(answers[1:]):
        np.testing.assert_array_equal(answer, [[float(i), 0.0]])
    snapshot = model.statistics.snapshot()
    assert (snapshot.inference_count, snapshot.execution_count) == (6, 2)


def test_a_poisoned_member_does_not_take_its_neighbours_down(held: threading.Event) -> None:
    """When a batch fails, each member is tried alone: only the culprit gets the error."""

    def function(array: Any) -> Any:
        held.wait(30)
        if (array < 0).any():
            raise ValueError("negative")
        return array

    model = start(FakeLoaded(function), BATCHED)
    blocker = ask(model)
    while model.queue_stats().requests:
        time.sleep(0.001)
    streams = [ask(model, [[float(i), 0.0]]) for i in (1, 2, -3, 4)]
    held.set()

    blocker.collect()
    results: list[object] = []
    for stream in streams:
        try:
            results.append(float(stream.collect()[0].outputs[0].array[0, 0]))
        except Internal as error:
            results.append(error.failure)
    model.stop()

    assert results == [1.0, 2.0, FailureReason.BACKEND, 4.0]
    snapshot = model.statistics.snapshot()
    assert snapshot.success.count == 4
    assert snapshot.failures[FailureReason.BACKEND] == 1


def test_a_thousand_cancelled_and_a_thousand_expired_are_never_executed(
    held: threading.Event,
) -> None:
    """What was given up or expired in the queue is answered, counted once, and never run."""
    loaded = FakeLoaded(waits_for(held))
    model = start(loaded, BATCHED)
    blocker = ask(model)
    while model.queue_stats().requests:
        time.sleep(0.001)
    soon = time.monotonic_ns() + 1_000_000_000
    given_up = [ask(model) for _ in range(1000)]
    expired = [ask(model, deadline_ns=soon) for _ in range(1000) if time.monotonic_ns() < soon]

    for stream in given_up:
        stream.cancel()
    errors = [collected(stream) for stream in expired]
    held.set()
    blocker.collect()
    drained = model.drain(5)
    model.stop()

    assert drained
    assert len(expired) == 1000
    assert all(isinstance(error, DeadlineExceeded) for error in errors)
    assert loaded.executables[0].batches == [1]
    snapshot = model.statistics.snapshot()
    assert snapshot.failures[FailureReason.CANCELED] == 1000
    assert snapshot.failures[FailureReason.REJECTED] == 1000
    assert model.unanswered == model.queue_stats().requests == 0


def collected(stream: ResponseStream) -> PenstockError | None:
    """The error that a stream ends with."""
    try:
        stream.collect()
    except PenstockError as error:
        return error
    return None


def test_expiry_is_answered_while_every_instance_is_busy(held: threading.Event) -> None:
    """A queue time-out is rejected by timer, not when an instance happens to look."""
    policy = QueuePolicy(default_timeout_microseconds=200_000)
    model = start(
        FakeLoaded(waits_for(held)), config(batching=DynamicBatching(default_queue_policy=policy))
    )
    blocker = ask(model)
    while model.queue_stats().requests:
        time.sleep(0.001)

    error = collected(ask(model))
    held.set()
    blocker.collect()
    model.stop()

    assert isinstance(error, Unavailable)
    assert str(error) == "Request timeout expired"


def test_what_cannot_make_its_deadline_is_refused_at_once_with_a_hint(
    held: threading.Event,
) -> None:
    """With a known execution time and a queue, a hopeless deadline does not even wait."""
    model = start(FakeLoaded(waits_for(held)), config(max_batch=0, dims=(1, 2)))
    blocker = ask(model)
    while model.queue_stats().requests:
        time.sleep(0.001)
    for _ in range(20):
        model._scheduler.predictor.observe(100_000_000)  # type: ignore[attr-defined]
    # Half an execution for the one under way and one of its own: 150 of 400 ms. Then 100 more each.
    deadline = time.monotonic_ns() + 400_000_000
    accepted = [ask(model, deadline_ns=deadline + i) for i in range(3)]

    with pytest.raises(Unavailable, match="the deadline cannot be met") as refused:
        ask(model, deadline_ns=deadline + 3)
    held.set()
    for stream in [blocker, *accepted]:
        stream.collect()
    model.stop()

    assert refused.value.reason == "QUEUE_DEADLINE"
    assert refused.value.retry_after_ns is not None


def test_answers_keep_the_order_of_arrival_when_promised() -> None:
    """With preserve_ordering and several instances, a slow request holds later answers back."""
    gate = threading.Event()

    def function(array: Any) -> Any:
        if array[0, 0] == 0:
            gate.wait(30)
        return array

    rules = DynamicBatching(preserve_ordering=True, preferred_batch_size=(1,))
    model = start(FakeLoaded(function), config(max_batch=1, batching=rules), instances=2)
    order: list[int] = []

    class Noting:
        def __init__(self, number: int) -> None:
            self.number = number

        def post(self, stream: ResponseStream) -> None:
            order.append(self.number)

        def soon(self, callback: Callable[[], None]) -> None:
            callback()

    streams = [ResponseStream(Noting(i)) for i in range(6)]
    for i, stream in enumerate(streams):
        model.submit(request([[float(i), 0.0]]), stream)
    while model.queue_stats().requests:
        time.sleep(0.001)
    held_back = list(order)
    gate.set()
    model.drain(5)
    model.stop()

    assert held_back == []
    assert order == [0, 1, 2, 3, 4, 5]


def test_a_retired_model_refuses_and_answers_what_it_had(held: threading.Event) -> None:
    """drain refuses new requests and waits; stop closes executables and what was loaded."""
    loaded = FakeLoaded(waits_for(held))
    model = start(loaded, BATCHED)
    inside = ask(model)

    drained_too_early = model.drain(0.01)
    with pytest.raises(Retired, match="has stopped accepting new inference requests"):
        ask(model)
    held.set()
    drained = model.drain(5)
    model.stop()

    assert not drained_too_early
    assert drained
    assert len(inside.collect()) == 1
    assert loaded.closed
    assert loaded.executables[0].closed


def test_stop_answers_what_still_waits() -> None:
    """Nothing accepted is left without an answer, even when the server stops without a drain."""
    gate = threading.Event()
    model = start(FakeLoaded(waits_for(gate)), config(max_batch=0, dims=(1, 2)))
    running = ask(model)
    while model.queue_stats().requests:
        time.sleep(0.001)
    waiting = [ask(model) for _ in range(3)]

    stopper = threading.Thread(target=model.stop)
    stopper.start()
    errors = [collected(stream) for stream in waiting]
    gate.set()
    stopper.join()

    assert all(isinstance(error, Unavailable) for error in errors)
    assert len(running.collect()) == 1


def test_a_request_that_does_not_fit_is_counted_and_never_queued() -> None:
    """Exactly one counter moves for a refusal."""
    model = start(FakeLoaded(lambda array: array), BATCHED)

    with pytest.raises(InvalidArgument):
        ask(model, [[1.0, 2.0, 3.0]])
    model.stop()

    snapshot = model.statistics.snapshot()
    assert snapshot.failures[FailureReason.OTHER] == 1
    assert snapshot.success.count == 0


class CountingStream:
    """A decoupled model: gives its input as many times as its first value says."""

    def __init__(self) -> None:
        self.closed_early = 0

    def stream(self, inputs: Arrays, context: RequestContext) -> Iterator[Arrays]:
        try:
            for _ in range(int(inputs["X"][0, 0])):
                yield {"Y": inputs["X"]}
        except GeneratorExit:
            self.closed_early += 1
            raise

    def close(self) -> None:
        """Nothing to give back."""


class LoadedStream(FakeLoaded):
    """What loads a CountingStream."""

    def __init__(self) -> None:
        super().__init__(lambda array: array)
        self.made = CountingStream()

    def executable(self, placement: Placement) -> Any:
        return self.made


DECOUPLED = ModelConfig(
    name="m",
    max_batch_size=8,
    input=BATCHED.input,
    output=BATCHED.output,
    model_transaction_policy=TransactionPolicy(decoupled=True),
)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_decoupled_request_gets_its_responses_and_an_empty_last_one(count: int) -> None:
    """0..N responses with outputs, then one without that is final."""
    model = start(LoadedStream(), DECOUPLED)

    responses = ask(model, [[float(count), 0.0]]).collect()
    model.stop()

    assert [len(response.outputs) for response in responses] == [1] * count + [0]
    assert [response.final for response in responses] == [False] * count + [True]
    assert responses[-1].empty


def test_a_cancelled_stream_stops_its_generator() -> None:
    """The generator is closed at its next response, and the request counts as cancelled."""
    loaded = LoadedStream()
    model = start(loaded, DECOUPLED)
    stream = ask(model, [[1e9, 0.0]])
    while stream.pop() is None:
        time.sleep(0.001)

    stream.cancel()
    drained = model.drain(5)
    model.stop()

    assert drained
    assert loaded.made.closed_early == 1
    assert model.statistics.snapshot().failures[FailureReason.CANCELED] == 1
