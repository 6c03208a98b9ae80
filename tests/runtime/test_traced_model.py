"""Requests that are traced on their way through a model: answered as others are, and noted once."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from tests.runtime.cached_models import ask as ask_cached
from tests.runtime.cached_models import start as start_cached
from tests.runtime.fakes import FakeLoaded, config, request
from tests.runtime.traces import Collected

from penstock_runtime.backends.base import Placement
from penstock_runtime.batch import BatchPlan
from penstock_runtime.config import ModelConfig, TransactionPolicy
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.context import RequestContext
from penstock_runtime.dispatch import Dispatch
from penstock_runtime.errors import Internal, InvalidArgument, NotFound, PenstockError, Status
from penstock_runtime.instance import ModelInstance
from penstock_runtime.model import Model
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.observability.trace_level import Level
from penstock_runtime.observability.trace_tensors import text_of
from penstock_runtime.observability.tracing import Trace
from penstock_runtime.request import InferRequest
from penstock_runtime.scheduling.base import Retired
from penstock_runtime.scheduling.batch_scheduler import BatchScheduler
from penstock_runtime.scheduling.timer import Timer
from penstock_runtime.starting import make_batcher
from penstock_runtime.stream import ResponseStream

TIMER = Timer()
BATCHED = config(batching=DynamicBatching())
ALONE = config(max_batch=0)
STEPS = [
    "REQUEST_START",
    "QUEUE_START",
    "COMPUTE_START",
    "COMPUTE_INPUT_END",
    "COMPUTE_OUTPUT_START",
    "COMPUTE_END",
    "INFER_RESPONSE_COMPLETE",
    "REQUEST_END",
]


class Served:
    """A model behind the door that all requests go through."""

    def __init__(
        self, loaded: Any, model_config: ModelConfig = BATCHED, collected: Collected | None = None
    ) -> None:
        self.collected = collected if collected is not None else Collected()
        statistics = ModelStatistics("m", 1)
        scheduler = BatchScheduler(make_batcher(model_config), statistics, TIMER)
        plan = BatchPlan(model_config, 1)
        instance = ModelInstance(Placement("m_0_0"), loaded, plan, scheduler, statistics)
        instance.start()
        instance.wait_ready()
        self.model = Model(model_config, 1, loaded, scheduler, (instance,), statistics)
        self.dispatch = Dispatch()
        self.dispatch.bind(self.find)

    def find(self, name: str, _version: str) -> Model:
        if name != "m":
            raise NotFound(f"Request for unknown model: '{name}' is not found")
        return self.model

    def ask(self, values: Any = ((1.0, 2.0),), *, traced: bool = True) -> ResponseStream:
        """Queue a request, traced or not; its stream."""
        asked = request(values)
        if traced:
            now = time.monotonic_ns()
            asked = asked._replace(trace=self.collected.begin("m", now))
        return self.send(asked)

    def send(self, asked: InferRequest) -> ResponseStream:
        stream = ResponseStream()
        self.dispatch.infer(asked, stream)
        return stream

    def stop(self) -> None:
        self.model.drain(10)
        self.model.stop()


def names(trace: Trace) -> list[str]:
    return [name for name, _ in trace.timestamps()]


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """An event that a model's function waits for; set at the end whatever happens."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize(("model_config", "row"), [(BATCHED, ((1.0, 2.0),)), (ALONE, (1.0, 2.0))])
def test_every_step_of_a_request_is_noted_in_order(model_config: ModelConfig, row: Any) -> None:
    """Its answer is what it would be otherwise, and who has it finds the trace ended."""
    served = Served(FakeLoaded(lambda x: x * 2), model_config)

    (response,) = served.ask(row).collect()

    (trace,) = served.collected.traces
    assert response.outputs[0].numpy().ravel().tolist() == [2.0, 4.0]
    assert names(trace) == STEPS
    assert (trace.status, trace.model_version, trace.responses) == (None, "1", 1)
    assert trace.execution is not None
    assert (trace.execution.instance, trace.execution.rows) == ("m_0_0", 1)
    served.stop()
    found = served.model.statistics.snapshot()
    assert (found.success.count, found.execution_count, found.fail.count) == (1, 1, 0)


