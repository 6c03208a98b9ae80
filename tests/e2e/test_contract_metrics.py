"""Every family of Triton's on the metrics port: its name, kind and labels, moved by requests."""

import re
from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.asking import page, samples, tensors, write
from tests.e2e.running import Running, ServerThread, options

CODE = """
from penstock import FP32, model


@model(max_batch_size=4)
def counted(X: FP32[1]) -> FP32[1].named("Y"):
    if X[0, 0] < 0:
        raise ValueError("negative")
    return X
"""
CONFIG = """
response_cache { enable: true }
metric_tags { key: "team" value: "blue" }
"""
STREAMED = """
from collections.abc import Iterator

from penstock import FP32, model


@model
def streamed(X: FP32[1]) -> Iterator[FP32[1].named("Y")]:
    yield X
"""
BUCKETS = """
model_metrics {
  metric_control {
    metric_identifier { family: "nv_inference_first_response_histogram_ms" }
    histogram_options { buckets: [ 3, 5 ] }
  }
}
"""
REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
LABELS = '{model="counted",team="blue",version="1"}'
COUNTERS = {
    "nv_inference_request_success": 3,
    "nv_inference_count": 3,
    "nv_inference_exec_count": 2,
    "nv_cache_num_hits_per_model": 1,
    # The one that failed was not found in it either.
    "nv_cache_num_misses_per_model": 3,
}
DURATIONS = (
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us",
    "nv_cache_hit_duration_per_model",
    "nv_cache_miss_duration_per_model",
)
SUMMARIES = (
    "nv_inference_request_summary_us",
    "nv_inference_queue_summary_us",
    "nv_inference_compute_input_summary_us",
    "nv_inference_compute_infer_summary_us",
    "nv_inference_compute_output_summary_us",
    "nv_cache_hit_summary_per_model",
    "nv_cache_miss_summary_per_model",
)
GAUGES = ("nv_inference_pending_request_count", "nv_model_load_duration_secs")
MACHINE = ("nv_cpu_utilization", "nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A model with a cache, asked three times, once for what it has answered already."""
    root = tmp_path_factory.mktemp("metrics")
    write(root, "counted", CODE, CONFIG)
    write(root, "streamed", STREAMED, BUCKETS)
    settings = options(
        [root],
        cache_config=("local,size=1000000",),
        metrics_config=("summary_latencies=true", "histogram_latencies=true"),
    )
    with ServerThread(settings) as made:
        before = samples(made)
        for reason in REASONS:
            assert before[failures(reason)] == 0
        with triton.InferenceServerClient(made.target) as client:
            for value, rows in ((1, 1), (1, 1), (2, 2)):
                client.infer("counted", tensors(X=np.full((rows, 1), value, np.float32)))
            with pytest.raises(triton.InferenceServerException, match="negative"):
                client.infer("counted", tensors(X=np.full((1, 1), -1, np.float32)))
        yield made


def failures(reason: str) -> str:
    """The series of failures for this reason: labels stand in the order of the alphabet."""
    labels = f'model="counted",reason="{reason}",team="blue",version="1"'
    return f"nv_inference_request_failure{{{labels}}}"


def kinds(running: Running) -> dict[str, str]:
    """What each family says that it is."""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", page(running), re.MULTILINE))


@pytest.mark.parametrize(("family", "count"), COUNTERS.items())
def test_a_counter_has_tritons_name_and_counts(running: Running, family: str, count: int) -> None:
    """No `_total` behind it; what came from the cache is a success and no execution."""
    assert samples(running)[family + LABELS] == count
    assert kinds(running)[family] == "counter"


def test_failures_are_there_from_the_start_by_reason(running: Running) -> None:
    """All four with zero right after the load (the fixture looked), then the one that happened."""
    found = {reason: samples(running)[failures(reason)] for reason in REASONS}

    assert found == {"REJECTED": 0, "CANCELED": 0, "BACKEND": 1, "OTHER": 0}
    assert kinds(running)["nv_inference_request_failure"] == "counter"


@pytest.mark.parametrize("family", DURATIONS)
def test_a_duration_is_a_counter_of_microseconds(running: Running, family: str) -> None:
    """Cumulative."""
    assert samples(running)[family + LABELS] >= 0
    assert kinds(running)[family] == "counter"


@pytest.mark.parametrize("family", SUMMARIES)
def test_a_summary_is_there_for_who_switched_it_on(running: Running, family: str) -> None:
    """With Triton's quantiles, a sum and a count."""
    found = samples(running)

    for quantile in ("0.5", "0.9", "0.95", "0.99", "0.999"):
        assert family + LABELS.replace(",team", f',quantile="{quantile}",team') in found
    assert found[f"{family}_count{LABELS}"] > 0
    assert f"{family}_sum{LABELS}" in found
    assert kinds(running)[family] == "summary"


def test_the_first_response_has_the_buckets_of_the_configuration(running: Running) -> None:
    """A histogram in milliseconds."""
    family = "nv_inference_first_response_histogram_ms"
    pattern = rf'^{family}_bucket{{le="([^"]+)",model="streamed"'

    bounds = re.findall(pattern, page(running), re.MULTILINE)

    assert bounds == ["3", "5", "+Inf"]
    assert kinds(running)[family] == "histogram"


@pytest.mark.parametrize("family", GAUGES)
def test_a_gauge_of_a_model_is_there(running: Running, family: str) -> None:
    """How many wait, and how long the load took."""
    assert samples(running)[family + LABELS] >= 0
    assert kinds(running)[family] == "gauge"


@pytest.mark.parametrize("family", MACHINE)
def test_a_gauge_of_the_machine_is_there(running: Running, family: str) -> None:
    """Of its processors and of its memory."""
    assert samples(running)[family] >= 0
    assert kinds(running)[family] == "gauge"


def test_no_caller_makes_a_series(running: Running) -> None:
    """Names are those of loaded models, each once."""
    with triton.InferenceServerClient(running.target) as client:
        assert not client.is_model_ready("made_up")
        with pytest.raises(triton.InferenceServerException):
            client.infer("made_up", tensors(X=np.zeros((1, 1), np.float32)))

    text = page(running)
    assert "made_up" not in text
    assert text.count('nv_inference_count{model="counted"') == 1
