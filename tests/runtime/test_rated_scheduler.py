"""Laws of rate limiting at work: no execution without its resources, and none of them is lost."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.runtime.staffed_models import Stage, answer, ask, group, staffed, start, until

from penstock_runtime.config_scheduling import DynamicBatching, QueuePolicy
from penstock_runtime.errors import Internal, InvalidArgument, Unavailable
from penstock_runtime.instance import ModelInstance
from penstock_runtime.model import Model
from penstock_runtime.scheduling.rate_limiter import Resource
from penstock_runtime.scheduling.rated_scheduler import RatedScheduler
from penstock_runtime.scheduling.rates import Rates

ONE: dict[Resource, int] = {("r", None): 1}


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A stage whose executions end at last."""
    made = Stage()
    yield made
    made.may_run.set()


def test_instances_execute_only_as_many_at_once_as_resources_allow(stage: Stage) -> None:
    """Four instances, three resources, two each: one at a time, and everyone is answered."""
    model = start(stage, staffed(group(4, needs=2)), Rates({("r", None): 3}))

    answers = [ask(model, i, i) for i in range(40)]

    assert [answer(stream) for stream in answers] == [[float(i)] * 2 for i in range(40)]
    assert model.drain(5)
    model.stop()
    assert stage.most == 1
    assert model.statistics.snapshot().execution_count == 40


def test_models_share_resources(stage: Stage) -> None:
    """What one model holds another waits for, and has when it is given back."""
    rates, other = Rates(ONE), Stage()
    first = start(stage, staffed(group(needs=1)), rates)
    second = start(other, staffed(group(needs=1)), rates)
    stage.may_run.clear()
    held = ask(first)
    until(lambda: bool(stage.running))

    waiting = ask(second)
    before = (second.queue_stats().requests, list(other.done))
    stage.may_run.set()

    assert answer(waiting) == [1.0, 2.0]
    assert answer(held) == [1.0, 2.0]
    assert before == (1, [])
    for model in (first, second):
        model.stop()


def test_a_batch_grows_while_it_waits_for_resources(stage: Stage) -> None:
    """Requests stay in the queue until the instance has what it needs."""
    rates, other = Rates(ONE), Stage()
    first = start(stage, staffed(group(needs=1)), rates)
    config = staffed(group(needs=1), max_batch=8, batching=DynamicBatching())
    second = start(other, config, rates)
    stage.may_run.clear()
    held = ask(first)
    until(lambda: bool(stage.running))

    streams = [ask(second, [float(i), 0.0]) for i in range(5)]
    stage.may_run.set()
    for stream in (held, *streams):
        stream.collect()
    second.drain(5)
    snapshot = second.statistics.snapshot()
    for model in (first, second):
        model.stop()

    assert (snapshot.inference_count, snapshot.execution_count) == (5, 1)


def test_a_failed_execution_gives_back_what_it_held(stage: Stage) -> None:
    """The next one has it."""
    model = start(stage, staffed(group(2, needs=1)), Rates(ONE))

    for _ in range(3):
        with pytest.raises(Internal, match="ValueError"):
            ask(model, -1.0, 0.0).collect()

    assert answer(ask(model, 3.0, 4.0)) == [3.0, 4.0]
    model.stop()


def test_a_request_expires_in_time_though_its_instance_waits_in_line(stage: Stage) -> None:
    """Time-outs of the queue are kept while the resources are with others."""
    rates, other = Rates(ONE), Stage()
    first = start(stage, staffed(group(needs=1)), rates)
    # Long enough for what follows on a machine that has other work.
    policy = QueuePolicy(default_timeout_microseconds=200_000)
    config = staffed(group(needs=1), batching=DynamicBatching(default_queue_policy=policy))
    second = start(other, config, rates)
    stage.may_run.clear()
    held = ask(first)
    until(lambda: bool(stage.running))

    with pytest.raises(Unavailable, match="Request timeout expired"):
        ask(second).collect()
    stage.may_run.set()

    held.collect()
    assert answer(ask(second)) == [1.0, 2.0]
    assert other.done == ["g_0"]
    for model in (first, second):
        model.stop()


