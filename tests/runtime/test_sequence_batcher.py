"""Laws of the sequence batcher: which slot, which row, in which order, and when it is over."""

from typing import Any

import pytest
from tests.runtime.fakes import MS
from tests.runtime.sequence_fakes import SECOND, add, ask, batcher, control, layout, run

from penstock_runtime.config_scheduling import SequenceBatching, SequenceDirect, SequenceOldest
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from penstock_runtime.scheduling.base import SequenceStats
from penstock_runtime.scheduling.sequence_batcher import SequenceBatcher

OLDEST = SequenceOldest(max_candidate_sequences=8)


def sequences(decider: SequenceBatcher) -> tuple[int, int]:
    """How many have a slot, and how many wait."""
    stats = decider.stats().sequences
    assert isinstance(stats, SequenceStats)
    return stats.live, stats.backlog


# -- rows ------------------------------------------------------------------------------------------


def test_a_sequence_keeps_its_row_and_the_rows_without_a_request_are_not_ready() -> None:
    """A batch has rows up to the highest slot in use, whoever is ready."""
    decider = batcher(slots=3)
    first = [ask(n, "S") for n in (1, 2, 3)]
    add(decider, *first)
    assert layout(decider.take(0, 0)) == first
    decider.done(0, 0)

    later = ask(2)
    add(decider, later)

    assert layout(decider.take(0, 0)) == [None, later, None]


def test_a_batch_ends_at_the_highest_slot_in_use() -> None:
    """Once the last row's sequence is over the batch is shorter."""
    decider = batcher(slots=3)
    add(decider, *[ask(n, "S") for n in (1, 2)], ask(3, "SE"))
    run(decider)

    later = ask(1)
    add(decider, later)

    assert layout(decider.take(0, 0)) == [later, None]


def test_the_lowest_slots_are_given_first_over_all_instances() -> None:
    """Sequences spread over the instances, so that batches stay short."""
    decider = batcher(slots=2, instances=2)
    asked = [ask(n, "S") for n in (1, 2, 3)]
    add(decider, *asked)

    assert layout(decider.take(0, 0)) == [asked[0], asked[2]]
    assert layout(decider.take(1, 0)) == [asked[1]]


def test_requests_of_another_shape_wait_for_the_next_batch() -> None:
    """Rows of a batch are alike; the request that waits longest says how."""
    decider = batcher(slots=2)
    young, old = ask(1, "S", at=2, signature="a"), ask(2, "S", at=1, signature="b")
    add(decider, young, old)

    assert layout(decider.take(0, 2)) == [None, old]
    decider.done(0, 2)
    assert layout(decider.take(0, 2)) == [young, None]


def test_a_batch_leaves_with_enough_rows_or_when_the_delay_ends() -> None:
    """`minimum_slot_utilization` is a share of all slots."""
    rules = SequenceDirect(max_queue_delay_microseconds=1000, minimum_slot_utilization=0.5)
    decider = batcher(slots=4, direct=rules)

    add(decider, ask(1, "S"))
    assert decider.take(0, 0) is None
    assert decider.wake_at(0, 0) == MS
    assert decider.take(0, MS) is not None
    decider.done(0, MS)
    add(decider, ask(1, at=MS), ask(2, "S", at=MS))
    assert decider.take(0, MS) is not None


def test_the_delay_is_ignored_without_a_minimum_utilization() -> None:
    """As in Triton: one ready row is enough then."""
    decider = batcher(slots=4, direct=SequenceDirect(max_queue_delay_microseconds=1000))
    add(decider, ask(1, "S"))

    assert decider.take(0, 0) is not None


# -- oldest ----------------------------------------------------------------------------------------


def test_the_oldest_requests_leave_first_one_of_each_sequence() -> None:
    """Batches are full as long as there are candidates, and hold nobody twice."""
    decider = batcher(slots=8, oldest=OLDEST, max_batch=2)
    asked = [ask(1, "S", at=1), ask(1, at=2), ask(2, "S", at=3), ask(3, "SE", at=4)]
    add(decider, *asked)

    assert layout(decider.take(0, 4)) == [asked[0], asked[2]]
    decider.done(0, 4)
    assert layout(decider.take(0, 4)) == [asked[1], asked[3]]


