"""What a scrape says is well formed, complete, and bounded."""

import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from penstock_runtime.errors import FailureReason, Internal
from penstock_runtime.observability.histogram import EXPORTED_BOUNDS_NS, Histogram
from penstock_runtime.observability.metrics import (
    Family,
    MetricsRegistry,
    Sample,
    histogram_samples,
    label_name,
    number,
    render,
)
from penstock_runtime.observability.model_metrics import (
    MetricsOptions,
    ModelView,
    model_families,
    readiness_family,
)
from penstock_runtime.observability.statistics import ModelStatistics, RequestTiming
from penstock_runtime.scheduling.base import QueueStats

IDLE = QueueStats(0, 0, 0)
NOW = 50_000_000_000

texts = st.text(st.characters(exclude_categories=["Cs"]))


def parsed(families: list[Family]) -> dict[str, list[tuple[str, dict[str, str], float]]]:
    """Families as an independent reader sees them: per family (sample name, labels, value)."""
    text = render(families).decode()
    # The reader calls every counter's samples `..._total`, as OpenMetrics does; the family is ours.
    return {
        family.name: [(sample.name, sample.labels, sample.value) for sample in family.samples]
        for family in text_string_to_metric_families(text)
    }


def busy(model: str = "m", version: int = 1, **options: bool) -> ModelStatistics:
    """Statistics of a model that had one batch of two, one failure, and one stream."""
    stats = ModelStatistics(model, version, {"team": "a"}, **options)  # type: ignore[arg-type]
    two = [RequestTiming(1_500_000, 300_000), RequestTiming(2_500_000, 700_000)]
    stats.record_batch(2, two, 10_000, 200_000, 30_000)
    stats.record_failure(FailureReason.REJECTED, 9_000)
    stats.record_response(0, 1, 1, "success", first_ns=150_000_000)
    stats.load_seconds = 0.25
    return stats


@given(texts, texts)
def test_any_label_value_and_help_comes_back_as_it_was(value: str, help_: str) -> None:
    """Quotes, backslashes and line ends in names cannot break a line or forge one."""
    family = Family("f", "gauge", help_, (Sample(1, {"model": value}),))

    [read] = text_string_to_metric_families(render([family]).decode().replace("\r", "?"))

    assert read.samples[0].labels == {"model": value.replace("\r", "?")}
    assert render([family]).count(b"\n") == 3


@given(st.lists(st.integers(0, 10**12), max_size=30))
def test_a_histogram_is_cumulative_and_ends_with_its_count(values: list[int]) -> None:
    """Buckets never fall, the last one is +Inf and equals the count, the sum is in the unit."""
    histogram = Histogram()
    histogram.observe_all(values)
    samples = histogram_samples({}, histogram.snapshot().coarsen(EXPORTED_BOUNDS_NS), 1e9)

    read = parsed([Family("h", "histogram", "", samples)])["h"]

    buckets = [(float(labels["le"]), value) for name, labels, value in read if name == "h_bucket"]
    assert buckets == [
        *((ns / 1e9, sum(value <= ns for value in values)) for ns in EXPORTED_BOUNDS_NS),
        (math.inf, len(values)),
    ]
    assert read[-2:] == [("h_sum", {}, sum(values) / 1e9), ("h_count", {}, len(values))]


@given(st.floats())
def test_a_number_is_written_so_that_it_is_read_back_exactly(value: float) -> None:
    """Every float survives, NaN and the infinities included."""
    read = float(number(value))

    assert read == value or (math.isnan(read) and math.isnan(value))


def test_labels_are_in_alphabetical_order() -> None:
    """Equal series have equal text."""
    text = render([Family("f", "counter", "h", (Sample(0, {"version": "1", "model": "m"}),))])

    assert text == b'# HELP f h\n# TYPE f counter\nf{model="m",version="1"} 0\n'


def test_a_name_that_cannot_be_scraped_cannot_be_made() -> None:
    """Metric names keep to the format's alphabet."""
    with pytest.raises(Internal, match="metric name 'a b'"):
        Family("a b", "gauge", "")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("team", "team"),
        ("my-tag", "my_tag"),
        ("9lives", "_9lives"),
        ("", "_"),
        ("model", "exported_model"),
        ("__name__", "exported___name__"),
    ],
)
def test_any_tag_becomes_a_valid_label_that_hides_none_of_ours(name: str, label: str) -> None:
    """metric_tags are free text; labels are not."""
    assert label_name(name, {"model"}) == label


