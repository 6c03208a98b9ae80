"""What a connection tells the one who drives it. Plain slotted classes: one is made per call.

`stream` is of the type that the connection was given, which only its driver knows.
"""

from typing import Any

from penstock.transport.http2.faults import ConnectionFault

Buffer = bytes | memoryview


class Event:
    """Anything that `received` reports; compared by kind and content in tests."""

    __slots__: tuple[str, ...] = ()

    def __repr__(self) -> str:
        fields = ", ".join(f"{getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


class Request(Event):
    """A whole unary request: HEADERS, one message and END_STREAM; instead of Opened and Message.

    Nothing is held for it, so nothing is to be given back; a large message never comes this way.
    """

    __slots__ = ("message", "stream")

    def __init__(self, stream: Any, message: bytes) -> None:
        self.stream = stream
        self.message = message


class Opened(Event):
    """A new stream; messages follow, or `Ended`."""

    __slots__ = ("stream",)

    def __init__(self, stream: Any) -> None:
        self.stream = stream


class Message(Event):
    """One whole message: bytes, or a view on memory of its own if large; `end`: it is the last."""

    __slots__ = ("end", "message", "stream")

    def __init__(self, stream: Any, message: Buffer, end: bool = False) -> None:
        self.stream = stream
        self.message = message
        self.end = end


class Ended(Event):
    """The peer sends nothing more on this stream; its last message was reported before."""

    __slots__ = ("stream",)

    def __init__(self, stream: Any) -> None:
        self.stream = stream


class Reset(Event):
    """The stream ended early: the peer's RST_STREAM, an error of ours, or the connection's loss.

    Nothing may be sent on it any more.
    """

    __slots__ = ("code", "stream")

    def __init__(self, stream: Any, code: int) -> None:
        self.stream = stream
        self.code = code


class Refused(Event):
    """The core answered this call itself, with a gRPC status: the stream is over.

    Comes after `Opened` if that was reported, else alone. `name` is the tally that counted it.
    """

    __slots__ = ("name", "status", "stream", "text")

    def __init__(self, stream: Any, status: int, text: str, name: str) -> None:
        self.stream = stream
        self.status = status
        self.text = text
        self.name = name


class Room(Event):
    """What waits to be sent on this stream fell below the low-water mark again."""

    __slots__ = ("stream",)

    def __init__(self, stream: Any) -> None:
        self.stream = stream


class Pinged(Event):
    """The peer sent a PING; it was answered already."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class PingAcked(Event):
    """The peer answered our PING."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class GoAway(Event):
    """The peer opens no more streams, or accepts none above `last_id`."""

    __slots__ = ("code", "debug", "last_id")

    def __init__(self, code: int, last_id: int, debug: bytes) -> None:
        self.code = code
        self.last_id = last_id
        self.debug = debug


class SettingsChanged(Event):
    """The peer's SETTINGS arrived, or changed; they are in force."""

    __slots__ = ()


class Drained(Event):
    """A shutdown is complete: no stream is open, none will be. The connection can be closed."""

    __slots__ = ()


class Lost(Event):
    """The connection broke a rule and is over; write what `output` holds, then close it."""

    __slots__ = ("error",)

    def __init__(self, error: ConnectionFault) -> None:
        self.error = error
