"""What the engines of language models count: names, bounds, units and what they mean. The suffixes
are vLLM's. Nothing is counted here.
"""

from collections.abc import Mapping

# OpenTelemetry's metrics for servers of generative AI, as Prometheus spells them.
OTEL: Mapping[str, str] = {
    "request_duration_seconds": "e2e_request_latency_seconds",
    "time_to_first_token_seconds": "time_to_first_token_seconds",
    "time_per_output_token_seconds": "request_time_per_output_token_seconds",
}
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
HISTOGRAMS: Mapping[str, tuple[tuple[int, ...], float, str]] = {
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

COUNTERS: Mapping[str, str] = {
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

GAUGES: Mapping[str, str] = {
    "num_requests_running": "Sequences that are being generated",
    "num_requests_waiting": "Sequences that wait for room",
    "kv_cache_usage_perc": "Part of the KV cache that is in use, 0 to 1",
}

# Told by an engine's state; all others are counted.
_OF_STATE = ("prefix_cache_queries_total", "prefix_cache_hits_total", "num_preemptions_total")
COUNTED = tuple(name.removesuffix("_total") for name in COUNTERS if name not in _OF_STATE)
