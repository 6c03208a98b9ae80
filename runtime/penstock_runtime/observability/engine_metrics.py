"""What is told of the engines of language models: families with the suffixes that vLLM's have, so
that boards and pickers made for those work here, under a prefix of our own or under theirs.

Fed by an engine and by whoever tells its answers; knows neither.
"""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.observability.engine_tables import COUNTED, COUNTERS, GAUGES, HISTOGRAMS, OTEL
from penstock_runtime.observability.histogram import Histogram, HistogramSnapshot
from penstock_runtime.observability.metrics import Family, Sample, histogram_samples

PREFIX, VLLM_PREFIX, OTEL_PREFIX = "penstock_llm_", "vllm:", "gen_ai_server_"
COMPATIBLE = ("vllm", "otel")


@dataclass(frozen=True, slots=True)
class EngineState:
    """How an engine is at one moment; totals are since it started."""

    running: int = 0
    waiting: int = 0
    cache_usage: float = 0.0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """What an engine had done at one moment. `counts` are by their suffixes without `_total`, and
    times among them nanoseconds; `labels` are those of its series, `cache_config` further ones.
    """

    labels: Mapping[str, str]
    cache_config: Mapping[str, str]
    counts: Mapping[str, int]
    reasons: Mapping[str, int]
    histograms: Mapping[str, HistogramSnapshot]
    state: EngineState

    def counters(self) -> Mapping[str, float]:
        """Every counter by its suffix."""
        found = {f"{name}_total": float(value) for name, value in self.counts.items()}
        found["compute_seconds_total"] /= 1e9
        found["prefix_cache_queries_total"] = self.state.prefix_queries
        found["prefix_cache_hits_total"] = self.state.prefix_hits
        found["num_preemptions_total"] = self.state.preemptions
        return found

    def gauges(self) -> Mapping[str, float]:
        """Every gauge by its suffix."""
        return {
            "num_requests_running": self.state.running,
            "num_requests_waiting": self.state.waiting,
            "kv_cache_usage_perc": self.state.cache_usage,
        }

    def ended(self) -> Sequence[Sample]:
        """How many answers ended for which reason."""
        known = sorted(self.reasons.items())
        return [Sample(n, {**self.labels, "finished_reason": reason}) for reason, n in known]

    def histogram(self, name: str) -> Sequence[Sample]:
        """The lines of one histogram."""
        return histogram_samples(self.labels, self.histograms[name], HISTOGRAMS[name][1])

    def config(self) -> Sequence[Sample]:
        """What the cache is like."""
        return [Sample(1, {**self.labels, **self.cache_config})]


