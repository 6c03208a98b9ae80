"""Laws of instances that join and leave while their model serves."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.runtime.staffed_models import Stage, answer, ask, group, staffed, start, until

from penstock_runtime.config import InstanceGroup
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.model import Model
from penstock_runtime.scheduling.rates import Rates


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A stage whose executions end at last."""
    made = Stage()
    yield made
    made.may_run.set()


def regroup(model: Model, *groups: InstanceGroup) -> None:
    """Change the instances of a model that serves."""
    change = model.regroup(replace(model.config, instance_group=groups))
    assert change is not None
    change.settle()


def names(model: Model) -> list[str]:
    """The instances that the model has."""
    return [instance.placement.name for instance in model.instances]


def test_instances_join_and_those_that_are_there_stay(stage: Stage) -> None:
    """Weights are loaded once; the new ones execute beside the old."""
    model = start(stage, staffed(group(1)))
    old = model.instances

    regroup(model, group(3))
    stage.may_run.clear()
    streams = [ask(model) for _ in range(3)]
    until(lambda: len(stage.running) == 3)
    stage.may_run.set()

    assert [answer(stream) for stream in streams] == [[1.0, 2.0]] * 3
    assert (model.instances[0], names(model)) == (old[0], ["g_0", "g_1", "g_2"])
    assert model.config.instance_group == (group(3),)
    assert model.healthy
    model.stop()
    assert sorted(stage.closed) == ["g_0", "g_1", "g_2"]


def test_an_instance_that_leaves_ends_what_it_executes(stage: Stage) -> None:
    """Its request is answered, and what waits is executed by those who stay."""
    model = start(stage, staffed(group(3)))
    stage.may_run.clear()
    streams = [ask(model, i, i) for i in range(8)]
    until(lambda: len(stage.running) == 3)

    regroup(model, group(1))
    stage.may_run.set()
    answers = [answer(stream) for stream in streams]
    until(lambda: len(stage.closed) == 2)

    assert answers == [[float(i)] * 2 for i in range(8)]
    assert stage.done.count("g_1") == stage.done.count("g_2") == 1
    assert sorted(stage.closed) == ["g_1", "g_2"]
    assert names(model) == ["g_0"]
    assert not stage.ended
    model.stop()


def test_an_idle_instance_leaves_at_once(stage: Stage) -> None:
    """Nothing has to come to make it look."""
    model = start(stage, staffed(group(4)))

    regroup(model, group(1))
    until(lambda: len(stage.closed) == 3)

    assert answer(ask(model)) == [1.0, 2.0]
    model.stop()


def test_all_may_be_replaced_at_once(stage: Stage) -> None:
    """Another group takes over; statistics go on as they were."""
    model = start(stage, staffed(group(2)))
    for _ in range(3):
        ask(model).collect()

    regroup(model, group(1, "other"))
    until(lambda: len(stage.closed) == 2)
    ask(model).collect()

    assert names(model) == ["other_0"]
    assert model.statistics.snapshot().execution_count == 4
    assert stage.done[-1] == "other_0"
    model.stop()


def test_one_that_does_not_come_up_leaves_all_as_it_was(stage: Stage) -> None:
    """Those who had joined leave again, the old ones serve."""
    model = start(stage, staffed(group(1)))
    stage.broken = {"g_2"}

    with pytest.raises(InvalidArgument, match="g_2 does not come up"):
        model.regroup(replace(model.config, instance_group=(group(4),)))
    until(lambda: len(stage.closed) == 2)

    assert sorted(stage.closed) == ["g_1", "g_3"]
    assert names(model) == ["g_0"]
    assert model.config.instance_group == (group(1),)
    assert answer(ask(model)) == [1.0, 2.0]
    model.stop()


def test_a_change_that_is_undone_was_none(stage: Stage) -> None:
    """Whoever joined leaves."""
    model = start(stage, staffed(group(1)))
    change = model.regroup(replace(model.config, instance_group=(group(2),)))
    assert change is not None

    change.undo()
    until(lambda: stage.closed == ["g_1"])

    assert names(model) == ["g_0"]
    assert answer(ask(model)) == [1.0, 2.0]
    model.stop()


@pytest.mark.parametrize("stays", ["a", "b"])
def test_a_request_that_waits_for_company_is_not_forgotten_with_its_instance(
    stage: Stage, stays: str
) -> None:
    """Another looks after the delay that the one who leaves was waiting for."""
    rules = DynamicBatching(max_queue_delay_microseconds=50_000, preferred_batch_size=(8,))
    model = start(stage, staffed(group(1, "a"), group(1, "b"), max_batch=8, batching=rules))
    until(lambda: len(idle(model)) == 2)

    stream = ask(model, [1.0, 2.0])
    until(lambda: len(idle(model)) == 2)
    regroup(model, group(1, stays))

    assert answer(stream) == [[1.0, 2.0]]
    assert stage.done == [f"{stays}_0"]
    model.stop()


