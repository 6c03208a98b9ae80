"""How loaded a server says it is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from tests.fakes_server import FakeCall
from tests.runtime.fakes import HandClock

from penstock.interceptors import Gate
from penstock.load_report import ASKED, LOOK_NS, LoadReporter
from penstock_runtime.errors import FailureReason
from penstock_runtime.observability.metrics import Family, Sample
from penstock_runtime.observability.statistics import ModelStatistics, RequestTiming
from penstock_runtime.request import InferResponse
from penstock_runtime.scheduling.base import QueueStats


@dataclass
class Model:
    """A model with so many requests in its queue."""

    name: str
    waiting: int = 0
    statistics: ModelStatistics = field(init=False)

    def __post_init__(self) -> None:
        self.statistics = ModelStatistics(self.name, 1)

    def queue_stats(self) -> QueueStats:
        return QueueStats(self.waiting, self.waiting, 0)

    def serve(self, number: int, failures: int = 0) -> None:
        for _ in range(number):
            self.statistics.record_batch(1, [RequestTiming(1, 1)], 1, 1, 1)
        for _ in range(failures):
            self.statistics.record_failure(FailureReason.BACKEND, 1)


def machine() -> Sequence[Family]:
    """A quarter of the processors' time, half of the memory."""
    return [
        Family("nv_cpu_utilization", "gauge", "", (Sample(0.25),)),
        Family("nv_cpu_memory_total_bytes", "gauge", "", (Sample(8),)),
        Family("nv_cpu_memory_used_bytes", "gauge", "", (Sample(4),)),
    ]


def reporter(*models: Model, clock: HandClock | None = None) -> LoadReporter:
    gate = Gate()
    gate.inflight = 3
    return LoadReporter(lambda: models, gate, machine, clock or HandClock())


def told(load: LoadReporter, wanted: str, model: str = "m") -> list[tuple[str, str | bytes]]:
    call = FakeCall(metadata={ASKED: wanted})
    load.attach(call, InferResponse(model, "1"))
    return list(call.trailing)


def test_the_report_is_text_or_json_as_asked() -> None:
    """One entry of trailing metadata, its form in front, as Triton and Envoy have it."""
    clock = HandClock()
    model = Model("m", 2)
    load = reporter(model, Model("other", 9), clock=clock)
    model.serve(7, failures=1)
    clock.now = 2 * LOOK_NS

    ((name, text),) = told(load, "text")
    ((_, other),) = told(load, " JSON ")

    assert name == "endpoint-load-metrics"
    assert text == (
        "TEXT cpu_utilization=0.25, mem_utilization=0.5, rps_fractional=4, eps=0.5, "
        "named_metrics.queue_depth=2, named_metrics.inflight_calls=3"
    )
    assert isinstance(other, str)
    kind, _, rest = other.partition(" ")
    assert kind == "JSON"
    assert json.loads(rest) == {
        "cpu_utilization": 0.25,
        "mem_utilization": 0.5,
        "rps_fractional": 4.0,
        "eps": 0.5,
        "named_metrics": {"queue_depth": 2, "inflight_calls": 3},
    }


@pytest.mark.parametrize("wanted", ["", "xml", "bin", "text,json"])
def test_a_form_that_is_none_gets_nothing(wanted: str) -> None:
    """And no error: the answer is what matters."""
    assert told(reporter(Model("m")), wanted) == []


def test_rates_are_those_since_the_look_before() -> None:
    """One look a second at most; a model that begins anew makes no negative ones."""
    clock = HandClock()
    model = Model("m")
    load = reporter(model, clock=clock)
    clock.now = LOOK_NS
    model.serve(10)

    first = load.report("m", "1").figures["rps_fractional"]
    model.serve(10)
    clock.now += LOOK_NS // 2
    between = load.report("m", "1").figures["rps_fractional"]
    clock.now += LOOK_NS // 2
    second = load.report("m", "1").figures["rps_fractional"]
    model.statistics = ModelStatistics("m", 1)
    clock.now += LOOK_NS
    third = load.report("m", "1").figures["rps_fractional"]

    assert (first, between, second, third) == (10, 10, 10, 0)


def test_the_queue_is_that_of_the_model_that_answered() -> None:
    """It is looked at each time."""
    model = Model("m", 2)
    load = reporter(model, Model("other", 9))

    depths = [load.report("m", "1").named_metrics["queue_depth"]]
    model.waiting = 5
    depths += [load.report(name, "1").named_metrics["queue_depth"] for name in ("m", "other", "x")]

    assert depths == [2, 5, 9, 0]