class EngineTally:
    """What one engine did. Any method from any thread; `state` is asked how it is, and `on_end` is
    called when an answer has ended or was refused, in the thread that did so.
    """

    def __init__(
        self, model: str, version: int, engine: str, cache_config: Mapping[str, str]
    ) -> None:
        self.labels = {"model_name": model, "version": str(version), "engine": engine}
        self._cache_config = dict(cache_config)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._histograms = {name: Histogram(spec[0]) for name, spec in HISTOGRAMS.items()}
        self.state: Callable[[], EngineState] = EngineState
        self.on_end: Callable[[], None] = _nothing

    def count(self, **amounts: int) -> None:
        """Add to counters, by their suffixes without `_total`; times are nanoseconds."""
        with self._lock:
            self._counts.update(amounts)

    def observe(self, **values: int) -> None:
        """Count values in histograms, by their suffixes; times are nanoseconds."""
        with self._lock:
            for name, value in values.items():
                self._histograms[name].observe(value)

    def gap(self, gap_ns: int, tokens: int) -> None:
        """So many tokens came that long after the one before."""
        with self._lock:
            self._histograms["inter_token_latency_seconds"].observe(gap_ns // tokens, tokens)

    def finished(self, reason: str) -> None:
        """An answer ended for this reason."""
        with self._lock:
            self._reasons[reason] += 1
        self.on_end()

    def snapshot(self) -> EngineSnapshot:
        """What it has done until now."""
        # Before: whoever is asked has a lock of its own.
        state = self.state()
        with self._lock:
            return EngineSnapshot(
                self.labels,
                self._cache_config,
                {name: self._counts[name] for name in COUNTED},
                dict(self._reasons),
                {name: histogram.snapshot() for name, histogram in self._histograms.items()},
                state,
            )


class Engine(Protocol):
    """Whoever can say what an engine did."""

    labels: dict[str, str]

    def snapshot(self) -> EngineSnapshot:
        """What it has done until now."""


class EngineBook:
    """The engines of one server. With "vllm" among `compat` all is told a second time, as vLLM
    does; with "otel" what OpenTelemetry has names for, under those.
    """

    def __init__(self, compat: Collection[str] = ()) -> None:
        for name in compat:
            if name not in COMPATIBLE:
                raise InvalidArgument(
                    f"--metrics-compat is {name[:64]!r}, expected one of {', '.join(COMPATIBLE)}"
                )
        self._prefixes = (PREFIX, VLLM_PREFIX) if "vllm" in compat else (PREFIX,)
        self._otel = "otel" in compat
        self._lock = threading.Lock()
        self._engines: list[Engine] = []

    def add(self, engine: Engine) -> None:
        """An engine came."""
        with self._lock:
            self._engines.append(engine)

    def remove(self, engine: Engine) -> None:
        """An engine is gone, and with it its series."""
        with self._lock:
            if engine in self._engines:
                self._engines.remove(engine)

    def families(self) -> list[Family]:
        """What a scrape is told; nothing where there is no engine."""
        with self._lock:
            # Of two loads of one version (one of them drains) the last is told.
            known = {tuple(sorted(engine.labels.items())): engine for engine in self._engines}
        engines = [known[key].snapshot() for key in sorted(known)]
        if not engines:
            return []
        families = [f for prefix in self._prefixes for f in _families(prefix, engines)]
        return [*families, *_otel_families(engines)] if self._otel else families


def _otel_families(engines: Sequence[EngineSnapshot]) -> list[Family]:
    return [
        Family(
            OTEL_PREFIX + name,
            "histogram",
            HISTOGRAMS[ours][2],
            tuple(
                replace(sample, labels={**sample.labels, **_otel_labels(engine)})
                for engine in engines
                for sample in engine.histogram(ours)
            ),
        )
        for name, ours in OTEL.items()
    ]


def _otel_labels(engine: EngineSnapshot) -> dict[str, str]:
    model = engine.labels["model_name"]
    return {"gen_ai_provider_name": "penstock", "gen_ai_request_model": model}


def _families(prefix: str, engines: Sequence[EngineSnapshot]) -> list[Family]:
    counters = [(e.labels, e.counters()) for e in engines]
    gauges = [(e.labels, e.gauges()) for e in engines]
    return [
        *(
            Family(prefix + name, "gauge", text, tuple(Sample(v[name], at) for at, v in gauges))
            for name, text in GAUGES.items()
        ),
        *(
            Family(prefix + name, "counter", text, tuple(Sample(v[name], at) for at, v in counters))
            for name, text in COUNTERS.items()
        ),
        Family(
            prefix + "request_success_total",
            "counter",
            "Answers that ended, by the reason",
            tuple(sample for engine in engines for sample in engine.ended()),
        ),
        *(
            Family(
                prefix + name,
                "histogram",
                text,
                tuple(sample for engine in engines for sample in engine.histogram(name)),
            )
            for name, (_, _, text) in HISTOGRAMS.items()
        ),
        Family(
            prefix + "cache_config_info",
            "gauge",
            "1, with what the KV cache is like",
            tuple(sample for engine in engines for sample in engine.config()),
        ),
    ]


def _nothing() -> None:
    return
