"""The instances of a model that batches: how they are made, and how some join and others leave
while it serves.

Who joins executes as soon as it is warm, who leaves ends what it executes; weights, queue and
statistics stay where they are.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from penstock_runtime.backends.base import LoadedModel
from penstock_runtime.batch import BatchPlan
from penstock_runtime.config import ModelConfig
from penstock_runtime.instance import ModelInstance
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.placement import Seat, seats
from penstock_runtime.scheduling.batch_scheduler import BatchScheduler
from penstock_runtime.scheduling.gate import Gate
from penstock_runtime.scheduling.rate_limiter import claim_of
from penstock_runtime.scheduling.rates import Rates
from penstock_runtime.wait_graph import model_key
from penstock_runtime.warmup import WarmupRequest

_log = logging.getLogger("penstock.model")


@dataclass(frozen=True, slots=True)
class Change:
    """A change of instances: all that there will be, who of them is new, and who leaves."""

    instances: tuple[ModelInstance, ...]
    joined: tuple[ModelInstance, ...]
    leaving: tuple[ModelInstance, ...]


class Staff:
    """Makes and dismisses the instances of one model; `rates` where these share resources. Calls
    come one at a time.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        plan: BatchPlan,
        scheduler: BatchScheduler,
        statistics: ModelStatistics,
        warmups: tuple[WarmupRequest, ...],
        rates: Rates | None = None,
        *,
        uses_gpu: bool = False,
    ) -> None:
        self._loaded = loaded
        self._plan = plan
        self._scheduler = scheduler
        self._statistics = statistics
        self._warmups = warmups
        self._rates = rates
        self._uses_gpu = uses_gpu
        self._seats: dict[ModelInstance, Seat] = {}
        # Those that were dismissed and may still execute.
        self._former: tuple[ModelInstance, ...] = ()

    @property
    def former(self) -> tuple[ModelInstance, ...]:
        """Those that were dismissed and have not ended yet."""
        self._former = tuple(one for one in self._former if not one.join(0.0))
        return self._former

    def hire(self, places: Sequence[Seat]) -> tuple[ModelInstance, ...]:
        """New instances in these places, not started; InvalidArgument if there can never be enough
        for one of them to execute.
        """
        made: list[ModelInstance] = []
        try:
            made.extend(self._make(seat) for seat in places)
        except BaseException:
            for instance in made:
                del self._seats[instance]
            self.forget(made)
            raise
        return tuple(made)

    def start(self, instances: Sequence[ModelInstance]) -> None:
        """Start them, and return when all are warm; raises what kept one from being so."""
        for instance in instances:
            instance.start()
        for instance in instances:
            instance.wait_ready()
        self._statistics.set_memory(self._loaded.memory_bytes())

    def change(self, present: Sequence[ModelInstance], config: ModelConfig) -> Change | None:
        """Hire and start those that this configuration has more; None where it takes a reload.

        Raises what kept one of them from being warm; then those who joined have left again.
        """
        places = seats(config, uses_gpu=self._uses_gpu)
        shares = any(seat.group is not None and seat.group.resources for seat in places)
        if not self._scheduler.may_have(len(places)) or (shares and self._rates is None):
            return None
        apart = {seat.placement.process for seat in (*places, *self._seats.values())}
        if len(apart) > 1 or config.in_place != self._plan.config.in_place:
            # What is loaded in this process cannot be in another, nor the other way round; and the
            # scheduler that executes in place is another one.
            return None
        kept, vacant, leaving = self._match(present, places)
        joined = self.hire(vacant)
        try:
            self.start(joined)
        except BaseException:
            self.dismiss(joined)
            # Those who live leave by themselves.
            self.forget([instance for instance in joined if instance.join(0.0)])
            raise
        return Change((*kept, *joined), joined, leaving)

    def settle(self, change: Change) -> None:
        """The change is final: those who leave end after what they execute."""
        self._scheduler.resize(len(change.instances))
        self.dismiss(change.leaving)
        model, version = self._statistics.model, self._statistics.version
        counts = len(change.joined), len(change.leaving), len(change.instances)
        _log.info(
            "model '%s' version %d: %d instances joined, %d leave, %d in all",
            model,
            version,
            *counts,
        )

    def dismiss(self, instances: Sequence[ModelInstance]) -> None:
        """Let them end after what they execute; nobody waits for it here."""
        self._former = (*self.former, *instances)
        for instance in instances:
            del self._seats[instance]
            instance.dismiss()
            self._scheduler.dismiss(instance.gate)

    def forget(self, instances: Sequence[ModelInstance]) -> None:
        """What these hold is for others, whether they have ended, never began, or go on."""
        for instance in instances:
            self._scheduler.leave(instance.gate)

    def _match(
        self, present: Sequence[ModelInstance], places: Sequence[Seat]
    ) -> tuple[list[ModelInstance], list[Seat], tuple[ModelInstance, ...]]:
        """Who stays, which places have nobody, who has no place."""
        kept, vacant, free = [], [], list(present)
        for seat in places:
            found = next((one for one in free if self._seats[one] == seat), None)
            if found is None:
                vacant.append(seat)
            else:
                free.remove(found)
                kept.append(found)
        return kept, vacant, tuple(free)

    def _make(self, seat: Seat) -> ModelInstance:
        gate = Gate()
        if self._rates is not None:
            claim = claim_of(seat.group, seat.placement.device_id)
            key = model_key(self._statistics.model, self._statistics.version)
            gate = self._rates.enter(claim, key, seat.placement.name)
        instance = ModelInstance(
            seat.placement,
            self._loaded,
            self._plan,
            self._scheduler,
            self._statistics,
            self._warmups,
            gate,
            self._scheduler.leave,
        )
        self._seats[instance] = seat
        return instance
