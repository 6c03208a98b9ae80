"""Engines and scribes in threads of their own, and whoever calls them from others."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from tests.llm.engine_driver import Driver, Task, drive
from tests.llm.sampling_fakes import RuleGrammar, TableModel

from penstock_runtime.errors import Internal, InvalidArgument, PenstockError, Unavailable
from penstock_runtime.llm import threads as threads_module
from penstock_runtime.llm.executable import GenerativeExecutable
from penstock_runtime.llm.sampling_params import Structured
from penstock_runtime.llm.sequence import Grammar
from penstock_runtime.llm.speculative.ngram import NgramProposer
from penstock_runtime.llm.step import StepPlan
from penstock_runtime.request import InferRequest, RequestedOutput

VOCAB = 64


class Slow(TableModel):
    """Gives other threads their turn in every step, and waits for a permit where there are any."""

    def __init__(self) -> None:
        super().__init__(VOCAB)
        self.go = threading.Event()
        self.go.set()
        self.inside = threading.Event()

    def run(self, plan: StepPlan) -> torch.Tensor:
        self.inside.set()
        assert self.go.wait(20)
        time.sleep(0)
        return super().run(plan)


def executable_of(
    driver: Driver, compile_: Callable[[Structured], "Future[Grammar]"] | None = None
) -> GenerativeExecutable:
    """An instance over the driver's engine."""
    refused: list[int] = []
    return GenerativeExecutable(
        driver.engine,
        driver.scribe,
        driver.preparer,
        compile_ or (lambda structured: Future()),
        lambda: refused.append(1),
        lambda: None,
    )


@contextmanager
def running(driver: Driver, **more: Any) -> Iterator[GenerativeExecutable]:
    """An instance whose threads run, on a clock that goes by itself."""
    driver.engine._clock = time.monotonic_ns
    executable = executable_of(driver, **more)
    driver.scribe.start()
    driver.engine.start(driver.scribe)
    try:
        yield executable
    finally:
        executable.close()


def task_of(sampling: str, **request: Any) -> Task:
    arrays = {
        "input_ids": np.array([1, 2, 3]),
        "sampling_parameters": np.array([sampling.encode()], dtype=object),
    }
    outputs = (RequestedOutput("output_ids"), RequestedOutput("text_output"))
    return Task(InferRequest("tiny", (), outputs=outputs, **request), arrays)


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.001)


def error_of(task: Task) -> PenstockError:
    wait_until(lambda: task.ends > 0)
    assert task.error is not None
    return task.error


def test_whatever_threads_do_every_request_has_one_end_and_nothing_is_left() -> None:
    """Three of them ask, a fourth gives up what was asked for."""
    driver = drive(
        Slow(), VOCAB, blocks=60, seqs=8, tokens=32, proposer=NgramProposer(2), watermark=0.02
    )
    tasks: list[Task] = []
    with running(driver) as executable:

        def ask(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(100):
                n, count = chance.choice((1, 1, 2)), chance.randrange(1, 12)
                task = task_of(f'{{"n": {n}, "max_tokens": {count}, "ignore_eos": true}}')
                tasks.append(task)
                executable.execute_requests((task,))

        def give_up() -> None:
            chance = random.Random(9)
            while len(tasks) < 300:
                if tasks and chance.random() < 0.5:
                    task = chance.choice(tasks[-20:])
                    if not task.ends:
                        task.gone = True
                        for callback in list(task._watchers):
                            callback()
                time.sleep(0)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
        threads.append(threading.Thread(target=give_up))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: all(task.ends or task.gone for task in tasks))
        wait_until(lambda: driver.engine.stats().running == 0)

    assert all(task.ends <= 1 for task in tasks)
    assert sum(task.ends for task in tasks) > 100
    driver.batcher.check()
    driver.engine._gone.clear()
    stats = driver.engine.stats()
    assert (stats.waiting, stats.free_blocks) == (0, stats.n_blocks)


def test_a_caller_that_goes_gets_its_blocks_back_while_a_step_is_computed() -> None:
    """Not only when it is over."""
    model = Slow()
    driver = drive(model, VOCAB)
    with running(driver) as executable:
        model.go.clear()
        task = task_of('{"max_tokens": 50}')
        executable.execute_requests((task,))
        assert model.inside.wait(20)
        held = driver.engine.stats().free_blocks
        task.abandon()
        freed = driver.engine.stats().free_blocks
        model.go.set()

    assert held < freed == driver.engine.stats().n_blocks
    assert not task.answers


