"""Laws of how the process of a language model reports what it does: soon, little, and never at the
cost of whoever has something to say.
"""

import json
import threading
import time
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.isolation.folders import wait_for

from penstock_runtime.isolation.child_reports import (
    MOST_TOGETHER,
    Link,
    Reading,
    RecordQueue,
    Reporter,
    parts,
)
from penstock_runtime.isolation.engine_notes import engine_note
from penstock_runtime.isolation.frames import Kind, packed
from penstock_runtime.isolation.pace import EVERY_S, SOON_S, Pace
from penstock_runtime.llm.calls import CallRecord
from penstock_runtime.observability.engine_metrics import EngineState, EngineTally

BUSY, IDLE = EngineState(running=1), EngineState()


class Wire(Link):
    """In place of a link: what was sent, as the server would read it."""

    def __init__(self) -> None:
        self.sent: list[tuple[Kind, dict[str, Any]]] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def send(self, kind: Kind, number: int = 0, note: Any = None) -> None:
        """Keep it, once there is room."""
        packed(kind, number, note, 0)
        self.entered.set()
        assert self.open.wait(30)
        self.sent.append((kind, json.loads(json.dumps(note))))

    def of(self, kind: Kind) -> list[dict[str, Any]]:
        """What was said of this kind."""
        return [note for each, note in self.sent if each is kind]


class Quiet(Reporter):
    """One whose thread does nothing: the test looks when it likes."""

    def _run(self) -> None:
        return


def tally_of(state: EngineState = IDLE) -> EngineTally:
    tally = EngineTally("m", 1, "m_0_0", {})
    tally.state = lambda: state
    return tally


def record(number: int = 0, prompt: str = "") -> CallRecord:
    return CallRecord(0, "m", "1", f"{number}", prompt=prompt)


# -- when ------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=40))
def test_it_looks_soon_after_news_and_at_least_once_in_a_second(news: list[bool]) -> None:
    """Without news later and later."""
    pace = Pace()
    for some in news:
        before = pace.pause_s
        pace.waited(some)

        assert SOON_S <= pace.pause_s <= EVERY_S
        assert pace.pause_s == SOON_S if some else pace.pause_s >= before


@given(st.lists(st.tuples(st.floats(0, 0.4), st.booleans()), max_size=60))
def test_of_an_engine_that_goes_on_it_tells_once_a_second(looks: list[tuple[float, bool]]) -> None:
    """And whenever it has nothing in hand."""
    pace, now, told = Pace(), 0.0, []
    for after, idle in looks:
        now += after
        due = pace.is_due(now, idle)
        if due:
            pace.told(now, idle)
            told.append((now, idle))

        assert pace.pause_s == (SOON_S if idle else EVERY_S)
        pace.pause_s = EVERY_S
        assert due or not idle
        assert due or now - told[-1][0] < EVERY_S
    gaps = [b[0] - a[0] for a, b in pairwise(told) if not b[1]]
    assert all(gap >= EVERY_S for gap in gaps)


def test_an_engine_is_told_when_it_begins_changes_rests_and_ends() -> None:
    """And not where nothing is new."""
    wire, state = Wire(), [IDLE]
    reporter, tally = Quiet(wire, None), tally_of()
    tally.state = lambda: state[0]
    counts = []

    def look(now: float) -> None:
        reporter.look(now)
        counts.append(len(wire.sent))

    reporter.engines.add(tally)
    at = time.monotonic()
    counts.append(len(wire.sent))
    look(at + 0.1)
    state[0] = BUSY
    look(at + 0.2)
    look(at + 1.3)
    tally.count(generation_tokens=5)
    look(at + 1.4)
    state[0] = IDLE
    look(at + 1.5)
    look(at + 9.0)
    reporter.engines.remove(tally)

    assert counts == [1, 1, 1, 2, 2, 3, 3]
    assert wire.sent[-1] == (Kind.ENGINE, {"gone": True})


