"""A sequence: requests under one correlation id that one slot executes one after the other, and
what is kept between them.

Values and bookkeeping only: who decides is `sequence_batcher`, who acts `sequence_scheduler`.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from penstock_runtime.scheduling.base import Pending

SequenceId = int | str
"""Text, or the 64 bits of a number without sign; 0 and "" are no ids."""


class Slot(NamedTuple):
    """A place for one sequence; `number` is the row of the batch where sequences own rows."""

    number: int
    instance: int


class LiveSequence:
    """One sequence from its START until its last request has been executed.

    `open`: more requests may join. `slot` is None while it waits in the backlog; as long as there
    is a sequence of the same id `before` it (whose `after` it is), it waits for that first.
    `expires_ns` is when the backlog rejects it, `watch_ns` when it is looked at for its silence.
    `states` and `shapes` belong to the thread of the
    instance that executes it, which sets `again` for a request that wants a further step.
    """

    __slots__ = (
        "after",
        "again",
        "before",
        "begun",
        "enqueued_ns",
        "expires_ns",
        "finished",
        "id",
        "number",
        "open",
        "queue",
        "running",
        "shapes",
        "slot",
        "states",
        "watch_ns",
    )

    def __init__(self, identity: SequenceId, number: int, now: int) -> None:
        self.id = identity
        self.number = number
        self.queue: deque[Pending] = deque()
        self.running: Pending | None = None
        self.slot: Slot | None = None
        self.before: LiveSequence | None = None
        self.after: LiveSequence | None = None
        self.open = True
        self.begun = False
        self.again = False
        self.finished = False
        self.enqueued_ns = now
        self.expires_ns: int | None = None
        self.watch_ns: int | None = None
        self.states: Mapping[str, Any] = {}
        self.shapes: tuple[tuple[int, ...], ...] = ()

    def __repr__(self) -> str:
        state = "finished" if self.finished else "open" if self.open else "closed"
        where = "in the backlog" if self.slot is None else f"at {self.slot}"
        return f"<LiveSequence {self.id!r} {state} {where}, {len(self.queue)} waiting>"


class Likeness(NamedTuple):
    """What has to be equal for two sequences to share a batch: their requests' signatures and the
    shapes of their states.
    """

    request: Any
    shapes: tuple[tuple[int, ...], ...]


def likeness(sequence: LiveSequence) -> Likeness:
    """The likeness of the request that is in front."""
    signature = sequence.queue[0].signature
    if isinstance(signature, Likeness):
        signature = signature.request
    return Likeness(signature, sequence.shapes)


class Turn(NamedTuple):
    """One request of a sequence in one execution; `start` is true in the sequence's first, `end` in
    its last.
    """

    pending: Pending
    sequence: LiveSequence
    start: bool
    end: bool


class Step(NamedTuple):
    """What an instance executes at once: a turn per row, None for rows whose sequence has none."""

    rows: tuple[Turn | None, ...]

    @property
    def turns(self) -> list[Turn]:
        """The turns, in row order."""
        return [turn for turn in self.rows if turn is not None]
