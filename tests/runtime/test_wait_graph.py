"""Waits that could never end are found; all others are let be."""

from collections.abc import Collection, Mapping

from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.scheduling.rate_limiter import Claim, Resource
from penstock_runtime.scheduling.rates import Rates
from penstock_runtime.wait_graph import Refusal, Search, Waiter, WaitGraph

NAMES = st.sampled_from("abcd")
WAITS = st.dictionaries(NAMES, st.dictionaries(st.integers(0, 2), st.sets(NAMES, min_size=1)))
INSTANCES = st.fixed_dictionaries({name: st.integers(1, 3) for name in "abcd"})
R, S = ("r", None), ("s", None)
NEEDS = st.dictionaries(st.sampled_from([R, S]), st.integers(1, 2))
CLAIMS = st.dictionaries(NAMES, st.fixed_dictionaries(dict.fromkeys(range(3), NEEDS)))
TOTALS = st.fixed_dictionaries({R: st.integers(2, 3), S: st.integers(2, 3)})
Waits = Mapping[str, Mapping[int, Collection[str]]]
Claims = Mapping[str, Mapping[int, Mapping[Resource, int]]]


def present(instances: Mapping[str, int], waits: Waits) -> dict[str, dict[int, Collection[str]]]:
    """The waits of instances that there are."""
    found = {
        model: {i: targets for i, targets in known.items() if i < instances[model]}
        for model, known in waits.items()
    }
    return {model: known for model, known in found.items() if known}


def can_end(
    instances: Mapping[str, int], waits: Waits, claims: Claims, totals: Mapping[Resource, int]
) -> set[str]:
    """The models that execute something sooner or later, by playing it through: one instance after
    the other executes and gives back what it holds.
    """
    free: set[str] = set()
    ended: set[tuple[str, int]] = set()

    def needs(model: str, number: int) -> Mapping[Resource, int]:
        return claims.get(model, {}).get(number, {})

    def fits(model: str, number: int) -> bool:
        held = [needs(m, i) for m, known in waits.items() for i in known if (m, i) not in ended]
        return all(
            count + sum(one.get(resource, 0) for one in held) <= totals[resource]
            for resource, count in needs(model, number).items()
        )

    while True:
        before = len(free), len(ended)
        for model, count in instances.items():
            for number in range(count):
                targets = waits.get(model, {}).get(number)
                if targets is None and fits(model, number):
                    free.add(model)
                elif targets is not None and free.issuperset(targets):
                    free.add(model)
                    ended.add((model, number))
        if before == (len(free), len(ended)):
            return free


@given(INSTANCES, WAITS, CLAIMS, TOTALS)
def test_a_model_is_stuck_exactly_if_it_never_executes_anything(
    instances: dict[str, int], waits: Waits, claims: Claims, totals: dict[Resource, int]
) -> None:
    """Playing through who answers whom, and who gives back what, frees all the others."""
    waits = present(instances, waits)
    there = {m: {i: n for i, n in k.items() if i < instances[m]} for m, k in claims.items()}

    search = Search(
        instances,
        {
            model: {i: Waiter(str(i), dict.fromkeys(targets, 1)) for i, targets in known.items()}
            for model, known in waits.items()
        },
        {model: {str(i): needs for i, needs in known.items()} for model, known in there.items()},
        totals,
    )

    assert search.stuck == set(instances) - can_end(instances, waits, there, totals)


def rated(**needs: Mapping[Resource, int]) -> tuple[Rates, WaitGraph]:
    """A graph of models with one instance each, which need this."""
    rates = Rates()
    graph = WaitGraph(rates)
    for model, claim in needs.items():
        rates.enter(Claim(claim), model, f"{model}_0")
        graph.add_instance(model)
    return rates, graph


def test_who_holds_a_resource_does_not_wait_for_who_needs_it() -> None:
    """Named are the resource, who holds it, and who needs it: directly or by others."""
    _, graph = rated(a={R: 1}, b={}, c={R: 1})

    assert graph.begin("a", 1, ["c"], "a_0") == Refusal("r", "a", "c")
    assert graph.begin("a", 1, ["b"], "a_0") is None
    assert graph.begin("b", 1, ["c"], "b_0") == Refusal("r", "a", "c")
    graph.end("a", 1, ["b"], "a_0")
    assert graph.begin("b", 1, ["c"], "b_0") is None


def test_two_that_hold_what_the_others_calls_need_do_not_both_wait() -> None:
    """The first may wait, since the second would have ended; so it is the second that may not."""
    _, graph = rated(a={R: 1}, b={S: 1}, c={S: 1}, d={R: 1})

    assert graph.begin("a", 1, ["c"], "a_0") is None
    assert graph.begin("b", 1, ["d"], "b_0") == Refusal("r", "a", "d")


def test_where_there_is_enough_for_both_one_may_wait_for_the_other() -> None:
    """What is left counts, not who shares."""
    rates = Rates({R: 2})
    graph = WaitGraph(rates)
    for model in "ab":
        rates.enter(Claim({R: 1}), model, f"{model}_0")
        graph.add_instance(model)

    assert graph.begin("a", 1, ["b"], "a_0") is None


def test_a_circle_is_refused_and_leaves_nothing_behind() -> None:
    """a waits for b, b may not wait for a; once a waits no longer, it may."""
    graph = WaitGraph()
    graph.add_instance("a")
    graph.add_instance("b")

    assert graph.begin("a", 1, ["b"]) is None
    assert graph.begin("b", 1, ["a"]) == Refusal()
    graph.end("a", 1, ["b"])
    assert graph.begin("b", 1, ["a"]) is None
    graph.end("b", 1, ["a"])
    assert repr(graph) == "<WaitGraph 0 waits, 2 models>"


def test_a_second_instance_lets_a_model_call_itself() -> None:
    """Until that one waits as well."""
    graph = WaitGraph()
    graph.add_instance("a")
    graph.add_instance("a")

    assert graph.begin("a", 1, ["a"]) is None
    assert graph.begin("a", 2, ["a"]) == Refusal()


def test_a_model_that_never_waits_is_never_stuck() -> None:
    """Whoever else waits for it."""
    graph = WaitGraph()
    graph.add_instance("a")

    assert graph.begin("a", 1, ["kernel"]) is None
    assert graph.begin("b", 1, ["a", "kernel"]) is None


def test_instances_that_go_are_counted_no_more() -> None:
    """What two could do, one cannot."""
    graph = WaitGraph()
    graph.add_instance("a")
    graph.add_instance("a")
    graph.remove_instance("a")

    assert graph.begin("a", 1, ["a"]) == Refusal()
    graph.remove_instance("a")
    assert repr(graph) == "<WaitGraph 0 waits, 0 models>"
