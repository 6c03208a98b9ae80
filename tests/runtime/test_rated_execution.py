"""Laws of turns for instances that have their batch before: the same books, the same bounds."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from tests.runtime.model_folders import context
from tests.runtime.staffed_models import Stage, group, until

from penstock_runtime.backends.base import (
    Arrays,
    Executable,
    Placement,
    StreamingExecutable,
)
from penstock_runtime.context import RequestContext
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.placement import Seat
from penstock_runtime.rated_execution import RatedModel
from penstock_runtime.scheduling.rates import Rates

ROW = {"X": np.ones((1, 1), np.float32)}
PLACES = tuple(Seat(Placement(f"g_{i}"), group(needs=1).rate_limiter) for i in range(3))


class StreamStage(Stage):
    """Instances that give two responses."""

    def executable(self, placement: Placement) -> "StreamActor":  # type: ignore[override]
        return StreamActor(self, placement.name)


class StreamActor:
    """One of them."""

    def __init__(self, stage: Stage, name: str) -> None:
        self._stage = stage
        self._name = name

    def stream(self, inputs: Arrays, _context: RequestContext) -> Iterator[Arrays]:
        with self._stage.scene(self._name):
            yield {"Y": inputs["X"]}
            yield {"Y": inputs["X"] * 2}

    def close(self) -> None:
        self._stage.closed.append(self._name)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A stage whose executions end at last."""
    made = Stage()
    yield made
    made.may_run.set()


def test_executions_take_turns_and_none_is_lost(stage: Stage) -> None:
    """Three instances, one resource: one at a time, whatever fails."""
    model = RatedModel(stage, Rates({("r", None): 1}), PLACES)
    made = [model.executable(seat.placement) for seat in PLACES]
    failures: list[Exception] = []

    def work(instance: object) -> None:
        assert isinstance(instance, Executable)
        for value in (1, -1, 2):
            try:
                instance.execute({"X": np.full((1, 1), value, np.float32)}, [context()])
            except ValueError as error:
                failures.append(error)

    threads = [threading.Thread(target=work, args=(instance,)) for instance in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for instance in made:
        instance.close()

    assert len(failures) == 3
    assert len(stage.done) == 9
    assert stage.most == 1
    assert len(stage.closed) == 3


def test_a_stream_is_one_turn_to_its_end() -> None:
    """Also where its consumer takes no more of it."""
    rates, stage = Rates({("r", None): 1}), StreamStage()
    model = RatedModel(stage, rates, PLACES)
    first, second = (model.executable(seat.placement) for seat in PLACES[:2])
    assert isinstance(first, StreamingExecutable)
    assert isinstance(second, StreamingExecutable)

    half = first.stream(ROW, context())
    next(half)
    waiting: list[Arrays] = []
    other = threading.Thread(target=lambda: waiting.extend(second.stream(ROW, context())))
    other.start()
    until(lambda: len(rates._limiter._line) == 1)
    before = list(waiting)
    half.close()  # type: ignore[attr-defined]
    other.join(30)

    assert before == []
    assert len(waiting) == 2
    assert stage.most == 1


def test_an_instance_that_is_closed_is_not_counted(stage: Stage) -> None:
    """What it needed does not count for the others, and the model is as it was."""
    rates = Rates()
    model = RatedModel(stage, rates, PLACES)
    made = model.executable(PLACES[0].placement)
    during = rates._limiter.total(("R", 0))

    made.close()
    model.close()

    assert during == 1
    assert rates._limiter.total(("R", 0)) == 0
    assert model.memory_bytes() == {}
    assert stage.ended


def test_an_instance_that_needs_too_much_is_closed_again(stage: Stage) -> None:
    """It is refused, and holds nothing."""
    seat = Seat(Placement("g_0"), group(needs=5).rate_limiter)
    model = RatedModel(stage, Rates({("r", None): 1}), (seat,))

    with pytest.raises(InvalidArgument, match="is limited to 1"):
        model.executable(seat.placement)

    assert stage.closed == ["g_0"]
