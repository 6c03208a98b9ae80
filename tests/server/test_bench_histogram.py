"""Latencies in bounded memory."""

from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.histogram import MOST_NS, PRECISION_BITS, Histogram, Recorder

VALUES = st.lists(
    st.one_of(
        st.integers(0, 3000), st.integers(0, MOST_NS), st.integers(1, 40).map(lambda n: 2**n)
    ),
    min_size=1,
)


def histogram_of(values: list[int]) -> Histogram:
    """A histogram of these values."""
    made = Histogram()
    made.add_all(values)
    return made


@given(VALUES, st.floats(0, 1))
def test_a_percentile_is_never_below_the_exact_one_and_hardly_above(
    values: list[int], share: float
) -> None:
    """The error is at most 1/1024 of the value, whatever the values and the share."""
    exact = sorted(values)[max(ceil(share * len(values)), 1) - 1]

    found = histogram_of(values).percentile(share)

    assert exact <= found <= exact * (1 + 2**-PRECISION_BITS)


@given(VALUES)
def test_count_mean_least_and_most_are_exact(values: list[int]) -> None:
    """What needs no buckets does not suffer from them."""
    found = histogram_of(values)

    assert (found.count, found.total) == (len(values), sum(values))
    assert (found.least, found.most) == (min(values), max(values))
    assert found.mean == pytest.approx(sum(values) / len(values))
    assert found.percentile(1.0) == max(values)


@given(VALUES, VALUES)
def test_values_may_come_in_any_portions(some: list[int], more: list[int]) -> None:
    """Two portions are as good as one."""
    apart = histogram_of(some)
    apart.add_all(more)
    together = histogram_of(some + more)

    shares = (0.0, 0.3, 0.5, 0.99, 1.0)
    assert apart.percentiles(shares) == together.percentiles(shares)
    assert apart.bins() == together.bins()


@given(VALUES, st.integers(1, 20))
def test_bins_hold_every_value_once(values: list[int], an_octave: int) -> None:
    """The bins follow each other without a gap, and their counts add up."""
    bins = histogram_of(values).bins(an_octave)

    assert sum(each.count for each in bins) == len(values)
    assert all(a.high == b.low for a, b in pairwise(bins))
    assert bins[0].low <= max(min(values), 1) * (1 + 2**-PRECISION_BITS)


@given(st.lists(st.integers(0, 1000), max_size=50), st.integers(1, 50), st.floats(0, 1))
def test_values_beyond_all_push_percentiles_up(
    values: list[int], beyond: int, share: float
) -> None:
    """What failed is slower than any: a percentile that falls among it is infinite."""
    found = histogram_of(values).percentile(share, beyond)

    rank = max(ceil(share * (len(values) + beyond)), 1)
    assert (found == float("inf")) is (rank > len(values))


def test_nothing_has_no_latency() -> None:
    """An empty histogram answers 0 and has no shape."""
    empty = Histogram()
    empty.add_all([])

    assert (empty.percentile(0.99), empty.mean, empty.bins()) == (0.0, 0.0, [])


def test_what_is_out_of_range_is_kept_within_it() -> None:
    """Negative values count as 0, and what is longer than all buckets still has its maximum."""
    found = histogram_of([-5, 2**50])

    assert (found.least, found.most, found.count) == (0, 2**50, 2)
    assert found.percentile(0.5) == 0


def test_a_recorder_is_a_histogram_whose_memory_does_not_grow() -> None:
    """A million values that come one by one leave a few thousand numbers behind."""
    recorder, most = Recorder(), 0
    values = np.random.default_rng(0).integers(0, 10**9, 100_000).tolist()
    for number, value in enumerate(values):
        recorder.add(value)
        if number % 50 == 0:
            recorder.fold()
            most = max(most, len(recorder._fresh))

    assert most < 5000
    assert recorder.histogram.count == len(values)
    assert recorder.histogram.percentile(0.5) == histogram_of(values).percentile(0.5)
