"""Runs the coroutines and async generators of one loaded model on one private event loop, in a
thread of its own.

Instances call from their threads and wait; when the caller of a request gives up, its task is
cancelled, so that the model stops at its next await.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

from penstock_runtime.errors import Cancelled, Internal, Unavailable

_log = logging.getLogger("penstock.model")

# How often a waiting instance looks whether its caller has given up.
POLL_S = 0.02
# How long a cancelled task may take to end before it is left behind.
GRACE_S = 5.0
GivenUp = Callable[[], bool]
Ended = Callable[[Any, BaseException | None], None]


class AsyncRunner:
    """The event loop of one loaded model."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.new_event_loop()
        # The loop itself only remembers tasks weakly.
        self._spawned: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"{name}-async", daemon=True
        )
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any], given_up: GivenUp) -> Any:
        """The coroutine's result; raises what it raises, and Cancelled once the caller gave up."""
        call = _Task(self._loop, coroutine)
        while not call.done.wait(POLL_S):
            if given_up():
                call.cancel(self._name)
                raise _cancelled()
        return call.result(self._name)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], ended: "Ended") -> None:
        """Start the coroutine and go on; `ended` is told on the loop what it returned or raised."""

        def start() -> None:
            task = self._loop.create_task(coroutine)
            self._spawned.add(task)
            task.add_done_callback(done)

        def done(task: "asyncio.Task[Any]") -> None:
            self._spawned.discard(task)
            if task.cancelled():
                ended(None, _stopped(self._name))
            else:
                error = task.exception()
                ended(None if error is not None else task.result(), error)

        self._loop.call_soon_threadsafe(start)

    def iterate(self, responses: AsyncIterator[Any], given_up: GivenUp) -> "AsyncResponses":
        """The async iterator's items as a plain iterator; its `close` cancels the generator."""
        return AsyncResponses(self._loop, self._name, responses, given_up)

    def close(self) -> None:
        """Cancel what still runs and end the loop and its thread."""
        _Task(self._loop, _shut_down()).done.wait(GRACE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(GRACE_S)
        if self._thread.is_alive():
            _log.warning("the event loop of model '%s' is blocked and left behind", self._name)
            return
        self._loop.close()


class _Task:
    """A task on the loop that another thread can wait for."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]
    ) -> None:
        self.done = threading.Event()
        self._loop = loop
        self._task: asyncio.Task[Any] | None = None
        loop.call_soon_threadsafe(self._start, coroutine)

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._task = self._loop.create_task(coroutine)
        self._task.add_done_callback(lambda _task: self.done.set())

    def cancel(self, name: str) -> None:
        """Cancel the task and wait until it has ended."""
        self._loop.call_soon_threadsafe(self._cancel)
        if not self.done.wait(GRACE_S):
            _log.warning("model '%s' does not react to cancellation and is left behind", name)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def result(self, name: str) -> Any:
        """What the task returned; raises what it raised."""
        task = self._task
        if task is None or task.cancelled():
            raise Internal(f"the call of model '{name}' cancelled itself", scheduled=True)
        return task.result()


class AsyncResponses(Iterator[Any]):
    """The responses of an async generator, which runs only while it is asked for more."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        responses: AsyncIterator[Any],
        given_up: GivenUp,
    ) -> None:
        self._loop = loop
        self._name = name
        self._given_up = given_up
        self._items: queue.SimpleQueue[tuple[Any, bool]] = queue.SimpleQueue()
        self._asked = asyncio.Event()
        # The generator lives in one task from first to last, as its own time-outs and task groups
        # need it to.
        self._task = _Task(loop, self._pump(responses))

    async def _pump(self, responses: AsyncIterator[Any]) -> None:
        try:
            await self._asked.wait()
            async for item in responses:
                self._asked.clear()
                self._items.put((item, False))
                await self._asked.wait()
        finally:
            close = getattr(responses, "aclose", None)
            if close is not None:
                await close()
            self._items.put((None, True))

    def __next__(self) -> Any:
        self._loop.call_soon_threadsafe(self._asked.set)
        item, last = self._next_item()
        if not last:
            return item
        self._task.done.wait(GRACE_S)
        self._task.result(self._name)
        raise StopIteration

    def _next_item(self) -> tuple[Any, bool]:
        while True:
            # Looked at before the wait: what a task that has ended put is then there to be found.
            ended = self._task.done.is_set()
            try:
                return self._items.get(timeout=POLL_S)
            except queue.Empty:
                if ended:
                    return None, True
                if self._given_up():
                    self.close()
                    raise _cancelled() from None

    def close(self) -> None:
        """End the generator: cancelled where it awaits, then closed."""
        if not self._task.done.is_set():
            self._task.cancel(self._name)


async def _shut_down() -> None:
    loop = asyncio.get_running_loop()
    rest = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task()]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


def _stopped(name: str) -> Unavailable:
    return Unavailable(f"the call of model '{name}' was cancelled before it ended", scheduled=True)


def _cancelled() -> Cancelled:
    return Cancelled("the request was cancelled", reason="CANCELLED", scheduled=True)
