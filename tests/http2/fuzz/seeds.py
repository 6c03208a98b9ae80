"""Conversations to begin with: right ones, and those of the conformance and attack tables."""

import contextlib
import gzip
from collections.abc import Iterator

import hpack
from tests.http2 import differential_cases
from tests.http2.attacks import GARBAGE, table_bomb
from tests.http2.conformance import definitions, exchanges, generic, streams, windows
from tests.http2.frames import (
    ACK,
    PREFACE,
    SETTINGS_ACK,
    Setting,
    block,
    continuation,
    data,
    frame,
    goaway,
    headers,
    message,
    ping,
    priority,
    rst_stream,
    settings,
    window_update,
)
from tests.http2.raw import request_fields

START = PREFACE + settings() + SETTINGS_ACK
HEAD = block([(b":status", b"200"), (b"content-type", b"application/grpc")])
OK = block([(b"grpc-status", b"0")])
LONGEST = 12_000


class Recorder:
    """Stands in for a client: keeps what a case would send, as far as it needs no answers."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.peer_settings = {3: 50, 4: 1 << 20, 5: 1 << 20}
        self.seen: list[object] = []

    def send(self, *chunks: bytes) -> None:
        """Keep it."""
        self.sent += b"".join(chunks)

    def request(self, stream: int, body: bytes = b"", path: str = "/s/Echo") -> None:
        """As the client's."""
        self.send(headers(stream, block(request_fields(path))))
        self.send(data(stream, message(body), end=True))

    def call(self, stream: int, body: bytes = b"", path: str = "/s/Echo") -> object:
        """As the client's, without an answer."""
        self.request(stream, body, path)
        raise NeedsAnswer

    def wait(self, *_: object) -> object:
        """There is nobody to wait for."""
        raise NeedsAnswer

    answer = fence = wait
    so_far = wait


class NeedsAnswer(Exception):
    """The rest of a case depends on a server."""


def from_tables() -> Iterator[bytes]:
    """What the clients of the other tests send."""
    for part in (generic, streams, definitions, windows, exchanges):
        for case in part.cases():
            recorder = Recorder()
            with contextlib.suppress(NeedsAnswer):
                case.act(recorder)
            yield (START if case.started else b"") + bytes(recorder.sent)
    for _, frames in differential_cases.cases():
        yield START + b"".join(frames)
    yield from GARBAGE.values()
    yield START + headers(1, table_bomb(40), end=True)


def of_clients() -> Iterator[bytes]:
    """Longer conversations of clients."""
    echo = block(request_fields())
    encoder = hpack.Encoder()
    calls = b"".join(
        headers(n, encoder.encode(request_fields("/s/Echo", (b"x-id", b"%d" % n))))
        + data(n, message(b"m" * n), end=True)
        for n in range(1, 31, 2)
    )
    yield START + calls
    stream = headers(1, echo) + b"".join(data(1, message(b"p" * n)) for n in range(9))
    yield START + stream + window_update(1, 5) + ping() + data(1, end=True)
    yield (
        START
        + settings((Setting.INITIAL_WINDOW_SIZE, 0))
        + calls
        + settings((4, 3))
        + settings((4, 70_000))
    )
    yield (
        START
        + headers(1, echo[:9], flags=0)
        + continuation(1, echo[9:])
        + data(1, message(bytes(9_000)), end=True)
    )
    yield START + calls + goaway() + rst_stream(3) + priority(5) + frame(0x42, 1, 3, b"??")
    yield (
        START
        + headers(1, echo)
        + data(1, message(bytes(70_000))[:17_000])
        + rst_stream(1)
        + calls[200:]
    )
    yield (
        START
        + headers(1, echo)
        + data(1, b"\0\0\1\x11\x70" + bytes(16_000))
        + data(1, bytes(3_000))
    )


def of_large_messages() -> Iterator[bytes]:
    """Those that are large where everything is shrunk, in frames of many sizes."""
    raw = message(bytes(range(256)) * 9)
    zipped = message(gzip.compress(bytes(range(256)) * 9), 1)
    bomb = message(gzip.compress(bytes(400_000), 9), 1)
    head = headers(1, block(request_fields("/s/Echo")))
    said = headers(1, block(request_fields("/s/Echo", (b"grpc-encoding", b"gzip"))))
    for size in (70, 100, 500, 1_100):
        cut = [raw[at : at + size] for at in range(0, len(raw), size)]
        yield START + head + b"".join(data(1, one) for one in cut) + data(1, end=True)
        yield START + head + b"".join(data(1, one) for one in cut) + data(1, raw + raw, end=True)
    yield START + said + data(1, zipped[:90]) + data(1, zipped[90:], end=True)
    yield START + said + data(1, bomb) + data(1, zipped, end=True)
    yield START + said + data(1, zipped[:-20], end=True)
    shutdown = ping(b"shutdown", ACK)
    yield START + head + data(1, raw, end=True) + shutdown + headers(3, block(request_fields()))
    yield START + shutdown + head


def of_servers() -> Iterator[bytes]:
    """What servers answer to calls 1, 3, 5 and so on."""
    hello = settings((Setting.MAX_CONCURRENT_STREAMS, 100)) + frame(4, ACK)
    whole = b"".join(
        headers(n, HEAD) + data(n, message(b"r" * n)) + headers(n, OK, end=True)
        for n in range(1, 31, 2)
    )
    yield hello + whole
    refused = block(
        [
            (b":status", b"200"),
            (b"content-type", b"application/grpc"),
            (b"grpc-status", b"5"),
            (b"grpc-message", b"no%20such%C3%A4"),
            (b"x-bin", b"AAE"),
        ]
    )
    yield (
        hello
        + headers(1, refused, end=True)
        + rst_stream(3, 7)
        + whole[:400]
        + goaway(0, 5, b"bye")
    )
    yield (
        hello
        + settings((4, 5))
        + window_update(1, 9)
        + window_update(0, 100_000)
        + settings((4, 70_000))
        + whole
    )
    zipped = block(
        [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-encoding", b"gzip")]
    )
    yield (
        hello
        + headers(1, zipped)
        + data(1, message(bytes.fromhex("1f8b08000000000002ff4b04020043beb7e801000000"), 1))
        + headers(1, OK, end=True)
    )
    yield (
        hello
        + headers(1, block([(b":status", b"503"), (b"content-type", b"text/html")]))
        + data(1, b"<html>", end=True)
    )
    yield hello + goaway(0, 2**31 - 1) + ping() + goaway(0, 3) + whole
    yield (
        hello
        + headers(1, HEAD)
        + data(1, message(bytes(70_000))[:16_000])
        + data(1, bytes(16_384))
        + data(1, bytes(9_000))
    )
    yield hello + frame(5, 4, 1, b"\0\0\0\2" + HEAD)
    yield hello + headers(1, block([(b":status", b"100")])) + whole


def seeds() -> Iterator[bytes]:
    """All of them as inputs of `driver.play`, each in a way or two."""
    for number, raw in enumerate((*from_tables(), *of_clients(), *of_large_messages())):
        if len(raw) <= LONGEST:
            yield bytes((0, number % 256)) + raw
            yield bytes((0x40 * (number % 2), 0x03 | number % 3 << 2)) + raw
            yield bytes(((0x08, 0x10, 0x20, 0x40, 0x34)[number % 5], number % 256)) + raw
    for number, raw in enumerate(of_servers()):
        for how in (0x01, 0x09, 0x11, 0x05):
            yield bytes((how, number)) + raw
            yield bytes((how, 0x03)) + raw