def test_a_delay_is_kept_and_does_not_hold_resources(stage: Stage) -> None:
    """Who waits for company leaves the resources to others, and has them when it is due."""
    rates, other = Rates(ONE), Stage()
    rules = DynamicBatching(max_queue_delay_microseconds=100_000, preferred_batch_size=(8,))
    config = staffed(group(needs=1), max_batch=8, batching=rules)
    slow = start(stage, config, rates)
    quick = start(other, staffed(group(needs=1)), rates)

    waits = ask(slow, [5.0, 6.0])
    first = answer(ask(quick))
    done = list(stage.done)

    assert first == [1.0, 2.0]
    assert done == []
    assert answer(waits) == [[5.0, 6.0]]
    for model in (slow, quick):
        model.stop()


def test_chances_go_by_priority(stage: Stage) -> None:
    """While both have work, an instance of priority 2 executes half as often as one of 1."""
    rates = Rates(ONE)
    often = start(stage, staffed(group(name="often", needs=1, priority=1)), rates)
    seldom = start(stage, staffed(group(name="seldom", needs=1, priority=2)), rates)
    stage.may_run.clear()
    streams = [ask(model) for model in (often, seldom) for _ in range(40)]
    # One executes, the other stands in line: from now on turns are taken.
    until(lambda: bool(stage.running) and len(rates._limiter._line) == 1)

    stage.may_run.set()
    for stream in streams:
        stream.collect()

    first = stage.done[:30]
    assert abs(first.count("often_0") - 20) <= 2
    for model in (often, seldom):
        model.stop()


def test_stopping_ends_those_who_wait_in_line(stage: Stage) -> None:
    """What still waits is answered, and the resources stay with who has them."""
    rates, other = Rates(ONE), Stage()
    first = start(stage, staffed(group(needs=1)), rates)
    second = start(other, staffed(group(2, needs=1)), rates)
    stage.may_run.clear()
    held = ask(first)
    until(lambda: bool(stage.running))
    waiting = [ask(second) for _ in range(3)]

    second.stop()

    for stream in waiting:
        with pytest.raises(Unavailable, match="Server is stopping"):
            stream.collect()
    assert sorted(other.closed) == ["g_0", "g_1"]
    stage.may_run.set()
    assert answer(held) == [1.0, 2.0]
    first.stop()


def test_who_has_nothing_to_execute_any_more_keeps_nobody(stage: Stage) -> None:
    """An instance in line whose request is given up does not hold back those behind it."""
    rates, wide, narrow = Rates({("r", None): 2}), Stage(), Stage()
    holder = start(stage, staffed(group(needs=1)), rates)
    first = start(wide, staffed(group(needs=2)), rates)
    second = start(narrow, staffed(group(needs=1)), rates)
    stage.may_run.clear()
    held = ask(holder)
    until(lambda: bool(stage.running))
    given_up = ask(first)
    until(lambda: in_line(first) == 1)
    waiting = ask(second)
    until(lambda: in_line(second) == 1)

    given_up.cancel()

    assert answer(waiting) == [1.0, 2.0]
    assert stage.running == ["g_0"]
    stage.may_run.set()
    held.collect()
    for model in (holder, first, second):
        model.stop()
    assert wide.done == []


@pytest.mark.parametrize("taken", ["a", "b"])
def test_a_request_does_not_wait_for_one_instance_while_another_could_execute_it(
    stage: Stage, taken: str
) -> None:
    """Whoever has to stand in line passes the question on to those who are idle."""
    rates, other = Rates({("a", None): 1, ("b", None): 1}), Stage()
    holder = start(stage, staffed(group(needs=1, resource=taken)), rates)
    groups = (group(name="a", needs=1, resource="a"), group(name="b", needs=1, resource="b"))
    model = start(other, staffed(*groups), rates)
    stage.may_run.clear()
    held = ask(holder)
    until(lambda: bool(stage.running))

    answers = [answer(ask(model)) for _ in range(4)]

    assert answers == [[1.0, 2.0]] * 4
    assert set(other.done) == {"b_0" if taken == "a" else "a_0"}
    stage.may_run.set()
    held.collect()
    for one in (holder, model):
        one.stop()


def in_line(model: Model) -> int:
    """How many instances wait for their turn."""
    assert isinstance(model._scheduler, RatedScheduler)
    return len(model._scheduler._in_line)


