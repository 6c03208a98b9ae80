"""Which instances of which models wait for which others, and what they hold meanwhile: so that a
wait that could never end is refused instead of begun.

An instance whose code calls another model is busy until that answers, and keeps its resources of
the rate limiter. A model is stuck if every instance of it waits for a stuck model, or lacks what
such instances hold; nothing that is asked of it would ever be executed.
"""

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from penstock_runtime.scheduling.rate_limiter import Resource

Needs = Mapping[Resource, int]
_NOTHING: Needs = MappingProxyType({})
_NONE: Mapping[str, Mapping[str, Needs]] = MappingProxyType({})


def model_key(name: str, version: object) -> str:
    """What a version of a model is called among those that wait for each other."""
    return f"{name} version {version}"


class Limits(Protocol):
    """What the rate limiter knows of instances, which it calls by model and name."""

    def claims(self, model: str) -> Mapping[str, Needs]:
        """What each instance of a model needs; nothing for a model that needs nothing."""

    def total(self, resource: Resource) -> int:
        """How much there is of it."""

    def waits(self, model: str, name: str, step: int) -> None:
        """An instance waits for a model once more (1), or once less (-1)."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a wait would never end: it goes round (no resource), or `needy` needs a resource that
    `holder` holds for as long as it waits.
    """

    resource: str = ""
    holder: str = ""
    needy: str = ""


@dataclass(slots=True)
class Waiter:
    """An instance that waits: what the rate limiter calls it, and how often it waits for whom."""

    name: str = ""
    targets: dict[str, int] = field(default_factory=dict)


class WaitGraph:
    """The waits of one server; `limits` where instances share resources. Thread-safe."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._instances: dict[str, int] = {}
        self._waits: dict[str, dict[object, Waiter]] = {}

    def add_instance(self, model: str) -> None:
        """There is one more instance of this model."""
        with self._lock:
            self._instances[model] = self._instances.get(model, 0) + 1

    def remove_instance(self, model: str) -> None:
        """There is one instance less."""
        with self._lock:
            left = self._instances.get(model, 1) - 1
            if left > 0:
                self._instances[model] = left
            else:
                self._instances.pop(model, None)

    def begin(
        self, model: str, instance: object, targets: Collection[str], name: str = ""
    ) -> Refusal | None:
        """An instance of the model (`name`, to the rate limiter) waits for these from now on; it
        does not, and the answer says why, if it would wait for ever.
        """
        with self._lock:
            self._count(model, instance, targets, 1, name)
            refusal = self._search().refusal(targets)
            if refusal is not None:
                self._count(model, instance, targets, -1, name)
        if refusal is None and self._limits is not None and targets:
            self._limits.waits(model, name, 1)
        return refusal

    def end(self, model: str, instance: object, targets: Collection[str], name: str = "") -> None:
        """It waits no longer."""
        with self._lock:
            self._count(model, instance, targets, -1, name)
        if self._limits is not None and targets:
            self._limits.waits(model, name, -1)

    def _search(self) -> "Search":
        if self._limits is None:
            return Search(self._instances, self._waits)
        waited_for = {
            one for known in self._waits.values() for w in known.values() for one in w.targets
        }
        claims = {model: self._limits.claims(model) for model in {*self._waits, *waited_for}}
        resources = {one for known in claims.values() for needs in known.values() for one in needs}
        totals = {resource: self._limits.total(resource) for resource in resources}
        return Search(self._instances, self._waits, claims, totals)

    def _count(
        self, model: str, instance: object, targets: Collection[str], step: int, name: str
    ) -> None:
        waiting = self._waits.setdefault(model, {})
        counts = waiting.setdefault(instance, Waiter(name)).targets
        for target in targets:
            counts[target] = counts.get(target, 0) + step
            if counts[target] <= 0:
                del counts[target]
        if not counts:
            del waiting[instance]
        if not waiting:
            del self._waits[model]

    def __repr__(self) -> str:
        waiting = sum(map(len, self._waits.values()))
        return f"<WaitGraph {waiting} waits, {len(self._instances)} models>"


class Search:
    """Plays through who answers whom, until nobody is left who can: the rest is stuck.

    `claims` are what each instance needs, by model and name, of models that need something.
    """

    def __init__(
        self,
        instances: Mapping[str, int],
        waits: Mapping[str, Mapping[object, Waiter]],
        claims: Mapping[str, Mapping[str, Needs]] = _NONE,
        totals: Needs = _NOTHING,
    ) -> None:
        self._instances = instances
        self._waits = waits
        self._claims = claims
        self._totals = totals
        models = {*instances, *waits, *claims}
        self._open = {model: list(known.values()) for model, known in waits.items()}
        models |= {
            one for known in self._open.values() for waiter in known for one in waiter.targets
        }
        self.stuck = models
        while freed := {model for model in self.stuck if self._executes(model)}:
            self.stuck -= freed
            for model, known in self._open.items():
                self._open[model] = [w for w in known if not self.stuck.isdisjoint(w.targets)]

    def refusal(self, targets: Collection[str]) -> Refusal | None:
        """Why a wait for these would never end; None if it does."""
        if self.stuck.isdisjoint(targets):
            return None
        for model in sorted(self.stuck.intersection(targets)):
            for needs in self._idle(model):
                for resource, needed in needs.items():
                    holder = self._holder(resource)
                    if holder and not self._is_left(resource, needed):
                        return Refusal(resource[0], holder, model)
        return Refusal()

    def _executes(self, model: str) -> bool:
        """Whether an instance is there, or will be, that has what it needs."""
        waiting = self._waits.get(model, {})
        if len(self._open.get(model, ())) < len(waiting):
            # One of those who waited has its answers, and gives back what it held.
            return True
        return any(
            all(self._is_left(resource, needed) for resource, needed in needs.items())
            for needs in self._idle(model)
        )

    def _idle(self, model: str) -> list[Needs]:
        """What those need who wait for nothing."""
        waiting, claims = self._waits.get(model, {}), self._claims.get(model)
        if claims:
            names = {waiter.name for waiter in waiting.values()}
            return [needs for name, needs in claims.items() if name not in names]
        return [_NOTHING] * (self._instances.get(model, 1) - len(waiting))

    def _is_left(self, resource: Resource, needed: int) -> bool:
        return needed <= self._totals.get(resource, 0) - sum(
            needs.get(resource, 0) for _, needs in self._held()
        )

    def _holder(self, resource: Resource) -> str:
        return next((model for model, needs in self._held() if resource in needs), "")

    def _held(self) -> list[tuple[str, Needs]]:
        """What those hold who go on waiting, as far as is known."""
        return [
            (model, self._claims.get(model, {}).get(waiter.name, _NOTHING))
            for model, known in self._open.items()
            for waiter in known
        ]
