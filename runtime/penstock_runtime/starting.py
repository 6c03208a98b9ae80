"""How a version of a model comes to serve: loaded, given its schedulers, its instances warm.

This is where it is decided, once per load, which schedulers a configuration asks for.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from penstock_runtime.backends.base import Backend, ModelSource, Placement
from penstock_runtime.batch import BatchPlan
from penstock_runtime.config import ModelConfig, TransactionPolicy
from penstock_runtime.config_check import check
from penstock_runtime.dispatch import Dispatch
from penstock_runtime.ensemble import ComposedLabels, ComposingModels, EnsembleModel
from penstock_runtime.execution_sequence import StepPlan
from penstock_runtime.labels import Labels, read_labels
from penstock_runtime.model import Model
from penstock_runtime.model_services import ModelServices
from penstock_runtime.observability.first_response import first_response_bounds
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.placement import Seat, seats
from penstock_runtime.rated_execution import RatedModel
from penstock_runtime.response_cache import ResponseCache
from penstock_runtime.scheduling.base import Batcher, Scheduler
from penstock_runtime.scheduling.batch_scheduler import BatchScheduler
from penstock_runtime.scheduling.caching_scheduler import CachingScheduler
from penstock_runtime.scheduling.dynamic_batcher import DynamicBatcher
from penstock_runtime.scheduling.ensemble_agreement import Agreement
from penstock_runtime.scheduling.ensemble_cache import EnsembleCachingScheduler
from penstock_runtime.scheduling.ensemble_graph import EnsembleGraph
from penstock_runtime.scheduling.ensemble_scheduler import EnsembleScheduler
from penstock_runtime.scheduling.in_place_scheduler import InPlaceScheduler
from penstock_runtime.scheduling.latency_model import LatencyModel
from penstock_runtime.scheduling.length_batcher import LengthBatcher
from penstock_runtime.scheduling.predictor import WaitPredictor
from penstock_runtime.scheduling.rate_limiter import claim_of
from penstock_runtime.scheduling.rated_scheduler import RatedScheduler
from penstock_runtime.scheduling.rates import Rates
from penstock_runtime.scheduling.timer import Timer
from penstock_runtime.scheduling.tuned_batcher import TunedBatcher
from penstock_runtime.sequence_book import SequenceBook
from penstock_runtime.staff import Staff
from penstock_runtime.starting_sequence import (
    SequenceParts,
    make_sequence_model,
    start_sequence_model,
)
from penstock_runtime.unavailable import refuse_unavailable
from penstock_runtime.wait_graph import model_key
from penstock_runtime.warmup import warmup_requests

_log = logging.getLogger("penstock.model")


@dataclass(frozen=True, slots=True)
class Common:
    """What the models of one server share.

    `hold_until` makes each batcher wait once for so many requests, and `hold_backlog` each backlog
    of sequences, as Triton's tests want it; `cache` is for the models that ask for one; `dispatch`
    is how one model calls another; `rates` gives instances their turn where they share resources;
    `book` knows where all sequences are; `services` are all that the code of a model may use of its
    server.
    """

    timer: Timer = field(default_factory=Timer)
    dispatch: Dispatch = field(default_factory=Dispatch)
    hold_until: int = 0
    cache: ResponseCache | None = None
    rates: Rates | None = None
    hold_backlog: int = 0
    book: SequenceBook = field(default_factory=SequenceBook)
    services: ModelServices | None = None


def start_model(source: ModelSource, backend: Backend, common: Common) -> Model:
    """Load a version and make its instances; returns when they are warm, or raises what prevented
    it.
    """
    started = time.monotonic()
    refuse_unavailable(source.config)
    is_ensemble = source.config.ensemble_scheduling is not None
    start = start_ensemble if is_ensemble else start_instances
    model = start(source, backend, common)
    model.statistics.load_seconds = time.monotonic() - started
    return model


def start_instances(source: ModelSource, backend: Backend, common: Common) -> Model:
    """Load the version of a model that executes, and make its instances warm."""
    config = source.config
    cache = cache_of(config, common.cache)
    places = seats(config, uses_gpu=backend.uses_gpu)
    rates = rates_of(places, common.rates)
    warmups = warmup_requests(config, source.root)
    labels = labels_of(source, backend)
    plan = BatchPlan(config, source.version, labels)
    sequences = sequence_parts(source, common)
    loaded = backend.load(replace(source, services=common.services))
    if rates is not None and config.sequence_batching is not None:
        # Slots decide what goes together, so that the batch is there before its turn.
        key = model_key(config.name, source.version)
        loaded, rates = RatedModel(loaded, rates, places, key), None
    statistics = make_statistics(config, source.version, response_cache=cache is not None)
    if sequences is not None:
        homes = [seat.placement for seat in places]
        stateful = make_sequence_model(
            source, loaded, homes, statistics, warmups, plan, sequences, labels
        )
        start_sequence_model(stateful)
        statistics.set_memory(loaded.memory_bytes())
        return stateful
    scheduler = make_scheduler(
        config, statistics, common, len(places), cached=cache is not None, rates=rates
    )
    staff = Staff(loaded, plan, scheduler, statistics, warmups, rates, uses_gpu=backend.uses_gpu)
    door = make_door(config, scheduler, cache, statistics, common.timer)
    try:
        instances = staff.hire(places)
    except BaseException:
        loaded.close()
        raise
    model = Model(config, source.version, loaded, door, instances, statistics, labels)
    model.staff = staff
    model.input_device = input_device(config, [seat.placement for seat in places], backend)
    _start_all(model)
    return model


def labels_of(source: ModelSource, backend: Backend) -> Labels:
    """The labels of a model's files, and where it has none what its backend knows (a method
    `labels`).
    """
    files = read_labels(source.config, source.root)
    known = getattr(backend, "labels", None)
    return files if known is None else {**known(source), **files}


def start_ensemble(source: ModelSource, backend: Backend, common: Common) -> Model:
    """Put an ensemble together out of the models that serve; InvalidArgument if they do not fit."""
    models = ComposingModels(source.config, common.dispatch)
    composing = models.configs()
    models.check(source.config, composing)
    graph = EnsembleGraph(source.config, composing, models.names)
    decoupled = TransactionPolicy(source.config.decoupled or graph.decoupled)
    config = replace(source.config, model_transaction_policy=decoupled)
    # Once more: it may be a step that makes it decoupled.
    check(config)
    cache = cache_of(config, common.cache)
    labels = ComposedLabels(config, read_labels(config, source.root), models)
    form = BatchPlan(config, source.version, labels)
    statistics = make_statistics(config, source.version, response_cache=cache is not None)
    agreement = Agreement(config, composing)
    scheduler = EnsembleScheduler(config, graph, agreement, form, common.dispatch, statistics)
    door: Scheduler = scheduler
    if cache is not None:
        loads = models.loads
        door = EnsembleCachingScheduler(scheduler, cache, statistics, common.timer, loads)
    loaded = backend.load(source)
    model = EnsembleModel(config, source.version, loaded, door, (), statistics, labels)
    model.composing, model.agreement = models, agreement
    return model


def input_device(config: ModelConfig, homes: Sequence[Placement], backend: Backend) -> int | None:
    """The GPU whose memory a model's inputs may lie in; None where the backend takes host arrays
    only, where inputs are merged with those of other requests, which is done on the host, or where
    instances are not all on one GPU.
    """
    ordinals = {home.device_id if home.kind == "KIND_GPU" else None for home in homes}
    merges = config.dynamic_batching or config.sequence_batching or config.batch_input
    if not getattr(backend, "takes_device_arrays", False) or merges or len(ordinals) != 1:
        return None
    return ordinals.pop()


def sequence_parts(source: ModelSource, common: Common) -> SequenceParts | None:
    """What a model with sequences needs beside the rest; None for any other."""
    rules = source.config.sequence_batching
    if rules is None:
        return None
    return SequenceParts(
        rules,
        StepPlan(source.config, rules, source.root),
        common.timer,
        common.book,
        common.hold_until,
        common.hold_backlog,
    )


def make_scheduler(
    config: ModelConfig,
    statistics: ModelStatistics,
    common: Common,
    instances: int,
    *,
    cached: bool,
    rates: Rates | None = None,
) -> BatchScheduler:
    """The scheduler that the instances of a model ask for work; with `rates` they need a turn."""
    predictor = LatencyModel() if _tuned(config) else WaitPredictor()
    batcher = make_batcher(config, common.hold_until, predictor, instances)
    # What a cache answers has its place in the order too, so then the cache keeps it.
    ordered = _ordered(config) and not cached
    if rates is not None:
        return RatedScheduler(
            batcher,
            statistics,
            common.timer,
            rates,
            instances=instances,
            preserve_ordering=ordered,
            predictor=predictor,
        )
    kind = InPlaceScheduler if config.in_place else BatchScheduler
    return kind(
        batcher,
        statistics,
        common.timer,
        instances=instances,
        preserve_ordering=ordered,
        predictor=predictor,
    )


def rates_of(places: Sequence[Seat], rates: Rates | None) -> Rates | None:
    """The rate limiter, for a model whose instances need resources; InvalidArgument if they need
    more than there is.
    """
    if rates is None or not any(seat.group and seat.group.resources for seat in places):
        return None
    rates.check(claim_of(seat.group, seat.placement.device_id) for seat in places)
    return rates


def make_door(
    config: ModelConfig,
    scheduler: BatchScheduler,
    cache: ResponseCache | None,
    statistics: ModelStatistics,
    timer: Timer,
) -> Scheduler:
    """What the requests of a model go to first: its scheduler, or what stands before that."""
    if cache is None:
        return scheduler
    ordered = _ordered(config)
    return CachingScheduler(scheduler, cache, statistics, timer, preserve_ordering=ordered)


def _ordered(config: ModelConfig) -> bool:
    return bool(config.dynamic_batching and config.dynamic_batching.preserve_ordering)


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


def _tuned(config: ModelConfig) -> bool:
    rules = config.dynamic_batching
    return rules is not None and rules.slo_p99_ms > 0 and config.max_batch_size > 0


def make_batcher(
    config: ModelConfig,
    hold_until: int = 0,
    predictor: WaitPredictor | None = None,
    instances: int = 1,
) -> Batcher:
    """The batcher that the configuration asks for; one that chooses goes by the predictor."""
    rules = config.dynamic_batching
    if isinstance(predictor, LatencyModel):
        return TunedBatcher(config, predictor, instances)
    if rules is not None and rules.length_batching is not None and config.max_batch_size > 0:
        return LengthBatcher(config, rules.length_batching)
    return DynamicBatcher(config, hold_until=hold_until)


def _start_all(model: Model) -> None:
    assert model.staff is not None
    try:
        model.staff.start(model.instances)
    except Exception:
        model.stop()
        raise
