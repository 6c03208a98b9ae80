"""The short way of streamed responses gives the bytes of the careful one, and loses nothing."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes_server import (
    FakeCall,
    FakeModel,
    FakeShelf,
    Job,
    Messages,
    Streaming,
    answer_to,
    reply_value,
    request_bytes,
    services_for,
    stream_reply,
)
from tests.server.codec_strategies import arrays

from penstock.codec.parameters import EMPTY_FINAL_RESPONSE
from penstock.stream_pressure import Pressure
from penstock.stream_request import StreamRequest
from penstock.transport.base import Call
from penstock.wishes import TYPED_PARAMETER
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.config import ModelConfig, ModelOutput, TransactionPolicy
from penstock_runtime.context import RequestContext
from penstock_runtime.datatype import DataType
from penstock_runtime.execution import Desk
from penstock_runtime.execution_stream import execute_stream
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.request import InferRequest, InferResponse, Parameter, RequestedOutput
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.batch_scheduler import BatchScheduler
from penstock_runtime.scheduling.dynamic_batcher import DynamicBatcher
from penstock_runtime.scheduling.timer import Timer
from penstock_runtime.stream import OneOutput, ResponseStream
from penstock_runtime.stream_lane import Lane, LaneStream

PATH = "/inference.GRPCInferenceService/ModelStreamInfer"


class Odd(np.ndarray[Any, Any]):
    """An array of a kind of its own."""


@dataclass(frozen=True)
class Step:
    """What a model says at once."""

    outputs: Mapping[str, Any]
    parameters: Mapping[str, Parameter]


@dataclass(frozen=True)
class Talk:
    """A model's outputs, a request, and everything that is said about it."""

    declared: tuple[ModelOutput, ...]
    request: InferRequest
    steps: Sequence[Step]
    typed: bool


def odd_layout(array: Any, kind: int) -> Any:
    """The same values in another order of memory, or as another kind of array."""
    if kind == 1:
        return np.asfortranarray(array)
    if kind == 2:
        return np.repeat(array, 2, axis=0)[::2]
    return array.view(Odd) if kind == 3 else array


@st.composite
def talks(draw: st.DrawFn, only: tuple[DataType, ...] = ()) -> Talk:
    """Mostly the same again and again, as models talk; sometimes not."""
    any_kinds = st.lists(st.sampled_from(tuple(DataType)), min_size=1, max_size=3)
    kinds = only or tuple(draw(any_kinds))
    declared = tuple(ModelOutput(f"Y{i}", kind, (-1, -1)) for i, kind in enumerate(kinds))
    shapes = draw(st.lists(st.tuples(*[st.integers(0, 3)] * 2), min_size=1, max_size=2))
    rarely = st.sampled_from([0] * 6 + [1, 2, 3])
    steps = []
    for _ in range(draw(st.integers(0, 6))):
        shape = draw(st.sampled_from(shapes))
        outputs = {
            d.name: odd_layout(draw(arrays(d.data_type, shape)), draw(rarely)) for d in declared
        }
        if draw(rarely) == 1:
            outputs.pop(draw(st.sampled_from(sorted(outputs))))
        steps.append(Step(outputs, {"note": 1} if draw(rarely) == 2 else {}))
    names = st.sampled_from([d.name for d in declared])
    wanted = draw(st.just([]) | st.lists(names, unique=True))
    flags = st.sampled_from([{}, {EMPTY_FINAL_RESPONSE: True}, {TYPED_PARAMETER: True}])
    request = InferRequest(
        "m",
        (),
        id=draw(st.sampled_from(["", "a", "b" * 200])),
        outputs=tuple(RequestedOutput(name) for name in wanted),
        parameters=draw(flags),
    )
    return Talk(declared, request, steps, draw(st.booleans()) and draw(st.booleans()))


