"""Fair shares for tenants: each has a clock that runs with the tokens computed for it, and the one
whose clock is behind goes first (the virtual token counter of Sheng et al., "Fairness in Serving
Large Language Models", 2024).

Pure. A tenant that comes back does not get what it left unused: its clock is set forward to that of
the last of those who wait.
"""

from collections import OrderedDict
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from penstock_runtime.llm.sequence import Phase, Sequence
from penstock_runtime.llm.waiting_line import WaitingLine

INPUT_WEIGHT, OUTPUT_WEIGHT = 1, 2
MOST_IDLE_TENANTS = 4096


class TenantClocks:
    """How much each tenant has got. Those who have anything are kept, and so many others."""

    def __init__(self, most_idle: int = MOST_IDLE_TENANTS) -> None:
        self._most_idle = most_idle
        self._busy: dict[str, int] = {}
        self._sequences: dict[str, int] = {}
        self._idle: OrderedDict[str, int] = OrderedDict()

    def enter(self, tenant: str) -> None:
        """One more sequence of a tenant."""
        if tenant not in self._busy:
            self._busy[tenant] = self._idle.pop(tenant, 0)
        self._sequences[tenant] = self._sequences.get(tenant, 0) + 1

    def leave(self, tenant: str) -> None:
        """One less; of the tenants who have none, those who left longest ago are forgotten."""
        self._sequences[tenant] -= 1
        if self._sequences[tenant]:
            return
        del self._sequences[tenant]
        self._idle[tenant] = self._busy.pop(tenant)
        if len(self._idle) > self._most_idle:
            self._idle.popitem(last=False)

    def lift(self, tenant: str, least: int) -> None:
        """Set the clock of a busy tenant forward to this."""
        self._busy[tenant] = max(self._busy[tenant], least)

    def advance(self, tenant: str, cost: int) -> None:
        """A busy tenant got something."""
        self._busy[tenant] += cost

    def read(self, tenant: str) -> int:
        """What a tenant has got; 0 where it is not known."""
        clock = self._busy.get(tenant)
        return self._idle.get(tenant, 0) if clock is None else clock

    def __len__(self) -> int:
        return len(self._busy) + len(self._idle)


class VirtualTokenClock:
    """The tenant that has got least, then its own priorities, then the order of arrival.

    Priorities order what one tenant has waiting: none gets ahead of another by them. The tenant
    that has got most gives way.
    """

    preempts = False
    charges = True

    def __init__(self, most_idle: int = MOST_IDLE_TENANTS) -> None:
        self.clocks = TenantClocks(most_idle)
        self._lines: dict[str, WaitingLine] = {}
        self._numbers: dict[Sequence, int] = {}
        self._arrivals = 0
        self._last, self._least = "", 0

    def enter(self, sequence: Sequence) -> None:
        """A tenant that had nothing waiting starts level with the last of those that have."""
        tenant = sequence.tenant
        self.clocks.enter(tenant)
        if tenant not in self._lines:
            self.clocks.lift(tenant, self._floor())
        self._arrivals += 1
        self._numbers[sequence] = self._arrivals
        self._put(sequence)

    def back(self, sequence: Sequence, now: int) -> None:  # noqa: ARG002 - others look at the time
        """It was not idle: its tenant's clock stays."""
        self._put(sequence)

    def take(self, sequence: Sequence) -> None:
        """It does not wait any more."""
        tenant = sequence.tenant
        line = self._lines[tenant]
        line.remove(sequence.priority, self._numbers[sequence])
        if not len(line):
            del self._lines[tenant]
            self._last = tenant

    def leave(self, sequence: Sequence) -> None:
        """Nothing of it is kept but what its tenant has got."""
        if sequence.phase is Phase.WAITING:
            self.take(sequence)
        del self._numbers[sequence]
        self.clocks.leave(sequence.tenant)

    def tick(self, now: int) -> None:
        """Only tokens count, not time."""

    def candidates(self) -> Iterator[Sequence]:
        """At any moment from the tenant that has got least by then."""
        read = self.clocks.read
        heap = [(read(tenant), tenant, 0) for tenant in self._lines]
        heapify(heap)
        while heap:
            clock, tenant, index = heappop(heap)
            line = self._lines.get(tenant)
            sequence = line.at(index) if line is not None else None
            if line is None or sequence is None:
                continue
            if clock == read(tenant):
                yield sequence
                index += line.at(index) is sequence
            heappush(heap, (read(tenant), tenant, index))

    def rank(self, sequence: Sequence) -> tuple[int, ...]:
        """What its tenant has got, then its priority and arrival."""
        clock = self.clocks.read(sequence.tenant)
        return clock, sequence.priority, self._numbers[sequence]

    def outranks(self, sequence: Sequence, other: Sequence) -> bool:  # noqa: ARG002
        """Nobody loses its place to one who waits."""
        return False

    def charge(self, sequence: Sequence, computed: int, generated: int) -> None:
        """The tenant's clock runs on; a generated token costs a step, one of a prompt does not."""
        cost = INPUT_WEIGHT * computed + OUTPUT_WEIGHT * generated
        self.clocks.advance(sequence.tenant, cost)

    def ahead(self, sequence: Sequence) -> int:
        """What its own tenant has waiting; how much others get before is not sure."""
        line = self._lines.get(sequence.tenant)
        before = line.before(sequence.priority) if line is not None else ()
        return sum(len(other.tokens) for other in before)

    def _put(self, sequence: Sequence) -> None:
        line = self._lines.setdefault(sequence.tenant, WaitingLine())
        line.put(sequence.priority, self._numbers[sequence], sequence)

    def _floor(self) -> int:
        """What the last of those who wait has got, or had the last one who waited."""
        read = self.clocks.read
        least = min(map(read, self._lines)) if self._lines else read(self._last)
        self._least = max(self._least, least)
        return self._least