def test_an_engine_that_dies_fails_all_it_has_and_takes_no_more() -> None:
    """Nobody waits for it, and its instance is not ready."""
    model = Slow()
    driver = drive(model, VOCAB)
    with running(driver) as executable:
        model.go.clear()
        tasks = [task_of('{"max_tokens": 50}') for _ in range(3)]
        executable.execute_requests(tasks)
        assert model.inside.wait(20)
        driver.batcher.update = None  # type: ignore[method-assign, assignment] # a defect
        model.go.set()
        errors = [error_of(task) for task in tasks]
        wait_until(lambda: not executable.ready)
        late = task_of('{"max_tokens": 50}')
        executable.execute_requests((late,))

    assert all(isinstance(error, Internal) for error in errors)
    assert isinstance(error_of(late), Unavailable)


def test_an_instance_closes_while_it_generates_and_its_reader_waits() -> None:
    """What is not told by then is somebody else's to answer."""
    driver = drive(Slow(), VOCAB, blocks=200)
    task = task_of('{"max_tokens": 700}')
    with running(driver) as executable:
        task.room = 2
        executable.execute_requests((task,))
        wait_until(lambda: len(task.answers) == 2)

    assert task.ends == 0
    assert not driver.engine._thread.is_alive()
    assert not driver.scribe._thread.is_alive()


# -- grammars --------------------------------------------------------------------------------------


def test_an_answer_waits_for_its_grammar_and_others_do_not() -> None:
    """It is compiled elsewhere; each choice has one of its own."""
    waiting: list[Future[Grammar]] = []

    def compile_(structured: Structured) -> "Future[Grammar]":
        waiting.append(Future())
        return waiting[-1]

    driver = drive(TableModel(VOCAB), VOCAB)
    with running(driver, compile_=compile_) as executable:
        bound = task_of('{"regex": "5+", "n": 2, "max_tokens": 4}')
        free = task_of('{"max_tokens": 4}')
        executable.execute_requests((bound, free))
        wait_until(lambda: free.ends == 1)
        before = bound.ends
        for future in waiting:
            future.set_result(RuleGrammar(VOCAB, lambda told, token: token == 5))
        wait_until(lambda: bound.ends == 1)

    assert (before, len(waiting)) == (0, 2)
    assert bound.ids == [5] * 8


@pytest.mark.parametrize("at_once", [True, False])
def test_a_grammar_that_cannot_be_compiled_fails_its_request(at_once: bool) -> None:
    """Whether that is known at once or later; nothing is left of it."""
    future: Future[Grammar] = Future()

    def compile_(structured: Structured) -> "Future[Grammar]":
        if at_once:
            raise Unavailable("too many grammars are compiled")
        return future

    driver = drive(TableModel(VOCAB), VOCAB)
    with running(driver, compile_=compile_) as executable:
        task = task_of('{"regex": "5+"}')
        executable.execute_requests((task,))
        if not at_once:
            future.set_exception(InvalidArgument("regex: it is none"))
        error = error_of(task)
        wait_until(lambda: driver.engine.stats().waiting == 0)

    assert type(error) is (Unavailable if at_once else InvalidArgument)
    assert task.ends == 1


class GivesUp(TableModel):
    """Whoever asked gives up while a step is about to be computed."""

    def __init__(self) -> None:
        super().__init__(VOCAB)
        self.asked: list[Task] = []
        self.blocks: list[list[int]] = []

    def run(self, plan: StepPlan) -> torch.Tensor:
        for task in self.asked:
            task.abandon()
        self.blocks += [list(row.sequence.blocks) for row in plan.rows]
        assert all(len(row.tokens) == row.count for row in plan.rows)
        return super().run(plan)


def test_a_step_has_what_it_was_planned_with_whoever_gives_up_meanwhile() -> None:
    """The blocks are free with its end; those beside go on as if nothing had been."""
    model = GivesUp()
    driver = drive(model, VOCAB, proposer=NgramProposer(2))
    other = drive(TableModel(VOCAB), VOCAB)
    expected = other.ask([5, 6, 5, 6], max_tokens=9)
    other.run()
    gone, stays = driver.ask([1, 2, 1, 2], max_tokens=90), driver.ask([5, 6, 5, 6], max_tokens=9)
    driver.step()
    driver.step()
    model.asked = [gone.task]
    model.blocks.clear()

    driver.step()
    blocks = list(model.blocks)
    running = driver.engine.stats().running
    driver.run()

    assert len(blocks) == 2
    assert all(blocks)
    assert running == 1
    assert stays.ids == expected.ids
    driver.assert_empty()


@pytest.mark.parametrize(("device", "current"), [("cuda:1", ["cuda:1"]), ("cpu", [])])
def test_an_engine_works_where_its_gpu_is_the_current_one(
    device: str, current: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not all that a model calls follows its tensors: a kernel of Triton's runs on the GPU that is
    current in its thread, which would be the first.
    """
    seen: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)
    monkeypatch.setattr(torch, "set_num_threads", lambda _count: None)
    monkeypatch.setattr(threads_module, "give_way", lambda: None)

    threads_module.prepare_thread(1, device)

    assert seen == current
