"""The soak judges by its figures: laws of what it concludes, and a short run of it."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.soak.look import cpu_s, fields_of, series, sums
from benchmarks.soak.outcome import Outcome
from benchmarks.soak.picture import picture, rates
from benchmarks.soak.tally import MOST_TEXTS, Tally, merged, rows
from benchmarks.soak.verdict import WARM_S, Point, Sample, growth, memory, slope, traces
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
IDLE = Sample(0.0, 60.0, 19, 12, 2, 0, 0, 0, 0, 0, 1.0)
BUSY = replace(IDLE, at_s=10.0, rss_mb=80.0, connections=20, streams=9, calls=900, cpu_s=3.0)


def line(mb_an_hour: float, minutes: int = 30, start_mb: float = 100.0) -> list[Point]:
    """A memory that grows evenly, looked at every ten seconds."""
    return [(10.0 * i, start_mb + mb_an_hour * i / 360) for i in range(minutes * 6)]


def outcome(*samples: Sample, tally: Tally | None = None, executed: int = 0) -> Outcome:
    """The outcome of a load with these samples, after which the server is idle again."""
    return Outcome(IDLE, samples or (BUSY,), IDLE, tally or Tally(), executed, 1.0, 0.1, True)


@given(st.floats(-50, 50), st.sets(st.integers(0, 179), max_size=50))
def test_single_peaks_do_not_move_the_slope(mb_an_hour: float, peaks: set[int]) -> None:
    """A quarter of the points may lie far above the line: most pairs still have its slope."""
    points = [(s, mb + 500 * (i in peaks)) for i, (s, mb) in enumerate(line(mb_an_hour))]

    assert slope(points) * 3600 == pytest.approx(mb_an_hour, abs=1e-6)


@pytest.mark.parametrize(
    ("mb_an_hour", "start_mb", "flat"),
    [(0, 100, True), (9, 100, True), (11, 100, False), (9, 20, False), (-40, 100, True)],
)
def test_memory_is_flat_below_both_bounds(mb_an_hour: float, start_mb: float, flat: bool) -> None:
    """Less than 10 MB an hour, and less than 5 % from the first quarter to the last."""
    assert memory(line(mb_an_hour, 40, start_mb)).flat is flat


def test_what_is_before_the_warm_up_does_not_count() -> None:
    """A server that doubles while it warms up, and then stays, is flat."""
    points = [(s, 50.0 if s < WARM_S else 100.0) for s, _ in line(0)]

    assert memory(points).flat is True
    assert growth(points) == 1.0


def test_a_short_run_judges_no_memory() -> None:
    """Nor does it fail for it, however steep it is."""
    steep = line(10_000, minutes=3)

    assert memory(steep).flat is None
    assert memory([]).flat is None


def test_an_idle_server_shows_no_traces() -> None:
    """Fewer threads than before are none either."""
    assert traces(IDLE, replace(IDLE, threads=3, rss_mb=500.0)) == []


@pytest.mark.parametrize(
    "name",
    [
        "descriptors",
        "threads",
        "tasks",
        "connections",
        "streams",
        "inflight",
        "inflight_bytes",
        "pending",
    ],
)
def test_whatever_is_left_is_named(name: str) -> None:
    """One more than before of anything fails the soak, with its number."""
    left = replace(IDLE, **{name: getattr(IDLE, name) + 1})

    (found,) = traces(IDLE, left)

    assert str(getattr(left, name)) in found


def test_tallies_add_up_and_keep_the_first_texts() -> None:
    """Sums by kind; texts are bounded, counts are not."""
    one, two = Tally(), Tally()
    one.judge("a", "", calls=3)
    for number in range(100):
        two.judge("a", f"problem {number}")

    both = merged((one, two))

    assert (both.calls, both.right["a"], both.wrong["a"]) == (103, 3, 100)
    assert both.texts[0] == "a: problem 0"
    assert len(both.texts) == MOST_TEXTS
    assert rows(both) == [("a", "3", "0", "100")]


def test_a_clean_soak_has_no_problems() -> None:
    """And says so in its row."""
    found = outcome()

    assert found.problems("quiet words") == []
    assert found.finding("soak", []).summary.endswith("clean")


def test_everything_that_went_wrong_fails_the_soak() -> None:
    """A wrong answer, an execution too many, a traceback in the log, a server that is gone."""
    tally = Tally(executed=1)
    tally.judge("kind", "wrong numbers")
    found = replace(outcome(tally=tally, executed=2), alive=False)

    problems = " ".join(found.problems("Traceback (most recent call last):"))

    for word in ("wrong numbers", "2 executions", "Traceback", "ended before its time"):
        assert word in problems


def test_metrics_are_summed_over_their_labels() -> None:
    """Comments do not count, and one label can be picked."""
    page = '# HELP a b\na{model="x",v="1"} 2\na{model="y",v="1"} 3\nb 4.5\n'

    assert dict(sums(page)) == {"a": 5.0, "b": 4.5}
    assert series(page, "a", 'model="y"') == 3.0


def test_this_process_can_be_read() -> None:
    """The pages of /proc have the form that is expected."""
    status = fields_of(Path("/proc/self/status").read_text())

    assert int(status["VmRSS"].split()[0]) > 0
    assert cpu_s(Path("/proc/self/stat").read_text()) >= 0


def test_the_picture_is_a_picture() -> None:
    """Three curves, and rates from one look to the next."""
    samples = [IDLE, BUSY, replace(BUSY, at_s=20.0, calls=1900)]

    drawn = ET.fromstring(picture(samples, "a & b"))

    assert [rate for _, rate in rates(samples)] == [90.0, 100.0]
    assert sum(shape.tag.endswith("polyline") for shape in drawn) == 3


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_short_soak_is_clean() -> None:
    """Half a minute of everything leaves nothing behind."""
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes", "0.5"]

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr
