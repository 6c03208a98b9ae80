"""Bodies are read within their bounds, and what they hold is counted until they are done with."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from penstock.limits import ByteBudget
from penstock.rest import bodies
from penstock.rest.bodies import BodyReader
from penstock.rest.problems import HttpProblem
from penstock_runtime.errors import Cancelled, ResourceExhausted


def pieces(*items: bytes) -> list[dict[str, Any]]:
    """The events of a body in these pieces."""
    last = len(items) - 1
    return [
        {"type": "http.request", "body": item, "more_body": index < last}
        for index, item in enumerate(items)
    ]


def read(
    events: Sequence[dict[str, Any]], budget: ByteBudget, most: int = 100, claimed: str = ""
) -> bytes:
    """The body that a reader makes of these events; after them nothing comes."""
    left = list(events)

    async def receive() -> Any:
        if left:
            return left.pop(0)
        return await asyncio.Event().wait()

    reader = BodyReader(budget, most)
    try:
        return asyncio.run(reader.read(receive, {"content-length": claimed}))
    finally:
        reader.close()


def test_pieces_become_one_body_and_are_given_back() -> None:
    """However it is cut."""
    budget = ByteBudget(1000)

    assert read(pieces(b"ab", b"", b"cd"), budget) == b"abcd"
    assert budget.used == 0


@pytest.mark.parametrize("claimed", ["101", "9" * 50])
def test_a_length_that_is_too_much_is_refused_before_anything_is_read(claimed: str) -> None:
    """413, and the connection ends."""
    with pytest.raises(HttpProblem) as refused:
        read([], ByteBudget(1000), claimed=claimed)

    assert (refused.value.code, refused.value.ends) == (413, True)


def test_a_body_without_a_length_is_read_up_to_the_bound() -> None:
    """Chunks that never end."""
    budget = ByteBudget(1000)
    with pytest.raises(HttpProblem) as refused:
        read(pieces(*[b"x"] * 1000), budget)

    assert refused.value.code == 413
    assert budget.used == 0


def test_a_body_that_stops_arriving_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """408."""
    monkeypatch.setattr(bodies, "PIECE_S", 0.01)
    with pytest.raises(HttpProblem) as refused:
        read(pieces(b"a", b"b")[:1], ByteBudget(1000))

    assert (refused.value.code, refused.value.ends) == (408, True)


def test_a_body_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole has its time too."""
    monkeypatch.setattr(bodies, "BODY_S", 0.01)
    with pytest.raises(HttpProblem) as refused:
        read(pieces(b"a", b"b")[:1], ByteBudget(1000))

    assert refused.value.code == 408


def test_who_leaves_in_the_middle_is_noticed() -> None:
    """Nothing of the request is executed."""
    budget = ByteBudget(1000)
    with pytest.raises(Cancelled):
        read([*pieces(b"a", b"b")[:1], {"type": "http.disconnect"}], budget)

    assert budget.used == 0


def test_one_body_alone_may_be_more_than_there_is_room_for() -> None:
    """It could never come otherwise."""
    budget = ByteBudget(3)

    assert read(pieces(b"ab", b"cd", b"ef"), budget) == b"abcdef"
    assert (budget.used, budget.refused) == (0, 0)


def test_a_body_for_which_there_is_no_room_is_refused() -> None:
    """The bound of requests in flight is one for HTTP and gRPC."""
    budget = ByteBudget(100)
    budget.take(99)
    with pytest.raises(ResourceExhausted):
        read(pieces(b"ab"), budget)

    assert (budget.used, budget.refused) == (99, 1)
