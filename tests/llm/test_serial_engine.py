"""The engine of models that do not run packed: one text after the other, with the same face."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.llm.engine_driver import Task, Words
from tests.llm.test_engine_threads import error_of, task_of, wait_until

from penstock_runtime.errors import (
    DeadlineExceeded,
    InstanceDied,
    Internal,
    InvalidArgument,
    Unavailable,
)
from penstock_runtime.llm.admission import Limits
from penstock_runtime.llm.answers import Answers
from penstock_runtime.llm.executable import GenerativeExecutable
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.preparing import Preparer
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.scribe import Scribe
from penstock_runtime.llm.serial_engine import SerialEngine
from penstock_runtime.llm.watching import EngineWatcher
from penstock_runtime.observability.engine_metrics import EngineTally

LIMITS = Limits(max_model_len=10_000, max_queued_requests=8)
FOREVER = '{"max_tokens": 5000, "ignore_eos": true}'


class Counting:
    """Counts on from the last token of a prompt; a prompt of sevens fails."""

    def __init__(self) -> None:
        self.open = 0
        self.lost = ""

    def stream(
        self, tokens: list[int], params: SamplingParams, max_tokens: int | None, seed: int
    ) -> Iterator[int]:
        self.open += 1
        try:
            for place in range(max_tokens or 0):
                if tokens[0] == 7:
                    raise RuntimeError("a secret of the machine's")
                time.sleep(0.0005)
                yield (tokens[-1] + place + 1) % 64
        finally:
            self.open -= 1


@contextmanager
def running(
    runner: Counting, prepare: Callable[[], None] = lambda: None
) -> Iterator[GenerativeExecutable]:
    watcher = EngineWatcher(EngineTally("tiny", 1, "tiny_0", {}))
    engine = SerialEngine("tiny", runner, LIMITS, watcher, [63], "it is odd", prepare)
    scribe = Scribe(Answers(str), engine.end, watcher)
    preparer = Preparer(EngineOptions(), Words(), 10_000, 64)
    executable = GenerativeExecutable(
        engine, scribe, preparer, lambda _: pytest.fail("no grammars"), lambda: None, lambda: None
    )
    scribe.start()
    engine.start(scribe)
    try:
        yield executable
    finally:
        executable.close()
    assert not runner.open


def test_texts_come_one_after_the_other_to_their_ends() -> None:
    """By length, by the sign of the end, by a stop token and by a stop string; all of n."""
    tasks = [
        task_of('{"max_tokens": 5}'),
        task_of('{"max_tokens": 100}'),
        task_of('{"max_tokens": 100, "stop_token_ids": [9], "n": 2}'),
        task_of('{"max_tokens": 5000, "ignore_eos": true, "stop": ["12 13"]}'),
    ]
    with running(Counting()) as executable:
        executable.execute_requests(tasks)
        wait_until(lambda: all(task.ends for task in tasks))

    assert tasks[0].ids == [4, 5, 6, 7, 8]
    assert tasks[1].ids == list(range(4, 64))
    assert tasks[1].text.endswith(" 62 ")
    assert tasks[2].ids == [4, 5, 6, 7, 8, 9] * 2
    assert tasks[3].text.endswith(" 11 ")


def test_a_caller_that_goes_makes_room_for_the_next() -> None:
    """At the next token, and in the queue at once."""
    runner = Counting()
    with running(runner) as executable:
        first, second, third = task_of(FOREVER), task_of(FOREVER), task_of('{"max_tokens": 3}')
        executable.execute_requests((first, second, third))
        wait_until(lambda: len(first.answers) > 2)
        second.abandon()
        first.abandon()
        wait_until(lambda: third.ends == 1)

    assert not second.answers
    assert (first.ends, second.ends) == (0, 0)


def test_what_fails_is_told_to_its_caller_only() -> None:
    """A model that raises, a deadline, what cannot be had, a full queue."""
    bad = task_of('{"max_tokens": 5}')
    bad.arrays["input_ids"][:] = 7
    late = task_of(FOREVER, deadline_ns=time.monotonic_ns() + 50_000_000)
    odd = task_of('{"regex": "a+"}')
    with running(Counting()) as executable:
        executable.execute_requests((bad, late, odd))
        errors = [error_of(task) for task in (bad, late, odd)]
        held: list[Task] = [task_of(FOREVER) for _ in range(11)]
        executable.execute_requests(held[:1])
        wait_until(lambda: len(held[0].answers) > 0)
        executable.execute_requests(held[1:])
        full = error_of(held[-1])
        for task in held:
            task.abandon()
        good = task_of('{"max_tokens": 5}')
        executable.execute_requests((good,))
        wait_until(lambda: good.ends == 1)

    assert [type(error) for error in errors] == [Internal, DeadlineExceeded, InvalidArgument]
    assert "secret" not in errors[0].message
    assert "it is odd" in errors[2].message
    assert isinstance(full, Unavailable)
    assert good.ids == [4, 5, 6, 7, 8]


def test_nobody_waits_for_an_engine_whose_gpu_is_lost() -> None:
    """Those that wait and those that come later are told so at once."""

    class Lost(Counting):
        def stream(self, *_: object) -> Iterator[int]:
            self.lost = "misaligned address"
            raise InstanceDied(
                "model 'tiny' has lost its GPU: misaligned address", reason="DEVICE_LOST"
            )

    tasks = [task_of(FOREVER) for _ in range(3)]
    with running(Lost()) as executable:
        executable.execute_requests(tasks)
        wait_until(lambda: all(task.ends for task in tasks))
        wait_until(lambda: not executable.ready)
        late = task_of(FOREVER)
        executable.execute_requests([late])

        assert executable.lost == "misaligned address"
        for task in (*tasks, late):
            assert isinstance(error_of(task), InstanceDied)
            assert error_of(task).message.endswith("has lost its GPU: misaligned address")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_cannot_begin_keeps_nobody_waiting() -> None:
    """Who has come is told so, and who comes later as well."""
    go = threading.Event()

    def prepare() -> None:
        go.wait(20)
        raise RuntimeError("no such device")

    with running(Counting(), prepare) as executable:
        early = task_of(FOREVER)
        executable.execute_requests((early,))
        go.set()
        error = error_of(early)
        wait_until(lambda: not executable.ready)
        late = task_of(FOREVER)
        executable.execute_requests((late,))

    assert isinstance(error, Internal)
    assert isinstance(error_of(late), Unavailable)
