"""The rate limiter at work: instances ask for their turn, and wait at their gates for it.

One for all models of a server, since they share resources. Lock order: a scheduler's lock is never
held here, and nothing is called under this one; gates are opened outside.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence

from penstock_runtime.scheduling.gate import Gate
from penstock_runtime.scheduling.rate_limiter import (
    NO_TOTALS,
    Claim,
    RateLimiter,
    Resource,
    Totals,
)


class Rates:
    """Hands out turns to the instances of all models. Thread-safe; nothing here waits."""

    def __init__(self, totals: Totals = NO_TOTALS) -> None:
        self._limiter: RateLimiter[Gate] = RateLimiter(totals)
        self._lock = threading.Lock()
        # Per model, whose gates are there by the names of their instances; some of one name while
        # a version is loaded anew.
        self._gates: dict[str, dict[Gate, str]] = {}

    def check(self, claims: Iterable[Claim]) -> None:
        """InvalidArgument for claims that cannot be met; see `RateLimiter.check`."""
        with self._lock:
            self._limiter.check(claims)

    def enter(self, claim: Claim, model: str = "", name: str = "") -> Gate:
        """The gate of a new instance with this claim, and what model and instance are called;
        raises as `check`. `leave` ends it.
        """
        gate = Gate()
        with self._lock:
            self._limiter.enter(gate, claim)
            self._gates.setdefault(model, {})[gate] = name
        return gate

    def claims(self, model: str) -> Mapping[str, Mapping[Resource, int]]:
        """What each instance of a model needs, by name; nothing for a model that is not here."""
        with self._lock:
            known = self._gates.get(model, {})
            return {name: self._limiter.needs(gate) for gate, name in known.items()}

    def total(self, resource: Resource) -> int:
        """How much there is of it."""
        with self._lock:
            return self._limiter.total(resource)

    def waits(self, model: str, name: str, step: int) -> None:
        """An instance waits for another model once more (1) or once less (-1): meanwhile nothing
        is kept from those behind for the sake of what it holds.
        """
        with self._lock:
            for gate, known in self._gates.get(model, {}).items():
                if known == name:
                    self._limiter.waits(gate, step)
            granted = self._limiter.grant() if step > 0 else []
        _open(granted)

    def needs(self, gate: Gate) -> Mapping[Resource, int]:
        """What the instance needs to execute, which never changes; nothing for one that is gone.

        Without the lock: a scheduler that holds its own may ask.
        """
        return self._limiter.needs(gate)

    def acquire(self, gate: Gate) -> bool:
        """Whether the instance has its turn now; if not, its gate is opened when it has."""
        with self._lock:
            if self._limiter.holds(gate):
                return True
            self._limiter.ask(gate)
            granted = self._limiter.grant()
            held = self._limiter.holds(gate)
        _open([one for one in granted if one is not gate])
        return held

    def renew(self, gate: Gate) -> None:
        """The turn is over and the next one asked for, in one: nobody behind comes in between."""
        with self._lock:
            self._limiter.give_back(gate)
            self._limiter.ask(gate)
            granted = self._limiter.grant()
        _open([one for one in granted if one is not gate])

    def give_back(self, gate: Gate) -> None:
        """The turn is over, if there was one."""
        with self._lock:
            granted = self._limiter.grant() if self._limiter.give_back(gate) else []
        _open(granted)

    def withdraw(self, gate: Gate) -> None:
        """The instance has nothing to execute: out of the line, and its turn was none."""
        with self._lock:
            self._limiter.withdraw(gate)
            granted = self._limiter.grant()
        _open(granted)

    def leave(self, gate: Gate) -> None:
        """The instance is gone, with all that it held; nothing for one that has gone before."""
        with self._lock:
            self._limiter.leave(gate)
            for model, known in tuple(self._gates.items()):
                known.pop(gate, None)
                if not known:
                    del self._gates[model]
            granted = self._limiter.grant()
        _open(granted)

    def __repr__(self) -> str:
        return f"<Rates {self._limiter!r}>"


def _open(gates: Sequence[Gate]) -> None:
    for gate in gates:
        gate.open()
