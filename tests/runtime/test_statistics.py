"""A model's statistics count what happened, each thing once, as Triton counts it."""

import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.errors import FailureReason, InvalidArgument
from penstock_runtime.observability.first_response import (
    FIRST_RESPONSE_BUCKETS_MS,
    FIRST_RESPONSE_FAMILY,
    first_response_bounds,
)
from penstock_runtime.observability.histogram import ROW_BOUNDS
from penstock_runtime.observability.response_table import RESPONSE_INDEX_LIMIT
from penstock_runtime.observability.snapshot import (
    BatchStatistics,
    Duration,
    MemoryUsage,
    ResponseStatistics,
)
from penstock_runtime.observability.statistics import (
    BATCH_SIZE_LIMIT,
    ModelStatistics,
    RequestTiming,
)

EPOCH_NS = 1_700_000_000_123_456_789


def statistics(**options: bool | Sequence[float]) -> ModelStatistics:
    return ModelStatistics("m", 3, wall_clock_ns=lambda: EPOCH_NS, **options)  # type: ignore[arg-type]


timings = st.lists(
    st.builds(
        RequestTiming,
        total_ns=st.integers(0, 10**10),
        queue_ns=st.integers(0, 10**9),
        rows=st.integers(1, 4),
    ),
    min_size=1,
    max_size=8,
)


def test_a_loaded_model_has_every_failure_reason_at_zero() -> None:
    """No reason is missing before its first failure, so the first one is seen as a rise."""
    snapshot = statistics().snapshot()

    assert snapshot.failures == dict.fromkeys(FailureReason, 0)
    assert (snapshot.last_inference_ms, snapshot.inference_count, snapshot.execution_count) == (
        0,
        0,
        0,
    )


@given(st.lists(timings, max_size=6))
def test_rows_executions_and_requests_are_counted_apart(batches: list[list[RequestTiming]]) -> None:
    """inference_count counts rows, execution_count executions, success requests."""
    stats = statistics()

    for batch in batches:
        stats.record_batch(sum(timing.rows for timing in batch), batch, 10, 200, 30)

    snapshot = stats.snapshot()
    requests = [timing for batch in batches for timing in batch]
    assert snapshot.inference_count == sum(timing.rows for timing in requests)
    assert snapshot.execution_count == len(batches) == snapshot.batch_rows.count
    assert snapshot.success == Duration(len(requests), sum(t.total_ns for t in requests))
    assert snapshot.queue == Duration(len(requests), sum(t.queue_ns for t in requests))


def test_each_request_of_a_batch_carries_the_compute_time_of_its_batch() -> None:
    """The compute phases count requests; batch_stats counts executions, per batch size."""
    stats = statistics()
    two = [RequestTiming(1000, 100, 2), RequestTiming(2000, 200, 2)]

    stats.record_batch(4, two, 10, 200, 30)
    stats.record_batch(4, two, 20, 300, 40)
    stats.record_batch(1, two[:1], 1, 2, 3)

    snapshot = stats.snapshot()
    assert snapshot.compute_input == Duration(5, 2 * 10 + 2 * 20 + 1)
    assert snapshot.compute_infer == Duration(5, 2 * 200 + 2 * 300 + 2)
    assert snapshot.compute_output == Duration(5, 2 * 30 + 2 * 40 + 3)
    assert snapshot.batch_stats == (
        BatchStatistics(1, Duration(1, 1), Duration(1, 2), Duration(1, 3)),
        BatchStatistics(4, Duration(2, 30), Duration(2, 500), Duration(2, 70)),
    )
    assert snapshot.latency.compute_infer.count == 5


def test_the_last_inference_is_told_in_milliseconds_since_the_epoch() -> None:
    """The one time on the wall clock is that of the last inference."""
    stats = statistics()

    stats.record_batch(1, [RequestTiming(1, 1)], 1, 1, 1)

    assert stats.snapshot().last_inference_ms == EPOCH_NS // 1_000_000


def test_a_failure_moves_its_reason_and_nothing_of_success() -> None:
    """Exactly one reason rises by one, and fail with it."""
    stats = statistics()

    stats.record_failure(FailureReason.REJECTED, 500)
    stats.record_failure(FailureReason.CANCELED, 70)
    stats.record_failure(FailureReason.CANCELED, 8)

    snapshot = stats.snapshot()
    assert snapshot.failures == {
        FailureReason.REJECTED: 1,
        FailureReason.CANCELED: 2,
        FailureReason.BACKEND: 0,
        FailureReason.OTHER: 0,
    }
    assert snapshot.fail == Duration(3, 578)
    assert (snapshot.success, snapshot.execution_count) == (Duration(), 0)


def test_a_cache_hit_is_a_success_but_no_execution() -> None:
    """Hits count as requests with queue time; rows, executions and compute stay."""
    stats = statistics(response_cache=True)

    stats.record_cache_hit(RequestTiming(900, 40, 2), 15)
    stats.record_cache_miss(25)

    snapshot = stats.snapshot()
    assert (snapshot.success, snapshot.queue) == (Duration(1, 900), Duration(1, 40))
    assert (snapshot.cache_hit, snapshot.cache_miss) == (Duration(1, 15), Duration(1, 25))
    assert (snapshot.inference_count, snapshot.execution_count) == (0, 0)
    assert snapshot.compute_infer == Duration()