def test_every_failure_reason_is_there_right_after_load() -> None:
    """The first failure must be seen as a rise from zero."""
    read = parsed(model_families([ModelView(ModelStatistics("m", 1).snapshot(), IDLE)], NOW))

    failures = {
        labels["reason"]: value for _, labels, value in read["nv_inference_request_failure"]
    }
    assert failures == {"REJECTED": 0, "CANCELED": 0, "BACKEND": 0, "OTHER": 0}


def test_tritons_families_have_tritons_names_kinds_and_units() -> None:
    """Dashboards made for the reference find what they ask for."""
    view = ModelView(busy(response_cache=True).snapshot(), QueueStats(3, 5, NOW - 2_000_000_000))

    text = render(model_families([view], NOW)).decode()

    labels = '{model="m",team="a",version="1"}'
    for line in (
        f"nv_inference_request_success{labels} 2",
        'nv_inference_request_failure{model="m",reason="REJECTED",team="a",version="1"} 1',
        f"nv_inference_count{labels} 2",
        f"nv_inference_exec_count{labels} 1",
        f"nv_inference_request_duration_us{labels} 4000",
        f"nv_inference_queue_duration_us{labels} 1000",
        f"nv_inference_compute_input_duration_us{labels} 20",
        f"nv_inference_compute_infer_duration_us{labels} 400",
        f"nv_inference_compute_output_duration_us{labels} 60",
        f"nv_inference_pending_request_count{labels} 3",
        f"nv_model_load_duration_secs{labels} 0.25",
        f"nv_cache_num_hits_per_model{labels} 0",
        f"nv_cache_num_misses_per_model{labels} 0",
        f"nv_cache_hit_duration_per_model{labels} 0",
        f"nv_cache_miss_duration_per_model{labels} 0",
        "# TYPE nv_inference_request_success counter",
        "# TYPE nv_inference_pending_request_count gauge",
        f"penstock_queue_requests{labels} 3",
        f"penstock_queue_rows{labels} 5",
        f"penstock_queue_oldest_age_seconds{labels} 2",
    ):
        assert line in text.splitlines()


def test_optional_families_appear_only_when_asked_for() -> None:
    """Summaries, first responses and latency counters follow the options; caches the model."""
    views = [ModelView(busy(decoupled=True).snapshot(), IDLE)]
    everything = MetricsOptions(histogram_latencies=True, summary_latencies=True)

    plain = set(parsed(model_families(views, NOW)))
    bare = set(parsed(model_families(views, NOW, MetricsOptions(counter_latencies=False))))
    full = set(parsed(model_families(views, NOW, everything)))

    phases = ("request", "queue", "compute_input", "compute_infer", "compute_output")
    assert full - plain == {
        "nv_inference_first_response_histogram_ms",
        *(f"nv_inference_{phase}_summary_us" for phase in phases),
    }
    assert plain - bare == {f"nv_inference_{phase}_duration_us" for phase in phases}
    assert not any(name.startswith("nv_cache") for name in full)


def test_the_summaries_of_looks_into_the_cache_are_those_of_models_that_have_one() -> None:
    """Under Triton's names, in microseconds."""
    cached = busy(response_cache=True)
    cached.record_cache_hit(RequestTiming(900_000, 0), 3_000)
    cached.record_cache_miss(5_000)
    views = [ModelView(cached.snapshot(), IDLE)]

    text = render(model_families(views, NOW, MetricsOptions(summary_latencies=True))).decode()

    labels = '{model="m",team="a",version="1"}'
    assert f"nv_cache_hit_summary_per_model_sum{labels} 3" in text
    assert f"nv_cache_miss_summary_per_model_sum{labels} 5" in text
    assert f"nv_cache_miss_summary_per_model_count{labels} 1" in text


def test_a_summary_tells_quantiles_in_microseconds() -> None:
    """A summary's quantiles come from the histograms, sum and count are exact."""
    families = model_families(
        [ModelView(busy().snapshot(), IDLE)], NOW, MetricsOptions(summary_latencies=True)
    )

    read = parsed(families)["nv_inference_request_summary_us"]

    quantiles = {labels["quantile"]: value for _, labels, value in read if "quantile" in labels}
    assert list(quantiles) == ["0.5", "0.9", "0.95", "0.99", "0.999"]
    assert quantiles["0.5"] == pytest.approx(1500, rel=0.3)
    assert [value for name, _, value in read if name.endswith(("_sum", "_count"))] == [4000, 2]


