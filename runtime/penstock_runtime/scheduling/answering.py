"""What those who execute must know of a scheduler, whatever it hands out."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from penstock_runtime.errors import PenstockError
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


@runtime_checkable
class SupervisedScheduler(Protocol):
    """Hands work to instances whose processes may end by themselves, and come back."""

    @property
    def stopped(self) -> bool:
        """Whether instances are to end."""

    def dismiss(self, gate: Gate) -> None:
        """The instance at this gate gets nothing more to execute once it has asked."""

    def readmit(self, gate: Gate) -> None:
        """The instance at this gate was called away and is back."""

    def away(self, gate: Gate) -> None:
        """The process of the instance at this gate is gone."""

    def lose(self, error: PenstockError, gate: Gate) -> None:
        """The instance at this gate is gone for good."""

    def next_work(self, gate: Gate, *, several: bool = False) -> Any:
        """What the instance that waits at this gate executes next; None when it should end."""


class WorkScheduler(Answering, Protocol):
    """Hands work to instances that ask for it."""

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> None:
        """Call back at this time; quickly, from the timer's thread."""

    def next_work(self, gate: Gate, *, several: bool = False) -> Any:
        """What the instance that waits at this gate executes next; None when it should end."""
