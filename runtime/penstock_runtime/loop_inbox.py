"""How an event loop is told what threads produced: once, however many streams changed, and once for
many short executions.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from penstock_runtime.stream import HELD, ResponseStream


class LoopInbox:
    """The inbox of one event loop: however many streams changed, the loop is woken once.

    Made in the loop's own thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._changed: deque[ResponseStream] = deque()
        # Streams that were told of together.
        self._groups: deque[Sequence[ResponseStream]] = deque()
        self._bells: list[Callable[[], None]] = []
        self._armed = False
        self._draining = False

    def post(self, stream: ResponseStream) -> None:
        """Queue the stream for the loop's next turn; a loop that is gone needs no news."""
        if stream.posted:
            return
        stream.posted = True
        self._changed.append(stream)
        self._arm()

    def _arm(self) -> None:
        if self._armed:
            return
        self._armed = True
        try:
            self._loop.call_soon_threadsafe(self._drain)
        except RuntimeError:
            self._changed.clear()
            self._groups.clear()

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back at the end of this turn of the loop, so that one hand-over serves all the
        requests of a turn; at once from any other thread.
        """
        if not self.here:
            callback()
            return
        if not self._bells and not self._draining:
            self._loop.call_soon(self._ring)
        self._bells.append(callback)

    def _ring(self) -> None:
        bells, self._bells = self._bells, []
        for callback in bells:
            callback()

    def _drain(self) -> None:
        # Disarmed first: a post that comes after the loop below has looked must arm again.
        self._armed = False
        changed = self._changed
        self._draining = True
        try:
            while changed:
                stream = changed.popleft()
                # Before the consumer looks: what is put after that has to be posted again.
                stream.posted = False
                try:
                    stream.wake()
                except Exception as error:
                    # A defect of this consumer's: those behind it are woken nevertheless.
                    self._loop.call_exception_handler(
                        {"message": f"{stream!r} failed when it was woken", "exception": error}
                    )
            while self._groups:
                group = self._groups.popleft()
                group[0].wake_all(group)
        finally:
            self._draining = False
        # What the consumers asked for need not wait for another turn.
        if self._bells:
            self._ring()

    @property
    def here(self) -> bool:
        """Whether the calling thread is the loop's own."""
        return threading.get_ident() == self._thread

    def post_all(self, streams: Sequence[ResponseStream]) -> None:
        """As `post` for each of them; there is at least one."""
        self._groups.append(streams)
        self._arm()


def hold_news() -> None:
    """From now on this thread's answers wake nobody: many short executions become one wake-up."""
    if HELD.streams is None:
        HELD.streams, HELD.since_ns = [], time.monotonic_ns()


def post_all(streams: Sequence[ResponseStream]) -> None:
    """Wake the consumers of all these, which mostly have one inbox."""
    inbox = _shared_inbox(streams)
    if inbox is not None:
        inbox.post_all(streams)
        return
    for stream in streams:
        stream.post()


def _shared_inbox(streams: Sequence[ResponseStream]) -> LoopInbox | None:
    inbox = streams[0].inbox
    if isinstance(inbox, LoopInbox) and all(stream.inbox is inbox for stream in streams):
        return inbox
    return None


def release_news(held_for_ns: int = 0) -> None:
    """Wake whoever waits for what this thread has answered since `hold_news`, if that is as long
    ago as this.
    """
    if HELD.streams is None or time.monotonic_ns() - HELD.since_ns < held_for_ns:
        return
    streams, HELD.streams = HELD.streams, None
    if streams:
        post_all(streams)


def tell_news() -> None:
    """Wake whoever waits for what this thread has answered since `hold_news`: at once, if it is the
    thread of their loop.
    """
    streams, HELD.streams = HELD.streams, None
    if not streams:
        return
    inbox = _shared_inbox(streams)
    if inbox is not None and inbox.here:
        streams[0].wake_all(streams)
    else:
        post_all(streams)
