"""A model: one version, loaded, with its scheduler and its instances.

Made by `start_model`, which returns only when every instance is warm; ended by `drain` and `stop`.
"""

import logging
import time
from collections.abc import Mapping, Sequence

from penstock_runtime.backends.base import Backend, LoadedModel, ModelSource
from penstock_runtime.batch import BatchPlan
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import PenstockError
from penstock_runtime.instance import ModelInstance
from penstock_runtime.labels import read_labels
from penstock_runtime.observability.first_response import first_response_bounds
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.placement import placements
from penstock_runtime.request import InferRequest
from penstock_runtime.response_cache import ResponseCache
from penstock_runtime.scheduling.base import Batcher, Pending, QueueStats, Refused, Scheduler
from penstock_runtime.scheduling.batch_scheduler import BatchScheduler
from penstock_runtime.scheduling.caching_scheduler import CachingScheduler
from penstock_runtime.scheduling.dynamic_batcher import DynamicBatcher
from penstock_runtime.scheduling.length_batcher import LengthBatcher
from penstock_runtime.scheduling.timer import Timer
from penstock_runtime.stream import ResponseStream
from penstock_runtime.unavailable import refuse_unavailable
from penstock_runtime.validation import Known, RequestValidator
from penstock_runtime.warmup import warmup_requests

_log = logging.getLogger("penstock.model")

# How long an instance may take to notice that it should end before it is left behind.
_JOIN_S = 10.0


class Model:
    """One version of a model that serves."""

    def __init__(
        self,
        config: ModelConfig,
        version: int,
        loaded: LoadedModel,
        scheduler: Scheduler,
        instances: tuple[ModelInstance, ...],
        statistics: ModelStatistics,
    ) -> None:
        self.config = config
        self.version = version
        # Not a property: it is asked for with every request.
        self.decoupled = config.decoupled
        self.statistics = statistics
        self.instances = instances
        self._loaded = loaded
        self._scheduler = scheduler
        self._validator = RequestValidator(config)

    def submit(self, request: InferRequest, stream: ResponseStream) -> None:
        """Check the request and queue it; its answers go to the stream. Never blocks.

        Raises InvalidArgument for a request that does not fit, and what the scheduler refuses.
        """
        now = time.monotonic_ns()
        try:
            arrays, rows, signature, length = self._validator.check(request)
            self._scheduler.submit(Pending(request, stream, arrays, rows, now, signature, length))
        except PenstockError as error:
            self.statistics.record_failure(error.failure, time.monotonic_ns() - now)
            raise

    def recall(self, likeness: object) -> Known | None:
        """What is known of requests of this likeness, if one was found to fit before."""
        return self._validator.recall(likeness)

    def accept(self, pendings: Sequence[Pending]) -> Sequence[Refused]:
        """Queue requests that are like ones that were found to fit; those that were refused, and
        why.
        """
        refused = self._scheduler.submit_all(pendings)
        for pending, error in refused:
            spent = time.monotonic_ns() - pending.arrived_ns
            self.statistics.record_failure(error.failure, spent)
        return refused

    @property
    def healthy(self) -> bool:
        """Whether every instance is there to execute."""
        return all(instance.healthy for instance in self.instances)

    @property
    def unanswered(self) -> int:
        """Requests that were accepted and have no last answer yet."""
        return self._scheduler.unanswered

    def queue_stats(self) -> QueueStats:
        """What waits for execution."""
        return self._scheduler.stats()

    def memory_bytes(self) -> Mapping[str, int]:
        """Bytes held per device, as far as the backend knows."""
        return self._loaded.memory_bytes()

    def drain(self, timeout_s: float) -> bool:
        """Accept nothing more and wait until all is answered; False if time ran out."""
        return self._scheduler.drain(timeout_s)

    def stop(self) -> None:
        """End the instances and give the memory back; what still waits is answered UNAVAILABLE."""
        self._scheduler.stop()
        for instance in self.instances:
            if not instance.join(_JOIN_S):
                _log.warning("%r still executes and is left behind", instance)
        self._loaded.close()

    def __repr__(self) -> str:
        return f"<Model {self.config.name} version {self.version}, {self._scheduler!r}>"


def start_model(
    source: ModelSource,
    backend: Backend,
    timer: Timer,
    *,
    hold_until: int = 0,
    cache: ResponseCache | None = None,
) -> Model:
    """Load a version and make its instances; returns when they are warm, or raises what prevented
    it. The cache is for the models whose configuration asks for it.
    """
    started = time.monotonic()
    config = source.config
    refuse_unavailable(config)
    cache = cache_of(config, cache)
    homes = placements(config, uses_gpu=backend.uses_gpu)
    warmups = warmup_requests(config, source.root)
    labels = read_labels(config, source.root)
    loaded = backend.load(source)
    statistics = make_statistics(config, source.version, response_cache=cache is not None)
    ordered = bool(config.dynamic_batching and config.dynamic_batching.preserve_ordering)
    scheduler = BatchScheduler(
        make_batcher(config, hold_until),
        statistics,
        timer,
        instances=len(homes),
        # What the cache answers has its place in the order too, so that it keeps it.
        preserve_ordering=ordered and cache is None,
    )
    door: Scheduler = scheduler
    if cache is not None:
        door = CachingScheduler(scheduler, cache, statistics, timer, preserve_ordering=ordered)
    plan = BatchPlan(config, source.version, labels)
    instances = tuple(
        ModelInstance(home, loaded, plan, scheduler, statistics, warmups) for home in homes
    )
    model = Model(config, source.version, loaded, door, instances, statistics)
    _start_all(model)
    statistics.set_memory(loaded.memory_bytes())
    statistics.load_seconds = time.monotonic() - started
    return model


def cache_of(config: ModelConfig, cache: ResponseCache | None) -> ResponseCache | None:
    """The server's cache if the model asks for it; says so where it asks in vain."""
    if config.response_cache is None or not config.response_cache.enable:
        return None
    if cache is None:
        _log.warning(
            "model '%s' enables the response cache and this server has none: every request is "
            "executed (start it with --cache-config=local,size=BYTES)",
            config.name,
        )
    return cache


def make_statistics(
    config: ModelConfig, version: int, *, response_cache: bool = False
) -> ModelStatistics:
    """The counters of one version, with the histogram bounds that its configuration asks for."""
    return ModelStatistics(
        config.name,
        version,
        config.metric_tags,
        decoupled=config.decoupled,
        response_cache=response_cache,
        first_response_ms=first_response_bounds(config.extra.get("model_metrics")),
    )


def make_batcher(config: ModelConfig, hold_until: int = 0) -> Batcher:
    """The batcher that the configuration asks for."""
    rules = config.dynamic_batching
    if rules is not None and rules.length_batching is not None and config.max_batch_size > 0:
        return LengthBatcher(config, rules.length_batching)
    return DynamicBatcher(config, hold_until=hold_until)


def _start_all(model: Model) -> None:
    for instance in model.instances:
        instance.start()
    try:
        for instance in model.instances:
            instance.wait_ready()
    except Exception:
        model.stop()
        raise
