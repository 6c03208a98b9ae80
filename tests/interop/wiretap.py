"""A TCP proxy that keeps what goes through it, and shows it as HTTP/2 frames.

It stands between a client and a server where a test has to see the bytes, and where a failing test
has to be explained. It judges nothing: what it cannot read it shows as hexadecimal.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TYPES = (
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
)
_END_HEADERS, _PADDED, _PRIORITY = 0x4, 0x8, 0x20
_SHOWN = 64


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of one direction."""

    type: str
    flags: int
    stream: int
    payload: bytes

    @property
    def content(self) -> bytes:
        """The payload without padding and priority."""
        data = self.payload
        if self.type in ("DATA", "HEADERS") and self.flags & _PADDED:
            data = data[1 : len(data) - data[0]]
        if self.type == "HEADERS" and self.flags & _PRIORITY:
            data = data[5:]
        return data


def frames(data: bytes) -> Iterator[Frame]:
    """The frames in the bytes of one direction, as far as they are whole."""
    at = len(PREFACE) if data.startswith(PREFACE) else 0
    while at + 9 <= len(data):
        size, kind, flags = int.from_bytes(data[at : at + 3]), data[at + 3], data[at + 4]
        stream = int.from_bytes(data[at + 5 : at + 9]) & 0x7FFFFFFF
        name = TYPES[kind] if kind < len(TYPES) else f"type {kind}"
        if at + 9 + size > len(data):
            return
        yield Frame(name, flags, stream, data[at + 9 : at + 9 + size])
        at += 9 + size


def messages(data: bytes) -> list[tuple[bool, bytes]]:
    """The gRPC messages of one direction, stream by stream: (compressed, bytes)."""
    streams: dict[int, bytearray] = {}
    for frame in frames(data):
        if frame.type == "DATA":
            streams.setdefault(frame.stream, bytearray()).extend(frame.content)
    return [message for body in streams.values() for message in split_messages(bytes(body))]


def split_messages(body: bytes) -> Iterator[tuple[bool, bytes]]:
    """The length-prefixed messages of one stream, as far as they are whole."""
    at = 0
    while at + 5 <= len(body):
        size = int.from_bytes(body[at + 1 : at + 5])
        yield bool(body[at]), body[at + 5 : at + 5 + size]
        at += 5 + size


def describe(data: bytes) -> Iterator[str]:
    """A line for each frame of one direction, with its header fields where it has any."""
    decoder, block = hpack.Decoder(), b""
    for frame in frames(data):
        shown = frame.payload[:_SHOWN].hex(" ") + (" ..." if len(frame.payload) > _SHOWN else "")
        yield (
            f"{frame.type} stream={frame.stream} flags={frame.flags:#04x} "
            f"length={len(frame.payload)} {shown}"
        )
        if frame.type in ("HEADERS", "CONTINUATION"):
            block += frame.content
            if frame.flags & _END_HEADERS:
                for name, value in _fields(decoder, block):
                    yield f"    {name!r}: {value!r}"
                block = b""


def _fields(decoder: hpack.Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except hpack.HPACKError as error:
        return [(b"cannot be read", repr(error).encode())]


@dataclass(slots=True)
class Connection:
    """What one connection carried."""

    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)

    def dump(self) -> str:
        """Both directions, the client's first."""
        lines = ["client:", *describe(bytes(self.sent)), "server:", *describe(bytes(self.received))]
        return "\n".join(lines)


class Wiretap:
    """Listens on a port of the loopback and passes everything on to `target`."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.connections: list[Connection] = []
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        # A close alone would leave the accepting thread where it is.
        for opened in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for opened in (self._listener, *self._sockets):
            opened.close()

    def dump(self) -> str:
        """Every connection, frame by frame."""
        return "\n\n".join(connection.dump() for connection in self.connections)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            self._sockets += [client, server]
            connection = Connection()
            self.connections.append(connection)
            for source, sink, log in (
                (client, server, connection.sent),
                (server, client, connection.received),
            ):
                thread = threading.Thread(target=_pump, args=(source, sink, log), daemon=True)
                self._threads.append(thread)
                thread.start()


def _pump(source: socket.socket, sink: socket.socket, log: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            log += data
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
