"""What a reader gets: figures, table, warnings, CSV, ratios, and both kinds of plot."""

import csv
import io
import json
from dataclasses import asdict, replace
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.bars import ASCII, FANCY, Glyphs, draw
from penstock.bench.charts import chart
from penstock.bench.compare import compare, read_rows
from penstock.bench.histogram import Histogram
from penstock.bench.report import csv_of, label_of, ratios_of, table_of, warnings_of
from penstock.bench.sample import Failures, Level, Sample
from penstock.bench.scales import (
    LinearScale,
    LogScale,
    NinesScale,
    amount,
    around,
    duration,
    round_down,
    round_up,
)
from penstock.bench.summary import Summary, summarise

MS = 1_000_000
SVG = "{http://www.w3.org/2000/svg}"


def sample_of(level: Level, latencies: list[int], **more: object) -> Sample:
    """Two seconds with calls of these latencies."""
    histogram = Histogram()
    histogram.add_all(latencies)
    values = {"client_cpu_s": 1.0, "server_cpu_s": 0.5} | more
    return Sample(level, 2 * 10**9, len(latencies), 300, histogram, **values)  # type: ignore[arg-type]


def row_of(level: Level, latencies: list[int], **more: object) -> Summary:
    """The figures of such a sample."""
    return summarise(sample_of(level, latencies, **more), "m", "http2", 1)


def rows_of(*counts: int) -> list[Summary]:
    """Closed loops that get slower with concurrency."""
    return [row_of(Level(n), [n * MS + i * 1000 for i in range(2000)]) for n in counts]


def test_a_sample_becomes_rates_and_percentiles() -> None:
    """Requests over time, CPU over time, requests over CPU; latencies in milliseconds."""
    latencies = [MS] * 99 + [50 * MS]
    row = row_of(Level(4), latencies, errors={"UNAVAILABLE": Failures(2, "busy")})

    assert (row.requests, row.requests_per_s, row.messages_per_s, row.errors) == (100, 50, 150, 2)
    assert [row.p50_ms, row.p99_ms] == pytest.approx([1, 1], rel=0.001)
    assert [row.min_ms, row.max_ms, row.mean_ms] == [1, 50, 1.49]
    assert [row.client_cpu, row.server_cpu, row.requests_per_cpu_s] == [0.5, 0.25, 200]
    assert list(row.latency_curve[-1]) == [1.0, 50]
    assert sum(count for _, count in row.histogram) == 100


def test_a_sample_of_failures_has_no_latencies() -> None:
    """Nothing succeeded, nothing is divided by zero, and all of it can be printed."""
    errors = {"UNAVAILABLE": Failures(3, "busy")}
    row = row_of(Level(1), [], errors=errors, server_cpu_s=None)

    assert [row.requests_per_s, row.p99_ms, row.errors] == [0, 0, 3]
    assert row.server_cpu is None
    assert table_of([row], streamed=True)[1][0][2:9] == ("-",) * 7
    assert draw([row], ["1"], ASCII) == []
    assert "no request succeeded" in chart([row], ["1"], "t")


def test_every_row_is_json_that_can_be_read_again() -> None:
    """No infinity and no NaN, which JSON does not have."""
    rows = [*rows_of(1, 8), row_of(Level(rate=10), [])]

    text = "\n".join(json.dumps(asdict(row), allow_nan=False) for row in rows)

    assert [row["concurrency"] for row in read_rows(text)] == [1, 8, None]
    assert read_rows(json.dumps([asdict(rows[0])]))[0]["model"] == "m"
    with pytest.raises(ValueError, match="expected rows as penstock bench --json prints them"):
        read_rows('{"a": 1}')


def test_the_table_has_a_cell_for_every_column() -> None:
    """With streams and without, closed and open."""
    rows = [*rows_of(1), row_of(Level(rate=1500), [MS])]
    for streamed in (False, True):
        head, lines = table_of(rows, streamed)

        assert {len(head)} == {len(line) for line in lines}
    assert table_of(rows, False)[0][0] == "RATE"
    assert table_of(rows_of(1), False)[0][0] == "IN FLIGHT"


def test_csv_has_the_plain_figures() -> None:
    """A head, and a line for each row."""
    rows = rows_of(1, 8)

    read = list(csv.DictReader(io.StringIO(csv_of(rows))))

    assert [row["concurrency"] for row in read] == ["1", "8"]
    assert float(read[0]["p99_ms"]) == rows[0].p99_ms
    assert "histogram" not in read[0]


def test_the_reader_is_warned() -> None:
    """Of a rate not kept, of a client that is the bottleneck or late, and of every status."""
    late = Histogram()
    late.add_all([3 * MS] * 10)
    errors = {"INTERNAL": Failures(1, "oops"), "UNAVAILABLE": Failures(7, "queue full")}
    rows = [
        row_of(Level(rate=1000), [MS] * 10, unsent=500),
        row_of(Level(32), [MS] * 10, client_cpu_s=1.9),
        row_of(Level(rate=1000), [4 * MS] * 10, lateness=late),
        row_of(Level(1), [MS] * 10, errors=errors),
    ]

    found = warnings_of(rows)

    assert len(found) == 5
    assert "1,000/s: could not keep the rate: 5/s were answered, 500 calls" in found[0]
    assert "32 in flight: this client used 95% of a core" in found[1]
    assert "calls were sent late (p99 3.00 ms)" in found[2]
    assert found[3:] == [
        "1 in flight: 7 x UNAVAILABLE: queue full",
        "1 in flight: 1 x INTERNAL: oops",
    ]
    assert warnings_of(rows_of(1)) == []


