"""When the calls of an open loop are due."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.schedule import CHUNK, FixedArrivals, Kind, PoissonArrivals, Schedule, arrivals

S = 1_000_000_000
RATES = st.integers(1, 10**6)


@given(RATES, st.integers(0, 3))
def test_calls_of_a_fixed_rate_are_due_exactly_without_drift(rate: int, chunks: int) -> None:
    """Call i is due at i / rate rounded down to a nanosecond, however late in the run."""
    source = FixedArrivals(rate)
    for _ in range(chunks):
        source.chunk()

    found = source.chunk()

    assert found == [i * S // rate for i in range(chunks * CHUNK, (chunks + 1) * CHUNK)]


@given(st.integers(1, 2000))
def test_a_second_of_a_fixed_rate_has_that_many_calls(rate: int) -> None:
    """Neither one more nor one less, in any second."""
    schedule = Schedule(FixedArrivals(rate), origin=5)

    assert [schedule.skip(5 + second * S) for second in (1, 2, 3)] == [rate] * 3


def test_rates_below_one_and_between_numbers_are_kept() -> None:
    """A call every four seconds; two every three."""
    assert FixedArrivals(0.25).chunk()[:3] == [0, 4 * S, 8 * S]
    assert FixedArrivals(2 / 3).chunk()[:5] == [0, 3 * S // 2, 3 * S, 9 * S // 2, 6 * S]
    with pytest.raises(ValueError, match="is too small"):
        FixedArrivals(1e-9)


def test_poisson_arrivals_have_the_rate_and_the_spread_of_independent_callers() -> None:
    """Counts of equal windows have the rate as mean, and their variance is their mean."""
    schedule = Schedule(PoissonArrivals(100.0, seed=3), origin=0)

    counts = [schedule.skip(second * S) for second in range(1, 401)]

    mean = sum(counts) / len(counts)
    variance = sum((count - mean) ** 2 for count in counts) / len(counts)
    assert abs(mean - 100) < 3
    assert 0.75 < variance / mean < 1.3


def test_poisson_arrivals_follow_from_their_seed() -> None:
    """The same seed gives the same times, another one others."""
    same, again, other = (PoissonArrivals(1e4, seed) for seed in (1, 1, 2))

    assert same.chunk() + same.chunk() == again.chunk() + again.chunk()
    assert other.chunk() != PoissonArrivals(1e4, 1).chunk()


@given(
    st.sampled_from(["fixed", "poisson"]),
    st.floats(0.5, 1e6),
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 3000)), max_size=30),
)
def test_what_is_taken_is_due_in_order_and_never_twice(
    kind: Kind, rate: float, steps: list[tuple[int, int]]
) -> None:
    """However it is asked, the calls come out as the arrivals have them, none before its time."""
    schedule, reference = Schedule(arrivals(kind, rate), 7), arrivals(kind, rate)
    now, taken = 0, list[int]()
    for step, most in steps:
        now += step
        found = schedule.take(now, most)
        assert len(found) <= most
        assert all(due <= now for due in found)
        taken += found

    expected = [7 + each for _ in range(len(taken) // CHUNK + 1) for each in reference.chunk()]
    assert taken == expected[: len(taken)]
    assert all(before <= after for before, after in pairwise(taken))
    assert schedule.next_due == expected[len(taken)] if len(taken) < len(expected) else True


def test_an_hour_of_a_high_rate_takes_no_more_memory_than_a_second() -> None:
    """The schedule holds one chunk, whatever it has passed over."""
    schedule = Schedule(FixedArrivals(1e6), origin=0)

    schedule.skip(S // 10)

    assert len(schedule._chunk) == CHUNK
