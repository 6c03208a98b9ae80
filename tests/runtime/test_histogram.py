"""Histograms lose nothing but resolution, and say how much of it."""

import math
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.errors import Internal
from penstock_runtime.observability.histogram import (
    DURATION_BOUNDS_NS,
    EXPORTED_BOUNDS_NS,
    Histogram,
    HistogramSnapshot,
)

durations = st.integers(min_value=0, max_value=10**13)


def filled(values: list[int]) -> HistogramSnapshot:
    histogram = Histogram()
    histogram.observe_all(values)
    return histogram.snapshot()


@given(st.lists(durations))
def test_every_value_is_counted_in_the_bucket_that_contains_it(values: list[int]) -> None:
    """A bucket holds the values above the bound before it, up to and including its own."""
    snapshot = filled(values)

    expected = [0] * (len(DURATION_BOUNDS_NS) + 1)
    for value in values:
        expected[bisect_left(DURATION_BOUNDS_NS, value)] += 1
    assert list(snapshot.counts) == expected
    assert (snapshot.count, snapshot.total) == (len(values), sum(values))


@given(durations, st.integers(min_value=1, max_value=64))
def test_a_weight_is_that_many_observations(value: int, weight: int) -> None:
    """Observing once with a weight equals observing that often."""
    histogram = Histogram()

    histogram.observe(value, weight)

    assert histogram.snapshot() == filled([value] * weight)


@given(st.lists(durations), st.lists(durations))
def test_merging_equals_having_observed_everything_in_one(a: list[int], b: list[int]) -> None:
    """Histograms of threads or processes add up exactly."""
    merged = filled(a).merge(filled(b))

    assert merged == filled(a + b)


@given(st.lists(durations))
def test_coarsening_keeps_the_cumulative_count_at_every_bound_kept(values: list[int]) -> None:
    """What is exported tells the same as what was counted, at fewer points."""
    fine = filled(values)

    coarse = fine.coarsen(EXPORTED_BOUNDS_NS)

    assert coarse.bounds == EXPORTED_BOUNDS_NS
    assert coarse.cumulative() == (
        *(sum(value <= bound for value in values) for bound in EXPORTED_BOUNDS_NS),
        len(values),
    )
    assert coarse.total == fine.total


@given(st.lists(st.integers(min_value=1001, max_value=10**11), min_size=1), st.floats(0, 1))
def test_a_quantile_is_right_to_the_width_of_its_bucket(values: list[int], q: float) -> None:
    """A bound is at most 1.28 times the one before, so no quantile is further off."""
    estimate = filled(values).quantile(q)

    exact = sorted(values)[max(math.ceil(q * len(values)) - 1, 0)]
    assert exact / 1.29 <= estimate <= exact * 1.29


def test_the_quantile_of_nothing_is_not_a_number() -> None:
    """An empty histogram has no quantiles."""
    assert math.isnan(filled([]).quantile(0.5))


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    """What is too large to tell apart is reported as the largest that can be told."""
    assert filled([10**15]).quantile(0.99) == DURATION_BOUNDS_NS[-1]


@pytest.mark.parametrize("bounds", [[2, 1], [1, 1]])
def test_bounds_must_increase(bounds: list[int]) -> None:
    """A histogram whose bounds do not increase cannot be made."""
    with pytest.raises(Internal, match="must increase"):
        Histogram(bounds)


def test_histograms_of_different_bounds_do_not_mix() -> None:
    """Merging over other bounds, or coarsening to unknown ones, is refused."""
    other = Histogram([1, 2]).snapshot()

    with pytest.raises(Internal, match="bounds must be equal"):
        filled([]).merge(other)
    with pytest.raises(Internal, match="bound 3 is not one of"):
        other.coarsen([1, 3])
