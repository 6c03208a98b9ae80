"""Which instances of which models wait for which other models: so that a wait that could never end
is refused instead of begun.

An instance whose code calls another model is busy until that answers. A model is stuck if every
instance of it waits for a stuck model; nothing that is asked of it would ever be executed.
"""

import threading
from collections.abc import Collection, Mapping


class WaitGraph:
    """The waits of one server. Thread-safe; names are those of models."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._instances: dict[str, int] = {}
        # Per model and instance that waits: how often it waits for which model.
        self._waits: dict[str, dict[object, dict[str, int]]] = {}

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

    def begin(self, model: str, instance: object, targets: Collection[str]) -> bool:
        """An instance of the model waits for these from now on; False, and it does not, if it would
        wait for ever.
        """
        with self._lock:
            self._count(model, instance, targets, 1)
            if stuck(self._instances, self._waits).isdisjoint(targets):
                return True
            self._count(model, instance, targets, -1)
            return False

    def end(self, model: str, instance: object, targets: Collection[str]) -> None:
        """It waits no longer."""
        with self._lock:
            self._count(model, instance, targets, -1)

    def _count(self, model: str, instance: object, targets: Collection[str], step: int) -> None:
        waiting = self._waits.setdefault(model, {})
        counts = waiting.setdefault(instance, {})
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


def stuck(
    instances: Mapping[str, int], waits: Mapping[str, Mapping[object, Collection[str]]]
) -> set[str]:
    """The models that will never execute anything more: all instances wait, each for one of these.

    Found by taking every model for stuck whose instances all wait, and freeing those that have one
    that waits for nothing but free models, until no more is freed.
    """
    found = {model for model, known in waits.items() if len(known) >= instances.get(model, 1)}
    while True:
        freed = {
            model
            for model in found
            if sum(not found.isdisjoint(targets) for targets in waits[model].values())
            < instances.get(model, 1)
        }
        if not freed:
            return found
        found -= freed
