"""How a model with sequences is put together: slots of its strategy, scheduler, instances."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from penstock_runtime.backends.base import LoadedModel, ModelSource, Placement
from penstock_runtime.batch import BatchPlan
from penstock_runtime.config import ModelConfig
from penstock_runtime.config_check_sequence import BACKLOG_PARAMETER
from penstock_runtime.config_scheduling import SequenceBatching, SequenceDirect
from penstock_runtime.execution_sequence import StepPlan
from penstock_runtime.instance_sequence import SequenceInstance
from penstock_runtime.labels import NO_LABELS, Labels
from penstock_runtime.model_sequence import SequenceModel
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.scheduling.sequence_batcher import SequenceBatcher, SequenceLimits
from penstock_runtime.scheduling.sequence_direct import DirectSlots
from penstock_runtime.scheduling.sequence_ids import SequenceIds
from penstock_runtime.scheduling.sequence_oldest import OldestSlots
from penstock_runtime.scheduling.sequence_scheduler import SequenceScheduler
from penstock_runtime.scheduling.sequence_slots import Slots
from penstock_runtime.scheduling.timer import Timer
from penstock_runtime.sequence_book import SequenceBook
from penstock_runtime.warmup import WarmupRequest


@dataclass(frozen=True, slots=True)
class SequenceParts:
    """What the sequences of one model need: its steps, and what it shares with other models."""

    rules: SequenceBatching
    steps: StepPlan
    timer: Timer
    book: SequenceBook
    hold_until: int = 0
    hold_backlog: int = 0


def make_sequence_model(
    source: ModelSource,
    loaded: LoadedModel,
    homes: Sequence[Placement],
    statistics: ModelStatistics,
    warmups: Sequence[WarmupRequest],
    plan: BatchPlan,
    parts: SequenceParts,
    labels: Labels = NO_LABELS,
) -> SequenceModel:
    """The model, whose instances have not been started."""
    config = source.config
    batcher = make_sequence_batcher(
        config, parts.rules, len(homes), parts.hold_until, parts.hold_backlog
    )
    scheduler = SequenceScheduler(batcher, statistics, parts.timer)
    warm = tuple(_complete(warmup, parts.steps) for warmup in warmups)
    instances = tuple(
        SequenceInstance(home, loaded, plan, scheduler, statistics, warm, parts.steps)
        for home in homes
    )
    return SequenceModel(
        config, source.version, loaded, scheduler, instances, statistics, parts.book, labels
    )


def start_sequence_model(model: SequenceModel) -> None:
    """Start its instances, and return when all are warm; raises what kept one from being so."""
    for instance in model.instances:
        instance.start()
    try:
        for instance in model.instances:
            instance.wait_ready()
    except Exception:
        model.stop()
        raise


def make_sequence_batcher(
    config: ModelConfig,
    rules: SequenceBatching,
    instances: int,
    hold_until: int = 0,
    hold_backlog: int = 0,
) -> SequenceBatcher:
    """The batcher that the configuration asks for; direct without a strategy."""
    each, slots = _slots(config, rules, instances)
    defaults = SequenceLimits()
    limits = SequenceLimits(
        idle_ns=rules.max_sequence_idle_microseconds * 1000 or defaults.idle_ns,
        backlog=int(config.parameter(BACKLOG_PARAMETER, str(defaults.backlog))),
        hold_until=hold_until,
        hold_backlog=hold_backlog,
    )
    ids = SequenceIds(config, rules)
    return SequenceBatcher(slots, each, ids, limits, iterative=rules.iterative_sequence)


def _slots(
    config: ModelConfig, rules: SequenceBatching, instances: int
) -> tuple[int, Sequence[Slots]]:
    """How many slots each instance has, and those of every instance."""
    if rules.oldest is not None:
        oldest, rows = rules.oldest, config.max_batch_size
        each = max(oldest.max_candidate_sequences, 1)
        return each, [OldestSlots(rows, oldest) for _ in range(instances)]
    direct, rows = rules.direct or SequenceDirect(), max(config.max_batch_size, 1)
    return rows, [DirectSlots(rows, direct) for _ in range(instances)]


def _complete(warmup: WarmupRequest, steps: StepPlan) -> WarmupRequest:
    """A warm-up with controls and states beside the inputs that its configuration names."""
    return replace(warmup, provided={**steps.blank(warmup.batch.rows), **warmup.provided})
