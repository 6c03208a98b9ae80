"""Credit for what the peer sends: windows, and the messages that wait for the application."""

from penstock.transport.http2.control import Control
from penstock.transport.http2.faults import ConnectionFault
from penstock.transport.http2.flow import MESSAGE_COST
from penstock.transport.http2.frames import DEFAULT_WINDOW, ErrorCode, window_update
from penstock.transport.http2.limits import Limits
from penstock.transport.http2.stream import HALF_CLOSED_REMOTE, Stream

LARGE = 64 * 1024
"""A message beyond this has memory of its own, and gets all the window it needs at once."""


class Inflow(Control):
    """Keeps the window of the connection open, and what waits behind it within bounds."""

    __slots__ = ("_held", "recv_window")

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.recv_window = max(limits.connection_window, DEFAULT_WINDOW)
        # What waits for the application, on all streams.
        self._held = 0

    def consumed(self, stream: Stream, size: int) -> None:
        """The application is done with a message of so many bytes: the peer may send as many."""
        if stream.assembler is None:
            return
        stream.held = held = max(0, stream.held - size - MESSAGE_COST)
        self._let_go(stream, min(size, LARGE) + MESSAGE_COST)
        base = self._stream_window
        # As `credit_due` says, but this runs for every streamed message.
        if base - held - stream.recv_window >= base >> 1 and not stream.state & HALF_CLOSED_REMOTE:
            self._give_credit(stream)
        if self.recv_window < self.limits.connection_window >> 1:
            self._top_up()

    def _give_credit(self, stream: Stream) -> None:
        """Let the peer send more on this stream, as far as that is due."""
        raise NotImplementedError

    def _hold(self, stream: Stream, size: int) -> None:
        """A message of this size waits for the application now."""
        stream.held += size + MESSAGE_COST
        # A large one was asked for, see `Limits.reserve`.
        counted = min(size, LARGE) + MESSAGE_COST
        stream.waiting += counted
        self._held += counted

    def _let_go(self, stream: Stream, size: int) -> None:
        size = min(size, stream.waiting)
        stream.waiting -= size
        self._held -= size

    def _drop(self, stream: Stream) -> None:
        if stream.assembler is not None:
            self._let_go(stream, stream.waiting)
            # The peer may have nothing to say but what it has no window for.
            if not self.closing and 0 <= self.recv_window < self.limits.connection_window >> 1:
                self._top_up()
        super()._drop(stream)

    def _top_up(self) -> None:
        if self.recv_window < 0:
            self.tallies["window_overruns"] += 1
            raise ConnectionFault(
                ErrorCode.FLOW_CONTROL_ERROR,
                f"{-self.recv_window} bytes beyond the window of the connection",
            )
        if self._held > self.limits.connection_held:
            return
        credit = max(self.limits.connection_window, DEFAULT_WINDOW) - self.recv_window
        self.recv_window += credit
        self._put_control(window_update(0, credit))

    def _settings_in_force(self) -> None:
        cut = self._stream_window - self.limits.stream_window
        super()._settings_in_force()
        for stream in self.streams.values():
            if stream.assembler is not None:
                stream.recv_window -= cut