def test_candidates_wait_for_a_preferred_size_until_the_delay_ends() -> None:
    """The dynamic batcher's rules hold over the requests in front."""
    rules = SequenceOldest(8, preferred_batch_size=(2,), max_queue_delay_microseconds=1000)
    decider = batcher(slots=8, oldest=rules)

    add(decider, ask(1, "S"))
    assert decider.take(0, 0) is None
    assert decider.wake_at(0, 0) == MS
    add(decider, ask(2, "S"))
    assert len(layout(decider.take(0, 0))) == 2
    decider.done(0, 0)
    add(decider, ask(1))
    assert len(layout(decider.take(0, MS))) == 1


def test_states_of_another_shape_do_not_share_a_batch() -> None:
    """A state that has grown is no row of one that has not."""
    decider = batcher(slots=8, oldest=OLDEST)
    add(decider, ask(1, "S"), ask(2, "S"))
    step = decider.take(0, 0)
    assert step is not None
    step.turns[0].sequence.shapes = ((3,),)
    decider.done(0, 0)

    one, two = ask(1), ask(2)
    add(decider, one, two)

    assert layout(decider.take(0, 0)) == [one]
    decider.done(0, 0)
    assert layout(decider.take(0, 0)) == [two]


# -- begin and end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [None, OLDEST])
def test_only_a_start_opens_a_sequence(strategy: SequenceOldest | None) -> None:
    """The text is Triton's."""
    decider = batcher(oldest=strategy)

    with pytest.raises(InvalidArgument) as refused:
        add(decider, ask(7))

    assert refused.value.message == (
        "inference request for sequence 7 to model 'm' must specify the START flag on the first "
        "request of the sequence"
    )


def test_an_id_is_free_at_once_when_its_end_is_queued() -> None:
    """The next sequence of the id starts, and is executed after the one before."""
    decider = batcher(slots=2)
    asked = [ask(1, "S"), ask(1, "E"), ask(1, "S"), ask(1, "E")]
    add(decider, *asked)

    with pytest.raises(InvalidArgument):
        add(decider, ask(1))
    assert run(decider) == asked
    assert sequences(decider) == (0, 0)