def test_responses_are_counted_by_index_and_outcome() -> None:
    """Success and fail last for both phases; empty and cancel for the first alone."""
    stats = statistics(decoupled=True)

    stats.record_response(0, 100, 10, "success", first_ns=250)
    stats.record_response(1, 50, 5, "fail")
    stats.record_response(1, 40, 4, "empty")
    stats.record_response(1, 30, 3, "cancel")

    assert stats.snapshot().response_stats == {
        "0": ResponseStatistics(
            compute_infer=Duration(1, 100), compute_output=Duration(1, 10), success=Duration(1, 110)
        ),
        "1": ResponseStatistics(
            compute_infer=Duration(1, 50),
            compute_output=Duration(1, 5),
            fail=Duration(1, 55),
            empty_response=Duration(1, 40),
            cancel=Duration(1, 30),
        ),
    }


def test_only_first_responses_are_in_their_histograms() -> None:
    """One observation per request that got an answer, over the bounds that were asked for."""
    stats = statistics(decoupled=True, first_response_ms=(1.0, 10.0))

    stats.record_response(0, 1, 1, "success", first_ns=4_000_000)
    stats.record_response(1, 1, 1, "success")

    snapshot = stats.snapshot()
    assert snapshot.latency.first_response.count == 1
    assert snapshot.first_response_buckets.bounds == (1_000_000, 10_000_000)
    assert snapshot.first_response_buckets.counts == (0, 1, 0)


def test_endless_streams_share_one_entry_beyond_the_limit() -> None:
    """What is kept per response index is bounded, every key is a number, and nothing is lost."""
    stats = statistics(decoupled=True)

    for index in range(RESPONSE_INDEX_LIMIT + 50):
        stats.record_response(index, 1, 1, "success")

    responses = stats.snapshot().response_stats
    assert len(responses) == RESPONSE_INDEX_LIMIT + 1
    assert responses[str(RESPONSE_INDEX_LIMIT)].success.count == 50


def test_batch_sizes_beyond_the_limit_are_counted_under_powers_of_two() -> None:
    """What is kept per batch size is bounded, and every execution is in it."""
    stats = statistics()
    sizes = range(1, 3 * BATCH_SIZE_LIMIT)

    for rows in sizes:
        stats.record_batch(rows, [RequestTiming(1, 1, rows)], 1, 1, 1)

    batches = stats.snapshot().batch_stats
    assert [b.batch_size for b in batches] == [*range(1, BATCH_SIZE_LIMIT + 1), 2048, 4096]
    assert sum(b.compute_infer.count for b in batches) == len(sizes)
    assert stats.snapshot().batch_rows.bounds == ROW_BOUNDS


def test_memory_is_told_per_device_in_tritons_words() -> None:
    """Devices in torch's words become a kind and an ordinal."""
    stats = statistics()

    stats.set_memory({"cuda:1": 300, "cpu": 100})

    assert stats.snapshot().memory_usage == (MemoryUsage("CPU", 0, 100), MemoryUsage("GPU", 1, 300))


def test_a_snapshot_does_not_change_with_what_follows() -> None:
    """Whoever holds a snapshot may keep it."""
    stats = statistics()
    before = stats.snapshot()

    stats.record_batch(1, [RequestTiming(1, 1)], 1, 1, 1)
    stats.record_response(0, 1, 1, "success")
    stats.record_failure(FailureReason.OTHER, 1)

    assert before == statistics().snapshot()


def test_threads_lose_no_counts() -> None:
    """Counting from many threads at once adds up."""
    stats = statistics()

    def work() -> None:
        for _ in range(500):
            stats.record_batch(2, [RequestTiming(5, 1), RequestTiming(5, 1)], 1, 1, 1)
            stats.record_failure(FailureReason.BACKEND, 1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    snapshot = stats.snapshot()
    assert (snapshot.inference_count, snapshot.execution_count) == (4000, 2000)
    assert snapshot.success == Duration(4000, 20000)
    assert snapshot.failures[FailureReason.BACKEND] == 2000


def test_a_configuration_may_choose_the_buckets_of_first_responses() -> None:
    """model_metrics is read under its own names and in camel case; silence means the defaults."""
    snake = {
        "metric_control": [
            {
                "metric_identifier": {"family": FIRST_RESPONSE_FAMILY},
                "histogram_options": {"buckets": [500, 1.5]},
            }
        ]
    }
    camel = {
        "metricControl": [
            {
                "metricIdentifier": {"family": FIRST_RESPONSE_FAMILY},
                "histogramOptions": {"buckets": [7]},
            }
        ]
    }

    assert first_response_bounds(snake) == (1.5, 500.0)
    assert first_response_bounds(camel) == (7.0,)
    assert first_response_bounds(None) == FIRST_RESPONSE_BUCKETS_MS


@pytest.mark.parametrize("bucket", [0, -1, float("nan"), float("inf"), "100"])
def test_a_bucket_that_is_no_positive_number_is_refused(bucket: object) -> None:
    """The error names the bucket and what was expected."""
    configured = {
        "metric_control": [
            {
                "metric_identifier": {"family": FIRST_RESPONSE_FAMILY},
                "histogram_options": {"buckets": [bucket]},
            }
        ]
    }

    with pytest.raises(InvalidArgument, match="must be a positive number of milliseconds"):
        first_response_bounds(configured)
