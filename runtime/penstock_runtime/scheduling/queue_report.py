"""What there is to say of a model's queue: level by level, and what its batcher chose."""

from dataclasses import dataclass

from penstock_runtime.scheduling.tuning import Choice


@dataclass(frozen=True, slots=True)
class QueueLevel:
    """What waits at one priority, how old the oldest is, and how long one more would wait."""

    priority: int
    requests: int
    rows: int
    oldest_age_ns: int
    predicted_wait_ns: int


@dataclass(frozen=True, slots=True)
class QueueReport:
    """The queue of a model; `choice` is None where the batcher's rules are static."""

    levels: tuple[QueueLevel, ...] = ()
    choice: Choice | None = None


NOTHING_WAITS = QueueReport()
