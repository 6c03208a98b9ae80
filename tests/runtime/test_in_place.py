"""Laws of instances that are executed by whoever brings requests."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.fakes import HandClock, config, pending
from tests.runtime.model_folders import load, write_model
from tests.runtime.test_execution_alone import Quiet

from penstock_runtime.backends.base import Executable, Placement
from penstock_runtime.batch import BatchPlan
from penstock_runtime.config import InstanceGroup, ModelConfig, RateLimiter, RateLimiterResource
from penstock_runtime.config_check import check, problems
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.execution import Desk
from penstock_runtime.in_place import LentInstance
from penstock_runtime.instance import ModelInstance
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.request import InferRequest
from penstock_runtime.scheduling.base import Pending, Retired
from penstock_runtime.scheduling.batch_scheduler import HANDFUL_NS
from penstock_runtime.scheduling.dynamic_batcher import DynamicBatcher
from penstock_runtime.scheduling.gate import Gate
from penstock_runtime.scheduling.in_place_scheduler import InPlaceScheduler
from penstock_runtime.scheduling.timer import Timer
from penstock_runtime.tensor import tensor

QUICK_NS = 2_000


class Noting:
    """A hand that notes what it is given; busy if told."""

    def __init__(self) -> None:
        self.busy = False
        self.held = 0
        self.executed: list[Pending] = []

    def seize(self) -> bool:
        self.held += not self.busy
        return not self.busy

    def release(self) -> None:
        self.held -= 1

    def execute(self, members: Sequence[Pending]) -> None:
        assert self.held == 1
        self.executed += members


def lending(mean_ns: int = QUICK_NS, clock: HandClock | None = None) -> InPlaceScheduler:
    """A scheduler whose executions take so long."""
    made = InPlaceScheduler(
        DynamicBatcher(config(max_batch=0)),
        ModelStatistics("m", 1),
        Timer(),
        clock=clock or HandClock(),
    )
    if mean_ns:
        made.predictor.observe(mean_ns)
    return made


def test_short_executions_happen_where_requests_are_brought() -> None:
    """And nothing of them waits for the instance's thread."""
    scheduler, hand = lending(), Noting()
    scheduler.borrow(hand)
    brought = [pending(at=n) for n in range(5)]

    assert scheduler.submit_all(brought) == ()

    assert hand.executed == brought
    assert scheduler.stats().requests == 0
    assert scheduler.unanswered == 5
    assert hand.held == 0


