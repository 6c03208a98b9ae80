"""What is told of the engines of language models: families with the suffixes that vLLM's have, so
that boards and pickers made for those work here, under a prefix of our own or under theirs.

Fed by an engine and by whoever tells its answers; knows neither.
"""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.observability.histogram import Histogram
from penstock_runtime.observability.metrics import Family, Sample, histogram_samples

PREFIX, VLLM_PREFIX, OTEL_PREFIX = "penstock_llm_", "vllm:", "gen_ai_server_"

# OpenTelemetry's metrics for servers of generative AI, as Prometheus spells them.
_OTEL = {
    "request_duration_seconds": "e2e_request_latency_seconds",
    "time_to_first_token_seconds": "time_to_first_token_seconds",
    "time_per_output_token_seconds": "request_time_per_output_token_seconds",
}
COMPATIBLE = ("vllm", "otel")

_MS = 1_000_000
_TTFT_MS = (1, 5, 10, 20, 40, 60, 80, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10_000, 20_000)
_TTFT_NS = tuple(ms * _MS for ms in (*_TTFT_MS, 40_000, 80_000, 160_000, 640_000, 2_560_000))
_GAP_MS = (10, 25, 50, 75, 100, 150, 200, 300, 400, 500, 750, 1000, 2500, 5000, 7500, 10_000)
_GAP_NS = tuple(ms * _MS for ms in (*_GAP_MS, 20_000, 40_000, 80_000))
_LONG_MS = (300, 500, 800, 1000, 1500, 2000, 2500, 5000, 10_000, 15_000, 20_000, 30_000, 40_000)
_LONG_NS = tuple(
    ms * _MS
    for ms in (*_LONG_MS, 50_000, 60_000, 120_000, 240_000, 480_000, 960_000, 1_920_000, 7_680_000)
)
_TOKENS = tuple(step * 10**decade for decade in range(6) for step in (1, 2, 5))
_STEP = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384)
_FEW = (1, 2, 5, 10, 20)

# Suffix, bounds, the unit they are told in, help.
_HISTOGRAMS: Mapping[str, tuple[tuple[int, ...], float, str]] = {
    "time_to_first_token_seconds": (_TTFT_NS, 1e9, "From a request's arrival to its first token"),
    "inter_token_latency_seconds": (_GAP_NS, 1e9, "Between two tokens of one answer"),
    "request_time_per_output_token_seconds": (
        _GAP_NS,
        1e9,
        "Mean of a request's times between tokens",
    ),
    "e2e_request_latency_seconds": (_LONG_NS, 1e9, "From a request's arrival to its last answer"),
    "request_queue_time_seconds": (_LONG_NS, 1e9, "From a request's arrival to its first step"),
    "request_inference_time_seconds": (
        _LONG_NS,
        1e9,
        "From a request's first step to its last token",
    ),
    "request_prefill_time_seconds": (
        _LONG_NS,
        1e9,
        "From a request's first step to its first token",
    ),
    "request_decode_time_seconds": (_LONG_NS, 1e9, "From a request's first token to its last"),
    "request_prompt_tokens": (_TOKENS, 1.0, "Tokens of a request's prompts"),
    "request_generation_tokens": (_TOKENS, 1.0, "Tokens that a request was given"),
    "request_params_max_tokens": (_TOKENS, 1.0, "Most tokens that a request allowed"),
    "request_params_n": (_FEW, 1.0, "Answers that a request asked for"),
    "request_num_preemptions": (_FEW, 1.0, "How often a request lost its blocks to others"),
    "iteration_tokens_total": (_STEP, 1.0, "Tokens that were computed in one step"),
}

_COUNTERS: Mapping[str, str] = {
    "prompt_tokens_total": "Tokens of prompts",
    "prompt_tokens_cached_total": "Tokens of prompts that were in the cache",
    "generation_tokens_total": "Tokens that were generated",
    "prefix_cache_queries_total": "Tokens that were looked up in the prefix cache",
    "prefix_cache_hits_total": "Tokens that were found in the prefix cache",
    "num_preemptions_total": "Sequences that lost their blocks to others",
    "admission_rejections_total": "Requests that were refused when they came",
    "spec_decode_num_drafts_total": "Guesses at what comes next",
    "spec_decode_num_draft_tokens_total": "Tokens that were guessed",
    "spec_decode_num_accepted_tokens_total": "Guessed tokens that were right",
    "compute_seconds_total": "Seconds that steps took",
}

_GAUGES: Mapping[str, str] = {
    "num_requests_running": "Sequences that are being generated",
    "num_requests_waiting": "Sequences that wait for room",
    "kv_cache_usage_perc": "Part of the KV cache that is in use, 0 to 1",
}


