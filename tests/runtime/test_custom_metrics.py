"""Metrics that models make: what they count, whose they are, how many there may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from penstock_runtime.errors import InvalidArgument, ResourceExhausted
from penstock_runtime.observability.custom_metrics import CustomMetrics
from penstock_runtime.observability.metrics import render

VALUES = st.lists(st.floats(-1e6, 1e6), max_size=30)


@given(VALUES)
def test_a_histogram_tells_prometheus_what_it_saw(values: list[float]) -> None:
    """Cumulative buckets, sum and count, in the text that is scraped."""
    metrics = CustomMetrics()
    family = ("sizes", "histogram", "Sizes")
    made = metrics.metric("m", family, {"a": "b"}, (0.0, 10.0))  # type: ignore[arg-type]

    for value in values:
        made.observe(value)

    (found,) = text_string_to_metric_families(render(metrics.families()).decode())
    told = {(s.name, s.labels.get("le")): s.value for s in found.samples}
    assert told["sizes_bucket", "0"] == sum(value <= 0 for value in values)
    assert told["sizes_bucket", "10"] == sum(value <= 10 for value in values)
    assert told["sizes_bucket", "+Inf"] == told["sizes_count", None] == len(values)
    assert told["sizes_sum", None] == pytest.approx(sum(values))


def test_the_same_name_and_labels_are_one_metric_until_all_owners_are_gone() -> None:
    """A reloaded version goes on with the count of the one that it replaces."""
    metrics = CustomMetrics()
    old = metrics.metric("old", ("n", "counter", ""), {"a": "1"})
    old.increment(2)
    new = metrics.metric("new", ("n", "counter", ""), {"a": "1"})

    metrics.release("old")
    new.increment(1)

    assert new.value() == 3
    assert len(metrics.families()) == 1
    metrics.release("new")
    assert metrics.families() == []


def test_there_is_no_more_than_a_bounded_number() -> None:
    """One more is refused, and what goes makes room."""
    metrics = CustomMetrics(most=2)
    for label in "ab":
        metrics.metric(label, ("n", "gauge", ""), {"label": label})

    with pytest.raises(ResourceExhausted, match="more than 2"):
        metrics.metric("c", ("n", "gauge", ""), {"label": "c"})
    metrics.release("a")
    metrics.metric("c", ("n", "gauge", ""), {"label": "c"})


@pytest.mark.parametrize(
    ("name", "kind", "labels", "bounds", "words"),
    [
        ("a b", "counter", {}, (), "does not match"),
        ("nv_inference_count", "counter", {}, (), "kept for the server's own"),
        ("n", "counter", {"le": "1"}, (), "cannot have a label 'le'"),
        ("n", "counter", {"a": "x" * 2000}, (), "has 2000 characters"),
        ("n", "counter", {str(i): "" for i in range(17)}, (), "has 17 labels"),
        ("n", "counter", {}, (1.0,), "has 1 buckets, expected none"),
        ("n", "histogram", {}, (), "has 0 buckets, expected some"),
        ("n", "histogram", {}, (1.0, 1.0), "in ascending order"),
    ],
)
def test_what_would_break_a_scrape_is_refused(
    name: str, kind: str, labels: dict[str, str], bounds: tuple[float, ...], words: str
) -> None:
    """Names, labels and buckets that Prometheus does not take, or that are the server's."""
    metrics = CustomMetrics()

    with pytest.raises(InvalidArgument, match=words):
        metrics.metric("m", (name, kind, ""), labels, bounds)  # type: ignore[arg-type]


def test_a_name_has_one_kind_and_one_set_of_buckets() -> None:
    """Whoever uses it for another is told."""
    metrics = CustomMetrics()
    metrics.metric("m", ("n", "histogram", ""), {}, (1.0,))

    with pytest.raises(InvalidArgument, match="is a histogram already"):
        metrics.declare("n", "gauge", "")
    with pytest.raises(InvalidArgument, match="has buckets"):
        metrics.metric("m", ("n", "histogram", ""), {}, (2.0,))


def test_each_kind_does_what_it_can() -> None:
    """A counter only grows, a gauge is set, a histogram observes."""
    metrics = CustomMetrics()
    counter = metrics.metric("m", ("c", "counter", ""), {})
    gauge = metrics.metric("m", ("g", "gauge", ""), {})
    histogram = metrics.metric("m", ("h", "histogram", ""), {}, (1.0,))

    gauge.set(5)
    gauge.increment(-2)

    assert gauge.value() == 3
    for wrong in (
        lambda: counter.increment(-1),
        lambda: counter.set(1),
        lambda: gauge.observe(1),
        histogram.value,
    ):
        with pytest.raises(InvalidArgument):
            wrong()
