"""Memory of requests is bounded, and every byte that was taken is given back."""

from hypothesis import given
from hypothesis import strategies as st

from penstock.limits import ByteBudget, default_inflight_bytes, memory_bytes
from penstock_runtime.errors import ResourceExhausted


def taken(budget: ByteBudget, size: int) -> bool:
    """Whether the budget lets a request of this size in."""
    try:
        budget.take(size)
    except ResourceExhausted:
        return False
    return True


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 200)), max_size=50))
def test_a_budget_never_holds_more_than_its_limit_but_for_one_alone(
    steps: list[tuple[bool, int]],
) -> None:
    """Whatever comes and goes: used is the sum of what is inside, and bounded."""
    budget, inside = ByteBudget(100), []

    for come, size in steps:
        if come:
            if taken(budget, size):
                inside.append(size)
            else:
                assert sum(inside) + size > 100
        elif inside:
            budget.give(inside.pop())

        assert budget.used == sum(inside)
        assert budget.used <= 100 or sum(size > 0 for size in inside) == 1


def test_the_default_leaves_most_of_the_memory_to_others() -> None:
    """At most half of what this process may use."""
    assert 0 < default_inflight_bytes() <= memory_bytes() // 2
