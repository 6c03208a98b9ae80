"""A blocking HTTP/2 client that sends whatever a test wants and tells what came back.

It keeps no rules: it acknowledges settings and grants windows only when it is told to.
"""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import hpack
from tests.http2.frames import (
    ACK,
    END_STREAM,
    HEADER_SIZE,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    SETTINGS_ACK,
    Code,
    Fields,
    Frame,
    Type,
    block,
    data,
    headers,
    message,
    ping,
    settings,
)

TIMEOUT_S = 20.0
BIG_LIST = 1 << 20


def request_fields(
    path: str = "/s/Echo", *more: tuple[bytes, bytes], without: tuple[bytes, ...] = ()
) -> Fields:
    """The fields of an ordinary gRPC request, some left out and others put behind them."""
    usual = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
    return (*(pair for pair in usual if pair[0] not in without), *more)


@dataclass
class Answer:
    """All that one stream got; `reset` is the code of the RST_STREAM that ended it."""

    head: dict[str, str] | None = None
    trailers: dict[str, str] | None = None
    body: bytes = b""
    ended: bool = False
    reset: int | None = None
    frames: list[Frame] = field(default_factory=list)

    @property
    def final(self) -> dict[str, str]:
        """Where the status is: the trailers, or the head if that is all."""
        return self.trailers if self.trailers is not None else self.head or {}

    @property
    def status(self) -> int | None:
        """grpc-status."""
        text = self.final.get("grpc-status")
        return None if text is None else int(text)

    @property
    def text(self) -> str | None:
        """grpc-message as it travelled."""
        return self.final.get("grpc-message")

    @property
    def messages(self) -> list[bytes]:
        """The messages of the body; a piece at the end is a message as well."""
        found, at = [], 0
        while at < len(self.body):
            end = at + 5 + int.from_bytes(self.body[at + 1 : at + 5])
            found.append(self.body[at + 5 : end])
            at = end
        return found


class Closed(AssertionError):
    """The peer closed the connection while something was awaited."""