def test_the_thread_tells_what_there_is_without_being_asked() -> None:
    """An answer that ends is news, a request that is refused too."""
    wire = Wire()
    reporter, tally = Reporter(wire, True), tally_of()
    assert reporter.calls is not None
    reporter.engines.add(tally)

    tally.finished("stop")
    told = wait_for(lambda: wire.of(Kind.ENGINE)[-1]["reasons"] == {"stop": 1})
    reporter.calls.append(record(7))
    recorded = wait_for(lambda: bool(wire.of(Kind.RECORDS)))
    reporter.engines.remove(tally)

    assert told
    assert recorded


# -- how much --------------------------------------------------------------------------------------


def test_a_slow_link_holds_nobody_up_and_keeps_what_waits_bounded() -> None:
    """Of an engine only the last state is told; records beyond the bound are counted."""
    wire = Wire()
    queue = RecordQueue(most=10)
    reporter, tally = Quiet(wire, False, queue), tally_of()
    assert reporter.calls is not None
    reporter.engines.add(tally)
    wire.open.clear()
    wire.entered.clear()
    tally.count(generation_tokens=1)
    stuck = threading.Thread(target=reporter.look, args=(1e9,), daemon=True)
    stuck.start()
    assert wire.entered.wait(30)

    taken = []
    for number in range(500):
        tally.count(generation_tokens=1)
        tally.finished("stop")
        taken.append(reporter.calls.append(record(number)))
    wire.open.set()
    stuck.join(30)
    reporter.look(2e9)

    notes = wire.of(Kind.ENGINE)
    assert not stuck.is_alive()
    assert taken == [True] * 10 + [False] * 490
    assert len(notes) == 3
    assert notes[-1] == json.loads(json.dumps(engine_note(tally.snapshot())))
    told = wire.of(Kind.RECORDS)
    assert [each["id"] for note in told for each in note["records"]] == [str(n) for n in range(10)]
    assert sum(note["lost"] for note in told) == 490


def test_records_are_bounded_by_their_size_too() -> None:
    """What was taken makes room."""
    queue = RecordQueue(most_bytes=10_000)

    taken = [queue.put(record(prompt="x" * 4000)) for _ in range(3)]
    records, lost = queue.take()
    again = queue.put(record(prompt="x" * 4000))

    assert taken == [True, True, False]
    assert (len(records), lost) == (2, 1)
    assert again
    assert queue.take()[1] == 0


@given(st.lists(st.integers(0, 2 * MOST_TOGETHER), max_size=8))
def test_records_go_in_order_in_messages_that_are_not_too_long(sizes: list[int]) -> None:
    """Unless one alone is."""
    records = [record(n, "x" * size) for n, size in enumerate(sizes)]

    found = parts(records)

    assert [each for part in found for each in part] == records
    assert all(sum(r.size for r in part) <= MOST_TOGETHER or len(part) == 1 for part in found)


def test_a_record_that_fits_into_no_message_is_counted_and_others_arrive() -> None:
    """Before it and after it."""
    wire = Wire()
    reporter = Quiet(wire, True)
    assert reporter.calls is not None
    for number, length in enumerate((1, 5 << 20, 1)):
        reporter.calls.append(record(number, "x" * length))

    reporter.look(0.0)

    told = wire.of(Kind.RECORDS)
    assert [each["id"] for note in told for each in note["records"]] == ["0", "2"]
    assert sum(note["lost"] for note in told) == 1


def test_texts_stay_where_they_are_unless_the_server_wants_them() -> None:
    """They are not even sent."""
    for content in (False, True):
        wire = Wire()
        reporter = Quiet(wire, content)
        assert reporter.calls is not None
        reporter.calls.append(record(prompt="secret"))

        reporter.look(0.0)

        assert ("secret" in str(wire.sent)) is content
        assert reporter.calls.content is content
    assert Quiet(Wire(), None).calls is None


def test_the_progress_of_a_load_is_told_a_few_times_a_second_and_to_its_end() -> None:
    """However often it is heard of."""
    wire, now = Wire(), [0.0]
    reading = Reading(wire, lambda: now[0])
    for done in range(1001):
        now[0] += 0.001
        reading("m", done, 1000)

    told = [note["done"] for note in wire.of(Kind.READING)]
    assert told[0] == 0
    assert told[-1] == 1000
    assert len(told) <= 12
