"""Writes what a stream has to say: at once while the transport has room, which costs no task, and
else in a task that waits for it.
"""

import asyncio
from collections.abc import Callable, Generator, Sequence
from typing import Any, Self

from penstock.stream_pressure import StallWatch
from penstock.transport.base import Call


class StreamWriter:
    """The writing half of one call. Lives on the loop; used outside of tasks.

    `on_room` is called when it can write again, `on_failure` with what made writing impossible.
    """

    __slots__ = ("_on_failure", "_on_room", "_stall", "_task", "_write", "blocked")

    def __init__(
        self,
        call: Call,
        stall: StallWatch,
        on_room: Callable[[], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._write = call.write_many
        self._stall = stall
        self._on_room = on_room
        self._on_failure = on_failure
        self._task: asyncio.Task[None] | None = None
        self.blocked = False

    def write(self, messages: Sequence[bytes]) -> None:
        """Write these; not while `blocked`, which is set if there is no room for more then."""
        try:
            steps = self._write(messages).__await__()
            waits_for = next(steps)
        except StopIteration:
            return
        except (Exception, asyncio.CancelledError) as error:
            self._on_failure(error)
            return
        self.blocked = True
        self._stall.begin()
        self._task = asyncio.create_task(self._finish(_Begun(steps, waits_for)))

    async def _finish(self, writing: "_Begun") -> None:
        try:
            await writing
        except Exception as error:
            self._on_failure(error)
        finally:
            self._stall.end()
            self.blocked = False
            self._task = None
        self._on_room()

    def close(self) -> None:
        """Wait for nothing any more."""
        if self._task is not None:
            self._task.cancel()


class _Begun:
    """An awaitable whose first step has been taken already, and what that step waits for."""

    __slots__ = ("_first", "_steps")

    def __init__(self, steps: Generator[Any, Any, None], first: Any) -> None:
        self._steps = steps
        self._first: tuple[Any, ...] = (first,)

    def __await__(self) -> Generator[Any, Any, None]:
        return self  # type: ignore[return-value]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._first:
            (waits_for,), self._first = self._first, ()
            return waits_for
        return next(self._steps)

    def throw(self, kind: Any, value: Any = None, trace: Any = None) -> Any:  # noqa: ARG002
        """What failed belongs to the one who waits for it."""
        return self._steps.throw(kind if value is None else value)

    def close(self) -> None:
        """Whoever waited has given up."""
        self._steps.close()
