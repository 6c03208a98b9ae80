"""A model's queue and what its batcher chose: as messages, as JSON, as metrics."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from penstock_protos.inference import BatchChoice, QueueStatistics
from penstock_runtime.observability.metrics import Family, Sample
from penstock_runtime.scheduling.queue_report import QueueLevel, QueueReport
from penstock_runtime.scheduling.tuning import Choice

Row = tuple[Mapping[str, str], Any]


class Queued(Protocol):
    """A version that serves, as far as its queue goes."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Its name and version."""

    def queue_report(self) -> QueueReport:
        """What waits for it."""


def queue_messages(report: QueueReport) -> list[QueueStatistics]:
    """The levels as they travel."""
    return [
        QueueStatistics(
            priority=level.priority,
            requests=level.requests,
            rows=level.rows,
            oldest_age_ns=max(level.oldest_age_ns, 0),
            predicted_wait_ns=level.predicted_wait_ns,
        )
        for level in report.levels
    ]


def choice_message(choice: Choice | None) -> BatchChoice | None:
    """The choice as it travels; None where there is none."""
    if choice is None:
        return None
    return BatchChoice(
        size=choice.size,
        wait_ns=choice.wait_ns,
        limit=choice.limit,
        goal_ns=choice.goal_ns,
        arriving_rows_per_second=choice.arriving,
        predicted_p99_ns=int(choice.p99_ns),
        keeps=choice.keeps,
        reason=choice.reason,
        sizes=[
            BatchChoice.Size(
                rows=size.rows,
                typical_ns=int(size.typical_ns),
                slow_ns=int(size.slow_ns),
                rows_per_second=size.rows_per_second,
            )
            for size in choice.sizes
        ],
    )


def queues_json(models: Iterable[Queued]) -> bytes:
    """Every queue, for people and scripts; durations are in milliseconds."""
    told = [{**model.labels, **_object(model.queue_report())} for model in models]
    return json.dumps({"queues": told}, indent=2).encode() + b"\n"


def _object(report: QueueReport) -> dict[str, Any]:
    told: dict[str, Any] = {"levels": [_level(level) for level in report.levels]}
    if report.choice is not None:
        told["batching"] = _choice(report.choice)
    return told


def _level(level: QueueLevel) -> dict[str, Any]:
    return {
        "priority": level.priority,
        "requests": level.requests,
        "rows": level.rows,
        "oldest_age_ms": _ms(level.oldest_age_ns),
        "predicted_wait_ms": _ms(level.predicted_wait_ns),
    }


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "size": choice.size,
        "wait_ms": _ms(choice.wait_ns),
        "limit": choice.limit,
        "goal_ms": _ms(choice.goal_ns),
        "arriving_rows_per_second": round(choice.arriving, 1),
        "predicted_p99_ms": _ms(choice.p99_ns),
        "keeps_goal": choice.keeps,
        "reason": choice.reason,
        "sizes": [
            {
                "rows": size.rows,
                "typical_ms": _ms(size.typical_ns),
                "p99_ms": _ms(size.slow_ns),
                "rows_per_second": round(size.rows_per_second, 1),
            }
            for size in choice.sizes
        ],
    }


def queue_families(models: Iterable[Queued]) -> list[Family]:
    """Every level of every queue, and what the batchers chose that choose."""
    levels: list[Row] = []
    choices: list[Row] = []
    for model in models:
        report = model.queue_report()
        levels += [({**model.labels, "priority": str(x.priority)}, x) for x in report.levels]
        if report.choice is not None:
            choices.append((model.labels, report.choice))
    return [*_families(_LEVELS, levels), *(_families(_CHOICES, choices) if choices else ())]


_LEVELS = (
    ("penstock_queue_level_requests", "Requests that wait at a priority", "requests", 1.0),
    ("penstock_queue_level_rows", "Rows that wait at a priority", "rows", 1.0),
    (
        "penstock_queue_level_oldest_age_seconds",
        "Age of the oldest request at a priority",
        "oldest_age_ns",
        1e9,
    ),
    (
        "penstock_queue_level_predicted_wait_seconds",
        "How long one more request at a priority would wait",
        "predicted_wait_ns",
        1e9,
    ),
)
_CHOICES = (
    ("penstock_batch_choice_rows", "Rows of the batches that a goal led to", "size", 1.0),
    ("penstock_batch_choice_limit_rows", "Most rows that keep the goal", "limit", 1.0),
    ("penstock_batch_choice_wait_seconds", "Longest wait for company", "wait_ns", 1e9),
    ("penstock_batch_goal_seconds", "The goal, slo_p99_ms", "goal_ns", 1e9),
    ("penstock_batch_predicted_p99_seconds", "99th percentile as predicted", "p99_ns", 1e9),
    ("penstock_batch_goal_kept", "1 if that keeps the goal", "keeps", 1.0),
)


def _families(kinds: Iterable[tuple[str, str, str, float]], rows: list[Row]) -> list[Family]:
    return [
        Family(
            name,
            "gauge",
            text,
            tuple(Sample(getattr(found, field) / unit, labels) for labels, found in rows),
        )
        for name, text, field, unit in kinds
    ]


def _ms(duration_ns: float) -> float:
    return round(duration_ns / 1e6, 3)