def test_the_traced_members_of_a_batch_share_its_execution(held: threading.Event) -> None:
    """It names their spans only, and counts all its requests and rows."""
    served = Served(FakeLoaded(_after(held)), collected=Collected(spans=True))
    blocker = served.ask(traced=False)
    while served.model.queue_stats().requests:
        time.sleep(0.001)
    streams = [served.ask(traced=number % 2 == 0) for number in range(5)]

    held.set()
    for stream in [blocker, *streams]:
        stream.collect()

    traces = served.collected.traces
    assert len(traces) == 3
    (shared,) = {trace.execution for trace in traces}
    assert shared is not None
    assert (shared.rows, shared.requests) == (5, 5)
    assert set(shared.members) == {trace.context for trace in traces}
    assert shared.context is not None
    served.stop()


def test_tensors_are_those_that_came_and_went() -> None:
    """Inputs as they were queued, outputs as they were answered."""
    served = Served(FakeLoaded(lambda x: x * 2), collected=Collected(Level.TENSORS))

    served.ask().collect()

    (trace,) = served.collected.traces
    told = [(t.activity, t.name, t.shape, text_of(t)) for t in trace.bag.tensors]
    assert told == [
        ("TENSOR_QUEUE_INPUT", "X", (1, 2), "1.0,2.0"),
        ("TENSOR_BACKEND_OUTPUT", "Y", (1, 2), "2.0,4.0"),
    ]
    served.stop()


@pytest.mark.parametrize(("model_config", "row"), [(BATCHED, ((1.0, 2.0),)), (ALONE, (1.0, 2.0))])
def test_a_failure_is_noted_with_its_status(model_config: ModelConfig, row: Any) -> None:
    """And with the time when the execution began that failed."""

    def function(_: Any) -> Any:
        raise ValueError("bad")

    served = Served(FakeLoaded(function), model_config)

    with pytest.raises(Internal):
        served.ask(row).collect()

    (trace,) = served.collected.traces
    assert (trace.status, trace.execution) == (Status.INTERNAL, None)
    assert names(trace) == ["REQUEST_START", "QUEUE_START", "COMPUTE_START", "REQUEST_END"]
    served.stop()


@pytest.mark.parametrize(
    ("model", "values", "error"),
    [("m", ((1.0, 2.0, 3.0),), InvalidArgument), ("none", ((1.0, 2.0),), NotFound)],
)
def test_a_request_that_is_refused_ends_its_trace(
    model: str, values: Any, error: type[PenstockError]
) -> None:
    """Whoever refuses it: the door or the model."""
    served = Served(FakeLoaded(lambda x: x))
    asked = request(values)._replace(model_name=model, trace=served.collected.begin())

    with pytest.raises(error):
        served.send(asked)

    (trace,) = served.collected.traces
    assert trace.status is error.status
    served.stop()


def test_a_request_that_is_cancelled_in_the_queue_ends_as_that(held: threading.Event) -> None:
    """The consumer's wish goes through to the queue."""
    served = Served(FakeLoaded(_after(held)))
    blocker = served.ask(traced=False)
    while served.model.queue_stats().requests:
        time.sleep(0.001)
    waiting = served.ask()

    waiting.cancel()

    (trace,) = served.collected.traces
    assert (trace.status, trace.execution) == (Status.CANCELLED, None)
    held.set()
    blocker.collect()
    served.stop()
    assert served.model.statistics.snapshot().inference_count == 1


def test_a_request_that_is_cancelled_while_it_is_executed_ends_as_that(
    held: threading.Event,
) -> None:
    """Although it was computed."""
    served = Served(FakeLoaded(_after(held)))
    stream = served.ask()
    while served.model.queue_stats().requests:
        time.sleep(0.001)

    stream.cancel()
    held.set()
    served.stop()

    (trace,) = served.collected.traces
    assert trace.status is Status.CANCELLED
    assert trace.execution is not None


