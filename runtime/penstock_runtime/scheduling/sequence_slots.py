"""The places of the sequences: which are free over all instances, and what the strategies of one
instance have in common.
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Protocol

from penstock_runtime.scheduling.sequence import LiveSequence, Slot


class Slots(Protocol):
    """The sequences that one instance executes, and which of them leave together. Pure."""

    def seat(self, sequence: LiveSequence) -> None:
        """The sequence has got a slot of this instance."""

    def leave(self, sequence: LiveSequence) -> None:
        """The sequence gives its slot up; its request is not on offer."""

    def offer(self, sequence: LiveSequence) -> None:
        """The request in front may be executed from now on."""

    def withdraw(self, sequence: LiveSequence) -> None:
        """The request that was offered is not to be executed."""

    def take(self, now: int) -> Sequence[LiveSequence | None] | None:
        """The sequences whose requests are executed now, by rows; None to wait."""

    def wake_at(self, now: int) -> int | None:
        """When to ask `take` again if nothing is offered before; None for never."""


class SlotPool:
    """The free slots of all instances: the lowest number first, so that the sequences spread over
    the instances and batches stay short.
    """

    def __init__(self, instances: int, each: int) -> None:
        self.size = instances * each
        self._free = [
            Slot(number, instance) for number in range(each) for instance in range(instances)
        ]
        heapify(self._free)
        self._gone: set[int] = set()

    def remove(self, instance: int) -> None:
        """The slots of this instance are there no more, those in use not once they are given
        back.
        """
        self._gone.add(instance)
        left = [slot for slot in self._free if slot.instance != instance]
        self.size -= len(self._free) - len(left)
        self._free = left
        heapify(self._free)

    def take(self) -> Slot | None:
        """A free slot, None when all are in use."""
        return heappop(self._free) if self._free else None

    def give_back(self, slot: Slot) -> None:
        """The slot is free again."""
        if slot.instance in self._gone:
            self.size -= 1
        else:
            heappush(self._free, slot)

    @property
    def is_empty(self) -> bool:
        """Whether none is free."""
        return not self._free

    @property
    def used(self) -> int:
        """How many are in use."""
        return self.size - len(self._free)

    def __repr__(self) -> str:
        return f"<SlotPool {self.used} of {self.size} used>"
