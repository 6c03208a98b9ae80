"""Who begins first, and who gives way: the order of arrival, priorities, or one clock per tenant.

Pure. A policy keeps those who wait; who runs, it only ranks.
"""

from collections.abc import Iterator
from typing import Protocol

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.sequence import Phase, Sequence
from penstock_runtime.llm.virtual_clock import VirtualTokenClock
from penstock_runtime.llm.waiting_line import WaitingLine

PATIENCE_NS = 5_000_000_000
FIRST_LEVEL = -(1 << 62)


class Policy(Protocol):
    """The order of those who wait and the rank of those who run."""

    @property
    def preempts(self) -> bool:
        """Whether one who waits may take the place of one who runs."""

    @property
    def charges(self) -> bool:
        """Whether it wants to know what is computed."""

    def enter(self, sequence: Sequence) -> None:
        """A new sequence begins to wait."""

    def back(self, sequence: Sequence, now: int) -> None:
        """A sequence was preempted and waits again."""

    def take(self, sequence: Sequence) -> None:
        """A sequence that waits begins to run."""

    def leave(self, sequence: Sequence) -> None:
        """A sequence ended; its phase still says where it was."""

    def tick(self, now: int) -> None:
        """Time has passed."""

    def candidates(self) -> Iterator[Sequence]:
        """Those who wait, the first first; each may be taken when it is given."""

    def rank(self, sequence: Sequence) -> tuple[int, ...]:
        """The place of a sequence that runs: the greatest is the first to give way."""

    def outranks(self, sequence: Sequence, other: Sequence) -> bool:
        """Whether one who waits should run in place of the other."""

    def charge(self, sequence: Sequence, computed: int, generated: int) -> None:
        """So many tokens of a prompt are computed for it, or so many were generated."""

    def ahead(self, sequence: Sequence) -> int:
        """How many tokens wait that are sure to be computed before those of one that comes now."""


class FirstComeFirstServed:
    """The order of arrival; the newest gives way, and begins again where it stood."""

    preempts = False
    charges = False

    def __init__(self) -> None:
        self._line = WaitingLine()
        self._numbers: dict[Sequence, int] = {}
        self._arrivals = 0

    def _level(self, sequence: Sequence) -> int:  # noqa: ARG002 - others have levels
        return 0

    def enter(self, sequence: Sequence) -> None:
        """It stands behind all others of its level."""
        self._arrivals += 1
        self._numbers[sequence] = self._arrivals
        self._line.put(self._level(sequence), self._arrivals, sequence)

    def back(self, sequence: Sequence, now: int) -> None:  # noqa: ARG002 - others look at the time
        """It stands before all that came after it."""
        self._line.put(self._level(sequence), self._numbers[sequence], sequence)

    def take(self, sequence: Sequence) -> None:
        """It does not wait any more."""
        self._line.remove(self._level(sequence), self._numbers[sequence])

    def leave(self, sequence: Sequence) -> None:
        """Nothing of it is kept."""
        if sequence.phase is Phase.WAITING:
            self.take(sequence)
        del self._numbers[sequence]

    def tick(self, now: int) -> None:
        """Time changes nothing."""

    def candidates(self) -> Iterator[Sequence]:
        """From the front to the end."""
        return self._line.candidates()

    def rank(self, sequence: Sequence) -> tuple[int, ...]:
        """Its level, then its arrival."""
        return self._level(sequence), self._numbers[sequence]

    def outranks(self, sequence: Sequence, other: Sequence) -> bool:
        """Whether it is of a better level; who only came earlier waits."""
        return self._level(sequence) < self._level(other)

    def charge(self, sequence: Sequence, computed: int, generated: int) -> None:
        """Nobody pays."""

    def ahead(self, sequence: Sequence) -> int:
        """All that stands before it."""
        before = self._line.before(self._level(sequence))
        return sum(len(other.tokens) for other in before)


class Priority(FirstComeFirstServed):
    """The lowest number first, then the order of arrival; who waits takes the place of one that
    runs at a worse level.

    Who lost its place and is not done after `patience_ns` goes before everybody and keeps its
    place: an endless stream of better ones does not starve it.
    """

    preempts = True

    def __init__(self, patience_ns: int = PATIENCE_NS) -> None:
        super().__init__()
        self._patience_ns = patience_ns
        # In the order in which they were preempted for the first time.
        self._preempted: dict[Sequence, int] = {}
        self._promoted: set[Sequence] = set()

    def _level(self, sequence: Sequence) -> int:
        return FIRST_LEVEL if sequence in self._promoted else sequence.priority

    def back(self, sequence: Sequence, now: int) -> None:
        """Its patience began when it was preempted for the first time."""
        super().back(sequence, now)
        if sequence not in self._promoted:
            self._preempted.setdefault(sequence, now)

    def leave(self, sequence: Sequence) -> None:
        """Nothing of it is kept."""
        super().leave(sequence)
        self._preempted.pop(sequence, None)
        self._promoted.discard(sequence)

    def tick(self, now: int) -> None:
        """Those whose patience is over are the first now."""
        while self._preempted:
            sequence, since = next(iter(self._preempted.items()))
            if now - since < self._patience_ns:
                return
            del self._preempted[sequence]
            self._promote(sequence)

    def _promote(self, sequence: Sequence) -> None:
        waits, number = sequence.phase is Phase.WAITING, self._numbers[sequence]
        if waits:
            self._line.remove(self._level(sequence), number)
        self._promoted.add(sequence)
        if waits:
            self._line.put(self._level(sequence), number, sequence)


def make_policy(name: str) -> Policy:
    """The policy of this name: fcfs, priority or vtc."""
    if name == "fcfs":
        return FirstComeFirstServed()
    if name == "priority":
        return Priority()
    if name == "vtc":
        return VirtualTokenClock()
    raise InvalidArgument(f"policy is {name[:64]!r}, expected 'fcfs', 'priority' or 'vtc'")
