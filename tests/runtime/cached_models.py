"""Models behind a response cache, with real threads, and what is asked of them."""

import threading
import time
from collections.abc import Callable
from typing import Any

from tests.runtime.fakes import FakeLoaded, config, request

from penstock_runtime.backends.base import Placement
from penstock_runtime.batch import BatchPlan
from penstock_runtime.config import ModelConfig
from penstock_runtime.instance import ModelInstance
from penstock_runtime.model import Model
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.response_cache import ResponseCache
from penstock_runtime.scheduling.batch_scheduler import BatchScheduler
from penstock_runtime.scheduling.caching_scheduler import CachingScheduler
from penstock_runtime.scheduling.timer import Timer
from penstock_runtime.starting import make_batcher
from penstock_runtime.stream import ResponseStream

MIB = 1 << 20
TIMER = Timer()
PLAIN = config(max_batch=0)
ROW = (1.0, 2.0)


def start(
    function: Callable[[Any], Any] | FakeLoaded,
    cache: ResponseCache | None = None,
    model_config: ModelConfig = PLAIN,
    instances: int = 1,
) -> Model:
    """A model behind a cache, whose instances run the function."""
    loaded = function if isinstance(function, FakeLoaded) else FakeLoaded(function)
    statistics = ModelStatistics("m", 1, response_cache=True)
    inner = BatchScheduler(make_batcher(model_config), statistics, TIMER, instances=instances)
    rules = model_config.dynamic_batching
    door = CachingScheduler(
        inner,
        cache or ResponseCache(MIB),
        statistics,
        TIMER,
        preserve_ordering=bool(rules and rules.preserve_ordering),
    )
    plan = BatchPlan(model_config, 1)
    made = tuple(
        ModelInstance(Placement(f"m_0_{i}"), loaded, plan, inner, statistics)
        for i in range(instances)
    )
    for instance in made:
        instance.start()
        instance.wait_ready()
    return Model(model_config, 1, loaded, door, made, statistics)


def ask(model: Model, values: object = ROW, **more: Any) -> ResponseStream:
    """Submit a request; its stream."""
    stream = ResponseStream()
    model.submit(request(values, **more), stream)
    return stream


def values(stream: ResponseStream) -> list[float]:
    """The one answer of a stream."""
    (response,) = stream.collect()
    found: list[float] = response.outputs[0].numpy().ravel().tolist()
    return found


def counts(model: Model) -> tuple[int, int, int, int, int]:
    """Successes, failures, executions, hits and misses, once all is counted."""
    assert model.drain(10)
    found = model.statistics.snapshot()
    hits, misses = found.cache_hit.count, found.cache_miss.count
    return found.success.count, found.fail.count, found.execution_count, hits, misses


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread."""
    limit = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


class Held:
    """A model that answers twice its input once it may; the first executions may fail."""

    def __init__(self, failures: int = 0) -> None:
        self.go = threading.Event()
        self.entered = threading.Event()
        self.executed: list[list[float]] = []
        self._failures = failures

    def __call__(self, array: Any) -> Any:
        self.executed.append(array.ravel().tolist())
        number = len(self.executed)
        self.entered.set()
        assert self.go.wait(30)
        if number <= self._failures:
            raise ValueError("not this time")
        return array * 2


def busy(model: Model, held: Held, **more: Any) -> ResponseStream:
    """A request that is being executed."""
    stream = ask(model, **more)
    assert held.entered.wait(10)
    return stream