class RawClient:
    """One connection. Every read ends within `TIMEOUT_S` or fails the test."""

    def __init__(self, address: str, *, source_buffer: int | None = None) -> None:
        self.socket = _connect(address, source_buffer)
        self.decoder = hpack.Decoder()
        self.decoder.max_header_list_size = BIG_LIST
        self.peer_settings: dict[int, int] = {}
        self.seen: list[Frame] = []
        self.eof = False
        self._rest = bytearray()
        self.answers: dict[int, Answer] = {}
        self._open_block: tuple[Frame, bytearray] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave."""
        self.socket.close()

    def send(self, *chunks: bytes) -> None:
        """Send these bytes; a peer that is gone is no error, what it said before counts."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(b"".join(chunks))

    def start(self, *pairs: tuple[int, int]) -> Self:
        """Preface and settings, and both sides' acknowledgement."""
        self.send(PREFACE, settings(*pairs))
        self.wait(lambda frame: frame.is_(Type.SETTINGS, ACK))
        self.send(SETTINGS_ACK)
        return self

    def request(
        self,
        stream: int,
        body: bytes | None = None,
        path: str = "/s/Echo",
        *more: tuple[bytes, bytes],
    ) -> None:
        """Send a whole request; `body` is the message, None for a request without DATA."""
        head = headers(stream, block(request_fields(path, *more)), end=body is None)
        self.send(head, b"" if body is None else data(stream, message(body), end=True))

    def read(self) -> Frame | None:
        """The next frame, or None at the end of the connection."""
        while True:
            found = self._cut()
            if found is not None:
                self.seen.append(found)
                self._note(found)
                return found
            if self.eof or not self._fill():
                return None

    def frames(self) -> Iterator[Frame]:
        """Every frame until the connection ends."""
        while (found := self.read()) is not None:
            yield found

    def wait(self, wanted: Callable[[Frame], bool]) -> Frame:
        """Read until a frame that is wanted."""
        for found in self.frames():
            if wanted(found):
                return found
        raise Closed(f"closed before the frame came; seen: {self.seen[-5:]}")

    def fence(self, mark: bytes = b"fence---") -> None:
        """Returns when the peer has worked through everything that was sent before."""
        self.send(ping(mark))
        self.wait(lambda frame: frame.is_(Type.PING, ACK) and frame.payload == mark)

    def answer(self, stream: int) -> Answer:
        """Read until this stream has ended or the connection is closed."""
        found = self.so_far(stream)
        while not found.ended and found.reset is None and self.read() is not None:
            pass
        return found

    def so_far(self, stream: int) -> Answer:
        """What this stream got until now."""
        return self.answers.setdefault(stream, Answer())

    def goaway(self) -> Frame | None:
        """Read to the end of the connection; the last GOAWAY if there was one."""
        for _ in self.frames():
            pass
        found = [one for one in self.seen if one.type == Type.GOAWAY]
        return found[-1] if found else None

    def call(self, stream: int, body: bytes = b"", path: str = "/s/Echo") -> Answer:
        """A whole unary call."""
        self.request(stream, body, path)
        return self.answer(stream)

    def _cut(self) -> Frame | None:
        rest = self._rest
        if len(rest) < HEADER_SIZE:
            return None
        end = HEADER_SIZE + int.from_bytes(rest[:3])
        if len(rest) < end:
            return None
        stream = int.from_bytes(rest[5:9]) & MAX_WINDOW
        found = Frame(rest[3], rest[4], stream, bytes(rest[HEADER_SIZE:end]))
        del rest[:end]
        return found

    def _fill(self) -> bool:
        try:
            chunk = self.socket.recv(1 << 18)
        except ConnectionResetError:
            chunk = b""
        except TimeoutError:
            raise AssertionError(
                f"silence for {self.socket.gettimeout()} s; last seen: {self.seen[-5:]}"
            ) from None
        self._rest += chunk
        self.eof = not chunk
        return bool(chunk)

    def _note(self, found: Frame) -> None:
        if found.type == Type.SETTINGS and not found.flags & ACK:
            body = found.payload
            for at in range(0, len(body), 6):
                key, value = int.from_bytes(body[at : at + 2]), body[at + 2 : at + 6]
                self.peer_settings[key] = int.from_bytes(value)
        elif found.type == Type.DATA:
            self._note_data(found)
        elif found.type == Type.RST_STREAM:
            self.so_far(found.stream).reset = found.code
        elif found.type == Type.HEADERS:
            self._open_block = (found, bytearray(found.payload))
        elif found.type == Type.CONTINUATION and self._open_block is not None:
            self._open_block[1].extend(found.payload)
        if found.type in (Type.HEADERS, Type.CONTINUATION) and found.flags & 0x4:
            self._note_block()

    def _note_data(self, found: Frame) -> None:
        answer, body = self.so_far(found.stream), found.payload
        if found.flags & PADDED:
            body = body[1 : len(body) - body[0]]
        answer.frames.append(found)
        answer.body += body
        answer.ended |= bool(found.flags & END_STREAM)

    def _note_block(self) -> None:
        assert self._open_block is not None, "CONTINUATION without HEADERS"
        first, raw = self._open_block
        self._open_block = None
        fields: dict[str, str] = {}
        for name, value in self.decoder.decode(bytes(raw), raw=True):
            key, said = bytes(name).decode(), bytes(value).decode("latin-1")
            fields[key] = f"{fields[key]},{said}" if key in fields else said
        answer = self.so_far(first.stream)
        answer.frames.append(first)
        if answer.head is None:
            answer.head = fields
        else:
            answer.trailers = fields
        answer.ended |= bool(first.flags & END_STREAM)


def _connect(address: str, buffer: int | None) -> socket.socket:
    unix = address.startswith("unix:")
    opened = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    opened.settimeout(TIMEOUT_S)
    if buffer is not None:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    if unix:
        opened.connect(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        opened.connect((host, int(port)))
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until something that another thread does has happened."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.005)


def name_of(code: int | None) -> str:
    """The name of an error code, for messages of tests."""
    if code is None:
        return "none"
    return Code(code).name if code in {int(one) for one in Code} else hex(code)
