"""Metrics as values, and the text that Prometheus scrapes (exposition format 0.0.4).

The text is written here because client libraries append `_total` to every counter, which would
rename the families that existing dashboards ask for. Sources are asked at scrape time only.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from penstock_runtime.errors import Internal
from penstock_runtime.observability.histogram import HistogramSnapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_SERIES = 50_000

Kind = Literal["counter", "gauge", "histogram", "summary", "untyped"]
Labels = Mapping[str, str]

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_NOT_IN_LABEL = re.compile(r"[^a-zA-Z0-9_]")
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})

# Labels that tell the parts of one histogram or summary apart.
_PART_LABELS = frozenset({"le", "quantile"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sample:
    """One line: `suffix` is what a histogram or summary appends to the family's name."""

    value: float
    labels: Labels = field(default_factory=dict)
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """All samples of one name. The samples of one histogram stand together, in order."""

    name: str
    kind: Kind
    help: str
    samples: tuple[Sample, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise Internal(f"metric name {self.name!r} must match {_NAME.pattern}")


Source = Callable[[], Iterable[Family]]


def label_name(name: str, reserved: Iterable[str] = ()) -> str:
    """A valid label name for any text; one that is reserved is told as `exported_...`."""
    valid = _NOT_IN_LABEL.sub("_", name) or "_"
    if valid[0].isdigit():
        valid = f"_{valid}"
    return f"exported_{valid}" if valid in reserved or valid.startswith("__") else valid


def histogram_samples(
    labels: Labels, snapshot: HistogramSnapshot, unit: float = 1.0
) -> tuple[Sample, ...]:
    """The lines of one histogram, its bounds and sum divided by `unit` (1e9: ns to seconds)."""
    bounds = [number(bound / unit) for bound in snapshot.bounds] + ["+Inf"]
    cumulative = snapshot.cumulative()
    return (
        *(
            Sample(count, {**labels, "le": bound}, "_bucket")
            for bound, count in zip(bounds, cumulative, strict=True)
        ),
        Sample(snapshot.total / unit, labels, "_sum"),
        Sample(cumulative[-1], labels, "_count"),
    )


def summary_samples(
    labels: Labels, snapshot: HistogramSnapshot, quantiles: Sequence[float], unit: float = 1.0
) -> tuple[Sample, ...]:
    """The lines of one summary, estimated from a histogram over its whole life."""
    return (
        *(
            Sample(snapshot.quantile(q) / unit, {**labels, "quantile": number(q)})
            for q in quantiles
        ),
        Sample(snapshot.total / unit, labels, "_sum"),
        Sample(snapshot.count, labels, "_count"),
    )


def number(value: float) -> str:
    """A number as the format wants it: integers without a point, the rest as short as exact."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**63 else repr(float(value))


def render(families: Iterable[Family]) -> bytes:
    """The text of the families, labels in alphabetical order."""
    lines: list[str] = []
    for family in families:
        lines.append(f"# HELP {family.name} {family.help.translate(_HELP_ESCAPES)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        lines.extend(
            f"{family.name}{sample.suffix}{_labels(sample.labels)} {number(sample.value)}"
            for sample in family.samples
        )
    lines.append("")
    return "\n".join(lines).encode()


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{labels[name].translate(_ESCAPES)}"' for name in sorted(labels))
    return "{" + ",".join(pairs) + "}"


class MetricsRegistry:
    """Asks its sources at every scrape; at most `max_series` lines leave it.

    A source that raises costs its own families of this scrape and no one else's.
    """

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._max_series = max_series
        self._sources: list[Source] = []
        self._errors = 0

    def add_source(self, source: Source) -> None:
        """Ask this source too; it is called in the thread of the scrape."""
        self._sources.append(source)

    def collect(self) -> list[Family]:
        """The families of all sources, those of one name merged, cut to the limit."""
        merged: dict[str, Family] = {}
        for source in self._sources:
            for family in self._ask(source):
                self._merge(merged, family)
        kept, dropped = _cut(merged.values(), self._max_series)
        return [*kept, *self._own(dropped)]

    def render(self) -> bytes:
        """The text of one scrape."""
        return render(self.collect())

    def _ask(self, source: Source) -> list[Family]:
        try:
            return list(source())
        except Exception:
            self._errors += 1
            _log.exception("a source of metrics failed; its families are missing from this scrape")
            return []

    def _merge(self, merged: dict[str, Family], family: Family) -> None:
        known = merged.setdefault(family.name, family)
        if known is family:
            return
        if known.kind != family.kind:
            self._errors += 1
            _log.error("metric %s is both a %s and a %s", family.name, known.kind, family.kind)
            return
        samples = (*known.samples, *family.samples)
        merged[family.name] = Family(known.name, known.kind, known.help, samples)

    def _own(self, dropped: int) -> list[Family]:
        return [
            Family(
                "penstock_metrics_dropped_series",
                "gauge",
                f"Series left out of this scrape because there are more than {self._max_series}",
                (Sample(dropped),),
            ),
            Family(
                "penstock_metrics_source_errors_total",
                "counter",
                "Sources of metrics that failed during a scrape",
                (Sample(self._errors),),
            ),
        ]

    def __repr__(self) -> str:
        return f"MetricsRegistry({len(self._sources)} sources, errors={self._errors})"


def _cut(families: Iterable[Family], limit: int) -> tuple[list[Family], int]:
    """The families with no more than `limit` samples in all, and how many samples that cost."""
    kept: list[Family] = []
    dropped = 0
    for family in families:
        length = _whole(family.samples, limit)
        dropped += len(family.samples) - length
        limit -= length
        if length == len(family.samples):
            kept.append(family)
        elif length:
            kept.append(Family(family.name, family.kind, family.help, family.samples[:length]))
    return kept, dropped


def _whole(samples: Sequence[Sample], limit: int) -> int:
    """The most samples within the limit that do not cut a histogram or summary in two."""
    if len(samples) <= limit:
        return len(samples)
    length = limit
    while length and _series(samples[length]) == _series(samples[length - 1]):
        length -= 1
    return length


def _series(sample: Sample) -> dict[str, str]:
    return {name: value for name, value in sample.labels.items() if name not in _PART_LABELS}
