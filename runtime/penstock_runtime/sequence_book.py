"""Where the sequences of each model are, so that a version that was replaced or unloaded is still
found by the sequences that it has not finished, and a server that stops knows what runs.

Thread-safe. A version that serves is found by its name, not here.
"""

import threading
from collections.abc import Callable
from typing import Protocol

from penstock_runtime.dispatch import Serving
from penstock_runtime.errors import PenstockError
from penstock_runtime.request import InferRequest
from penstock_runtime.scheduling.sequence import SequenceId


class Holder(Serving, Protocol):
    """A version of a model with sequences."""

    version: int

    @property
    def name(self) -> str:
        """The model."""

    @property
    def open_sequences(self) -> int:
        """Sequences that have not had their END."""

    def knows(self, identity: SequenceId) -> bool:
        """Whether a request may join a sequence of this id."""

    def close_to_new(self) -> None:
        """No sequence starts any more; those that run may go on."""


class SequenceBook:
    """Every version with sequences from its load until it is stopped. `bind` it before the first
    request.
    """

    def __init__(self) -> None:
        self._serving: Callable[[str, str], object] = _nothing_yet
        self._lock = threading.Lock()
        self._holders: dict[str, tuple[Holder, ...]] = {}
        self._closed = False

    def bind(self, serving: Callable[[str, str], object]) -> None:
        """That is what serves under a name and a version; it raises why nothing does."""
        self._serving = serving

    def enter(self, holder: Holder) -> None:
        """From now on it can be found."""
        with self._lock:
            self._holders[holder.name] = (*self._holders.get(holder.name, ()), holder)
            closed = self._closed
        if closed:
            holder.close_to_new()

    def leave(self, holder: Holder) -> None:
        """It executes nothing any more."""
        with self._lock:
            rest = tuple(one for one in self._holders.pop(holder.name, ()) if one is not holder)
            if rest:
                self._holders[holder.name] = rest

    def find(self, request: InferRequest, but: object = None) -> Holder | None:
        """The version, out of service, whose sequence the request goes on with; the newest such."""
        if request.sequence_start or not request.correlation_id:
            return None
        for holder in reversed(self._holders.get(request.model_name, ())):
            asked = request.model_version in ("", str(holder.version))
            if holder is but or not asked or self._serves(holder):
                continue
            if holder.knows(request.correlation_id):
                return holder
        return None

    def _serves(self, holder: Holder) -> bool:
        try:
            return self._serving(holder.name, str(holder.version)) is holder
        except PenstockError:
            return False

    def close(self) -> None:
        """No sequence starts any more, on any model."""
        with self._lock:
            self._closed = True
            holders = [one for several in self._holders.values() for one in several]
        for holder in holders:
            holder.close_to_new()

    @property
    def open_sequences(self) -> int:
        """Sequences that have not had their END, over all models."""
        with self._lock:
            holders = [one for several in self._holders.values() for one in several]
        return sum(holder.open_sequences for holder in holders)

    def __repr__(self) -> str:
        return f"<SequenceBook of {len(self._holders)} models>"


def _nothing_yet(_name: str, _version: str) -> object:
    return None
