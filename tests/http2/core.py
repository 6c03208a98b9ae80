"""A server's core without a socket, as a client's bytes see it: what goes in, what comes out."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from penstock.transport.http2.events import (
    Ended,
    Event,
    Lost,
    Message,
    Opened,
    Refused,
    Request,
    Reset,
)
from penstock.transport.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    HEADERS,
    PREFACE,
    RST_STREAM,
    frame,
)
from penstock.transport.http2.limits import Limits
from penstock.transport.http2.server_connection import ServerConnection
from penstock.transport.http2.settings import settings_frame

NOW_NS = 1_000_000_000_000
FIELDS = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
    (b":authority", b"localhost:8001"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)


class Frame(NamedTuple):
    """One frame that the core wrote."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes


def block(fields: Iterable[tuple[bytes, bytes]] = FIELDS, *extra: tuple[bytes, bytes]) -> bytes:
    """A header block of literals that no table keeps."""
    return b"".join(
        b"\x00%c%b\x7f%c%b" % (len(name), name, len(value) - 127, value)
        if len(value) >= 127
        else b"\x00%c%b%c%b" % (len(name), name, len(value), value)
        for name, value in (*fields, *extra)
    )


def prefixed(message: bytes, flag: int = 0) -> bytes:
    """A message with the five bytes in front of it."""
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


def headers(
    stream_id: int, flags: int = END_HEADERS, header_block: bytes = block(), *, end: bool = False
) -> bytes:
    """A HEADERS frame; `end` adds END_STREAM."""
    return frame(HEADERS, flags | (END_STREAM if end else 0), stream_id, header_block)


def data(stream_id: int, payload: bytes, flags: int = 0, *, end: bool = False) -> bytes:
    """A DATA frame; `end` adds END_STREAM."""
    return frame(DATA, flags | (END_STREAM if end else 0), stream_id, payload)


def call(stream_id: int, message: bytes = b"ping") -> bytes:
    """A whole unary request."""
    return headers(stream_id) + data(stream_id, prefixed(message), end=True)


def connected(settings: dict[int, int] | None = None, /, **limits: Any) -> ServerConnection:
    """A connection after preface and SETTINGS, what it said so far taken away."""
    connection = ServerConnection(replace(Limits(), **limits))
    events = connection.feed(PREFACE + settings_frame(settings or {}), NOW_NS)
    assert connection.error is None, (connection.error, events)
    written(connection)
    return connection


def open_stream(connection: ServerConnection, stream_id: int = 1) -> Any:
    """A stream whose HEADERS came."""
    event = connection.feed(headers(stream_id), NOW_NS)[-1]
    assert type(event) is Opened
    return event.stream


def asked(connection: ServerConnection, stream_id: int = 1, message: bytes = b"ping") -> Any:
    """The stream of a whole unary request."""
    event = connection.feed(call(stream_id, message), NOW_NS)[-1]
    assert type(event) is Request
    return event.stream


def raw(connection: ServerConnection) -> bytes:
    """All bytes that the core wants to write now."""
    pieces: list[bytes | memoryview] = []
    while connection.out:
        pieces.extend(connection.output())
    return b"".join(pieces)


def written(connection: ServerConnection) -> list[Frame]:
    """All frames that the core wants to write now."""
    return list(parsed(raw(connection)))


def parsed(text: bytes) -> Iterator[Frame]:
    """The frames in these bytes, which must be whole."""
    position = 0
    while position < len(text):
        word, flags, stream_id = FRAME_HEADER.unpack_from(text, position)
        start = position + FRAME_HEADER.size
        position = start + (word >> 8)
        assert position <= len(text), "a frame was cut off"
        yield Frame(word & 0xFF, flags, stream_id, text[start:position])


def kinds(frames: Iterable[Frame]) -> list[int]:
    """Only the types of these frames."""
    return [each.kind for each in frames]


def reset_codes(frames: Iterable[Frame]) -> dict[int, int]:
    """The code of each stream that was reset."""
    return {
        each.stream_id: int.from_bytes(each.payload, "big")
        for each in frames
        if each.kind == RST_STREAM
    }


def story(events: Iterable[Event]) -> list[tuple[Any, ...]]:
    """What events say, however the bytes were cut: the joined forms are told as their parts."""
    told: list[tuple[Any, ...]] = []
    for event in events:
        if isinstance(event, Request):
            told.append(("opened", event.stream.id))
            told.append(("message", event.stream.id, bytes(event.message)))
            told.append(("ended", event.stream.id))
        elif isinstance(event, Message):
            told.append(("message", event.stream.id, bytes(event.message)))
            if event.end:
                told.append(("ended", event.stream.id))
        elif isinstance(event, Opened | Ended):
            told.append((type(event).__name__.lower(), event.stream.id))
        elif isinstance(event, Reset):
            told.append(("reset", event.stream.id, event.code))
        elif isinstance(event, Refused):
            told.append(("refused", event.stream.id, event.status, event.name))
        elif isinstance(event, Lost):
            told.append(("lost", event.error.code, event.error.text))
        else:
            told.append((repr(event),))
    return told
