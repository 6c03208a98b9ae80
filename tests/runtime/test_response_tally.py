"""Laws of what is counted of streamed responses: nothing is lost, nothing is counted twice, and no
time is made up.
"""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.observability.response_table import (
    RESPONSE_INDEX_LIMIT,
    ResponseTable,
    Run,
)
from penstock_runtime.observability.response_tally import ResponseTally
from penstock_runtime.observability.snapshot import Duration
from penstock_runtime.observability.statistics import ModelStatistics

TIMES = st.integers(0, 10**12)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """A run as it may come, near the limit of what is kept per index as well."""
    gaps = draw(st.lists(st.integers(0, 1000), min_size=1, max_size=20))
    each = draw(st.integers(0, min(gaps)))
    near = st.integers(RESPONSE_INDEX_LIMIT - 25, RESPONSE_INDEX_LIMIT + 5)
    first = draw(st.integers(1, 5) | near)
    return Run(first, draw(TIMES), gaps, each, draw(TIMES))


def one_by_one(run: Run) -> list[tuple[int, int, int]]:
    """Index, nanoseconds of the model and of the way out of every response of a run."""
    infer = [run.first_ns, *(gap - run.each_ns for gap in run.gaps_ns)]
    output = [*(run.each_ns for _ in run.gaps_ns), run.last_ns]
    indices = range(run.first_index, run.first_index + run.size)
    return list(zip(indices, infer, output, strict=True))


@given(st.lists(runs(), max_size=8))
def test_a_run_counts_as_its_responses_one_by_one(given_runs: list[Run]) -> None:
    """Whatever runs overlap, and wherever they cross the limit."""
    table, careful = ResponseTable(), ResponseTable()

    for run in given_runs:
        table.add_run(run)
        for index, infer_ns, output_ns in one_by_one(run):
            careful.add(index, infer_ns, output_ns, "success")

    assert table.freeze() == careful.freeze()


Look = tuple[int, int, int]
LOOKS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 50), st.integers(0, 50)), min_size=1)


@given(
    LOOKS,
    st.lists(st.integers(0, 100), min_size=200, max_size=200),
    st.integers(0, 4),
    st.integers(0, 10),
)
def test_every_response_and_every_nanosecond_is_told_once(
    looks: Sequence[Look], steps: Sequence[int], rest: int, ending: int
) -> None:
    """Time in the model and on the way out add up to the time until the last was measured."""
    statistics = ModelStatistics("m", 1, decoupled=True)
    tally = ResponseTally(statistics, arrived_ns=5, since_ns=10)
    clock, durations = 10, iter(steps)
    # The first is told alone, as it is to be.
    for count, sending, waiting in [(1, 1, 1), *looks[:30]]:
        for _ in range(count):
            clock += next(durations)
            tally.ready_ns.append(clock)
        tally.tell(clock + sending, clock + sending + waiting)
        clock += sending + waiting

    told, spent = tally.told, total_ns(statistics)
    tally.ready_ns += [clock + 60 * n for n in range(1, rest + 1)]
    end = clock + 60 * rest + ending
    tally.end(end, "empty")

    assert spent == clock - 10
    assert total_ns(statistics) + emptied(statistics) == end - 10
    assert tally.output_ns <= end - 10
    assert tally.told == told + rest == total_count(statistics)
    assert statistics.snapshot().latency.first_response.total == 5 + steps[0]
    assert statistics.snapshot().latency.first_response.count == 1


def total_ns(statistics: ModelStatistics) -> int:
    """Nanoseconds of all responses."""
    responses = statistics.snapshot().response_stats.values()
    assert all(r.compute_infer.ns >= 0 and r.compute_output.ns >= 0 for r in responses)
    return sum(r.success.ns for r in responses)


def emptied(statistics: ModelStatistics) -> int:
    """Nanoseconds of the ends that had no outputs."""
    responses = statistics.snapshot().response_stats.values()
    return sum(r.empty_response.ns for r in responses)


def total_count(statistics: ModelStatistics) -> int:
    """How many responses were counted; every index below has as many as the one above, or more."""
    counts = [r.success.count for r in statistics.snapshot().response_stats.values()]
    assert all(earlier >= later for earlier, later in pairwise(counts))
    return sum(counts)


@pytest.mark.parametrize("index", [RESPONSE_INDEX_LIMIT, 10 * RESPONSE_INDEX_LIMIT])
def test_runs_beyond_the_limit_share_one_entry(index: int) -> None:
    """What is kept per index is bounded however long a stream gets."""
    table = ResponseTable()

    table.add_run(Run(index, 5, [10, 10], 2, 3))

    (entry,) = table.freeze().items()
    assert entry[0] == str(RESPONSE_INDEX_LIMIT)
    assert entry[1].compute_infer == Duration(3, 21)
    assert entry[1].compute_output == Duration(3, 7)
