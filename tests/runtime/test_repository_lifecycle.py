"""Laws of the table of states and of whose turn it is."""

import threading

import pytest

from penstock_runtime.repository.lifecycle import (
    UNLOADED,
    WHOLE_MODEL,
    Lifecycle,
    ModelIndexEntry,
    ModelState,
    Turns,
)


def test_entries_come_by_name_and_version_number() -> None:
    """Version 10 after version 9; a model as a whole has no version."""
    table = Lifecycle()
    for name, version in (("b", 10), ("b", 9), ("a", WHOLE_MODEL)):
        table.set(name, version, ModelState.READY)

    entries = table.entries()

    assert entries == [
        ModelIndexEntry("a", "", ModelState.READY),
        ModelIndexEntry("b", "9", ModelState.READY),
        ModelIndexEntry("b", "10", ModelState.READY),
    ]


def test_settling_loses_against_any_later_change() -> None:
    """A drain that ends late must not undo the load that came after it."""
    table = Lifecycle()
    stamp = table.set("m", 1, ModelState.UNLOADING)
    table.set("m", 1, ModelState.READY)

    late = table.settle("m", 1, stamp, ModelState.UNAVAILABLE, UNLOADED)

    assert not late
    assert table.versions("m")[1].state is ModelState.READY


def test_settling_in_time_enters_the_state() -> None:
    """And only once."""
    table = Lifecycle()
    stamp = table.set("m", 1, ModelState.UNLOADING)

    first = table.settle("m", 1, stamp, ModelState.UNAVAILABLE, UNLOADED)
    second = table.settle("m", 1, stamp, ModelState.UNAVAILABLE, UNLOADED)

    assert (first, second) == (True, False)
    assert table.versions("m")[1].reason == UNLOADED


def test_a_model_is_forgotten_with_its_last_version() -> None:
    """Nothing of it is left."""
    table = Lifecycle()
    table.set("m", 1, ModelState.READY)
    table.set("m", 2, ModelState.READY)

    table.forget("m", 1)
    table.forget("m", 2)
    table.forget("m", 3)

    assert table.names() == []
    assert table.versions("m") == {}


def test_listeners_hear_of_every_change_until_they_leave(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One that fails is logged and does not keep the others from hearing."""
    table = Lifecycle()
    heard: list[int] = []

    def fail() -> None:
        raise ValueError("deaf")

    table.subscribe(fail)
    leave = table.subscribe(lambda: heard.append(len(table.entries())))
    stamp = table.set("m", 1, ModelState.LOADING)
    table.settle("m", 1, stamp, ModelState.READY)
    table.forget("m", 1)
    leave()
    leave()
    table.set("m", 1, ModelState.LOADING)

    assert heard == [1, 1, 0]
    assert "deaf" in caplog.text


def test_turns_on_one_name_come_in_the_order_of_arrival() -> None:
    """And the name is forgotten when the last one is through."""
    turns = Turns()
    order: list[int] = []

    def act(number: int) -> None:
        with turns.take("m"):
            order.append(number)

    threads = []
    with turns.take("m"):
        for number in range(20):
            thread = threading.Thread(target=act, args=(number,))
            thread.start()
            threads.append(thread)
            _wait_until_queued(turns, number + 2)
    for thread in threads:
        thread.join()

    assert order == list(range(20))
    assert len(turns) == 0


def test_turns_on_other_names_do_not_wait() -> None:
    """One slow model holds up nobody else."""
    turns = Turns()

    with turns.take("slow"), turns.take("other"):
        assert len(turns) == 2


def test_a_turn_ends_with_an_error_too() -> None:
    """The next one gets in."""
    turns = Turns()

    with pytest.raises(ValueError, match="wrong"), turns.take("m"):
        raise ValueError("wrong")

    with turns.take("m"):
        assert len(turns) == 1


def _wait_until_queued(turns: Turns, count: int) -> None:
    tick = threading.Event()
    while len(turns._queues["m"]) < count:
        tick.wait(0.001)
