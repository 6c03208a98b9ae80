"""Metrics that the code of models makes: counters, gauges and histograms with labels of its own.

Metrics of one name and the same labels are one, whoever made them; one is gone once all that made
it are. How many there may be is bounded.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from penstock_runtime.errors import InvalidArgument, ResourceExhausted
from penstock_runtime.observability.metrics import Family, Sample, number

CustomKind = Literal["counter", "gauge", "histogram"]

MOST_METRICS = 2048
MOST_LABELS, MOST_BUCKETS = 16, 64
LONGEST_TEXT = 1024

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
# What the server itself tells.
_TAKEN = re.compile(r"penstock_|nv_(?:inference|model|cache|gpu|cpu|energy|pinned)_|process_")

Key = tuple[str, tuple[tuple[str, str], ...]]


class CustomMetric:
    """One series; any method from any thread. InvalidArgument for what its kind cannot do."""

    def __init__(
        self, name: str, kind: CustomKind, labels: Mapping[str, str], bounds: Sequence[float]
    ) -> None:
        self._name = name
        self._kind = kind
        self._labels = dict(labels)
        self._lock = threading.Lock()
        self._value = 0.0
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(self.bounds) + 1)

    def increment(self, value: float) -> None:
        """Add to a counter (nothing below 0) or a gauge."""
        self._only("increment", "counter", "gauge")
        if self._kind == "counter" and not value >= 0:
            raise InvalidArgument(
                f"counter '{self._name}' is incremented by {value}, expected >= 0"
            )
        with self._lock:
            self._value += value

    def set(self, value: float) -> None:
        """Set a gauge."""
        self._only("set", "gauge")
        with self._lock:
            self._value = float(value)

    def observe(self, value: float) -> None:
        """Count a value in a histogram."""
        self._only("observe", "histogram")
        place = sum(value > bound for bound in self.bounds)
        with self._lock:
            self._value += value
            self._counts[place] += 1

    def value(self) -> float:
        """What a counter or a gauge has come to."""
        self._only("value", "counter", "gauge")
        return self._value

    def _only(self, what: str, *kinds: CustomKind) -> None:
        if self._kind not in kinds:
            raise InvalidArgument(
                f"metric '{self._name}' is a {self._kind}, expected a {' or '.join(kinds)} for"
                f" {what}()"
            )

    def samples(self) -> tuple[Sample, ...]:
        """Its lines."""
        with self._lock:
            total, counts = self._value, list(self._counts)
        if self._kind != "histogram":
            return (Sample(total, self._labels),)
        lines, below = [], 0
        for bound, count in zip((*map(number, self.bounds), "+Inf"), counts, strict=True):
            below += count
            lines.append(Sample(below, {**self._labels, "le": bound}, "_bucket"))
        return (*lines, Sample(total, self._labels, "_sum"), Sample(below, self._labels, "_count"))


@dataclass(slots=True)
class _Family:
    kind: CustomKind
    help: str
    metrics: dict[Key, CustomMetric] = field(default_factory=dict)


class CustomMetrics:
    """All that the models of one server made; `owner` is whoever has to go for them to go."""

    def __init__(self, most: int = MOST_METRICS) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._families: dict[str, _Family] = {}
        self._owners: dict[Key, set[object]] = {}

    def declare(self, name: str, kind: CustomKind, help_text: str) -> None:
        """Raise InvalidArgument unless metrics of this name may be of this kind."""
        _check_name(name, help_text)
        with self._lock:
            self._check_kind(name, kind)

    def metric(
        self,
        owner: object,
        family: tuple[str, CustomKind, str],
        labels: Mapping[str, str],
        bounds: Sequence[float] = (),
    ) -> CustomMetric:
        """The metric with these labels, made if it is not there. ResourceExhausted if there are too
        many.
        """
        name, kind, help_text = family
        _check_name(name, help_text)
        _check_labels(name, labels)
        _check_bounds(name, kind, bounds)
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            self._check_kind(name, kind)
            if key not in self._owners and len(self._owners) >= self._most:
                raise ResourceExhausted(
                    f"metric '{name}' would be one of more than {self._most} that models made"
                )
            known = self._families.setdefault(name, _Family(kind, help_text))
            found = known.metrics.get(key)
            if found is not None and found.bounds != tuple(bounds):
                raise InvalidArgument(
                    f"histogram '{name}' has buckets {list(found.bounds)}, got {list(bounds)}"
                )
            if found is None:
                found = known.metrics[key] = CustomMetric(name, kind, labels, bounds)
            self._owners.setdefault(key, set()).add(owner)
            return found

    def release(self, owner: object) -> None:
        """This owner is gone, and with it what nobody else made."""
        with self._lock:
            for key in [key for key, owners in self._owners.items() if owner in owners]:
                self._owners[key].discard(owner)
                if not self._owners[key]:
                    self._drop(key)

    def _drop(self, key: Key) -> None:
        del self._owners[key]
        family = self._families[key[0]]
        del family.metrics[key]
        if not family.metrics:
            del self._families[key[0]]

    def families(self) -> list[Family]:
        """What a scrape is told."""
        with self._lock:
            known = [
                (n, f.kind, f.help, list(f.metrics.values())) for n, f in self._families.items()
            ]
        return [
            Family(name, kind, text, tuple(s for metric in metrics for s in metric.samples()))
            for name, kind, text, metrics in sorted(known, key=_first)
        ]

    def _check_kind(self, name: str, kind: CustomKind) -> None:
        known = self._families.get(name)
        if known is not None and known.kind != kind:
            raise InvalidArgument(f"metric '{name}' is a {known.kind} already, got a {kind}")

    def __repr__(self) -> str:
        return f"<CustomMetrics {len(self._owners)} of {self._most}>"


def _first(family: tuple[str, CustomKind, str, list[CustomMetric]]) -> str:
    return family[0]


def _check_name(name: str, help_text: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > LONGEST_TEXT:
        raise InvalidArgument(f"metric name {name[:64]!r} does not match {_NAME.pattern}")
    if _TAKEN.match(name):
        raise InvalidArgument(f"metric '{name}' has a name that is kept for the server's own")
    if len(help_text) > LONGEST_TEXT:
        raise InvalidArgument(
            f"metric '{name}' has a description of {len(help_text)} characters, expected at most"
            f" {LONGEST_TEXT}"
        )


def _check_labels(name: str, labels: Mapping[str, str]) -> None:
    if len(labels) > MOST_LABELS:
        raise InvalidArgument(
            f"metric '{name}' has {len(labels)} labels, expected at most {MOST_LABELS}"
        )
    for label, value in labels.items():
        if not _LABEL.fullmatch(label) or label in ("le", "quantile"):
            raise InvalidArgument(f"metric '{name}' cannot have a label {label[:64]!r}")
        if len(value) > LONGEST_TEXT:
            raise InvalidArgument(
                f"label '{label}' of metric '{name}' has {len(value)} characters, expected at most"
                f" {LONGEST_TEXT}"
            )


def _check_bounds(name: str, kind: CustomKind, bounds: Sequence[float]) -> None:
    if (kind == "histogram") != bool(bounds):
        wanted = "some" if kind == "histogram" else "none"
        raise InvalidArgument(f"{kind} '{name}' has {len(bounds)} buckets, expected {wanted}")
    if len(bounds) > MOST_BUCKETS or any(not low < high for low, high in pairwise(bounds)):
        raise InvalidArgument(
            f"histogram '{name}' needs at most {MOST_BUCKETS} buckets in ascending order"
        )