def idle(model: Model) -> list[object]:
    """The gates at which instances wait."""
    return list(model._scheduler._idle)  # type: ignore[attr-defined]


def test_stopping_waits_for_those_who_still_leave(stage: Stage) -> None:
    """The weights are given back when nobody executes with them any more."""
    model = start(stage, staffed(group(2)))
    stage.may_run.clear()
    streams = [ask(model) for _ in range(2)]
    until(lambda: len(stage.running) == 2)
    regroup(model, group(1))
    stopping = threading.Thread(target=model.stop)

    stopping.start()
    ended_early = stage.ended
    stage.may_run.set()
    stopping.join(30)

    assert not ended_early
    assert stage.ended
    assert [answer(stream) for stream in streams] == [[1.0, 2.0]] * 2


def test_who_waits_for_the_end_of_a_model_is_told_of_it_however_it_ends(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made for it to load from is not left behind by a model that fails to let go."""
    told: list[str] = []

    def fail() -> None:
        raise ValueError("cannot let go")

    monkeypatch.setattr(stage, "close", fail)
    model = start(stage, staffed(group()))
    model.on_stopped(lambda: told.append("stopped"))

    with pytest.raises(ValueError, match="cannot let go"):
        model.stop()

    assert told == ["stopped"]


def test_order_is_kept_by_a_reload_where_it_cannot_be_in_place(stage: Stage) -> None:
    """One instance needs no keeper of the order; what is in hand would not be in its books."""
    rules = DynamicBatching(preserve_ordering=True)
    one = start(stage, staffed(group(1), batching=rules))
    two = start(Stage(), staffed(group(2), batching=rules))

    assert one.regroup(replace(one.config, instance_group=(group(2),))) is None
    regroup(two, group(3))

    assert len(two.instances) == 3
    for model in (one, two):
        model.stop()


def test_predictions_and_choices_go_by_the_instances_there_are(stage: Stage) -> None:
    """What waits is shared by as many as there are now."""
    rules = DynamicBatching(slo_p99_ms=50.0)
    model = start(stage, staffed(group(1), max_batch=8, batching=rules))
    scheduler: Any = model._scheduler
    scheduler.predictor.observe(1_000_000)
    before = scheduler.predictor.wait_ns(8, 8, scheduler._instances)

    regroup(model, group(3))

    assert scheduler._batcher._instances == scheduler._instances == 3
    assert scheduler.predictor.wait_ns(8, 8, scheduler._instances) == before // 3
    model.stop()


def test_resources_follow_the_instances(stage: Stage) -> None:
    """Who joins is counted, who leaves is not; a group that needs too much is refused."""
    rates = Rates({("r", None): 2})
    model = start(stage, staffed(group(1, needs=1)), rates)

    with pytest.raises(InvalidArgument, match="is limited to 2"):
        model.regroup(replace(model.config, instance_group=(group(1, needs=3),)))
    regroup(model, group(4, needs=2))
    for stream in [ask(model) for _ in range(20)]:
        stream.collect()

    assert stage.most == 1
    model.stop()


def test_a_group_that_needs_resources_takes_a_reload_where_none_did(stage: Stage) -> None:
    """Whether a model's scheduler asks for turns is chosen at load."""
    model = start(stage, staffed(group(1)), Rates())

    assert model.regroup(replace(model.config, instance_group=(group(1, needs=1),))) is None
    model.stop()


def test_changes_under_load_lose_no_request(stage: Stage) -> None:
    """Whatever joins and leaves, each request is answered once, with its own numbers."""
    model = start(stage, staffed(group(2), max_batch=4, batching=DynamicBatching()))
    answers: list[list[float]] = []

    def caller(number: int) -> None:
        for i in range(50):
            sent = [float(number), float(i)]
            answers.extend(answer(ask(model, sent)))

    callers = [threading.Thread(target=caller, args=(n,)) for n in range(4)]
    for thread in callers:
        thread.start()
    for count in (5, 1, 3, 2, 6, 1, 4):
        regroup(model, group(count))
    for thread in callers:
        thread.join(30)

    assert sorted(answers) == [[float(n), float(i)] for n in range(4) for i in range(50)]
    assert model.statistics.snapshot().inference_count == 200
    assert len(model.instances) == 4
    model.stop()
