"""What an engine has done, as a note between a process and its server: numbers in the order of the
tables that both have. What is read is held against what it should be.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from penstock_runtime.isolation.frames import BrokenProtocol
from penstock_runtime.isolation.values import count_of, list_of, text_of
from penstock_runtime.observability.engine_metrics import EngineSnapshot, EngineState
from penstock_runtime.observability.engine_tables import COUNTED, HISTOGRAMS
from penstock_runtime.observability.histogram import HistogramSnapshot

# Each is a series, or a label of one.
MOST_REASONS = 64
MOST_LABELS = 64
LONGEST_TEXT = 256
_MOST_TOTAL = 1 << 96
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_TAKEN = frozenset({"le", "quantile"})


def engine_note(engine: EngineSnapshot) -> dict[str, Any]:
    """What an engine has done as a note."""
    state = engine.state
    return {
        "counts": [max(engine.counts[name], 0) for name in COUNTED],
        "reasons": dict(engine.reasons),
        "histograms": [
            [engine.histograms[n].total, *engine.histograms[n].counts] for n in HISTOGRAMS
        ],
        "totals": [state.prefix_queries, state.prefix_hits, state.preemptions],
        "now": [state.running, state.waiting, state.cache_usage],
        "cache": dict(engine.cache_config),
    }


def engine_of(note: Mapping[str, Any], labels: Mapping[str, str]) -> EngineSnapshot:
    """The engine of a note, whose series have these labels."""
    counts = map(count_of, _exactly(note.get("counts"), len(COUNTED)))
    told = _exactly(note.get("histograms"), len(HISTOGRAMS))
    return EngineSnapshot(
        labels,
        _cache_of(note.get("cache"), labels),
        dict(zip(COUNTED, counts, strict=True)),
        _reasons_of(note.get("reasons")),
        {
            name: _histogram_of(item, bounds)
            for item, (name, (bounds, _, _)) in zip(told, HISTOGRAMS.items(), strict=True)
        },
        _state_of(note),
    )


def _exactly(value: Any, count: int) -> list[Any]:
    found = list_of(value, count)
    if len(found) != count:
        raise BrokenProtocol(f"a list has {len(found)} items, expected {count}")
    return found


def _texts_of(value: Any, most: int) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > most:
        raise BrokenProtocol(f"an object of at most {most} members is none, or larger")
    return value


def _cache_of(value: Any, labels: Mapping[str, str]) -> dict[str, str]:
    found = _texts_of(value, MOST_LABELS)
    for name in found:
        # It stands in what is scraped as it is: any other would be a line of its own.
        if not _LABEL.fullmatch(name) or len(name) > LONGEST_TEXT or name in {*labels, *_TAKEN}:
            raise BrokenProtocol("a cache has a label that there cannot be")
    return {name: text_of(text, LONGEST_TEXT) for name, text in found.items()}


def _reasons_of(value: Any) -> dict[str, int]:
    found = _texts_of(value, MOST_REASONS)
    return {text_of(reason, LONGEST_TEXT): count_of(count) for reason, count in found.items()}


def _histogram_of(value: Any, bounds: tuple[int, ...]) -> HistogramSnapshot:
    total, *counts = _exactly(value, len(bounds) + 2)
    if type(total) is not int or abs(total) >= _MOST_TOTAL:
        raise BrokenProtocol("the sum of a histogram is no number, or out of its range")
    return HistogramSnapshot(bounds, tuple(map(count_of, counts)), total)


def _state_of(note: Mapping[str, Any]) -> EngineState:
    totals = map(count_of, _exactly(note.get("totals"), 3))
    running, waiting, usage = _exactly(note.get("now"), 3)
    if type(usage) not in (int, float) or not math.isfinite(usage) or not 0 <= usage <= 1:
        raise BrokenProtocol("the use of a cache is no number from 0 to 1")
    return EngineState(count_of(running), count_of(waiting), float(usage), *totals)
