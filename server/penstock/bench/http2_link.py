"""One HTTP/2 connection of the load generator: bytes between a socket and the protocol's core, and
what became of each call to the meter. No task, timer or future belongs to a call.
"""

import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.bench.carrier import NOW
from penstock.bench.meter import Meter
from penstock.bench.requests import Body
from penstock.client.errors import InferenceError
from penstock.client.http2_status import broken, error_of_reset, error_of_status, unavailable
from penstock.transport.http2.appetite import Appetite
from penstock.transport.http2.client_connection import ClientConnection, ClientStream
from penstock.transport.http2.client_events import Answered, Trailers, Unprocessed
from penstock.transport.http2.events import GoAway, Lost, Message, Reset, SettingsChanged

_NS = 1_000_000_000
_JOINED = 1 << 18
_PIECES = 256
_GONE = "the connection was lost"


@dataclass(frozen=True, slots=True)
class Work:
    """What the calls send: their header blocks and bodies, without end. `timeout_s` is how long a
    call may take; `streamed` says that each is answered by a stream.
    """

    blocks: Iterator[bytes]
    bodies: Iterator[Body]
    timeout_s: float
    streamed: bool = False


class Flight:
    """A streamed call: when it was due, when its last response came, and what went wrong in it."""

    __slots__ = ("due", "error", "last")

    def __init__(self, due: int) -> None:
        self.due = due
        self.last = 0
        self.error = ""


