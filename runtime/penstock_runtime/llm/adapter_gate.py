"""Who has to wait for an adapter, and what a step is told of adapters.

Files are read by whoever brings a request; slots are given, filled and taken by the engine's
thread, which no request keeps waiting for a disk.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from penstock_runtime.errors import PenstockError
from penstock_runtime.llm.endings import step_failure
from penstock_runtime.llm.engine_seams import FedRunner
from penstock_runtime.llm.generation import Choice
from penstock_runtime.llm.sequence import Phase
from penstock_runtime.llm.sequence import Sequence as Tokens
from penstock_runtime.llm.step import StepPlan

_log = logging.getLogger("penstock.llm")

ADAPTER = "adapter"


class AdapterSlots(Protocol):
    """The adapters of a model; see `lora.Adapters`."""

    @property
    def loaded(self) -> tuple[str, ...]:
        """Those that have a slot."""

    @property
    def full(self) -> bool:
        """Whether sequences use all slots."""

    def read(self, name: str) -> Any:
        """Read one from its files; raises what is wrong with it."""

    def load(self, name: str, found: Any) -> int:
        """Have it in a slot."""

    def acquire(self, name: str) -> int | None:
        """Its slot for one more sequence; None where there is none."""

    def release(self, name: str) -> None:
        """A sequence that acquired it has ended."""

    def index(self, name: str) -> int:
        """The slot of a loaded one; -1 of the name ""."""

    def set_rows(self, indices: Sequence[int] | None) -> None:
        """The slot of each token of the next step."""


class AdapterGate:
    """Lets sequences be planned once their adapter has a slot, in the order in which they came."""

    def __init__(self, slots: AdapterSlots) -> None:
        self._slots = slots
        self._lock = threading.Lock()
        # Read and not yet loaded; there are no more than are offered.
        self._read: dict[str, Any] = {}
        self._waiting: deque[Choice] = deque()
        self._users: dict[Tokens, str] = {}

    def check(self, name: str) -> None:
        """Raise what refuses an adapter; from then on its files are read. From any thread."""
        if not name or name in self._slots.loaded:
            return
        found = self._slots.read(name)
        with self._lock:
            self._read[name] = found

    def enter(self, choices: Iterable[Choice]) -> None:
        """These wait for their adapters. From any thread."""
        self._waiting.extend(choices)

    def admit(self) -> tuple[list[Choice], list[tuple[Choice, PenstockError]]]:
        """Those that need wait no more, and those that wait in vain; in the engine's thread."""
        ready: list[Choice] = []
        failed: list[tuple[Choice, PenstockError]] = []
        for _ in range(len(self._waiting)):
            choice = self._waiting.popleft()
            if choice.sequence.phase is Phase.FINISHED:
                continue
            try:
                if self._acquire(choice.sequence):
                    ready.append(choice)
                else:
                    self._waiting.append(choice)
            except Exception as error:
                _log.exception("an adapter could not be loaded")
                failed.append((choice, step_failure(error)))
        return ready, failed

    def _acquire(self, sequence: Tokens) -> bool:
        name = sequence.adapter
        if name not in self._slots.loaded:
            if self._slots.full:
                return False
            with self._lock:
                found = self._read.pop(name, None)
            self._slots.load(name, found)
        if self._slots.acquire(name) is None:
            return False
        self._users[sequence] = name
        return True

    def forget(self, sequence: Tokens) -> None:
        """The sequence is over."""
        name = self._users.pop(sequence, None)
        if name is not None:
            self._slots.release(name)

    def __repr__(self) -> str:
        return f"<AdapterGate {len(self._users)} use one, {len(self._waiting)} wait>"


class AdaptedRunner:
    """A runner whose model has adapters: each token of a step is computed with its own."""

    def __init__(self, runner: FedRunner, slots: AdapterSlots) -> None:
        self._runner = runner
        self._slots = slots

    def run(self, plan: StepPlan, feed: Any = None) -> Any:
        """The wanted logits of all rows."""
        rows = plan.rows
        if any(row.sequence.adapter for row in rows):
            index = self._slots.index
            self._slots.set_rows([i for r in rows for i in [index(r.sequence.adapter)] * r.count])
        else:
            self._slots.set_rows(None)
        return self._runner.run(plan, feed)