def test_a_reload_does_not_end_a_trace() -> None:
    """A version that is retired hands its request to the next one, under the same trace."""
    served = Served(FakeLoaded(lambda x: x))
    old = Served(FakeLoaded(lambda x: x))
    old.stop()
    found = [old.model, served.model]
    dispatch = Dispatch()
    dispatch.bind(lambda _name, _version: found.pop(0))
    stream = ResponseStream()

    dispatch.infer(request(((1.0, 2.0),))._replace(trace=served.collected.begin()), stream)
    stream.collect()

    (trace,) = served.collected.traces
    assert trace.status is None
    served.stop()
    with pytest.raises(Retired):
        served.ask()
    assert served.collected.traces[1].status is Status.UNAVAILABLE


class Counting:
    """A decoupled model: X says how many responses there are; a negative one fails after them."""

    def executable(self, _: Placement) -> "Counting":
        return self

    def stream(self, inputs: Mapping[str, Any], _context: RequestContext) -> Iterator[Any]:
        number = int(inputs["X"][0, 0])
        for index in range(abs(number)):
            yield {"Y": np.full((1, 2), index, np.float32)}
        if number < 0:
            raise ValueError("bad")

    def close(self) -> None:
        """Nothing to give back."""

    def memory_bytes(self) -> Mapping[str, int]:
        return {}


DECOUPLED = ModelConfig(
    name="m",
    max_batch_size=8,
    input=BATCHED.input,
    output=BATCHED.output,
    model_transaction_policy=TransactionPolicy(True),
)


def test_each_response_of_a_stream_is_noted() -> None:
    """The empty last one is none; the steps are those of an ordinary request."""
    served = Served(Counting(), DECOUPLED)

    responses = served.ask(((3.0, 0.0),)).collect()

    (trace,) = served.collected.traces
    assert len(responses) == 4
    assert trace.responses == 3
    assert names(trace).count("INFER_RESPONSE_COMPLETE") == 3
    assert set(names(trace)) == set(STEPS)
    served.stop()


def test_a_stream_that_fails_has_the_responses_before() -> None:
    """And the status of its end."""
    served = Served(Counting(), DECOUPLED)

    with pytest.raises(Internal):
        served.ask(((-2.0, 0.0),)).collect()

    (trace,) = served.collected.traces
    assert (trace.responses, trace.status) == (2, Status.INTERNAL)
    assert "COMPUTE_START" in names(trace)
    served.stop()


def test_an_answer_from_the_cache_is_no_execution() -> None:
    """The first of two equal requests is executed, the second says that it was not."""
    collected = Collected()
    model = start_cached(lambda x: x)
    dispatch = Dispatch()
    dispatch.bind(lambda _name, _version: model)
    ask_cached(model).collect()

    for values in ((1.0, 2.0), (3.0, 4.0)):
        stream = ResponseStream()
        dispatch.infer(request(values)._replace(trace=collected.begin()), stream)
        stream.collect()

    assert [trace.cache_hit for trace in collected.traces] == [True, False]
    assert [trace.execution is None for trace in collected.traces] == [True, False]
    model.drain(5)
    model.stop()


def test_a_model_sees_the_trace_of_its_request() -> None:
    """It can tell others of the span that it works for."""
    seen: list[str | None] = []

    class Looking(FakeLoaded):
        def executable(self, placement: Placement) -> Any:
            inner = super().executable(placement)

            class Executable:
                def execute(self, inputs: Any, contexts: Any) -> Any:
                    seen.extend(context.trace and context.trace.carrier for context in contexts)
                    return inner.execute(inputs, contexts)

                def close(self) -> None:
                    inner.close()

            return Executable()

    served = Served(Looking(lambda x: x), collected=Collected(spans=True))

    for traced in (True, False):
        served.ask(traced=traced).collect()

    context = served.collected.traces[0].context
    assert context is not None
    assert seen == [context.carrier, None]
    served.stop()


def test_a_child_is_traced_where_its_model_is_found() -> None:
    """Whoever makes a request of another gives it a child's trace, and need not end it."""
    served = Served(FakeLoaded(lambda x: x))
    parent = served.collected.begin("outer")

    child = parent.child("m", time.monotonic_ns())
    served.send(request(((1.0, 2.0),))._replace(trace=child)).collect()

    assert served.collected.traces == [child]
    assert child.parent_id == parent.id
    assert set(names(child)) == set(STEPS)
    served.stop()


def _after(event: threading.Event) -> Callable[[Any], Any]:
    def function(array: Any) -> Any:
        assert event.wait(30)
        return array

    return function