@pytest.mark.parametrize(
    ("mean_ns", "count", "busy"),
    [
        (0, 1, False),
        (300_000, 1, False),
        (QUICK_NS, HANDFUL_NS // QUICK_NS + 1, False),
        (1, 1, True),
    ],
    ids=["unknown", "long", "many", "busy"],
)
def test_whatever_might_take_long_is_left_to_the_instance(
    mean_ns: int, count: int, busy: bool
) -> None:
    """Executions of which nothing is known, long ones, many, and those of an instance at work."""
    scheduler, hand = lending(mean_ns), Noting()
    hand.busy = busy
    scheduler.borrow(hand)

    assert scheduler.submit_all([pending(at=n) for n in range(count)]) == ()

    assert not hand.executed
    assert scheduler.stats().requests == count
    assert hand.held == 0


def test_without_an_instance_that_lends_itself_requests_wait() -> None:
    """Before it is there, and after it has gone."""
    scheduler, hand = lending(), Noting()
    scheduler.submit_all([pending()])
    scheduler.borrow(hand)
    scheduler.borrow(None)
    scheduler.submit_all([pending()])

    assert not hand.executed
    assert scheduler.stats().requests == 2


def test_a_version_that_retires_executes_nothing_in_place() -> None:
    """Its requests are for the one that follows."""
    scheduler, hand = lending(), Noting()
    scheduler.borrow(hand)
    scheduler.drain(0.0)

    refused = scheduler.submit_all([pending(), pending()])

    assert [type(error) for _, error in refused] == [Retired] * 2
    assert not hand.executed
    assert hand.held == 0


@given(st.lists(st.tuples(st.sampled_from(["one", "many", "busy", "work"]), st.integers(1, 6))))
def test_every_request_is_executed_once_and_in_order(steps: list[tuple[str, int]]) -> None:
    """By whoever: what waits goes before what is brought, and nothing is lost or done twice."""
    scheduler, hand, gate = lending(), Noting(), Gate()
    scheduler.borrow(hand)
    brought: list[Pending] = []

    def work_off() -> None:
        work = scheduler.next_work(gate, several=True)
        assert work is not None
        hand.executed += work if isinstance(work, list) else work.members

    for kind, count in steps:
        hand.busy = kind == "busy"
        if kind == "work" and scheduler.stats().requests:
            work_off()
            continue
        some = [pending(at=len(brought) + n) for n in range(count)]
        brought += some
        if kind == "one":
            for each in some:
                scheduler.submit(each)
        else:
            scheduler.submit_all(some)
    while scheduler.stats().requests:
        work_off()

    assert hand.executed == brought


# -- the instance ----------------------------------------------------------------------------------

TOLD = """
import threading, time
class Model:
    inside = 0
    def predict(self, X: FP32[1, 1]) -> FP32[1, 1]:
        assert not Model.inside, "two at a time"
        Model.inside += 1
        if X[0, 0] > 0:
            time.sleep(float(X[0, 0]))
        Model.inside -= 1
        return X * 0 + np.float32((threading.get_ident() >> 12) % 65521)
"""


def asked(sleep_s: float = 0.0) -> Pending:
    x = np.full((1, 1), sleep_s, np.float32)
    request = InferRequest("m", (tensor("X", x),))
    return Pending(request, Quiet(), {"X": x}, arrived_ns=time.monotonic_ns())


def served(root: Path, code: str = TOLD) -> tuple[ModelInstance, InPlaceScheduler]:
    """An instance that lends itself, not started."""
    found, loaded = load(write_model(root, code))
    scheduler = InPlaceScheduler(DynamicBatcher(found), ModelStatistics("m", 1), Timer())
    plan = BatchPlan(found, 1)
    made = ModelInstance(Placement("m_0"), loaded, plan, scheduler, ModelStatistics("m", 1))
    return made, scheduler


def where(one: Pending) -> int:
    """The thread that executed it."""
    (response,) = one.stream.collect(20.0)
    return int(response.outputs[0].array[0, 0])


def test_an_instance_is_executed_in_place_once_it_is_known_to_be_short(tmp_path: Path) -> None:
    """The first in its own thread, those that follow in the caller's, until it ends."""
    instance, scheduler = served(tmp_path)
    instance.start()
    instance.wait_ready()
    here = (threading.get_ident() >> 12) % 65521

    first = asked()
    scheduler.submit_all([first])
    assert where(first) != here
    for _ in range(20):
        one = asked()
        scheduler.submit_all([one])
        where(one)
    then = asked()
    scheduler.submit_all([then])
    assert where(then) == here
    scheduler.stop()

    assert instance.join(20)
    assert [type(error) for _, error in scheduler.submit_all([asked()])] == [Retired]


def test_nobody_executes_it_while_another_does(tmp_path: Path) -> None:
    """However many bring requests, in whatever way; each gets one answer."""
    instance, scheduler = served(tmp_path)
    instance.start()
    instance.wait_ready()
    brought: list[list[Pending]] = [[] for _ in range(4)]

    def bring(mine: list[Pending], *, together: bool) -> None:
        for _ in range(150):
            some = [asked() for _ in range(3)]
            mine += some
            if together:
                assert not scheduler.submit_all(some)
            else:
                for one in some:
                    scheduler.submit(one)

    threads = [
        threading.Thread(target=bring, args=(mine,), kwargs={"together": bool(n % 2)})
        for n, mine in enumerate(brought)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = [len(one.stream.collect(20.0)) for mine in brought for one in mine]
    scheduler.stop()

    assert answers == [1] * 1800
    assert scheduler.unanswered == 0
    assert instance.join(20)


def test_who_breaks_the_promise_is_executed_elsewhere_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And the log says who has held up all others, and for how long."""
    found, loaded = load(write_model(tmp_path, TOLD))
    desk = Desk("m_0", BatchPlan(found, 1), lending(), ModelStatistics("m", 1))
    lent = LentInstance(desk, cast(Executable, loaded.executable(Placement("m_0"))))

    assert lent.seize()
    lent.execute([asked(0.03)])
    lent.release()

    assert not lent.seize()
    assert "m_0 is to be executed in place and took 3" in caplog.text


def test_an_instance_at_work_is_not_asked_for_in_every_turn(tmp_path: Path) -> None:
    """Waiting for it is bounded, and so is how often."""
    found, loaded = load(write_model(tmp_path, TOLD))
    desk = Desk("m_0", BatchPlan(found, 1), lending(), ModelStatistics("m", 1))
    lent = LentInstance(desk, cast(Executable, loaded.executable(Placement("m_0"))))
    with lent.own:
        assert not lent.seize()
    assert not lent.own.locked()
    assert not lent.seize()
    time.sleep(0.02)
    assert lent.seize()


CONTEXT = "def predict(X: FP32[1], context: Context) -> FP32[1]:\n    return X\n"
TWO = "def predict(X: FP32[1]) -> tuple[FP32[1], FP32[1]]:\n    return X, X\n"


@pytest.mark.parametrize("code", [CONTEXT, TWO], ids=["context", "two outputs"])
def test_what_cannot_be_called_in_place_is_refused_when_it_is_loaded(
    code: str, tmp_path: Path
) -> None:
    """A model that wants to know of its request, or gives more than one output."""
    instance, _ = served(tmp_path, code)
    instance.start()

    with pytest.raises(InvalidArgument, match="cannot be executed in place"):
        instance.wait_ready()


ONE = InstanceGroup(kind="KIND_CPU", in_place=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"instance_group": (replace(ONE, count=2),)},
        {"instance_group": (replace(ONE, kind="KIND_GPU"),)},
        {"instance_group": (replace(ONE, kind="KIND_AUTO"),)},
        {"instance_group": (ONE, ONE)},
        {
            "instance_group": (
                replace(ONE, rate_limiter=RateLimiter((RateLimiterResource("R", count=1),))),
            )
        },
        {"dynamic_batching": DynamicBatching()},
        {"input": (replace(config().input[0], allow_ragged_batch=True),)},
    ],
    ids=["count", "GPU", "auto", "groups", "resources", "batches", "ragged"],
)
def test_a_configuration_says_why_it_cannot_be_executed_in_place(changes: Any) -> None:
    """In the words of the field that says so."""
    good = replace(config(), instance_group=(ONE,))
    bad: ModelConfig = replace(good, **changes)

    check(good)
    assert any("in_place" in problem.field for problem in problems(bad))
    with pytest.raises(InvalidArgument, match="in_place"):
        check(bad)
