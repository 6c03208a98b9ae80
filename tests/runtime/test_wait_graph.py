"""Waits that could never end are found; all others are let be."""

from collections.abc import Collection, Mapping

from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.wait_graph import WaitGraph, stuck

NAMES = st.sampled_from("abcd")
WAITS = st.dictionaries(NAMES, st.dictionaries(st.integers(0, 2), st.sets(NAMES, min_size=1)))
INSTANCES = st.fixed_dictionaries({name: st.integers(1, 3) for name in "abcd"})


def can_end(
    instances: Mapping[str, int], waits: Mapping[str, Mapping[object, Collection[str]]]
) -> set[str]:
    """The models that execute something sooner or later, by playing it through."""
    free: set[str] = set()
    while True:
        before = set(free)
        for model, count in instances.items():
            known = waits.get(model, {})
            idle = len(known) < count
            if idle or any(free.issuperset(targets) for targets in known.values()):
                free.add(model)
        if free == before:
            return free


@given(INSTANCES, WAITS)
def test_a_model_is_stuck_exactly_if_it_never_executes_anything(
    instances: dict[str, int], waits: dict[str, dict[object, set[str]]]
) -> None:
    """Playing through who answers whom frees all the others."""
    present = {
        model: {i: targets for i, targets in known.items() if int(str(i)) < instances[model]}
        for model, known in waits.items()
    }
    present = {model: known for model, known in present.items() if known}

    assert stuck(instances, present) == set(instances) - can_end(instances, present)


def test_a_circle_is_refused_and_leaves_nothing_behind() -> None:
    """a waits for b, b may not wait for a; once a waits no longer, it may."""
    graph = WaitGraph()
    graph.add_instance("a")
    graph.add_instance("b")

    assert graph.begin("a", 1, ["b"])
    assert not graph.begin("b", 1, ["a"])
    graph.end("a", 1, ["b"])
    assert graph.begin("b", 1, ["a"])
    graph.end("b", 1, ["a"])
    assert repr(graph) == "<WaitGraph 0 waits, 2 models>"


def test_a_second_instance_lets_a_model_call_itself() -> None:
    """Until that one waits as well."""
    graph = WaitGraph()
    graph.add_instance("a")
    graph.add_instance("a")

    assert graph.begin("a", 1, ["a"])
    assert not graph.begin("a", 2, ["a"])


def test_a_model_that_never_waits_is_never_stuck() -> None:
    """Whoever else waits for it."""
    graph = WaitGraph()
    graph.add_instance("a")

    assert graph.begin("a", 1, ["kernel"])
    assert graph.begin("b", 1, ["a", "kernel"])


def test_instances_that_go_are_counted_no_more() -> None:
    """What two could do, one cannot."""
    graph = WaitGraph()
    graph.add_instance("a")
    graph.add_instance("a")
    graph.remove_instance("a")

    assert not graph.begin("a", 1, ["a"])
    graph.remove_instance("a")
    assert repr(graph) == "<WaitGraph 0 waits, 0 models>"
