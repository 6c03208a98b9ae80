"""Which instance may execute next where they share resources: as many of each as there are, and
chances by priority.

Pure: no clock, no lock, no thread. An instance stands in line with the virtual time at which its
last execution ends, where one of priority 2 takes twice as long as one of priority 1; who has been
away gets no credit for that. The first in line that does not fit keeps what it needs from those
behind it, so that it is not overtaken for ever; they may have all the rest. Not so while one who
holds some of that waits for another model: that one may be among those behind.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from types import MappingProxyType
from typing import Generic, TypeVar

from penstock_runtime.config import RateLimiter as Group
from penstock_runtime.errors import InvalidArgument

Resource = tuple[str, int | None]
"""Name and device; None for a resource that all devices share."""
Totals = Mapping[Resource, int]
"""What an operator gives: without a device it holds for each, names in lower case."""
NO_TOTALS: Totals = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Claim:
    """What one instance needs to execute, and how seldom it has its turn: priority 1 has twice as
    many as 2.
    """

    needs: Mapping[Resource, int] = field(default_factory=lambda: MappingProxyType({}))
    priority: int = 1


def claim_of(group: Group | None, device_id: int) -> Claim:
    """The claim of an instance of this group on this device; as in Triton a CPU's is device 0."""
    if group is None:
        return Claim()
    needs: dict[Resource, int] = {}
    for one in group.resources:
        resource = (one.name, None if one.global_ else device_id)
        needs[resource] = needs.get(resource, 0) + one.count
    return Claim(MappingProxyType(needs), group.priority or 1)


KeyT = TypeVar("KeyT", bound=Hashable)


class _Seat:
    """One instance in the books."""

    __slots__ = ("begins", "claim", "ends", "holds", "number", "waits")

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        # Virtual times of its turn, and of the end of the one before.
        self.begins = self.ends = 0
        # Its place among those with the same time.
        self.number = 0
        self.holds = False
        # How many calls of other models it waits for while it executes.
        self.waits = 0


