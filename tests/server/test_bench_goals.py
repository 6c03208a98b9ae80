"""Service levels, and the search for the highest rate that meets them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.histogram import Histogram
from penstock.bench.sample import Failures, Level, Sample
from penstock.bench.search import RateSearch, round_rate
from penstock.bench.slo import judge, parse_slo
from penstock.bench.summary import summarise

MS = 1_000_000


def sample_of(latencies: list[int], failed: int = 0, unsent: int = 0) -> Sample:
    """A second with calls of these latencies."""
    histogram, first = Histogram(), Histogram()
    histogram.add_all(latencies)
    first.add_all([MS])
    errors = {"UNAVAILABLE": Failures(failed, "busy")} if failed else {}
    return Sample(
        Level(rate=1),
        10**9,
        len(latencies),
        0,
        histogram,
        first=first,
        errors=errors,
        unsent=unsent,
    )


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("p99<20ms", True),
        ("p99<9ms", False),
        ("p50<=1.01ms", True),
        ("max<10ms", True),
        ("mean<1090us", True),
        ("mean<1.08ms", False),
        ("p99.9<0.02s", True),
        ("errors<0%", True),
        ("rate>100", True),
        ("rate>=101/s", False),
        ("first.p99<2ms", True),
        ("p99 < 20 ms, errors < 1%", True),
        ("p99<20ms,p50<0.5ms", False),
    ],
)
def test_a_service_level_is_met_or_not(text: str, met: bool) -> None:
    """99 calls of 1 ms and one of 10 ms."""
    sample = sample_of([MS] * 98 + [10 * MS] * 2 if "p99<9" in text else [MS] * 99 + [10 * MS])

    verdicts = judge(parse_slo(text), sample)

    assert all(verdict.met for verdict in verdicts) is met


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("p99", "'p99' is no limit, expected terms like p99<20ms"),
        ("p99<20", "has the unit '', expected us or ms or s for p99"),
        ("errors<3", "has the unit '', expected % for errors"),
        ("p99<20ms,", "'' is no limit"),
        ("p100<1ms", "is no limit"),
        ("speed>3", "is no limit"),
    ],
)
def test_a_term_that_is_none_is_named(text: str, says: str) -> None:
    """The message has the term and what was expected."""
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        parse_slo(text)


def test_a_percentile_of_a_goal_is_exactly_the_one_that_it_says() -> None:
    """Of the values 1 to 1000 the p of k tenths of a percent is k: no rounding adds a rank."""
    tenths = range(1, 1000)
    goals = ",".join(f"p{k / 10}<1s" for k in tenths)

    verdicts = judge(parse_slo(goals), sample_of(list(range(1, 1001))))

    assert [verdict.value for verdict in verdicts] == list(tenths)


def test_a_goal_and_the_table_mean_the_same_percentile() -> None:
    """What the table shows is what the goal is held against."""
    sample = sample_of([n * MS for n in range(1, 1001)])

    row = summarise(sample, "m", "http2", 1)
    verdicts = judge(parse_slo("p50<1s,p90<1s,p95<1s,p99<1s,p99.9<1s"), sample)

    table = [row.p50_ms, row.p90_ms, row.p95_ms, row.p99_ms, row.p999_ms]
    assert [verdict.value / 1e6 for verdict in verdicts] == table


@pytest.mark.parametrize("unsent", [0, 2])
def test_calls_that_failed_or_were_never_sent_are_later_than_any_limit(unsent: int) -> None:
    """Errors cannot buy a good percentile."""
    sample = sample_of([MS] * 98, failed=2 - unsent, unsent=unsent)

    p99, p90, errors = judge(parse_slo("p99<1s,p90<2ms,errors<1%"), sample)

    assert not p99.met
    assert "never" in str(p99)
    assert p90.met
    assert errors.value == pytest.approx(0.02)


def test_nothing_measured_meets_nothing() -> None:
    """A window in which no call was due is no success."""
    verdicts = judge(parse_slo("p99<1s,mean<1s,max<1s,gap.p50<1s,errors<1%"), sample_of([]))

    assert not any(verdict.met for verdict in verdicts)


@given(st.floats(1, 1e6), st.floats(1, 1e6))
def test_the_search_finds_the_threshold(threshold: float, guess: float) -> None:
    """Whatever the first guess, the best rate meets the condition and 10 % more do not."""
    search = RateSearch(guess, most_trials=60)
    while (rate := search.next_rate()) is not None:
        search.tell(rate, met=rate <= threshold)

    best = search.best
    assert len(search.trials) <= 45
    assert best is None or threshold / 1.1 - 1 <= best <= threshold
    assert best is not None or threshold < 2


def test_the_search_learns_from_what_was_answered() -> None:
    """A rate far above what the server can do is not approached by halves."""
    search = RateSearch(1e6)
    search.tell(1e6, met=False, answered=1000.0)

    assert search.next_rate() == 1000.0


def test_the_search_gives_up() -> None:
    """After so many trials the best so far stands."""
    search = RateSearch(1000, most_trials=3)
    while (rate := search.next_rate()) is not None:
        search.tell(rate, met=True)

    assert len(search.trials) == 3
    assert search.best == 4000


@pytest.mark.parametrize(
    ("rate", "rounded"), [(12345.0, 12300), (7.4, 7), (0.25, 0.25), (999.6, 1000)]
)
def test_rates_to_try_are_round(rate: float, rounded: float) -> None:
    """Three digits are enough, and easier to read."""
    assert round_rate(rate) == rounded
