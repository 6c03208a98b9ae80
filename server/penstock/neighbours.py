"""The other processes of a server: what callers change in one while it runs is changed in all.

Changes go to the supervisor, which passes them on to every process in one order, and to those that
start later; whoever made one is answered when all that are up have it.
"""

import asyncio
import base64
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

LOGS, TRACES = "logs", "traces"
PATIENCE_S = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """Settings of a kind that were changed, for one model or ("") for all."""

    kind: str
    given: Mapping[str, Any]
    model: str = ""

    def encode(self) -> str:
        """As one word."""
        told = json.dumps([self.kind, self.model, dict(self.given)])
        return base64.urlsafe_b64encode(told.encode()).decode()

    @classmethod
    def decode(cls, word: str) -> "Change":
        """What `encode` made of it; ValueError for anything else."""
        kind, model, given = json.loads(base64.urlsafe_b64decode(word))
        return cls(kind, given, model)


class Neighbours(Protocol):
    """Whoever has to know of changes."""

    async def tell(self, change: Change) -> None:
        """Returns when all that are up have it, or time ran out."""


class Nobody:
    """A server of one process."""

    async def tell(self, change: Change) -> None:
        """Nothing."""


class SupervisedNeighbours:
    """The others behind a supervisor, to whom `say` speaks. Lives on the loop of its making."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._loop = asyncio.get_running_loop()
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def tell(self, change: Change) -> None:
        """Returns when all that are up have it, or time ran out."""
        number = next(self._numbers)
        told = self._waiting[number] = self._loop.create_future()
        try:
            self._say(f"{number} {change.encode()}")
            await asyncio.wait_for(told, PATIENCE_S)
        except (TimeoutError, OSError):
            _log.warning("not every process has the changed %s settings yet", change.kind)
        finally:
            del self._waiting[number]

    def settled(self, number: int) -> None:
        """All have it; from any thread."""
        self._loop.call_soon_threadsafe(self._settle, number)

    def _settle(self, number: int) -> None:
        told = self._waiting.get(number)
        if told is not None and not told.done():
            told.set_result(None)


class Changes:
    """All that was changed so far, for processes that start later: of each the last word."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], dict[str, Any]] = {}

    def add(self, change: Change) -> None:
        """One more."""
        self._known.setdefault((change.kind, change.model), {}).update(change.given)

    def all(self) -> list[Change]:
        """What has to be said to make a new process like the others."""
        return [Change(kind, given, model) for (kind, model), given in self._known.items()]
