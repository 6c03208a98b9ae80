"""What only a client's connection tells; the rest is in `events`. A call ends with one of
`Answered`, `Trailers`, `Reset` and `Unprocessed`.
"""

from penstock.transport.http2.events import Event
from penstock.transport.http2.metadata import Metadata
from penstock.transport.http2.response_heads import ResponseHead
from penstock.transport.http2.stream import Buffer, Stream


class Answered(Event):
    """A whole answer at once: the usual head, one message, and OK without trailing metadata."""

    __slots__ = ("message", "stream")

    def __init__(self, stream: Stream, message: Buffer) -> None:
        self.stream = stream
        self.message = message


class Responded(Event):
    """The head of the answer; messages may follow, and `Trailers` will."""

    __slots__ = ("head", "stream")

    def __init__(self, stream: Stream, head: ResponseHead) -> None:
        self.stream = stream
        self.head = head


class Trailers(Event):
    """The end of a call: the number of its gRPC status, its text, and trailing metadata."""

    __slots__ = ("metadata", "status", "stream", "text")

    def __init__(self, stream: Stream, status: int, text: str, metadata: Metadata = ()) -> None:
        self.stream = stream
        self.status = status
        self.text = text
        self.metadata = metadata


class Unprocessed(Event):
    """The server certainly did not look at this call: it may be sent again elsewhere."""

    __slots__ = ("stream",)

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