def test_every_phase_has_a_real_histogram() -> None:
    """Each request is counted once per phase, each execution once by its rows."""
    read = parsed(model_families([ModelView(busy(decoupled=True).snapshot(), IDLE)], NOW))

    counts = {
        name: value
        for family in read.values()
        for name, _, value in family
        if name.startswith("penstock") and name.endswith("_count")
    }
    assert counts == {
        "penstock_request_duration_seconds_count": 2,
        "penstock_queue_duration_seconds_count": 2,
        "penstock_compute_input_duration_seconds_count": 2,
        "penstock_compute_infer_duration_seconds_count": 2,
        "penstock_compute_output_duration_seconds_count": 2,
        "penstock_first_response_duration_seconds_count": 1,
        "penstock_batch_rows_count": 1,
    }


def test_the_first_response_histogram_has_the_models_own_buckets() -> None:
    """The bounds are those of the configuration, in milliseconds."""
    stats = ModelStatistics("m", 1, decoupled=True, first_response_ms=(1.5, 100))
    stats.record_response(0, 1, 1, "success", first_ns=2_000_000)
    options = MetricsOptions(histogram_latencies=True)

    read = parsed(model_families([ModelView(stats.snapshot(), IDLE)], NOW, options))

    buckets = [
        (labels.get("le"), v) for _, labels, v in read["nv_inference_first_response_histogram_ms"]
    ]
    assert buckets == [("1.5", 0), ("100", 1), ("+Inf", 1), (None, 2), (None, 1)]


def test_a_version_is_told_once_even_while_two_of_it_exist() -> None:
    """A series that occurs twice would make the scraper refuse everything."""
    old, new = busy(), ModelStatistics("m", 1)

    read = parsed(
        model_families([ModelView(old.snapshot(), IDLE), ModelView(new.snapshot(), IDLE)], NOW)
    )

    assert [value for _, _, value in read["nv_inference_count"]] == [0]


def test_readiness_is_one_or_zero_per_version() -> None:
    """What is in the index and does not serve is told as zero."""
    family = readiness_family([("a", "1", True), ("b", "2", False)])

    assert parsed([family])["penstock_model_ready"] == [
        ("penstock_model_ready", {"model": "a", "version": "1"}, 1),
        ("penstock_model_ready", {"model": "b", "version": "2"}, 0),
    ]


def test_memory_is_told_per_device() -> None:
    """Each device that a version occupies is a series."""
    stats = busy()
    stats.set_memory({"cpu": 10, "cuda:1": 20})

    read = parsed(model_families([ModelView(stats.snapshot(), IDLE)], NOW))

    devices = {labels["device"]: v for _, labels, v in read["penstock_model_memory_bytes"]}
    assert devices == {"CPU:0": 10, "GPU:1": 20}


def test_families_of_one_name_are_told_under_one_heading() -> None:
    """Two sources may feed one family; the format allows its heading only once."""
    registry = MetricsRegistry()
    registry.add_source(lambda: [Family("f", "gauge", "h", (Sample(1, {"a": "1"}),))])
    registry.add_source(lambda: [Family("f", "gauge", "h", (Sample(2, {"a": "2"}),))])

    text = registry.render().decode()

    assert text.startswith('# HELP f h\n# TYPE f gauge\nf{a="1"} 1\nf{a="2"} 2\n')


def test_a_source_that_fails_costs_only_its_own_families(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A scrape survives a broken source, and says that there was one."""
    registry = MetricsRegistry()
    registry.add_source(lambda: [Family("a", "gauge", "")])
    registry.add_source(lambda: [Family("bad", "gauge", "", (Sample(1 / 0),))])
    registry.add_source(lambda: [Family("b", "gauge", "", (Sample(2),))])
    registry.add_source(lambda: [Family("b", "counter", "", (Sample(3),))])

    with caplog.at_level(logging.ERROR):
        read = parsed(registry.collect())

    assert read["b"] == [("b", {}, 2)]
    assert "bad" not in read
    assert read["penstock_metrics_source_errors"][0][2] == 2
    assert "a source of metrics failed" in caplog.text


@given(st.integers(0, 60))
def test_no_more_series_than_the_limit_and_no_histogram_in_pieces(limit: int) -> None:
    """Beyond the cap whole series are left out, and their number is told."""
    snapshot = Histogram([1, 2]).snapshot()
    samples = [histogram_samples({"model": str(index)}, snapshot) for index in range(8)]
    registry = MetricsRegistry(max_series=limit)
    registry.add_source(
        lambda: [Family("h", "histogram", "", tuple(s for group in samples for s in group))]
    )

    families = registry.collect()

    kept = [family for family in families if family.name == "h"]
    told = sum(len(family.samples) for family in kept)
    dropped = next(f for f in families if f.name == "penstock_metrics_dropped_series")
    assert told == min(limit // 5, 8) * 5
    assert dropped.samples[0].value == 40 - told
