"""Laws of the memory of large messages that is used again."""

import numpy as np

from penstock.transport.http2.spare_memory import SpareMemory


def address(memory: memoryview) -> int:
    """Where it is."""
    found: int = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
    return found


def test_memory_that_somebody_looks_at_is_nobody_elses() -> None:
    """By however small a view, of whatever kind; once there is none it is used again."""
    spare = SpareMemory(1000)
    first = spare.take(100)
    view = np.frombuffer(first, np.uint8)[10:20].view(np.uint16)
    where = address(first)
    del first

    second = spare.take(100)
    assert address(second) != where
    del view, second
    found = {address(spare.take(90)) for _ in range(3)}

    assert len(found) == 1
    assert len(spare.take(90)) == 90


def test_what_is_kept_is_bounded_and_not_much_larger_than_what_is_asked_for() -> None:
    """The oldest goes; what is larger than the bound is never kept."""
    spare = SpareMemory(1000)
    kept = [spare.take(400) for _ in range(3)]
    assert repr(spare) == "<SpareMemory 2 blocks>"
    del kept

    assert len(spare.take(2000)) == 2000
    assert len(spare.take(10)) == 10
    assert repr(spare) == "<SpareMemory 3 blocks>"
    spare.clear()
    assert repr(spare) == "<SpareMemory 0 blocks>"
