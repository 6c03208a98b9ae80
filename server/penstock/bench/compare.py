"""A run beside an earlier one: ratios of the rows that measured the same load. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.bench.summary import Summary

_KEY = ("model", "concurrency", "rate", "arrivals", "connections")
FIGURES = ("requests_per_s", "p50_ms", "p99_ms", "requests_per_cpu_s", "messages_per_s")


@dataclass(frozen=True, slots=True)
class Ratios:
    """New over old of each of FIGURES; None where one of them is missing or 0."""

    values: tuple[float | None, ...]


def read_rows(text: str) -> list[Mapping[str, object]]:
    """The rows of a JSON file that `--json` printed, a row a line; also as one array.

    ValueError when it is neither.
    """
    try:
        whole = json.loads(text)
        rows = whole if isinstance(whole, list) else [whole]
    except json.JSONDecodeError:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(row, dict) and "requests_per_s" in row for row in rows):
        raise ValueError("expected rows as penstock bench --json prints them")
    return rows


def compare(rows: Sequence[Summary], old: Sequence[Mapping[str, object]]) -> list[Ratios | None]:
    """For each row its ratios to the old row of the same load, None where there is none."""
    known = {_key(row): row for row in old}
    found = []
    for row in rows:
        before = known.get(tuple(getattr(row, name) for name in _KEY))
        found.append(None if before is None else _ratios(row, before))
    return found


def _key(row: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(row.get(name) for name in _KEY)


def _ratios(row: Summary, before: Mapping[str, object]) -> Ratios:
    return Ratios(tuple(_ratio(getattr(row, name), before.get(name)) for name in FIGURES))


def _ratio(new: object, old: object) -> float | None:
    if not isinstance(new, int | float) or not isinstance(old, int | float) or not old or not new:
        return None
    return new / old