def test_a_start_on_a_live_id_lets_the_old_sequence_finish_and_warns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it has queued is executed first; then the new one starts."""
    decider = batcher(slots=2)
    asked = [ask(1, "S"), ask(1), ask(1, "S"), ask(1, "E")]

    add(decider, *asked)

    assert "sequence 1 starts again before its END" in caplog.text
    starts = []
    while (step := decider.take(0, 0)) is not None:
        starts += [(turn.pending, turn.start) for turn in step.turns]
        decider.done(0, 0)
    assert starts == list(zip(asked, [True, False, True, False], strict=True))


def test_requests_of_one_sequence_are_executed_one_after_the_other() -> None:
    """While one is executed the next one is not handed out, to no instance."""
    decider = batcher(slots=2, instances=2)
    asked = [ask(1, "S"), ask(1), ask(1, "E")]
    add(decider, *asked)

    assert layout(decider.take(0, 0)) == [asked[0]]
    assert decider.take(0, 0) is None
    assert decider.take(1, 0) is None
    decider.done(0, 0)
    assert layout(decider.take(0, 0)) == [asked[1]]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"identity": 0}, "must specify a non-zero or non-empty correlation ID"),
        ({"identity": ""}, "must specify a non-zero or non-empty correlation ID"),
        ({"rows": 2}, "must specify batch-size 1 due to requirements of sequence batcher"),
        ({"identity": "x" * 129}, "has 129 bytes, expected at most 128"),
    ],
)
def test_what_cannot_be_part_of_a_sequence_is_refused(change: dict[str, Any], text: str) -> None:
    """And nothing of it stays."""
    decider = batcher()

    with pytest.raises(InvalidArgument) as refused:
        add(decider, ask(**{"identity": 1, "flags": "S", **change}))

    assert text in refused.value.message
    assert sequences(decider) == (0, 0)


@pytest.mark.parametrize(
    ("datatype", "identity", "text"),
    [
        (DataType.UINT64, "a", "data-type is 'BYTES', but model 'm' expects 'UINT64'"),
        (DataType.BYTES, 1, "data-type is 'UINT64', but model 'm' expects 'BYTES'"),
        (DataType.INT32, 1 << 31, "does not fit sequence batching control 'C' of model 'm'"),
        (DataType.UINT32, 1 << 32, "does not fit sequence batching control 'C' of model 'm'"),
        (DataType.UINT32, (1 << 64) - 1, "does not fit sequence batching control 'C'"),
    ],
)
def test_an_id_of_the_wrong_kind_is_refused(
    datatype: DataType, identity: int | str, text: str
) -> None:
    """Text needs TYPE_STRING, and a number has to fit."""
    rules = SequenceBatching(control_input=(control("CORRID", "C", datatype),))
    decider = batcher(rules=rules)

    with pytest.raises(InvalidArgument) as refused:
        add(decider, ask(identity, "S"))

    assert text in refused.value.message


@pytest.mark.parametrize(
    ("datatype", "identity"),
    [
        (DataType.UINT64, (1 << 64) - 1),
        (DataType.INT64, (1 << 64) - 1),
        (DataType.UINT32, (1 << 32) - 1),
        (DataType.INT32, (1 << 64) - 1),
        (DataType.BYTES, "a"),
    ],
)
def test_an_id_that_fits_is_accepted(datatype: DataType, identity: int | str) -> None:
    """Signed ids are the 64 bits that came."""
    decider = batcher(rules=SequenceBatching(control_input=(control("CORRID", "C", datatype),)))

    add(decider, ask(identity, "S"))

    assert sequences(decider) == (1, 0)


def test_a_number_and_its_text_are_two_sequences() -> None:
    """1 is not "1"."""
    decider = batcher()

    add(decider, ask(1, "S"), ask("1", "S"))

    assert sequences(decider) == (2, 0)


# -- backlog ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [None, OLDEST])
def test_freed_slots_take_the_oldest_of_the_backlog(strategy: SequenceOldest | None) -> None:
    """Later requests of a sequence that waits join it, in order."""
    decider = batcher(slots=1, oldest=strategy)
    asked = [ask(1, "S"), ask(2, "S"), ask(3, "SE"), ask(2), ask(1, "E"), ask(2, "E")]
    add(decider, *asked)
    assert sequences(decider) == (1, 2)

    ran = run(decider)

    assert [p.request.correlation_id for p in ran] == [1, 1, 2, 2, 2, 3]
    assert sequences(decider) == (0, 0)


def test_too_many_waiting_sequences_are_refused_and_the_others_untouched() -> None:
    """The backlog has an end."""
    decider = batcher(slots=1, backlog=1)
    add(decider, ask(1, "S"), ask(2, "S"))

    with pytest.raises(ResourceExhausted, match="1 sequences wait for a slot already"):
        add(decider, ask(3, "S"))
    with pytest.raises(ResourceExhausted):
        add(decider, ask(1, "S"))

    assert sequences(decider) == (1, 1)
    assert decider.knows(1)


def test_one_id_cannot_queue_sequences_without_end() -> None:
    """Sequences that wait for the one before them count, even where slots are free."""
    decider = batcher(slots=8, backlog=2)
    add(decider, *[ask(1, "SE") for _ in range(3)])

    with pytest.raises(ResourceExhausted):
        add(decider, ask(1, "SE"))


def test_too_many_waiting_requests_are_refused() -> None:
    """With the text of a full queue."""
    decider = batcher(requests=2)
    add(decider, ask(1, "S"), ask(1))

    with pytest.raises(Unavailable, match="Exceeds maximum queue size"):
        add(decider, ask(1))


def test_the_earliest_timeout_rejects_all_that_a_backlogged_sequence_has_queued() -> None:
    """And only while it is in the backlog; a later request of it must START."""
    decider = batcher(slots=1)
    waiting = [ask(2, "S", timeout_us=5000), ask(2, timeout_us=1000), ask(2)]
    add(decider, ask(1, "S", timeout_us=1), *waiting)
    assert decider.next_expiry() == MS

    dead = decider.expire(MS)

    assert [item.pending for item in dead] == waiting
    texts = {item.error.message for item in dead}
    assert texts == {"timeout of the corresponding sequence has been expired"}
    assert all(isinstance(item.error, Unavailable) for item in dead)
    assert not decider.knows(2)
    assert decider.knows(1)


def test_a_sequence_that_got_a_slot_in_time_is_not_rejected() -> None:
    """The time-out is the backlog's."""
    decider = batcher(slots=1)
    add(decider, ask(1, "SE"), ask(2, "S", timeout_us=1000))

    ran = run(decider)

    assert decider.expire(2 * MS) == []
    assert len(ran) == 2


