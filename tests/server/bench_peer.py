"""One connection of the load generator and a server of HTTP/2 frames at its other end."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat

from penstock.bench.http2_link import Link, Work
from penstock.bench.meter import Meter
from penstock.transport.http2.client_requests import request_block
from penstock.transport.http2.events import Event, Message, Opened, Request
from penstock.transport.http2.limits import Limits
from penstock.transport.http2.server_connection import ServerConnection
from penstock.transport.http2.stream import Stream

MS = 1_000_000
S = 1_000_000_000
BLOCK = request_block("/inference.GRPCInferenceService/ModelInfer", "localhost")


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = S

    def __call__(self) -> int:
        return self.now


class Peer:
    """The server's end: `requests` has the message of each stream that is open."""

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        self.sock = sock
        self.core = ServerConnection(limits, Stream)
        self.requests: dict[int, bytes] = {}
        self.streams: dict[int, Stream] = {}
        self.writes_seen = 0

    def read(self) -> list[Event]:
        """Take what was sent."""
        found: list[Event] = []
        while True:
            try:
                size = self.sock.recv_into(self.core.buffer())
            except BlockingIOError:
                return found
            if not size:
                return found
            self.writes_seen += 1
            events = self.core.received(size, 0)
            found += events
            for event in events:
                if isinstance(event, Opened | Request | Message):
                    self.streams[event.stream.id] = event.stream
                if isinstance(event, Request | Message):
                    self.requests[event.stream.id] = bytes(event.message)

    def write(self) -> None:
        """Send what is to be sent."""
        for piece in self.core.output():
            self.sock.sendall(piece)

    def answer(self, number: int, message: bytes = b"good") -> None:
        """Answer a stream with this message and OK."""
        self.core.respond(self.streams[number], message)
        self.write()


class Bench:
    """A link, its meter and its clock, and the peer."""

    def __init__(self, link: Link, peer: Peer, meter: Meter, clock: Clock) -> None:
        self.link, self.peer, self.meter, self.clock = link, peer, meter, clock

    def call(self, *dues: int) -> None:
        """Begin these calls; the peer has them then."""
        self.link.launch(dues)
        self.link.flush()
        self.peer.read()

    def statuses(self) -> dict[str, int]:
        """How many calls failed with which status."""
        return {status: each.count for status, each in self.meter.errors.items()}


@contextmanager
def bench(
    *,
    streamed: bool = False,
    body: bytes = b"ask",
    timeout_s: float = 5.0,
    limits: Limits | None = None,
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> Iterator[Bench]:
    """A link whose window is open, connected and greeted."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    ours.setblocking(False)
    theirs.setblocking(False)
    meter, clock = Meter(), Clock()
    meter.open(0)
    work = Work(repeat(BLOCK), repeat(body), timeout_s, streamed)
    with ours, theirs:
        link = Link(ours, work, meter, clock=clock)
        peer = Peer(theirs, limits or Limits())
        link.flush()
        peer.read()
        peer.write()
        link.read()
        link.flush()
        peer.read()
        assert link.ready
        yield Bench(link, peer, meter, clock)