class Link:
    """One connection. The tag of a unary call is the time that its latency counts from."""

    def __init__(
        self,
        sock: socket.socket,
        work: Work,
        meter: Meter,
        core: ClientConnection | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.sock = sock
        self.file = sock.fileno()
        self.core = core or ClientConnection()
        self.ready = False
        self.open = True
        self.unsent: list[memoryview] = []
        self._meter, self._clock = meter, clock
        self._streamed = work.streamed
        self._next_block, self._next_body = work.blocks.__next__, work.bodies.__next__
        self._timeout = int(work.timeout_s * _NS)
        self._tick = min(_NS // 10, self._timeout // 10)
        self._marks: deque[tuple[int, int]] = deque()
        self._newest = 0
        self._begun: list[ClientStream] = []
        self._dues: list[int] = []
        self._whole: set[int] = set()
        self._trouble = _GONE
        self._unwanted = False
        self._secure = isinstance(sock, ssl.SSLSocket)
        self._appetite = Appetite(sock)

    @property
    def in_flight(self) -> int:
        """Calls that have not ended."""
        return len(self.core.streams)

    @property
    def room(self) -> int:
        """How many calls may be begun."""
        return max(self.core.room, 0) if self.open else 0

    @property
    def leaving(self) -> bool:
        """Whether the server takes no more calls here, or the connection is over."""
        return not self.open or self._unwanted or self.core.exhausted

    def launch(self, dues: Sequence[int]) -> None:
        """Begin a call for each due time; `flush` writes them."""
        call, block, body = self.core.call, self._next_block, self._next_body
        if self._streamed:
            begun = [call(block(), body(), Flight(due)) for due in dues]
        else:
            begun = [call(block(), body(), due) for due in dues]
        self._newest = begun[-1].id
        if dues[0] == NOW:
            self._begun += begun
        else:
            self._dues += dues

    def flush(self) -> None:
        """Write what waits, as far as the socket takes it."""
        core = self.core
        if self._begun or self._dues:
            self._stamp(self._clock())
        if self.unsent:
            self._write(self.unsent)
        while core.out and not self.unsent and self.open:
            self._write(core.output())

    def read(self) -> None:
        """Take what the socket has, and tell the meter what it means."""
        core, sock = self.core, self.sock
        while self.open:
            try:
                size = sock.recv_into(core.buffer())
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError as error:
                self._lose(str(error))
                return
            now = self._clock()
            if not size:
                self._lose(_GONE)
                return
            self._handle(core.received(size, now), now)
            self._appetite.follow(core.awaited)
            # Decrypted bytes that are left here would not make the socket readable again.
            if not (isinstance(sock, ssl.SSLSocket) and sock.pending()):
                return

    def expire(self, now: int) -> None:
        """Cancel the calls whose deadline passed. A tick is as exact as it gets: all calls that
        were open a deadline ago are too old, which needs no time per call.
        """
        marks = self._marks
        if not marks or now - marks[-1][0] >= self._tick:
            marks.append((now, self._newest))
        last = 0
        while marks and now - marks[0][0] > self._timeout:
            last = marks.popleft()[1]
        if last:
            self.abandon(last)

    def abandon(self, last: int = 1 << 31) -> None:
        """End all calls up to this stream; they fail with DEADLINE_EXCEEDED."""
        streams: list[Any] = [each for each in self.core.streams.values() if each.id <= last]
        for stream in streams:
            self._fail(stream, "DEADLINE_EXCEEDED", "no answer within the deadline")
            self.core.cancel(stream)

    def close(self) -> None:
        """Leave."""
        if self.open:
            self.open = False
            self.sock.close()

    def _stamp(self, now: int) -> None:
        """The calls that are written now begin now, or were due and are so much late."""
        if self._streamed:
            for stream in self._begun:
                stream.tag.due = now
        else:
            for stream in self._begun:
                stream.tag = now
        self._meter.sent(self._dues, now)
        self._begun, self._dues = [], []

    def _write(self, pieces: Sequence[bytes | memoryview]) -> None:
        if sum(map(len, pieces)) <= _JOINED:
            pieces = (b"".join(pieces),)
        left = deque(pieces)
        try:
            while left:
                sent = self._send(left)
                while left and sent >= len(left[0]):
                    sent -= len(left.popleft())
                if sent:
                    left[0] = memoryview(left[0])[sent:]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self.unsent = [memoryview(piece) for piece in left]
            return
        except OSError as error:
            self._lose(str(error))
        self.unsent = []

    def _send(self, left: deque[bytes | memoryview]) -> int:
        if len(left) == 1 or self._secure:
            return self.sock.send(left[0])
        return self.sock.sendmsg([left[i] for i in range(min(len(left), _PIECES))])

    def _handle(self, events: Sequence[Any], now: int) -> None:
        # The hot path: an answer of a unary call is one event.
        if self._streamed:
            for event in events:
                self._handle_streamed(event, now)
            return
        answered = self._meter.answered
        for event in events:
            kind = type(event)
            if kind is Answered:
                answered(event.stream.tag, now)
            elif kind is Message:
                self._whole.add(event.stream.id)
            elif kind is Trailers and event.status == 0:
                self._finish_unary(event.stream, now)
            else:
                self._handle_rest(event)

    def _finish_unary(self, stream: Any, now: int) -> None:
        if stream.id in self._whole:
            self._whole.discard(stream.id)
            self._meter.answered(stream.tag, now)
        else:
            self._fail(stream, "INTERNAL", "the call ended with OK, without a response")

    def _handle_streamed(self, event: Any, now: int) -> None:
        kind = type(event)
        if kind is Message or kind is Answered:
            flight = event.stream.tag
            # The first field of a ModelStreamInferResponse is its error.
            if event.message[:1] == b"\n" and not flight.error:
                flight.error = bytes(event.message[2:200]).decode(errors="replace")
            self._meter.response(flight.due, flight.last, now)
            flight.last = now
            if kind is Message:
                return
        elif kind is not Trailers or event.status:
            self._handle_rest(event)
            return
        flight = event.stream.tag
        if flight.error:
            self._meter.failed(flight.due, "UNKNOWN", flight.error)
        else:
            self._meter.ended(flight.due, now)

    def _handle_rest(self, event: Any) -> None:
        if isinstance(event, Trailers):
            self._end(event.stream, error_of_status(event.status, event.text, ()))
        elif isinstance(event, Reset):
            self._end(event.stream, self._error_of(event))
        elif isinstance(event, Unprocessed):
            self._end(event.stream, unavailable("the server did not take the call"))
        elif isinstance(event, SettingsChanged):
            self.ready = True
        elif isinstance(event, GoAway):
            self._unwanted = True
        elif isinstance(event, Lost):
            self._lose(broken(event.error))

    def _error_of(self, event: Reset) -> InferenceError:
        fault = self.core.error
        if fault is not None:
            return unavailable(broken(fault))
        return error_of_reset(event.code) if self.open else unavailable(self._trouble)

    def _end(self, stream: Any, error: InferenceError | None) -> None:
        if error is not None:
            self._fail(stream, error.status.value, error.message)

    def _fail(self, stream: Any, status: str, text: str) -> None:
        self._whole.discard(stream.id)
        tag = stream.tag
        due = tag.due if self._streamed else tag
        self._meter.failed(due or self._clock(), status, text)

    def _lose(self, why: str) -> None:
        if not self.open:
            return
        self.close()
        self._trouble = why or _GONE
        self.unsent = []
        for event in self.core.lost():
            self._handle_rest(event)