class Said:
    """A model that says what it is told to say."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps

    def stream(self, inputs: Any, context: RequestContext) -> Iterator[Mapping[str, Any]]:
        for step in self.steps:
            if step.parameters:
                context.response_parameters.update(step.parameters)
            yield step.outputs

    def close(self) -> None:
        """Nothing is held."""


class Nameless(Said):
    """The same model, which does not name an output that is the only one."""

    def arrays(self, inputs: Any, context: RequestContext) -> Iterator[Any]:
        for outputs in self.stream(inputs, context):
            (first, *others) = outputs.values() if outputs else (None,)
            plain = type(first) is np.ndarray and first.dtype == np.float32 and first.ndim
            yield first if plain and not others else outputs


class Deaf:
    """An inbox that nobody empties; and a session that writes nothing."""

    def post(self, stream: ResponseStream) -> None:
        stream.posted = True

    def soon(self, callback: Any) -> None:
        callback()

    def changed(self, request: StreamRequest) -> None:
        """It is all looked at in the end."""


class Careful(StreamRequest):
    """A request that has no short way."""

    def lane(self, like: InferResponse) -> Lane | None:
        return None

    def open_lane(self, kind: OneOutput, shape: tuple[int, ...]) -> Lane | None:
        return None


def desk_for(declared: tuple[ModelOutput, ...]) -> Desk:
    """A desk of a decoupled model with these outputs."""
    config = ModelConfig(
        name="m", output=declared, model_transaction_policy=TransactionPolicy(decoupled=True)
    )
    statistics = ModelStatistics("m", 1, decoupled=True)
    scheduler = BatchScheduler(DynamicBatcher(config), statistics, Timer())
    return Desk("m_0_0", BatchPlan(config, 1), scheduler, statistics)


def spoken(
    talk: Talk, kind: type[StreamRequest], model: type[Said] = Said
) -> tuple[list[bytes], str, int]:
    """The messages of a talk, how it ended, and how many responses were counted."""
    desk = desk_for(talk.declared)
    stream = kind(Deaf(), Deaf(), Pressure(1 << 20), 0, 0, talk.typed)
    stream.decoupled, stream.request = True, talk.request
    execute_stream(desk, model(talk.steps), Batch.of([Pending(talk.request, stream)]))
    counted = desk.statistics.snapshot().response_stats.values()
    return stream.messages, repr(stream.error), sum(r.success.count for r in counted)


@given(talks())
def test_the_short_way_gives_the_bytes_of_the_careful_one(talk: Talk) -> None:
    """Whatever a model says, in whatever order, and whatever was asked for."""
    assert spoken(talk, StreamRequest) == spoken(talk, Careful)


@given(talks((DataType.FP32,)))
def test_an_array_without_a_name_is_the_only_output(talk: Talk) -> None:
    """For a model that has but one it is the same, whichever way the array takes."""
    named = spoken(talk, Careful)

    assert spoken(talk, StreamRequest, Nameless) == named
    assert spoken(talk, Careful, Nameless) == named


def base(elements: int) -> Any:
    """An array that is the same in no other order of memory."""
    return np.arange(2 * elements, dtype=np.float32).reshape(2, elements)


UNLIKE: Mapping[str, Callable[[Any], Any]] = {
    "other data": lambda array: array + 1,
    "another shape": lambda array: array.reshape(-1, 2),
    "another rank": lambda array: array.reshape(-1),
    "another dtype": lambda array: array.view(np.int32),
    "another order of bytes": lambda array: array.astype(">f4"),
    "another order of memory": np.asfortranarray,
    "a gap between rows": lambda array: np.repeat(array, 2, axis=0)[::2],
    "read-only": lambda array: np.broadcast_to(array[:1], array.shape),
    "a class of its own": lambda array: array.view(Odd),
    "a list": lambda array: array.tolist(),
}


@pytest.mark.parametrize("unlike", UNLIKE)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("elements", [3, 700])
def test_what_is_unlike_the_response_before_goes_out_as_ever(
    unlike: str, count: int, elements: int
) -> None:
    """For one output and for several, for small and for large ones."""
    declared = tuple(ModelOutput(f"Y{i}", DataType.FP32, (-1, -1)) for i in range(count))
    first = {d.name: base(elements) for d in declared}
    last = declared[-1].name
    second = {**first, last: UNLIKE[unlike](base(elements))}
    talk = Talk(declared, InferRequest("m", ()), [Step(first, {}), Step(second, {})] * 2, False)

    assert spoken(talk, StreamRequest) == spoken(talk, Careful)
    assert spoken(talk, StreamRequest, Nameless) == spoken(talk, Careful)


@pytest.mark.parametrize("elements", [3, 700])
@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_outputs_may_come_and_go(order: tuple[int, int], elements: int) -> None:
    """A response has the outputs that the model gave this time."""
    declared = tuple(ModelOutput(f"Y{i}", DataType.FP32, (-1, -1)) for i in range(2))
    steps = [Step({f"Y{i}": base(elements) for i in range(count)}, {}) for count in order]
    talk = Talk(declared, InferRequest("m", ()), steps * 2, False)

    assert spoken(talk, StreamRequest) == spoken(talk, Careful)


def test_what_repeats_itself_takes_the_short_way() -> None:
    """Else the law above would say nothing."""
    array = np.zeros((1, 2), np.float32)
    declared = (ModelOutput("Y0", DataType.FP32, (-1, -1)),)
    request = InferRequest("m", (), id="a")
    talk = Talk(declared, request, [Step({"Y0": array}, {})] * 5, typed=False)
    put: list[InferResponse] = []

    class Noting(StreamRequest):
        def put(self, response: InferResponse) -> bool:
            put.append(response)
            return super().put(response)

    messages, _, counted = spoken(talk, Noting)

    assert (len(messages), counted) == (5, 5)
    assert [response.final for response in put] == [True]


def test_a_response_that_cannot_be_encoded_is_the_end_of_its_request() -> None:
    """Nothing follows the error, and the request is no success."""
    declared = (ModelOutput("Y0", DataType.BYTES, (-1,)),)
    good, bad = (np.array([item], object) for item in (b"a", "\ud800"))
    steps = [Step({"Y0": array}, {}) for array in (good, bad, good)]
    desk = desk_for(declared)
    stream = StreamRequest(Deaf(), Deaf(), Pressure(1 << 20), 0, 0, typed=False)
    stream.decoupled, stream.request = True, InferRequest("m", ())

    execute_stream(desk, Said(steps), Batch.of([Pending(stream.request, stream)]))
    snapshot = desk.statistics.snapshot()

    assert len(stream.messages) == 1
    assert stream.error is not None
    assert (snapshot.success.count, snapshot.fail.count) == (0, 1)


def test_a_lane_takes_no_more_than_may_wait() -> None:
    """Neither by number nor by bytes: the careful way is where a producer waits."""
    stream = StreamRequest(Deaf(), Deaf(), Pressure(100_000), 0, 0, typed=False)
    stream.decoupled, stream.request = True, InferRequest("m", ())

    taken = [fill(stream, elements) for elements in (1, 10_000)]
    stream.done = True
    stream.drop()

    assert taken == [255, 2]
    assert stream._pressure.unsent == 0


def fill(stream: StreamRequest, elements: int) -> int:
    """Put one response and then as many as a lane takes; how many it took."""
    response = answer_to(InferRequest("m", ()), 1.0, final=False, elements=elements)
    stream.put(response)
    lane = stream.lane(response)
    assert lane is not None
    taken = 0
    while taken < 1000 and lane({"OUT": response.outputs[0].array}):
        taken += 1
    stream.forget()
    return taken


class Crowd:
    """A decoupled model whose requests are answered by a thread each, now fast and now slow."""

    def __init__(self, seed: int, count: int) -> None:
        self.random = random.Random(seed)
        self.count = count
        self.threads: list[threading.Thread] = []

    def answer(self, job: Job) -> None:
        thread = threading.Thread(target=self._produce, args=(job, self.random.random()))
        self.threads.append(thread)
        thread.start()

    def _produce(self, job: Job, seed: float) -> None:
        dice, lane = random.Random(seed), None
        stream = cast(LaneStream, job.stream)
        for number in range(self.count):
            array = np.full((1, dice.choice([1, 1, 1, 500])), number, np.float32)
            if lane is None or not lane({"OUT": array}):
                assert stream.wait_for_room(30.0)
                response = answer_to(job.request, number, final=False, elements=array.shape[1])
                stream.put(response)
                lane = stream.lane(response)
            pause = dice.random()
            if pause < 0.1:
                time.sleep(0.0002 * dice.random())
            elif pause < 0.2:
                stream.give_way(0.001)
        job.end()


class Lazy(FakeCall):
    """A call whose transport is now and then full for a while."""

    dice = random.Random(0)

    async def write_many(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            self.written.put_nowait(message)
        while self.dice.random() < 0.3:
            await asyncio.sleep(0.0005 * self.dice.random())


@pytest.mark.asyncio
@pytest.mark.parametrize("seed", range(4))
async def test_whoever_is_faster_every_response_arrives_once_and_in_order(seed: int) -> None:
    """Many producers, one reader, random pauses on all sides."""
    crowd = Crowd(seed, 700)
    services = services_for(FakeShelf(FakeModel("many", decoupled=True, answer=crowd.answer)))
    call = Lazy()
    names = [str(n) for n in range(5)]
    messages = Messages([request_bytes("many", request_id=name) for name in names], closed=True)
    handler = next(m.stream for m in services.methods if m.path == PATH)
    assert handler is not None

    replies = await Streaming(call, handler(aiter(messages), cast(Call, call))).rest()
    for thread in crowd.threads:
        thread.join()

    found: dict[str, list[float]] = {name: [] for name in names}
    for reply in map(stream_reply, replies):
        found[reply.infer_response.id].append(reply_value(reply))
    assert found == {name: [float(n) for n in range(700)] for name in names}


class Patient:
    """A decoupled model that makes a response only when the one before was written."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.written = threading.Semaphore(0)
        self.held = 0
        self.thread: threading.Thread | None = None

    def answer(self, job: Job) -> None:
        self.thread = threading.Thread(target=self._execute, args=(job,))
        self.thread.start()

    def _execute(self, job: Job) -> None:
        declared = (ModelOutput("OUT", DataType.FP32, (-1, -1)),)
        pending = Pending(job.request, job.stream)
        execute_stream(desk_for(declared), self, Batch.of([pending]))

    def stream(self, inputs: Any, context: RequestContext) -> Iterator[Mapping[str, Any]]:
        for number in range(self.count):
            yield {"OUT": np.full((1, 1), number, np.float32)}
            self.held += not self.written.acquire(timeout=5)

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class Heard(FakeCall):
    """A call that tells of every message."""

    tell: Callable[[], None] = print

    async def write(self, data: bytes) -> None:
        await super().write(data)
        self.tell()


@pytest.mark.asyncio
async def test_a_slow_model_has_every_response_delivered_at_once() -> None:
    """The first, and each of those after it: none waits for one that comes later."""
    model = Patient(20)
    services = services_for(FakeShelf(FakeModel("slow", decoupled=True, answer=model.answer)))
    call = Heard(tell=model.written.release)
    handler = next(m.stream for m in services.methods if m.path == PATH)
    assert handler is not None
    messages = Messages([request_bytes("slow")], closed=True)

    replies = await Streaming(call, handler(aiter(messages), cast(Call, call))).rest()
    assert model.thread is not None
    model.thread.join()

    assert model.held == 0
    assert [reply_value(stream_reply(reply)) for reply in replies] == list(range(20))
