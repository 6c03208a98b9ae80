"""Laws of answers in the order of arrival."""

import threading
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.scheduling.ordering import OrderKeeper


@dataclass(frozen=True, slots=True)
class Numbered:
    """A request."""

    order: int
    depth: int = 0


@given(st.permutations(range(8)))
def test_answers_are_given_in_order_whatever_is_done_first(done: list[int]) -> None:
    """Each once, as soon as those before it have been."""
    keeper, given_ = OrderKeeper(), list[int]()
    for number in range(8):
        keeper.enter(Numbered(number))

    for at, number in enumerate(done, 1):
        keeper.answer(Numbered(number), partial(given_.append, number))
        due = next(n for n in range(9) if n not in done[:at])
        assert given_ == list(range(due))


def test_an_answer_may_answer_another() -> None:
    """One that follows from it is given after it, in order."""
    keeper, given_ = OrderKeeper(), list[int]()
    for number in range(3):
        keeper.enter(Numbered(number))

    def first() -> None:
        keeper.answer(Numbered(2), lambda: given_.append(2))
        keeper.answer(Numbered(1), lambda: given_.append(1))
        given_.append(0)

    keeper.answer(Numbered(0), first)

    assert given_ == [0, 1, 2]


def test_an_answer_that_fails_keeps_no_other_back() -> None:
    """The next one that is done is given."""
    keeper, given_ = OrderKeeper(), list[int]()
    for number in range(2):
        keeper.enter(Numbered(number))

    with pytest.raises(ZeroDivisionError):
        keeper.answer(Numbered(0), lambda: 1 / 0)
    keeper.answer(Numbered(1), lambda: given_.append(1))

    assert given_ == [1]


def test_keepers_that_answer_into_each_other_do_not_wait_for_each_other() -> None:
    """As with two ensembles of the same two models, in either order."""
    one, two, given_ = OrderKeeper(), OrderKeeper(), list[str]()
    both = threading.Barrier(2)
    for keeper in (one, two):
        for number in range(2):
            keeper.enter(Numbered(number))

    def cross(own: OrderKeeper, other: OrderKeeper, name: str) -> None:
        def answer() -> None:
            both.wait(10)
            other.answer(Numbered(1), lambda: given_.append(name))

        own.answer(Numbered(0), answer)

    threads = [
        threading.Thread(target=cross, args=arguments, daemon=True)
        for arguments in ((one, two, "a"), (two, one, "b"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert not any(thread.is_alive() for thread in threads)
    assert sorted(given_) == ["a", "b"]


def test_a_request_that_another_makes_does_not_wait_for_it() -> None:
    """Those of one depth wait for each other."""
    keeper, given_ = OrderKeeper(), list[int]()
    requests = [Numbered(0), Numbered(1, depth=1), Numbered(2, depth=1), Numbered(3)]
    for request in requests:
        keeper.enter(request)

    for number in (3, 2, 1, 0):
        keeper.answer(requests[number], partial(given_.append, number))

    assert given_ == [1, 2, 0, 3]
