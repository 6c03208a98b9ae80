"""The engine of models that do not run packed: one text at a time, with the same face."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.llm.engine_driver import WANTED, Task, Words

from penstock_runtime.errors import InvalidArgument, PenstockError, Unavailable
from penstock_runtime.llm.admission import Limits
from penstock_runtime.llm.answers import Answers
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.preparing import Preparer
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.scribe import Scribe
from penstock_runtime.llm.serial_engine import SerialEngine
from penstock_runtime.llm.watching import EngineWatcher
from penstock_runtime.observability.engine_metrics import EngineTally
from penstock_runtime.request import InferRequest, RequestedOutput

ROOM, VOCAB = 64, 100


class Counting:
    """Goes on by one; `gate` lets one token through at a time where it is set."""

    def __init__(self) -> None:
        self.closed = 0
        self.lost = ""
        self.gate: threading.Semaphore | None = None

    def stream(
        self, tokens: list[int], params: SamplingParams, max_tokens: int | None, seed: int
    ) -> Iterator[int]:
        del params, seed
        try:
            for place in range(max_tokens or 0):
                if self.gate is not None:
                    self.gate.acquire()
                token = (tokens[0] + place + 1) % VOCAB
                if token == 13:
                    raise RuntimeError("thirteen")
                yield token
        finally:
            self.closed += 1


class House:
    """A serial engine with its threads, and whoever asks it."""

    def __init__(self, runner: Counting, **limits: Any) -> None:
        watcher = EngineWatcher(EngineTally("m", 1, "m_0", {}))
        known = Limits(max_model_len=ROOM, **limits)
        self.engine = SerialEngine("m", runner, known, watcher, {50}, "it is odd", _nothing)
        self.scribe = Scribe(Answers(str), self.engine.end, watcher)
        self.preparer = Preparer(EngineOptions(), Words(), ROOM, VOCAB)
        self.scribe.start()
        self.engine.start(self.scribe)

    def ask(self, first: int, **params: Any) -> Task:
        request = InferRequest(
            "m", (), outputs=tuple(map(RequestedOutput, WANTED)), parameters={"max_tokens": 5}
        )
        document = str({"temperature": 0, **params}).replace("'", '"')
        arrays = {
            "input_ids": np.array([first], np.int64),
            "sampling_parameters": np.array([document.encode()], object),
        }
        task = Waiting(request, arrays)
        generation = self.preparer.prepare(task)
        self.engine.submit(generation)
        task.on_abandon(lambda: self.scribe.abandon(generation))
        return task

    def stop(self) -> None:
        self.engine.stop()
        self.scribe.stop()


class Waiting(Task):
    """A task that can be waited for."""

    def __init__(self, request: InferRequest, arrays: Any) -> None:
        super().__init__(request, arrays)
        self.over = threading.Event()

    def send(self, outputs: Any, *more: Any, last: bool = True, **said: Any) -> None:
        super().send(outputs, *more, last=last, **said)
        if last:
            self.over.set()

    def fail(self, error: PenstockError) -> None:
        super().fail(error)
        self.over.set()


def _nothing() -> None:
    pass


@pytest.fixture
def runner() -> Counting:
    return Counting()


@pytest.fixture
def house(runner: Counting) -> Iterator[House]:
    made = House(runner)
    yield made
    made.stop()


def answered(task: Any) -> list[int]:
    assert task.over.wait(20)
    ids: list[int] = task.ids
    return ids


def test_texts_are_generated_one_after_the_other_and_streamed(house: House) -> None:
    tasks = [house.ask(20), house.ask(30)]

    assert [answered(task) for task in tasks] == [[21, 22, 23, 24, 25], [31, 32, 33, 34, 35]]
    assert all(len(task.answers) == 5 for task in tasks)


def test_a_text_ends_with_the_model_s_own_end(house: House, runner: Counting) -> None:
    assert answered(house.ask(47)) == [48, 49, 50]
    assert runner.closed == 1


def test_one_that_fails_is_told_why_and_the_next_goes_on(house: House) -> None:
    failing, next_one = house.ask(11), house.ask(20)

    answered(failing)

    assert str(failing.error) == "a step of the model failed: RuntimeError"
    assert len(answered(next_one)) == 5


def test_a_caller_that_gives_up_ends_its_text_and_frees_the_model(runner: Counting) -> None:
    runner.gate = threading.Semaphore(1)
    house = House(runner)
    first, second = house.ask(20), house.ask(30)
    wait_until(lambda: house.engine.stats().running == 1)

    first.abandon()
    runner.gate.release(20)

    assert answered(second) == [31, 32, 33, 34, 35]
    house.stop()
    assert runner.closed == 2


@pytest.mark.parametrize(
    "beyond",
    [{"logprobs": 1}, {"regex": "a+"}, {"presence_penalty": 1.0}, {"allowed_token_ids": [1]}],
)
def test_what_the_model_cannot_do_is_refused_by_name(house: House, beyond: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="one text at a time: it is odd"):
        house.ask(20, **beyond)


def test_a_full_queue_and_a_stopped_engine_refuse_at_once(runner: Counting) -> None:
    runner.gate = threading.Semaphore(0)
    house = House(runner, max_queued_requests=1)
    tasks = [house.ask(20)]
    wait_until(lambda: house.engine.stats().running == 1)
    tasks.append(house.ask(21))

    with pytest.raises(Unavailable, match="Exceeds maximum queue size"):
        house.ask(22)

    runner.gate.release(100)
    assert all(answered(task) for task in tasks)
    house.stop()
    with pytest.raises(Unavailable, match="has ended"):
        house.ask(23)


def wait_until(holds: Callable[[], bool]) -> None:
    event = threading.Event()
    for _ in range(1000):
        if holds():
            return
        event.wait(0.01)
    raise AssertionError("it never came to be")
