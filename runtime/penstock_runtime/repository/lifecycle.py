"""The state of every version of every model, as the repository index shows it, and who may change a
model when.

Version 0 stands for a model as a whole while none of its versions is known.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

_log = logging.getLogger("penstock.repository")

WHOLE_MODEL = 0
UNLOADED = "unloaded"


class ModelState(Enum):
    """State of a version; the value is its name on the wire, "" when it was never loaded."""

    NEVER_LOADED = ""
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class ModelIndexEntry:
    """One line of the repository index; `version` is "" for a model as a whole."""

    name: str
    version: str
    state: ModelState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """State of one version, why, and which change of the table made it so."""

    state: ModelState
    reason: str
    stamp: int

    @property
    def at_rest(self) -> bool:
        """Whether nobody expects this version to serve: it was unloaded, or is about to be."""
        return self.state is ModelState.UNLOADING or (
            self.state is ModelState.UNAVAILABLE and self.reason == UNLOADED
        )


class Lifecycle:
    """The table of states. Thread-safe; listeners are called after each change, without a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._table: dict[str, dict[int, VersionStatus]] = {}
        self._listeners: list[Callable[[], None]] = []
        self._changes = 0

    def set(self, name: str, version: int, state: ModelState, reason: str = "") -> int:
        """Enter a state; returns the change's stamp for `settle`."""
        with self._lock:
            stamp = self._enter(name, version, state, reason)
        self._tell()
        return stamp

    def settle(
        self, name: str, version: int, stamp: int, state: ModelState, reason: str = ""
    ) -> bool:
        """Enter a state unless the version has changed since `stamp`; whether it did."""
        with self._lock:
            status = self._table.get(name, {}).get(version)
            if status is None or status.stamp != stamp:
                return False
            self._enter(name, version, state, reason)
        self._tell()
        return True

    def forget(self, name: str, version: int) -> None:
        """Drop a version from the table, and with its last version the model."""
        with self._lock:
            versions = self._table.get(name, {})
            if versions.pop(version, None) is None:
                return
            if not versions:
                del self._table[name]
        self._tell()

    def versions(self, name: str) -> dict[int, VersionStatus]:
        """The versions of one model and their states; empty for a model that is not there."""
        with self._lock:
            return dict(self._table.get(name, {}))

    def names(self) -> list[str]:
        """The models in the table."""
        with self._lock:
            return sorted(self._table)

    def entries(self) -> list[ModelIndexEntry]:
        """The whole table, by name and version."""
        with self._lock:
            return [
                _entry(name, version, status.state, status.reason)
                for name, versions in sorted(self._table.items())
                for version, status in sorted(versions.items())
            ]

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call the listener (from any thread) after each change; returns how to end that."""
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return unsubscribe

    def _enter(self, name: str, version: int, state: ModelState, reason: str) -> int:
        self._changes += 1
        versions = self._table.setdefault(name, {})
        versions[version] = VersionStatus(state, reason, self._changes)
        return self._changes

    def _tell(self) -> None:
        with self._lock:
            listeners = tuple(self._listeners)
        for listener in listeners:
            try:
                listener()
            except Exception:
                _log.exception("a listener of the model states failed")

    def __repr__(self) -> str:
        return f"<Lifecycle of {len(self._table)} models, {self._changes} changes>"


def _entry(name: str, version: int, state: ModelState, reason: str) -> ModelIndexEntry:
    return ModelIndexEntry(name, str(version) if version else "", state, reason)


class Turns:
    """One at a time per name, in the order of arrival; names nobody waits for are forgotten."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queues: dict[str, deque[object]] = {}

    @contextmanager
    def take(self, name: str) -> Iterator[None]:
        """Wait for one's turn and hold it while the block runs."""
        ticket = object()
        with self._changed:
            self._queues.setdefault(name, deque()).append(ticket)
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._queues[name][0] is ticket)
            yield
        finally:
            with self._changed:
                queue = self._queues[name]
                queue.remove(ticket)
                if not queue:
                    del self._queues[name]
                self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._queues)

    def __repr__(self) -> str:
        return f"<Turns on {len(self)} names>"
