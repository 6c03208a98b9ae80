"""Laws of when a folder may be loaded."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.repository_fakes import Clock

from penstock_runtime.repository.index import FileStamp, ModelFolder
from penstock_runtime.repository.stability import MAX_LOOKS, StabilityGate, settled

QUIET = 100


def folder(size: int, newest_ns: int, name: str = "m") -> ModelFolder:
    """A model whose one file has this size."""
    here = Path("r")
    signature = (FileStamp("1/w", size, newest_ns, 1),)
    return ModelFolder(name, here, here / name, signature=signature, newest_ns=newest_ns)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 300)), max_size=30))
def test_only_two_equal_looks_or_a_quiet_period_admit(looks: list[tuple[int, int]]) -> None:
    """Whatever a folder does, it is admitted exactly then."""
    gate = StabilityGate(QUIET)
    before: ModelFolder | None = None

    for now, (size, age) in enumerate(looks, start=1000):
        seen = folder(size, now - age)
        same = before is not None and before.signature == seen.signature

        assert gate.admits(seen, now) == (same or age >= QUIET)
        before = seen


def test_a_folder_that_grows_at_every_look_is_never_admitted() -> None:
    """The two looks must be equal, not merely two."""
    gate = StabilityGate(QUIET)

    assert not any(gate.admits(folder(size, size), size) for size in range(50))


def test_a_time_in_the_future_needs_two_looks() -> None:
    """A clock that was set back makes nothing loadable before its time, and nothing unloadable."""
    gate = StabilityGate(QUIET)

    first = gate.admits(folder(1, 10_000), 0)
    second = gate.admits(folder(1, 10_000), 1)

    assert (first, second) == (False, True)


def test_a_model_is_gone_when_it_is_missing_twice_in_a_row() -> None:
    """A swap by two renames leaves it missing once."""
    gate = StabilityGate(QUIET)

    looks = [gate.gone({"a", "b"}, present) for present in (["a"], ["a", "b"], ["a"], ["a"])]

    assert looks == [[], [], [], ["b"]]


def test_a_model_that_was_missing_must_be_equal_over_two_new_looks() -> None:
    """What it looked like before it went does not count."""
    gate = StabilityGate(QUIET)
    gate.admits(folder(1, 0), 0)
    gate.gone({"m"}, [])

    assert not gate.admits(folder(1, 0), 1)


def test_settling_returns_at_once_when_all_is_old() -> None:
    """Nothing waits for a folder that nobody touched lately."""
    clock = Clock()

    found = settled(lambda: folder(1, 0), 0.5, clock, clock.wait)

    assert found == folder(1, 0)
    assert clock.waits == []


def test_settling_waits_for_one_more_look_when_something_is_young() -> None:
    """And takes the folder as it is then."""
    clock = Clock(0)
    first, last = folder(1, clock()), folder(2, clock())
    seen = iter([first, last, last])

    found = settled(lambda: next(seen), 0.5, clock, clock.wait)

    assert found is last
    assert clock.waits == [0.5, 0.5]


def test_settling_gives_up_with_a_reason() -> None:
    """A folder that never stops changing is not loaded."""
    clock = Clock(0)
    sizes = iter(range(1000))

    found = settled(lambda: folder(next(sizes), clock()), 0.5, clock, clock.wait)

    assert found is not None
    assert "still being written" in found.problem
    assert len(clock.waits) == MAX_LOOKS


def test_settling_on_nothing_is_nothing() -> None:
    """A model that is not there is not waited for."""
    clock = Clock()

    assert settled(lambda: None, 0.5, clock, clock.wait) is None
    assert clock.waits == []
