"""What is told of the engines of language models."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.observability.engine_metrics import EngineBook, EngineState, EngineTally
from penstock_runtime.observability.metrics import render


def tally(version: int = 1, engine: str = "gpt_0_0") -> EngineTally:
    made = EngineTally("gpt", version, engine, {"block_size": "16"})
    made.state = lambda: EngineState(2, 3, 0.25, 100, 40, 1)
    return made


def samples(book: EngineBook) -> dict[str, float]:
    text = render(book.families()).decode()
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("le") in (None, "+Inf")
    }


def test_a_server_without_engines_tells_nothing_of_them() -> None:
    book = EngineBook(("vllm", "otel"))

    assert book.families() == []


def test_what_was_counted_is_told_in_seconds_and_tokens() -> None:
    book, made = EngineBook(), tally()
    book.add(made)

    made.count(generation_tokens=5, compute_seconds=1_500_000_000)
    made.observe(time_to_first_token_seconds=20_000_000, request_prompt_tokens=7)
    made.gap(30_000_000, 3)
    made.finished("stop")
    told = samples(book)

    assert told["penstock_llm_generation_tokens_total"] == 5
    assert told["penstock_llm_compute_seconds_total"] == 1.5
    assert told["penstock_llm_time_to_first_token_seconds_sum"] == pytest.approx(0.02)
    assert told["penstock_llm_request_prompt_tokens_sum"] == 7
    # Three tokens at once came 10 ms apart on average.
    assert told["penstock_llm_inter_token_latency_seconds_count"] == 3
    assert told["penstock_llm_inter_token_latency_seconds_sum"] == pytest.approx(0.03)
    assert told["penstock_llm_request_success_total"] == 1
    assert told["penstock_llm_num_requests_running"] == 2
    assert told["penstock_llm_prefix_cache_hits_total"] == 40


def test_boards_made_for_vllm_find_every_family_under_its_name() -> None:
    book = EngineBook(("vllm",))
    book.add(tally())

    names = [family.name for family in book.families()]
    ours = [name.removeprefix("penstock_llm_") for name in names if name.startswith("penstock_")]

    assert ours == [name.removeprefix("vllm:") for name in names if name.startswith("vllm:")]
    assert {"time_to_first_token_seconds", "kv_cache_usage_perc"} <= set(ours)


def test_opentelemetry_names_are_told_when_asked_for() -> None:
    book, made = EngineBook(("otel",)), tally()
    book.add(made)

    made.observe(e2e_request_latency_seconds=1_000_000_000)

    assert samples(book)["gen_ai_server_request_duration_seconds_sum"] == 1.0


def test_an_engine_that_is_gone_leaves_no_series_and_a_reloaded_one_is_told_once() -> None:
    book, old, new = EngineBook(), tally(), tally()
    for made in (old, new):
        book.add(made)

    new.count(generation_tokens=1)

    assert samples(book)["penstock_llm_generation_tokens_total"] == 1
    for made in (old, new):
        book.remove(made)
    assert book.families() == []


def test_names_that_nobody_knows_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="--metrics-compat is 'tgi', expected one of vllm"):
        EngineBook(("tgi",))