class RateLimiter(Generic[KeyT]):
    """The books of all instances of a server: what they need, who waits, who executes."""

    def __init__(self, totals: Totals = NO_TOTALS) -> None:
        self._given = totals
        self._seats: dict[KeyT, _Seat] = {}
        self._line: dict[KeyT, _Seat] = {}
        self._used: dict[Resource, int] = {}
        self._totals: dict[Resource, int] = {}
        self._numbers = count(1)
        self._now = 0

    # -- who is there ----------------------------------------------------------------------------

    def check(self, claims: Iterable[Claim]) -> None:
        """InvalidArgument for claims that could never be met, or that name a resource of each
        device where others share it.
        """
        known = {
            name: device is None
            for seat in self._seats.values()
            for name, device in seat.claim.needs
        }
        for claim in claims:
            for (name, device), needed in claim.needs.items():
                if known.setdefault(name, device is None) != (device is None):
                    raise InvalidArgument(
                        f'Resource "{name}" is present as both global and device-specific resource'
                        " in the model configuration."
                    )
                total = self._given_total((name, device))
                if total is not None and needed > total:
                    raise InvalidArgument(
                        f'Resource count for "{name}" is limited to {total} which will prevent'
                        " scheduling of one or more model instances, the minimum required count is"
                        f" {needed}"
                    )

    def enter(self, key: KeyT, claim: Claim) -> None:
        """From now on this instance may stand in line; raises as `check`."""
        self.check((claim,))
        self._seats[key] = _Seat(claim)
        self._count()

    def leave(self, key: KeyT) -> None:
        """The instance is gone, with all that it held; nothing for one that is not there."""
        self.give_back(key)
        self._line.pop(key, None)
        if self._seats.pop(key, None) is not None:
            self._count()

    def needs(self, key: KeyT) -> Mapping[Resource, int]:
        """What this instance needs to execute; nothing for one that is not there."""
        seat = self._seats.get(key)
        return seat.claim.needs if seat is not None else {}

    # -- the line --------------------------------------------------------------------------------

    def ask(self, key: KeyT) -> None:
        """Stand in line; nothing for who stands there already, or has its turn."""
        seat = self._seats.get(key)
        if seat is None or seat.holds or key in self._line:
            return
        seat.begins = max(seat.ends, self._now)
        seat.number = next(self._numbers)
        self._line[key] = seat

    def withdraw(self, key: KeyT) -> None:
        """Out of the line; a turn that was not used is no turn."""
        seat = self._seats.get(key)
        if seat is None:
            return
        self._line.pop(key, None)
        if seat.holds:
            self.give_back(key)
            seat.ends = seat.begins

    def waits(self, key: KeyT, step: int) -> None:
        """An instance waits for a call of another model more (1) or less (-1) while it executes."""
        seat = self._seats.get(key)
        if seat is not None:
            seat.waits = max(seat.waits + step, 0)

    def grant(self) -> list[KeyT]:
        """Give those their turn who can have it, in order."""
        line = sorted(self._line.items(), key=_place)
        granted: list[KeyT] = []
        kept: Mapping[Resource, int] | None = None
        for key, seat in line:
            if self._fits(seat.claim.needs, kept or {}):
                del self._line[key]
                self._begin(seat)
                granted.append(key)
            elif kept is None and not self._is_waited_with(seat.claim.needs):
                kept = seat.claim.needs
        return granted

    def holds(self, key: KeyT) -> bool:
        """Whether this instance has its turn."""
        seat = self._seats.get(key)
        return seat is not None and seat.holds

    def give_back(self, key: KeyT) -> bool:
        """The turn is over; whether there was one."""
        seat = self._seats.get(key)
        if seat is None or not seat.holds:
            return False
        seat.holds = False
        for resource, needed in seat.claim.needs.items():
            left = self._used[resource] - needed
            if left:
                self._used[resource] = left
            else:
                del self._used[resource]
        return True

    # -- how much there is -----------------------------------------------------------------------

    def total(self, resource: Resource) -> int:
        """How much there is: what was given, or else the most that any instance needs."""
        given = self._given_total(resource)
        return self._totals.get(resource, 0) if given is None else given

    def used(self) -> Mapping[Resource, int]:
        """What those hold who have their turn."""
        return dict(self._used)

    def _count(self) -> None:
        """Work out how much there is of what anyone needs, now that others do."""
        totals: dict[Resource, int] = {}
        for seat in self._seats.values():
            for resource, needed in seat.claim.needs.items():
                totals[resource] = max(totals.get(resource, 0), needed)
        given = {resource: self._given_total(resource) for resource in totals}
        self._totals = {one: given[one] or most for one, most in totals.items()}

    def _given_total(self, resource: Resource) -> int | None:
        name, device = resource[0].casefold(), resource[1]
        if device is not None:
            return self._given.get((name, device), self._given.get((name, None)))
        # As in Triton, a device does not matter where all share.
        return next((total for (of, _), total in self._given.items() if of == name), None)

    def _fits(self, needs: Mapping[Resource, int], kept: Mapping[Resource, int]) -> bool:
        return all(
            needed <= self._totals[one] - self._used.get(one, 0) - kept.get(one, 0)
            for one, needed in needs.items()
        )

    def _is_waited_with(self, needs: Mapping[Resource, int]) -> bool:
        """Whether one who holds any of these waits for another model meanwhile."""
        return any(
            seat.holds and seat.waits and not needs.keys().isdisjoint(seat.claim.needs)
            for seat in self._seats.values()
        )

    def _begin(self, seat: _Seat) -> None:
        seat.holds = True
        seat.ends = seat.begins + seat.claim.priority
        self._now = max(self._now, seat.begins)
        for resource, needed in seat.claim.needs.items():
            self._used[resource] = self._used.get(resource, 0) + needed

    def __repr__(self) -> str:
        seats, line = len(self._seats), len(self._line)
        return f"<RateLimiter of {seats} instances, {line} in line, used {self._used}>"


def _place(entry: tuple[object, _Seat]) -> tuple[int, int]:
    return entry[1].begins, entry[1].number
