"""The sequence batcher under any order of events: never mixed, never lost, never answered twice."""

from collections import defaultdict
from dataclasses import dataclass, field
from operator import attrgetter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.runtime.sequence_fakes import ask, batcher

from penstock_runtime.config_scheduling import SequenceDirect, SequenceOldest
from penstock_runtime.errors import InvalidArgument, PenstockError, ResourceExhausted
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.sequence import Step
from penstock_runtime.scheduling.sequence_batcher import SequenceBatcher

IDLE, BACKLOG = 100, 2
IDS = st.sampled_from([1, 2, 3, "a", "1"])


@dataclass(eq=False)
class Told:
    """One sequence as its caller knows it."""

    identity: int | str
    requests: list[Pending] = field(default_factory=list)
    ran: list[Pending] = field(default_factory=list)
    places: set[tuple[int, int]] = field(default_factory=set)
    given_up: bool = False


class SequenceMachine(RuleBasedStateMachine):
    """Callers, instances and the clock in any order."""

    decider: SequenceBatcher

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.running: dict[int, Step] = {}
        self.open: dict[int | str, Told] = {}
        self.of: dict[Pending, Told] = {}
        self.left: list[Pending] = []
        self.order: dict[int | str, list[Pending]] = defaultdict(list)

    @initialize(
        slots=st.integers(1, 3),
        instances=st.integers(1, 2),
        strategy=st.sampled_from(["direct", "patient", "oldest", "iterative"]),
    )
    def start(self, slots: int, instances: int, strategy: str) -> None:
        self.instances, self.by_row = instances, strategy != "oldest"
        self.iterative = strategy == "iterative"
        share = 0.6 if strategy == "patient" else 0.0
        self.decider = batcher(
            slots,
            instances,
            oldest=None if self.by_row else SequenceOldest(slots, (2,), 1),
            direct=SequenceDirect(1, share),
            max_batch=2,
            iterative=self.iterative,
            idle_ns=IDLE,
            backlog=BACKLOG,
        )

    # -- callers ---------------------------------------------------------------------------------

    @rule(
        identity=IDS,
        flags=st.sampled_from(["S", "S", "", "", "", "E", "SE"]),
        deadline=st.none() | st.integers(1, 80),
        timeout_us=st.sampled_from([0, 0, 1]),
        signature=st.sampled_from(["x", "x", "x", "y"]),
    )
    def arrive(
        self,
        identity: int | str,
        flags: str,
        deadline: int | None,
        timeout_us: int,
        signature: str,
    ) -> None:
        due = None if deadline is None else self.now + deadline
        pending = ask(
            identity,
            flags,
            at=self.now,
            deadline=due,
            timeout_us=timeout_us,
            signature=signature,
        )
        begins = "S" in flags or self.iterative
        knew = self.decider.knows(identity)
        assert knew == (identity in self.open)
        try:
            self.decider.add(pending, self.now)
        except ResourceExhausted:
            assert begins
            return
        except InvalidArgument:
            assert not begins
            assert not knew
            return
        assert begins or knew
        told = Told(identity) if begins else self.open[identity]
        if begins:
            self.open[identity] = told
        if "E" in flags or self.iterative:
            del self.open[identity]
        told.requests.append(pending)
        self.of[pending] = told
        self.order[identity].append(pending)

    @precondition(lambda self: self.of)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        pending = data.draw(st.sampled_from(sorted(self.of, key=attrgetter("arrived_ns"))))
        pending.stream.cancel()
        if self.decider.cancel(pending, self.now):
            self.leave(pending)
            self.lose(self.of[pending])
            self.bury()

    # -- instances -------------------------------------------------------------------------------

    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        instance = data.draw(st.integers(0, self.instances - 1))
        self.finish(instance, data.draw(st.sets(st.integers(0, 2))))
        self.bury()
        step = self.decider.take(instance, self.now)
        if step is not None:
            self.look_at(instance, step)
            self.running[instance] = step

    def look_at(self, instance: int, step: Step) -> None:
        busy = [t.pending for s in self.running.values() for t in s.turns]
        identities = [p.request.correlation_id for p in busy]
        assert len(step.turns) <= 3
        assert self.by_row or len(step.turns) <= 2
        for row, turn in enumerate(step.rows):
            if turn is None:
                continue
            pending, told = turn.pending, self.of[turn.pending]
            # Never two of one id at a time, in one batch or in two.
            assert pending.request.correlation_id not in identities
            identities.append(pending.request.correlation_id)
            assert pending.deadline_ns is None or pending.deadline_ns > self.now
            assert not told.given_up
            assert turn.start == (not told.ran)
            assert turn.end == (pending.request.sequence_end and not self.iterative)
            if pending not in told.ran:
                assert told.requests[len(told.ran)] is pending
                told.ran.append(pending)
            told.places.add((instance, row if self.by_row else 0))
            # One slot from START to end.
            assert len(told.places) == 1
            # All that came before under this id has left.
            ahead = self.order[pending.request.correlation_id]
            assert ahead[0] is pending

    def finish(self, instance: int, again: set[int]) -> None:
        step = self.running.pop(instance, None)
        if step is None:
            return
        for row, turn in enumerate(step.turns):
            turn.sequence.again = self.iterative and row in again
            if not turn.sequence.again:
                self.leave(turn.pending)
        self.decider.done(instance, self.now)

    # -- time ------------------------------------------------------------------------------------

    @rule(passed=st.integers(1, 60))
    def wait(self, passed: int) -> None:
        self.now += passed
        self.bury()

    def bury(self) -> None:
        for item in self.decider.expire(self.now):
            assert isinstance(item.error, PenstockError)
            self.leave(item.pending)
            self.lose(self.of[item.pending])
        for identity in [one for one in self.open if not self.decider.knows(one)]:
            # Silent for too long, or given up.
            del self.open[identity]

    def lose(self, told: Told) -> None:
        told.given_up = True
        if self.open.get(told.identity) is told:
            del self.open[told.identity]

    def leave(self, pending: Pending) -> None:
        assert pending not in self.left
        self.left.append(pending)
        self.order[pending.request.correlation_id].remove(pending)

    # -- laws ------------------------------------------------------------------------------------

    @invariant()
    def what_was_accepted_waits_or_runs_or_has_left(self) -> None:
        if not hasattr(self, "decider"):
            return
        running = sum(len(step.turns) for step in self.running.values())
        stats = self.decider.stats()
        assert stats.requests + running + len(self.left) == len(self.of)
        assert stats.sequences is not None
        assert stats.sequences.backlog <= BACKLOG + len(self.of)

    def teardown(self) -> None:
        if not hasattr(self, "decider"):
            return
        for _ in range(4 * len(self.of) + 4):
            self.now += IDLE + 1000
            for instance in range(self.instances):
                self.finish(instance, set())
                self.bury()
                step = self.decider.take(instance, self.now)
                if step is not None:
                    self.look_at(instance, step)
                    self.running[instance] = step
        assert sorted(map(id, self.left)) == sorted(map(id, self.of))
        stats = self.decider.stats()
        assert stats.sequences is not None
        assert (stats.requests, stats.sequences.live, stats.sequences.backlog) == (0, 0, 0)
        assert self.decider.open_sequences == 0
        assert self.decider.next_expiry() is None


SequenceMachine.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None
)
TestSequenceMachine = SequenceMachine.TestCase
