"""From what a batcher says of its levels to the report of its queue."""

from collections.abc import Callable, Sequence

from penstock_runtime.scheduling.base import LevelStats
from penstock_runtime.scheduling.queue_report import QueueLevel, QueueReport
from penstock_runtime.scheduling.tuning import Choice


def report_of(
    levels: Sequence[LevelStats], now: int, wait_ns: Callable[[int], int], choice: Choice | None
) -> QueueReport:
    """The report of these levels, the most urgent first; `wait_ns` predicts how long one more would
    wait behind so many rows.
    """
    told, ahead = [], 0
    for level in levels:
        ahead += level.rows
        age = now - level.oldest_ns if level.oldest_ns else 0
        wait = wait_ns(ahead) if ahead else 0
        told.append(QueueLevel(level.priority, level.requests, level.rows, age, wait))
    return QueueReport(tuple(told), choice)
