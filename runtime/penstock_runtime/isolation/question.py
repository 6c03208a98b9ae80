"""A question to the process of a model, and the answers to it, one after the other."""

import queue
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from penstock_runtime.errors import InstanceDied, PenstockError
from penstock_runtime.isolation.frames import BrokenProtocol, Frame, Kind
from penstock_runtime.isolation.memory import ServerMemory
from penstock_runtime.isolation.segments import Block
from penstock_runtime.isolation.values import error_of

# How often whoever waits for the process looks up.
LOOK_S = 0.05
Box = queue.SimpleQueue[Frame | None]
"""Where answers come; None says that there will be none."""


class Asked(Protocol):
    """Who is asked; see `Life`."""

    memory: ServerMemory

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""

    @property
    def over(self) -> bool:
        """Whether nothing more comes from it."""

    def open(self, number: int, box: Box) -> None:
        """Answers to this number go there."""

    def shut(self, number: int) -> None:
        """Nobody waits for answers to this number any more."""

    def send(
        self,
        kind: Kind,
        number: int = 0,
        note: Mapping[str, Any] | None = None,
        arrays: Mapping[str, Any] | None = None,
    ) -> None:
        """Tell the process something."""

    def release(self, block: Block | None) -> None:
        """The process may use this block again."""

    def accuse(self, of: str) -> None:
        """End it for a reason of its own making."""

    def death(self) -> InstanceDied:
        """How it ended."""


class Question:
    """What is asked of the process; a context, outside of which nobody waits for an answer."""

    def __init__(self, life: Asked, number: int) -> None:
        self._life = life
        self.number = number
        self._box: Box = queue.SimpleQueue()

    def __enter__(self) -> Self:
        self._life.open(self.number, self._box)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        try:
            self._life.shut(self.number)
        except BrokenProtocol as broken:
            self._life.accuse(f"broke the protocol ({broken.message})")

    def ask(
        self, kind: Kind, note: Mapping[str, Any], arrays: Mapping[str, Any] | None = None
    ) -> None:
        """Ask it. InstanceDied if nobody is there."""
        if not self._life.alive:
            raise self._life.death()
        self._life.send(kind, self.number, note, arrays)

    def answer(self, look: Callable[[], None]) -> Frame:
        """The next answer; `look` is called now and then. InstanceDied if none will come, and the
        error if it is one.
        """
        while True:
            try:
                frame = self._box.get(timeout=LOOK_S)
            except queue.Empty:
                if self._life.over:
                    raise self._life.death() from None
                look()
                continue
            if frame is None:
                raise self._life.death()
            if frame.kind in (Kind.ERROR, Kind.FAILED):
                raise self._error(frame)
            return frame

    def _error(self, frame: Frame) -> PenstockError:
        try:
            return error_of(frame.note.get("error"))
        except BrokenProtocol as broken:
            self._life.accuse(f"broke the protocol ({broken.message})")
            return self._life.death()

    def arrays(self, frame: Frame) -> dict[str, Any]:
        """The arrays of an answer. BrokenProtocol, and the process is ended, if there are none."""
        try:
            arrays, block = self._life.memory.arrays(frame)
        except BrokenProtocol as broken:
            self._life.accuse(f"broke the protocol ({broken.message})")
            raise self._life.death() from None
        self._life.release(block)
        return arrays
