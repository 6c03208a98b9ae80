"""A loop that stands still is noticed, told of once, and measured."""

import asyncio

import pytest

from penstock.watchdog import BEAT_S, DEAD_AFTER_S, LoopWatch, _stacks


def values(watch: LoopWatch) -> dict[str, float]:
    """The gauges and counters by name."""
    return {family.name: family.samples[0].value for family in watch.families()}


def test_a_standstill_is_told_once_however_long_it_lasts() -> None:
    """Not before its time, and not again until the loop has turned."""
    watch = LoopWatch(2.0)
    start = watch._beat

    told = [watch.stands_still(start + seconds) for seconds in (1.0, 2.0, 2.0 + BEAT_S, 60.0)]
    watch._beat = start + 100
    again = watch.stands_still(start + 200)

    assert told == [False, False, True, False]
    assert again
    assert values(watch)["penstock_event_loop_stalls_total"] == 2


def test_a_loop_that_has_not_turned_for_long_counts_as_dead() -> None:
    """What the health page of the metrics port goes by."""
    watch = LoopWatch(2.0)
    fresh = watch.alive
    watch._beat -= DEAD_AFTER_S

    assert (fresh, watch.alive) == (True, False)


@pytest.mark.asyncio
async def test_the_loop_beats_and_tells_whoever_wants_to_know() -> None:
    """Each beat calls back; the lag is told, the worst since the last scrape."""
    beaten = asyncio.Event()
    watch = LoopWatch(0.0, beaten.set)
    watch.start()

    await asyncio.wait_for(beaten.wait(), 10)
    told = values(watch)
    watch.stop()

    assert told["penstock_event_loop_tasks"] >= 2
    assert told["penstock_event_loop_lag_max_seconds"] >= told["penstock_event_loop_lag_seconds"]
    assert watch.alive


def test_the_dump_shows_this_very_function() -> None:
    """Stacks of all threads are there, the named one first."""
    import threading

    dump = _stacks(threading.get_ident())

    assert dump.startswith("thread MainThread")
    assert "test_the_dump_shows_this_very_function" in dump
