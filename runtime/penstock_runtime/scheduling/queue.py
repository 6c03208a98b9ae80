"""The queue of one model: priority levels, earliest deadline first inside a level, time-outs as
policy says.

Pure: no clock, no lock. A request without a deadline is ordered as if it had one a fixed horizon
after its arrival: without deadlines that is plain first-in-first-out, and with them nobody starves.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush

from penstock_runtime.config_scheduling import QueuePolicy
from penstock_runtime.errors import DeadlineExceeded, FailureReason, Unavailable
from penstock_runtime.scheduling.base import Dead, LevelStats, Pending, QueueStats

HORIZON_NS = 10_000_000_000
# When there may be room again: queues are short in time, however long they are.
RETRY_AFTER_NS = 100_000_000
_STALE_SLACK = 64

# (when it should be done, arrival number, the request): the number makes every entry comparable.
Entry = tuple[int, int, Pending]


class Level:
    """The requests of one priority; those that a DELAY policy put back are served after all
    others.
    """

    __slots__ = ("delayed", "policy", "waiting")

    def __init__(self, policy: QueuePolicy) -> None:
        self.policy = policy
        self.waiting: list[Entry] = []
        self.delayed: list[Entry] = []

    def __len__(self) -> int:
        return len(self.waiting) + len(self.delayed)

    @property
    def rows(self) -> int:
        """Rows that wait at this priority; counted when somebody asks."""
        return sum(e[2].batch_size for entries in (self.waiting, self.delayed) for e in entries)

    def entries(self, delayed: bool) -> list[Entry]:
        """The list that a request of this kind stands in."""
        return self.delayed if delayed else self.waiting


class RequestQueue:
    """What waits for execution, in the order in which it should be executed."""

    def __init__(
        self,
        levels: int = 1,
        default_level: int = 1,
        policy: QueuePolicy | None = None,
        policies: Mapping[int, QueuePolicy] | None = None,
        by_deadline: bool = True,
    ) -> None:
        default, own = policy or QueuePolicy(), policies or {}
        self._levels = {n: Level(own.get(n, default)) for n in range(1, max(levels, 1) + 1)}
        self._only = self._levels[1] if len(self._levels) == 1 else None
        self._default_level = default_level if default_level in self._levels else 1
        self._by_deadline = by_deadline
        self._expiry: list[Entry] = []
        self._arrivals = 0
        self._times_out = bool(default.default_timeout_microseconds)
        # By arrival; what has left the queue stays until it is in front, or too many have.
        self._by_arrival: deque[Pending] = deque()
        self.rows = 0
        self.size = 0

    # -- in and out ------------------------------------------------------------------------------

    def push(self, pending: Pending) -> None:
        """Accept the request at its priority, or raise Unavailable when its level is full."""
        level = self._only
        level_number = 1
        if level is None:
            level_number = self._level_of(pending.request.priority)
            level = self._levels[level_number]
        limit = level.policy.max_queue_size
        if limit and len(level) >= limit:
            raise queue_full()
        self._arrivals += 1
        pending.order, pending.level = self._arrivals, level_number
        pending.delayed, pending.queued = False, True
        if level.policy.default_timeout_microseconds:
            pending.timeout_ns = self._timeout(pending, level.policy)
        entry = (self._key(pending), pending.order, pending)
        waiting = level.waiting
        if not waiting or waiting[-1] < entry:
            waiting.append(entry)
        else:
            insort(waiting, entry)
        self._by_arrival.append(pending)
        self.size += 1
        self.rows += pending.batch_size
        if pending.deadline_ns is not None or pending.timeout_ns is not None:
            self._watch(pending)

    def push_plain(self, pendings: Sequence[Pending]) -> bool:
        """Accept requests in the order of their arrival; False, and none is accepted, where one
        might be refused: unless there is one level, without limit and time-out.
        """
        level = self._only
        if level is None or level.policy.max_queue_size or self._times_out:
            return False
        waiting, first = level.waiting, self._arrivals + 1
        entries, timed, rows = [], 0, 0
        for order, pending in enumerate(pendings, first):
            deadline = pending.deadline_ns
            if deadline is None:
                entries.append((pending.arrived_ns + HORIZON_NS, order, pending))
            else:
                timed += 1
                heappush(self._expiry, (deadline, order, pending))
                entries.append((self._key(pending), order, pending))
            pending.order, pending.queued = order, True
            rows += pending.batch_size
        if not timed and (not waiting or waiting[-1] < entries[0]):
            # Without deadlines they stand in order already.
            waiting += entries
        else:
            for entry in entries:
                insort(waiting, entry)
            self._sweep()
        self._arrivals += len(pendings)
        self._by_arrival += pendings
        self.size += len(pendings)
        self.rows += rows
        return True

    def remove(self, pending: Pending) -> bool:
        """Take a request out, wherever it stands; False when it does not wait here."""
        if not pending.queued:
            return False
        entries = self._levels[pending.level].entries(pending.delayed)
        at = self._find(entries, pending)
        del entries[at]
        self._forget((pending,))
        return True

    def pop_front(self, count: int) -> list[Pending]:
        """Take the first `count` requests out, in order of execution."""
        if count == 1 and self._only is not None and self._only.waiting:
            pending = self._only.waiting.pop(0)[2]
            self._forget((pending,))
            return [pending]
        taken: list[Pending] = []
        for level in self._levels.values():
            for entries in (level.waiting, level.delayed):
                if len(taken) == count:
                    return taken
                front = [entry[2] for entry in entries[: count - len(taken)]]
                del entries[: len(front)]
                taken.extend(front)
                self._forget(front)
        return taken

    def __iter__(self) -> Iterator[Pending]:
        for level in self._levels.values():
            for entry in level.waiting:
                yield entry[2]
            for entry in level.delayed:
                yield entry[2]

    def __len__(self) -> int:
        return self.size

    # -- time ------------------------------------------------------------------------------------

    def expire(self, now: int) -> list[Dead]:
        """Remove what is past its deadline or rejected by its time-out; put back what policy
        delays.
        """
        dead: list[Dead] = []
        while self._expiry and self._expiry[0][0] <= now:
            pending = heappop(self._expiry)[2]
            if not pending.queued:
                continue
            if pending.deadline_ns is not None and pending.deadline_ns <= now:
                dead.append(self._bury(pending, expired_deadline(pending, now)))
            elif pending.timeout_ns is not None and pending.timeout_ns <= now:
                self._time_out(pending, dead)
        return dead

    def next_expiry(self) -> int | None:
        """When `expire` has something to do; None for never."""
        while self._expiry and not self._expiry[0][2].queued:
            heappop(self._expiry)
        return self._expiry[0][0] if self._expiry else None

    def _time_out(self, pending: Pending, dead: list[Dead]) -> None:
        level = self._levels[pending.level]
        if level.policy.timeout_action != "DELAY":
            dead.append(self._bury(pending, _timed_out()))
            return
        entry = level.waiting.pop(self._find(level.waiting, pending))
        pending.delayed, pending.timeout_ns = True, None
        insort(level.delayed, entry)
        self._watch(pending)

    def _bury(self, pending: Pending, error: DeadlineExceeded | Unavailable) -> Dead:
        self.remove(pending)
        return Dead(pending, error)

    # -- what others ask -------------------------------------------------------------------------

    def oldest_ns(self) -> int:
        """When the request that waits longest arrived; 0 when none waits."""
        return self._by_arrival[0].arrived_ns if self._by_arrival else 0

    def rows_ahead(self, pending: Pending) -> int:
        """Rows that would be executed before a request that is not queued yet (an estimate)."""
        if not self.size:
            return 0
        ahead, levels = 0, self._levels
        own = 1 if self._only is not None else self._level_of(pending.request.priority)
        for number, level in levels.items():
            if number < own:
                ahead += len(level)
            elif number == own:
                ahead += bisect_left(level.waiting, self._key(pending), key=_due)
        return ahead * self.rows // self.size

    def stats(self) -> QueueStats:
        """What waits."""
        return QueueStats(self.size, self.rows, self.oldest_ns())

    def levels(self) -> list[LevelStats]:
        """What waits, by priority."""
        oldest: dict[int, int] = {}
        wanted = sum(1 for level in self._levels.values() if len(level))
        for pending in self._by_arrival:
            if len(oldest) == wanted:
                break
            if pending.queued:
                oldest.setdefault(pending.level, pending.arrived_ns)
        return [
            LevelStats(number, len(level), level.rows, oldest.get(number, 0))
            for number, level in self._levels.items()
        ]

    # -- private ---------------------------------------------------------------------------------

    def _level_of(self, priority: int) -> int:
        return priority if priority in self._levels else self._default_level

    def _key(self, pending: Pending) -> int:
        if not self._by_deadline or pending.deadline_ns is None:
            return pending.arrived_ns + HORIZON_NS
        return pending.deadline_ns

    def _entry(self, pending: Pending) -> Entry:
        return (self._key(pending), pending.order, pending)

    def _find(self, entries: list[Entry], pending: Pending) -> int:
        at = bisect_left(entries, self._entry(pending))
        if at == len(entries) or entries[at][2] is not pending:
            raise AssertionError(f"{pending!r} is marked as queued and stands in no queue")
        return at

    def _forget(self, left: Sequence[Pending]) -> None:
        """These have left the queue: nothing of them stays behind."""
        arrivals, rows = self._by_arrival, 0
        for pending in left:
            pending.queued = False
            rows += pending.batch_size
        self.size -= len(left)
        self.rows -= rows
        if not self.size:
            arrivals.clear()
        while arrivals and not arrivals[0].queued:
            arrivals.popleft()
        if len(arrivals) > 2 * self.size + _STALE_SLACK:
            self._by_arrival = deque(pending for pending in arrivals if pending.queued)

    def _watch(self, pending: Pending) -> None:
        """Remember when this request must be looked at; sweep out entries of requests long gone."""
        deadline, timeout = pending.deadline_ns, pending.timeout_ns
        if deadline is None or timeout is None:
            moment = deadline if timeout is None else timeout
        else:
            moment = min(deadline, timeout)
        if moment is None:
            return
        heappush(self._expiry, (moment, pending.order, pending))
        self._sweep()

    def _sweep(self) -> None:
        if len(self._expiry) > 2 * self.size + _STALE_SLACK:
            self._expiry = [entry for entry in self._expiry if entry[2].queued]
            heapify(self._expiry)

    @staticmethod
    def _timeout(pending: Pending, policy: QueuePolicy) -> int | None:
        """The policy's time-out; a request may shorten it, never lengthen it, and not where there
        is none.
        """
        limit_us, own_us = policy.default_timeout_microseconds, pending.request.timeout_us
        if not limit_us:
            return None
        if policy.allow_timeout_override and 0 < own_us < limit_us:
            limit_us = own_us
        return pending.arrived_ns + limit_us * 1000


def _due(entry: Entry) -> int:
    return entry[0]


def expired_deadline(pending: Pending, now: int) -> DeadlineExceeded:
    """The error of a request whose deadline passed before it was executed."""
    waited_ms = (now - pending.arrived_ns) / 1e6
    return DeadlineExceeded(
        f"deadline exceeded after {waited_ms:.1f} ms in the queue; the request was not executed",
        reason="DEADLINE_EXPIRED",
        scheduled=True,
    )


def queue_full() -> Unavailable:
    """The error of a request for which there is no room among those that wait."""
    return _unavailable("Exceeds maximum queue size", "QUEUE_FULL")


def _timed_out() -> Unavailable:
    return _unavailable("Request timeout expired", "QUEUE_TIMEOUT")


def _unavailable(text: str, reason: str) -> Unavailable:
    return Unavailable(
        text,
        reason=reason,
        failure=FailureReason.REJECTED,
        retry_after_ns=RETRY_AFTER_NS,
        scheduled=True,
    )
