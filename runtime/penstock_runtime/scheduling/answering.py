"""What those who execute must know of a scheduler, whatever it hands out."""

from collections.abc import Callable
from typing import Any, Protocol

from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.gate import Gate
from penstock_runtime.scheduling.predictor import WaitPredictor


class Answering(Protocol):
    """Told of the answers that requests get."""

    predictor: WaitPredictor

    @property
    def keeps_order(self) -> bool:
        """Whether an answer may have to wait for those before it."""

    def answer(self, pending: Pending, answer: Callable[[], object]) -> None:
        """Give a request its last answer: now, or when its turn has come."""

    def answered(self, count: int) -> None:
        """So many of the requests that were handed out have got their last answer."""


class WorkScheduler(Answering, Protocol):
    """Hands work to instances that ask for it."""

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> None:
        """Call back at this time; quickly, from the timer's thread."""

    def next_work(self, gate: Gate, *, several: bool = False) -> Any:
        """What the instance that waits at this gate executes next; None when it should end."""