# -- silence ---------------------------------------------------------------------------------------


def test_a_silent_sequence_loses_its_slot_and_later_requests_must_start() -> None:
    """The time runs from the last request that was queued."""
    decider = batcher(slots=1, idle_ns=SECOND)
    add(decider, ask(1, "S"))
    run(decider)
    add(decider, ask(1, at=SECOND // 2))
    run(decider, SECOND // 2)

    decider.expire(SECOND)
    assert decider.knows(1)
    assert decider.next_expiry() == SECOND // 2 + SECOND
    decider.expire(SECOND // 2 + SECOND)

    assert not decider.knows(1)
    assert sequences(decider) == (0, 0)
    assert decider.next_expiry() is None


def test_a_slot_freed_by_silence_goes_to_the_backlog() -> None:
    """Whose own time begins then."""
    decider = batcher(slots=1, idle_ns=SECOND)
    waiting = ask(2, "S")
    add(decider, ask(1, "S"), waiting)
    run(decider)

    decider.expire(SECOND)

    assert decider.roused() == {0}
    assert layout(decider.take(0, SECOND)) == [waiting]
    decider.done(0, SECOND)
    decider.expire(2 * SECOND - 1)
    assert decider.knows(2)


def test_what_a_silent_sequence_has_queued_is_still_executed() -> None:
    """Its slot is freed after that."""
    decider = batcher(slots=1, idle_ns=SECOND)
    asked = [ask(1, "S"), ask(1)]
    add(decider, *asked)
    decider.take(0, 0)

    assert decider.expire(SECOND) == []
    decider.done(0, SECOND)

    assert layout(decider.take(0, SECOND)) == [asked[1]]
    assert sequences(decider) == (1, 0)
    decider.done(0, SECOND)
    assert sequences(decider) == (0, 0)


# -- giving up -------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [None, OLDEST])
@pytest.mark.parametrize("slots", [2, 1])
def test_cancelling_one_request_gives_up_its_sequence(
    strategy: SequenceOldest | None, slots: int
) -> None:
    """All that it has queued, in a slot or in the backlog, and nothing else."""
    decider = batcher(slots=slots, oldest=strategy)
    other, asked = ask(1, "S"), [ask(2, "S"), ask(2), ask(2)]
    add(decider, other, *asked)

    assert decider.cancel(asked[1], 0)
    dead = decider.expire(0)

    assert [item.pending for item in dead] == [asked[0], asked[2]]
    assert all(isinstance(item.error, Cancelled) for item in dead)
    assert not decider.cancel(asked[0], 0)
    assert run(decider) == [other]
    with pytest.raises(InvalidArgument):
        add(decider, ask(2))


def test_a_deadline_gives_up_the_sequence_too() -> None:
    """The request gets its own error, those beside it are cancelled."""
    decider = batcher()
    late, behind = ask(1, deadline=5), ask(1)
    add(decider, ask(1, "S"), late, behind)
    decider.take(0, 0)

    dead = {item.pending: item.error for item in decider.expire(5)}
    decider.done(0, 5)

    assert isinstance(dead[late], DeadlineExceeded)
    assert isinstance(dead[behind], Cancelled)
    assert sequences(decider) == (0, 0)


def test_a_request_past_its_deadline_is_refused_and_starts_nothing() -> None:
    """It is told so at once."""
    decider = batcher()

    with pytest.raises(DeadlineExceeded):
        decider.add(ask(1, "S", deadline=5), 5)

    assert sequences(decider) == (0, 0)


def test_a_cancelled_sequence_hands_the_turn_to_the_next_of_its_id() -> None:
    """In the order of their arrival, however long the line."""
    decider = batcher(slots=1)
    first, second, third = ask(1, "SE"), ask(1, "SE"), ask(1, "SE")
    add(decider, first, second, third)
    decider.take(0, 0)

    decider.cancel(second, 0)

    assert decider.take(0, 0) is None
    decider.done(0, 0)
    assert run(decider) == [third]


# -- iterative -------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [None, OLDEST])
def test_an_iterative_request_is_executed_until_the_model_lets_it_go(
    strategy: SequenceOldest | None,
) -> None:
    """START is true in its first step only; others join the batch meanwhile."""
    decider = batcher(slots=2, oldest=strategy, iterative=True)
    first, second = ask(0, at=1), ask(0, at=2)
    add(decider, first)
    seen = []
    for steps_left in (2, 1, 0):
        step = decider.take(0, 2)
        assert step is not None
        seen += [(turn.pending, turn.start, turn.end) for turn in step.turns]
        for turn in step.turns:
            turn.sequence.again = turn.pending is first and steps_left > 0
        decider.done(0, 2)
        if steps_left == 2:
            add(decider, second)

    assert seen == [
        (first, True, False),
        (first, False, False),
        (second, True, False),
        (first, False, False),
    ]
    assert decider.take(0, 2) is None
    assert sequences(decider) == (0, 0)


def test_an_iterative_request_that_is_given_up_gets_no_further_step() -> None:
    """Cancelled while it was executed, cancelled between steps, or late."""
    decider = batcher(slots=3, iterative=True)
    during, between, late = ask(0), ask(0), ask(0, deadline=5)
    add(decider, during, between, late)
    step = decider.take(0, 0)
    assert step is not None
    for turn in step.turns:
        turn.sequence.again = True

    during.stream.cancel()
    decider.done(0, 0)
    assert decider.cancel(between, 0)
    dead = decider.expire(5)

    assert [item.pending for item in dead] == [during, late]
    assert decider.take(0, 5) is None
    assert sequences(decider) == (0, 0)


# -- hooks -----------------------------------------------------------------------------------------


def test_a_held_batcher_waits_for_so_many_requests_once() -> None:
    """In slots and in the backlog, each as its hook says."""
    decider = batcher(slots=1, hold_until=2, hold_backlog=1)

    add(decider, ask(1, "S"), ask(1))
    assert decider.take(0, 0) is None
    decider.roused()
    add(decider, ask(2, "S"))
    assert decider.roused() == {0}
    assert len(run(decider)) == 2
    add(decider, ask(1, "E"))
    assert len(run(decider)) == 2


def gone() -> Unavailable:
    """Why."""
    return Unavailable("the instance is gone")


def test_what_has_begun_at_an_instance_ends_with_what_it_left_there() -> None:
    """What has not begun keeps its slot; an instance that is gone for ever keeps nothing, and its
    slots are nobody's any more.
    """
    decider = batcher(slots=2)
    begun = ask(1, "S"), ask(1)
    add(decider, *begun)
    assert decider.take(0, 0) is not None
    add(decider, ask(2, "S"))

    decider.lose(0, 0, gone)
    lost = [dead.pending for dead in decider.expire(0)]

    assert (decider.knows(1), decider.knows(2), lost) == (False, True, [begun[1]])
    decider.lose(0, 0, gone, ever=True)
    decider.expire(0)
    assert decider.stats().sequences == SequenceStats(0, 0)
    add(decider, ask(3, "S"))
    assert decider.take(0, 0) is None
