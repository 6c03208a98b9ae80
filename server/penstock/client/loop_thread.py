"""The loop behind all blocking clients of a process: one thread, for as long as any is open."""

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, ClassVar, TypeVar

logger = logging.getLogger("penstock.client")

T = TypeVar("T")


class LoopThread:
    """An event loop in a thread. Whoever took it by `shared` gives it back by `release`."""

    _current: ClassVar["LoopThread | None"] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self.forked = False
        """Whether the thread stayed behind in the process that this one was forked from."""
        self._users = 0
        self._posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._armed = False
        self._over = False
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, name="penstock-client", daemon=True)
        self._thread.start()
        self._loop, self._stop = self._started.result()

    @classmethod
    def shared(cls) -> "LoopThread":
        """The loop of this process, with one user more."""
        with cls._lock:
            if cls._current is None:
                cls._current = LoopThread()
            cls._current._users += 1
            return cls._current

    def release(self, wait: bool = True) -> None:
        """One user less; the thread ends with the last one. `wait` until it has."""
        with LoopThread._lock:
            self._users -= 1
            if self._users:
                return
            if LoopThread._current is self:
                LoopThread._current = None
        self.post(self._stop.set)
        if wait and threading.current_thread() is not self._thread:
            self._thread.join()

    def check(self) -> None:
        """ValueError in a process that was forked off: the thread stayed behind."""
        if self.forked:
            raise ValueError(
                "the client was made before this process forked, expected one of its own"
            )

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine, from any thread but the loop's own."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            # An interrupt of the thread that waits; nothing for a coroutine that has ended.
            future.cancel()
            raise

    def post(self, action: Callable[..., object], *arguments: Any) -> None:
        """Do this on the loop, after what was posted before; here and now if the loop has ended."""
        if self._over:
            action(*arguments)
            return
        self._posted.append((action, arguments))
        if not self._armed:
            # One wake-up of the loop for all that is posted until it has woken.
            self._armed = True
            try:
                self._loop.call_soon_threadsafe(self._work)
            except RuntimeError:
                self._work()

    def _work(self) -> None:
        self._armed = False
        posted = self._posted
        while posted:
            action, arguments = posted.popleft()
            try:
                action(*arguments)
            except Exception:
                # What others have posted must be done all the same.
                logger.exception("a defect of ours broke an action of a client")

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._main())
        self._over = True
        self._work()

    async def _main(self) -> None:
        stop = asyncio.Event()
        self._started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        self._work()

    @classmethod
    def forget(cls) -> None:
        """In a child process there is no such thread any more."""
        if cls._current is not None:
            cls._current.forked = True
        cls._current = None
        cls._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<LoopThread {self._users} users>"


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


os.register_at_fork(after_in_child=LoopThread.forget)
