"""The batch scheduler of a model whose instances need resources: an instance asks for its turn when
something waits, and takes its batch when it has it.

So the batch goes on growing in the queue, with its deadlines and cancellations, while the resources
are with others.
"""

import time

from penstock_runtime.batch import Batch
from penstock_runtime.loop_inbox import release_news
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.scheduling.base import Batcher, Pending
from penstock_runtime.scheduling.batch_scheduler import BatchScheduler, Clock, Work
from penstock_runtime.scheduling.gate import Gate
from penstock_runtime.scheduling.predictor import WaitPredictor
from penstock_runtime.scheduling.rates import Rates
from penstock_runtime.scheduling.timer import Timer


class RatedScheduler(BatchScheduler):
    """Between the requests for one version of a model and its instances, which share resources."""

    def __init__(
        self,
        batcher: Batcher,
        statistics: ModelStatistics,
        timer: Timer,
        rates: Rates,
        *,
        instances: int = 1,
        preserve_ordering: bool = False,
        clock: Clock = time.monotonic_ns,
        predictor: WaitPredictor | None = None,
    ) -> None:
        super().__init__(
            batcher,
            statistics,
            timer,
            instances=instances,
            preserve_ordering=preserve_ordering,
            clock=clock,
            predictor=predictor,
        )
        self._rates = rates
        self._in_line: set[Gate] = set()

    def next_work(self, gate: Gate, *, several: bool = False) -> Work | None:
        """The batch that the instance executes next, which holds all it needs until it asks again;
        None when it should end.
        """
        # Each execution is a turn of its own.
        del several
        # Asked for at once, or priorities would not count where turns are short.
        if self._something_waits(gate):
            self._rates.renew(gate)
        else:
            self._rates.give_back(gate)
        while True:
            if not self._something_waits(gate):
                # Its turn came too late, or it has been told to end.
                self._rates.withdraw(gate)
                if self._is_over(gate):
                    return None
                self._rest(gate)
            elif not self._rates.acquire(gate):
                self._stand_in_line(gate)
            elif (batch := self._take(gate)) is not None:
                self._clear_line()
                return batch

    def _something_waits(self, gate: Gate) -> bool:
        now = self._clock()
        with self._lock:
            dead = self._batcher.expire(now)
            waits = self._batcher.stats().requests > 0 and not gate.dismissed
        self._bury(dead, now)
        return waits

    def _is_over(self, gate: Gate) -> bool:
        with self._lock:
            return gate.dismissed or (self._stopped and not self._batcher.stats().requests)

    def _rest(self, gate: Gate) -> None:
        """Be idle until something comes."""
        now = self._clock()
        with self._lock:
            if self._stopped or gate.dismissed or self._batcher.stats().requests:
                return
            self._idle.append(gate)
        self._wait(gate, None, now)

    def _stand_in_line(self, gate: Gate) -> None:
        """Wait for the turn, or for the end."""
        release_news()
        with self._lock:
            if self._stopped or gate.dismissed:
                return
            self._in_line.add(gate)
            other = self._other_in_need()
        if other is not None:
            other.open()
        gate.wait(None)
        with self._lock:
            self._in_line.discard(gate)

    def _other_in_need(self) -> Gate | None:
        """One who is idle and needs something else than those in line, so that what waits for them
        may be executed before; under the lock. As the others it passes on what it cannot have.
        """
        needs = self._rates.needs
        wanted = [needs(gate) for gate in self._in_line]
        found = next((gate for gate in self._idle if needs(gate) not in wanted), None)
        if found is not None:
            self._idle.remove(found)
        return found

    def _clear_line(self) -> None:
        """Whoever stands in line for nothing any more keeps others from their turn."""
        with self._lock:
            gates = tuple(self._in_line) if not self._batcher.stats().requests else ()
        for gate in gates:
            gate.open()

    def _cancel(self, pending: Pending) -> None:
        super()._cancel(pending)
        self._clear_line()

    def _ring(self) -> None:
        super()._ring()
        self._clear_line()

    def _take(self, gate: Gate) -> Batch | None:
        """The batch that is due; None, after the wait for it, where it is better to wait."""
        now = self._clock()
        with self._lock:
            dead = self._batcher.expire(now)
            members = self._batcher.take(now)
            rests = members is None and not dead and not (self._stopped or gate.dismissed)
            if rests:
                self._idle.append(gate)
                wake_at = self._batcher.wake_at(now)
        self._bury(dead, now)
        if members is not None:
            return Batch.of(members)
        # Others may have the turn while it waits.
        self._rates.withdraw(gate)
        if rests:
            self._wait(gate, wake_at, now)
        return None

    def stop(self) -> None:
        """Let the instances end, those in line too."""
        super().stop()
        with self._lock:
            gates, self._in_line = self._in_line, set()
        for gate in gates:
            gate.open()

    def away(self, gate: Gate) -> None:
        """The instance cannot execute for a while; what it holds is for others."""
        super().leave(gate)
        self._rates.give_back(gate)

    def leave(self, gate: Gate) -> None:
        """The instance is gone: what it held is for others."""
        super().leave(gate)
        self._rates.leave(gate)