def test_a_model_that_goes_leaves_its_resources(stage: Stage) -> None:
    """After a reload or an unload others have them; the totals are those of who is left."""
    rates = Rates()
    first = start(stage, staffed(group(needs=3)), rates)
    ask(first).collect()
    first.stop()
    again = Stage()

    second = start(again, staffed(group(2, needs=1)), rates)
    streams = [ask(second) for _ in range(10)]

    assert [answer(stream) for stream in streams] == [[1.0, 2.0]] * 10
    assert again.most == 1
    second.stop()


def test_a_hung_execution_does_not_keep_its_resources_beyond_its_model(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is stopped and left behind leaves what it held to the others."""
    monkeypatch.setattr("penstock_runtime.model._JOIN_S", 0.01)
    rates, other = Rates(ONE), Stage()
    first = start(stage, staffed(group(needs=1)), rates)
    second = start(other, staffed(group(needs=1)), rates)
    stage.may_run.clear()
    ask(first)
    until(lambda: bool(stage.running))
    waiting = ask(second)

    first.stop()

    assert answer(waiting) == [1.0, 2.0]
    second.stop()


def test_a_model_that_needs_more_than_there_is_does_not_load(stage: Stage) -> None:
    """Triton's words; nothing was loaded and nothing is held."""
    rates = Rates(ONE)

    with pytest.raises(InvalidArgument, match='Resource count for "R" is limited to 1'):
        start(stage, staffed(group(needs=1), group(name="h", needs=2)), rates)

    model = start(stage, staffed(group(needs=1)), rates)
    assert answer(ask(model)) == [1.0, 2.0]
    model.stop()


def test_a_model_that_does_not_come_up_leaves_its_place(stage: Stage) -> None:
    """What a failed load had entered is gone: it does not count for the totals."""
    rates = Rates()
    stage.broken = {"g_1"}
    with pytest.raises(InvalidArgument, match="g_1 does not come up"):
        start(stage, staffed(group(2, needs=5)), rates)
    stage.broken = set()

    model = start(stage, staffed(group(2, needs=1)), rates)
    for stream in [ask(model) for _ in range(20)]:
        stream.collect()

    model.stop()
    assert stage.most == 1


@pytest.mark.parametrize("in_place", [False, True])
def test_a_thread_that_cannot_begin_leaves_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    """What was entered for an instance that never lived is gone too."""
    rates = Rates()
    config = staffed(group(1, needs=1))
    model = start(stage, config, rates) if in_place else None
    larger = replace(config, instance_group=(group(1, "large", needs=9),))

    def fail(_instance: ModelInstance) -> None:
        raise RuntimeError("can't start new thread")

    def attempt() -> None:
        if model is not None:
            model.regroup(larger)
        else:
            start(Stage(), larger, rates)

    monkeypatch.setattr(ModelInstance, "start", fail)
    with pytest.raises(RuntimeError):
        attempt()

    assert rates._limiter.total(("R", 0)) == (1 if in_place else 0)
    if model is not None:
        assert answer(ask(model)) == [1.0, 2.0]
        model.stop()


@pytest.mark.parametrize("rates", [None, Rates()])
def test_without_resources_nothing_is_asked(stage: Stage, rates: Rates | None) -> None:
    """Neither where the limiter is off, nor for a model that needs nothing: chosen at load."""
    needs = 1 if rates is None else 0
    model = start(stage, staffed(group(2, needs=needs)), rates)

    assert not isinstance(model._scheduler, RatedScheduler)
    assert answer(ask(model)) == [1.0, 2.0]
    model.stop()


def test_many_models_that_stop_and_start_lose_nothing() -> None:
    """Whoever asks while models come and go is answered, or told that the model is gone."""
    rates = Rates({("r", None): 2})
    stages = [Stage() for _ in range(3)]
    outcomes: list[object] = []

    def life(stage: Stage) -> None:
        for _ in range(5):
            model = start(stage, staffed(group(2, needs=1)), rates)
            streams = [ask(model, i, i) for i in range(5)]
            model.drain(10)
            model.stop()
            outcomes.extend(answer(stream)[0] for stream in streams)

    threads = [threading.Thread(target=life, args=(one,)) for one in stages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(map(str, outcomes)) == sorted([str(float(i)) for i in range(5)] * 15)