def test_rows_are_compared_with_those_of_the_same_load() -> None:
    """New over old; a load that was not measured before has no ratio."""
    old = [asdict(row) for row in rows_of(1, 8)]
    new = [
        replace(rows_of(8)[0], requests_per_s=old[1]["requests_per_s"] * 2),
        row_of(Level(rate=5), [MS]),
    ]

    ratios = compare(new, old)

    assert ratios[0] is not None
    assert ratios[0].values[:2] == (2.0, 1.0)
    assert ratios[1] is None
    head, lines = ratios_of(new, ratios)
    assert lines[0][:3] == ("8 in flight", "2.00x", "1.00x")
    assert lines[1] == ("5/s", *["-"] * (len(head) - 1))


# -- plots -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(1,), (1, 8), (1, 2, 4, 8, 16, 32, 64, 128, 256)])
def test_the_picture_is_a_drawing_with_axes_units_and_a_legend(counts: tuple[int, ...]) -> None:
    """One panel for one load, two for several; everything lies on the page."""
    rows = rows_of(*counts)

    picture = ET.fromstring(chart(rows, [label_of(row) for row in rows], "a <model> & more"))

    texts = [each.text or "" for each in picture.iter(f"{SVG}text")]
    assert "a <model> & more" in texts
    assert "latency, ms (logarithmic)" in texts
    assert sum(text.startswith(f"{counts[0]} in flight: ") for text in texts) == 1
    assert ("Latency over throughput" in texts) is (len(counts) > 1)
    width, height = float(picture.attrib["width"]), float(picture.attrib["height"])
    for curve in picture.iter(f"{SVG}polyline"):
        points = [tuple(map(float, each.split(","))) for each in curve.attrib["points"].split()]
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


def test_the_picture_knows_dark_pages() -> None:
    """Colours for both, chosen by whoever looks."""
    assert "prefers-color-scheme:dark" in chart(rows_of(1), ["x"], "t")


@pytest.mark.parametrize("counts", [(1,), (1, 8, 64)])
def test_plots_of_plain_terminals_are_ascii(counts: tuple[int, ...]) -> None:
    """Nothing else can be relied on there; elsewhere there are blocks."""
    rows = rows_of(*counts)
    labels = [label_of(row) for row in rows]

    assert "\n".join(draw(rows, labels, ASCII)).isascii()
    assert not "\n".join(draw(rows, labels, FANCY)).isascii()


@pytest.mark.parametrize("glyphs", [ASCII, FANCY])
def test_a_bar_for_each_load_stands_on_one_axis(glyphs: Glyphs) -> None:
    """Slower loads reach further right, and no line is longer than the page."""
    rows = rows_of(1, 8, 64)

    lines = draw(rows, [label_of(row) for row in rows], glyphs)

    bars = lines[1:4]
    assert len(bars[0]) < len(bars[1]) < len(bars[2])
    assert max(map(len, lines)) <= 100


@given(st.lists(st.integers(1, 10**10), min_size=1, max_size=200))
def test_any_latencies_can_be_drawn(latencies: list[int]) -> None:
    """Whatever their range, the plots exist and the histogram counts all of them."""
    row = row_of(Level(1), latencies)
    slower = row_of(Level(2), [each * 3 for each in latencies])

    lines = draw([row], ["x"], ASCII)
    counted = sum(int(line.rsplit(" ", 1)[1].replace(",", "")) for line in lines[1:])

    assert counted == len(latencies)
    assert len(lines) <= 25
    assert draw([row, slower], ["x", "y"], FANCY)
    ET.fromstring(chart([row, slower], ["x", "y"], "t"))


# -- scales ----------------------------------------------------------------------------------------


@given(st.floats(1e-6, 1e9), st.floats(1e-6, 1e9))
def test_scales_keep_order_and_stay_on_the_page(a: float, b: float) -> None:
    """Places lie in 0..1, larger values further."""
    low, high = sorted((a, b))
    for scale in (around([low, high]), LinearScale(high), LogScale(low, high * 1.1)):
        assert 0 <= scale(low) <= scale(high) <= 1
        assert all(0 <= scale(tick) <= 1 for tick in scale.ticks())


@given(st.lists(st.floats(1e-6, 1e9), min_size=1))
def test_a_logarithmic_scale_ends_at_round_numbers_around_the_values(values: list[float]) -> None:
    """So that the first and the last tick are its ends."""
    scale = around(values)

    assert scale.low <= min(values) * 1.001
    assert scale.high >= max(values) * 0.999
    assert len(scale.ticks()) >= 2


@given(st.floats(1e-9, 1e12))
def test_rounding_goes_to_the_next_of_one_two_five(value: float) -> None:
    """Up and down, and never far."""
    assert value * 0.999 <= round_up(value) <= value * 2.51
    assert value / 2.51 <= round_down(value) <= value * 1.001


def test_every_nine_takes_as_much_room() -> None:
    """90 %, 99 % and 99.9 % are equally far apart."""
    scale = NinesScale(3)

    assert [scale(share) for share in (0.0, 0.9, 0.99, 0.999, 1.0)] == pytest.approx(
        [0, 1 / 3, 2 / 3, 1, 1]
    )
    assert scale.ticks() == [0.0, 0.5, 0.9, 0.99, 0.999]


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0 ms"), (0.0123, "12.3 us"), (0.25, "0.25 ms"), (12.34, "12.3 ms"), (1500, "1.50 s")],
)
def test_durations_have_three_digits_and_a_unit(ms: float, text: str) -> None:
    """Short enough for a table."""
    assert duration(ms) == text


def test_amounts_are_short() -> None:
    """As on an axis."""
    assert [amount(each) for each in (7, 1500, 20000, 2.5e6)] == ["7", "1.5k", "20k", "2.5M"]
