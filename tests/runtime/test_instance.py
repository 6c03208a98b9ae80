"""Laws of one instance and its thread."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.runtime.fakes import FakeLoaded, FunctionExecutable, config, pending

from penstock_runtime.backends.base import Placement, Staged
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.errors import Internal
from penstock_runtime.instance import ModelInstance
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.gate import Gate
from penstock_runtime.scheduling.predictor import WaitPredictor
from penstock_runtime.stream import ThreadInbox


class OneBatch:
    """A scheduler that has one batch to give, and then says that it is over."""

    def __init__(self, *members: Pending) -> None:
        self.predictor = WaitPredictor()
        self._batches = [Batch.of(members)] if members else []

    keeps_order = False

    def next_work(self, gate: Gate, *, several: bool) -> Batch | None:
        return self._batches.pop() if self._batches else None

    def answer(self, member: Pending, answer: Callable[[], None]) -> None:
        answer()

    def answered(self, count: int) -> None:
        """Nobody drains."""

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> None:
        """Nothing has a deadline."""


def instance(loaded: Any, scheduler: Any) -> ModelInstance:
    """An instance of model m, not started."""
    plan = BatchPlan(config(), 1)
    return ModelInstance(Placement("m_0_0"), loaded, plan, scheduler, ModelStatistics("m", 1))


def test_an_answer_that_was_held_back_is_told_when_the_instance_ends() -> None:
    """Short executions hold their news back, but never beyond the life of the instance."""
    member = pending()
    member.arrays = {"X": np.zeros((1, 2), np.float32)}
    loaded = FakeLoaded(lambda array: array)
    made = instance(loaded, OneBatch(member))

    made.start()
    ended = made.join(30)
    inbox = member.stream.inbox

    assert ended
    assert isinstance(inbox, ThreadInbox)
    assert inbox.event.is_set()
    assert loaded.executables[0].closed


def test_an_instance_that_cannot_start_says_why_and_is_not_healthy() -> None:
    """The name is told, the exception's own text stays in the log."""

    class Broken(FakeLoaded):
        def executable(self, placement: Placement) -> Any:
            raise ValueError("/secret/path")

    made = instance(Broken(lambda array: array), OneBatch())

    made.start()
    with pytest.raises(Internal, match=r"^instance 'm_0_0' failed to start: ValueError$"):
        made.wait_ready()

    assert not made.healthy


def test_a_deck_that_cannot_be_made_is_told_as_any_other_failure_to_start() -> None:
    """Whoever loads the model would wait for ever."""

    class NoDeck(FunctionExecutable, Staged):
        @property
        def deck(self) -> Any:
            raise RuntimeError("CUDA_ERROR_INVALID_IMAGE")

    class Loaded(FakeLoaded):
        def executable(self, placement: Placement) -> FunctionExecutable:
            self.executables.append(NoDeck(self.function))
            return self.executables[-1]

    loaded = Loaded(lambda array: array)
    made = instance(loaded, OneBatch())

    made.start()
    ended = made.join(30)

    assert ended
    with pytest.raises(Internal, match=r"^instance 'm_0_0' failed to start: RuntimeError$"):
        made.wait_ready()
    assert loaded.executables[0].closed
