"""What a measurement asks of the process that it runs in, and that it gives everything back."""

import gc

import pytest

from penstock.bench.quiet import quiet


@pytest.mark.parametrize(
    ("frozen", "expected"),
    [(0, ["freeze", "unfreeze"]), (375, ["freeze", "unfreeze"]), (100_000, [])],
    ids=["nothing", "what Python 3.12 freezes", "a caller's heap"],
)
def test_what_a_caller_froze_stays_frozen(
    frozen: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no thawing of a part: who finds a heap that is frozen leaves it alone."""
    done: list[str] = []
    monkeypatch.setattr(gc, "get_freeze_count", lambda: frozen)
    monkeypatch.setattr(gc, "freeze", lambda: done.append("freeze"))
    monkeypatch.setattr(gc, "unfreeze", lambda: done.append("unfreeze"))

    with quiet():
        pass

    assert done == expected


def test_the_collector_looks_rarely_while_it_is_measured() -> None:
    """At a tenth of the usual, and less."""
    before = gc.get_threshold()[0]

    with quiet():
        within = gc.get_threshold()[0]

    assert within > 10 * before


def test_the_collector_looks_as_ever_after_a_measurement_that_failed() -> None:
    """Its thresholds are those of before."""
    before = gc.get_threshold()

    with pytest.raises(ValueError, match="failed"), quiet():
        raise ValueError("failed")

    assert gc.get_threshold() == before