@dataclass(frozen=True, slots=True)
class EngineState:
    """How an engine is at one moment; totals are since it started."""

    running: int = 0
    waiting: int = 0
    cache_usage: float = 0.0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0


class EngineTally:
    """What one engine did. Any method from any thread."""

    def __init__(
        self, model: str, version: int, engine: str, cache_config: Mapping[str, str]
    ) -> None:
        self.labels = {"model_name": model, "version": str(version), "engine": engine}
        self._cache_config = dict(cache_config)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._histograms = {name: Histogram(spec[0]) for name, spec in _HISTOGRAMS.items()}
        self.state: Callable[[], EngineState] = EngineState

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

    def counters(self) -> Mapping[str, float]:
        """Every counter by its suffix."""
        state = self.state()
        with self._lock:
            found = {name: float(self._counts[name.removesuffix("_total")]) for name in _COUNTERS}
        found["compute_seconds_total"] /= 1e9
        found["prefix_cache_queries_total"] = state.prefix_queries
        found["prefix_cache_hits_total"] = state.prefix_hits
        found["num_preemptions_total"] = state.preemptions
        return found

    def gauges(self) -> Mapping[str, float]:
        """Every gauge by its suffix."""
        state = self.state()
        return {
            "num_requests_running": state.running,
            "num_requests_waiting": state.waiting,
            "kv_cache_usage_perc": state.cache_usage,
        }

    def reasons(self) -> Sequence[Sample]:
        """How many answers ended for which reason."""
        with self._lock:
            found = dict(self._reasons)
        return [Sample(n, {**self.labels, "finished_reason": r}) for r, n in sorted(found.items())]

    def histogram(self, name: str) -> Sequence[Sample]:
        """The lines of one histogram."""
        with self._lock:
            snapshot = self._histograms[name].snapshot()
        return histogram_samples(self.labels, snapshot, _HISTOGRAMS[name][1])

    def config(self) -> Sequence[Sample]:
        """What the cache is like."""
        return [Sample(1, {**self.labels, **self._cache_config})]


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
        self._tallies: list[EngineTally] = []

    def add(self, tally: EngineTally) -> None:
        """An engine came."""
        with self._lock:
            self._tallies.append(tally)

    def remove(self, tally: EngineTally) -> None:
        """An engine is gone, and with it its series."""
        with self._lock:
            if tally in self._tallies:
                self._tallies.remove(tally)

    def families(self) -> list[Family]:
        """What a scrape is told; nothing where there is no engine."""
        with self._lock:
            # Of two loads of one version (one of them drains) the last is told.
            known = {tuple(sorted(tally.labels.items())): tally for tally in self._tallies}
        tallies = [known[key] for key in sorted(known)]
        if not tallies:
            return []
        families = [f for prefix in self._prefixes for f in _families(prefix, tallies)]
        return [*families, *_otel_families(tallies)] if self._otel else families


def _otel_families(tallies: Sequence[EngineTally]) -> list[Family]:
    return [
        Family(
            OTEL_PREFIX + name,
            "histogram",
            _HISTOGRAMS[ours][2],
            tuple(
                replace(sample, labels={**sample.labels, **_otel_labels(tally)})
                for tally in tallies
                for sample in tally.histogram(ours)
            ),
        )
        for name, ours in _OTEL.items()
    ]


def _otel_labels(tally: EngineTally) -> dict[str, str]:
    model = tally.labels["model_name"]
    return {"gen_ai_provider_name": "penstock", "gen_ai_request_model": model}


def _families(prefix: str, tallies: Sequence[EngineTally]) -> list[Family]:
    counters = [(t.labels, t.counters()) for t in tallies]
    gauges = [(t.labels, t.gauges()) for t in tallies]
    return [
        *(
            Family(prefix + name, "gauge", text, tuple(Sample(v[name], at) for at, v in gauges))
            for name, text in _GAUGES.items()
        ),
        *(
            Family(prefix + name, "counter", text, tuple(Sample(v[name], at) for at, v in counters))
            for name, text in _COUNTERS.items()
        ),
        Family(
            prefix + "request_success_total",
            "counter",
            "Answers that ended, by the reason",
            tuple(sample for tally in tallies for sample in tally.reasons()),
        ),
        *(
            Family(
                prefix + name,
                "histogram",
                text,
                tuple(sample for tally in tallies for sample in tally.histogram(name)),
            )
            for name, (_, _, text) in _HISTOGRAMS.items()
        ),
        Family(
            prefix + "cache_config_info",
            "gauge",
            "1, with what the KV cache is like",
            tuple(sample for tally in tallies for sample in tally.config()),
        ),
    ]
