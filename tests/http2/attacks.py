"""What hostile peers send, as data: the bytes, the answer they get, and the defence that counts."""

import functools
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

from tests.http2.frames import (
    MAX_WINDOW,
    Code,
    Setting,
    Type,
    block,
    continuation,
    data,
    frame,
    goaway,
    headers,
    integer,
    literal,
    message,
    ping,
    priority,
    rst_stream,
    settings,
    window_update,
)
from tests.http2.raw import RawClient, eventually, request_fields

CALM = Code.ENHANCE_YOUR_CALM
HELLO = message(b"hello")
ECHO, HANG, QUICK, STREAM, DRAIN, HOLD = (
    block(request_fields(path))
    for path in ("/s/Echo", "/s/Hang", "/q/Hang", "/s/Double", "/s/Drain", "/s/HangStream")
)
MANY = 5_000


@dataclass(frozen=True, slots=True)
class Attack:
    """A flood that ends the connection: with this code, moving the tally of this name."""

    name: str
    act: Callable[[RawClient], None]
    code: Code
    tally: str


def odd(count: int) -> range:
    """The ids of so many streams of a client."""
    return range(1, 2 * count, 2)


def flood(*frames: bytes, times: int = MANY, before: bytes = b"") -> Callable[[RawClient], None]:
    """The same again and again."""
    return lambda client: client.send(before, b"".join(frames) * times)


def rapid_reset(raw: bytes, times: int = MANY) -> Callable[[RawClient], None]:
    """Calls that are reset as soon as they are made (CVE-2023-44487)."""
    return lambda client: client.send(
        *chain.from_iterable(
            (headers(n, raw), data(n, HELLO, end=True), rst_stream(n)) for n in odd(times)
        )
    )


def made_to_reset(client: RawClient) -> None:
    """Calls that the server is made to reset, by an error each (CVE-2025-8671)."""
    client.send(*chain.from_iterable((headers(n, HANG), window_update(n, 0)) for n in odd(MANY)))


def malformed_heads(client: RawClient) -> None:
    """Requests each of which is malformed."""
    raw = block(request_fields("/s/Echo", (b"X", b"")))
    client.send(*(headers(n, raw, end=True) for n in odd(MANY)))


def refused_streams(client: RawClient) -> None:
    """Streams beyond the number that is allowed."""
    client.send(*(headers(n, HOLD) for n in odd(MANY)))


def table_bomb(times: int) -> bytes:
    """A block of few bytes that stands for a long list: one entry of the table, many times."""
    entry = literal(b"x-bomb", b"v" * 3_900, (0x40, 6))
    return ECHO + entry + b"\xbe" * times


def window_dribble(client: RawClient) -> None:
    """Windows of one byte, opened a byte at a time, so that each answer byte costs a frame."""
    client.send(settings((Setting.INITIAL_WINDOW_SIZE, 0)))
    client.request(1, b"1000000", "/s/Big")
    eventually(lambda: client.so_far(1).head is not None, "somebody else reads the head")
    client.send(window_update(1, 1) * 20_000)


def held_replies(client: RawClient) -> None:
    """PINGs of a peer that does not read their answers."""
    for _ in range(400):
        client.send(ping() * 1_000)


FLOODS = (
    Attack("rapid reset", rapid_reset(HANG), CALM, "resets"),
    Attack("rapid reset of quick calls", rapid_reset(QUICK), CALM, "resets"),
    Attack("rapid reset of streams", rapid_reset(HOLD), CALM, "resets"),
    Attack("resets that the server is made to send", made_to_reset, CALM, "resets"),
    Attack("malformed requests", malformed_heads, CALM, "resets"),
    Attack("streams beyond the limit", refused_streams, CALM, "refused_streams"),
    Attack(
        "CONTINUATION without end",
        flood(continuation(1, b"\x00\x01a\x01b", last=False), before=headers(1, ECHO, flags=0)),
        CALM,
        "continuations",
    ),
    Attack(
        "empty CONTINUATION",
        flood(continuation(1, b"", last=False), before=headers(1, ECHO, flags=0)),
        CALM,
        "continuations",
    ),
    Attack(
        "a block of large CONTINUATION frames",
        flood(
            continuation(1, literal(b"x", b"v" * 16_000), last=False),
            times=7,
            before=headers(1, ECHO, flags=0),
        ),
        CALM,
        "header_blocks",
    ),
    Attack("empty DATA", flood(data(1), before=headers(1, STREAM)), CALM, "empty_frames"),
    Attack(
        "empty DATA with padding",
        flood(frame(Type.DATA, 8, 1, b"\x04\0\0\0\0"), before=headers(1, STREAM)),
        CALM,
        "empty_frames",
    ),
    Attack(
        "DATA of a byte",
        flood(
            data(1, b"x"),
            times=20_000,
            before=headers(1, DRAIN) + data(1, b"\0\0\x10\0\0"),
        ),
        CALM,
        "fragments",
    ),
    Attack("SETTINGS", flood(settings((Setting.INITIAL_WINDOW_SIZE, 70_000))), CALM, "settings"),
    Attack("empty SETTINGS", flood(settings()), CALM, "settings"),
    Attack("acknowledged SETTINGS", flood(frame(Type.SETTINGS, 1)), CALM, "settings"),
    Attack(
        "SETTINGS of many values",
        flood(settings(*[(0xFF, n) for n in range(1_000)]), times=1),
        CALM,
        "settings_per_frame",
    ),
    Attack("PING", flood(ping()), CALM, "pings"),
    Attack("GOAWAY", flood(goaway()), CALM, "settings"),
    Attack("WINDOW_UPDATE", flood(window_update(0, 1), times=30_000), CALM, "window_updates"),
    Attack(
        "WINDOW_UPDATE of a stream",
        flood(window_update(1, 1), times=30_000, before=headers(1, HOLD)),
        CALM,
        "window_updates",
    ),
    Attack("a window of a byte", window_dribble, CALM, "tiny_writes"),
    Attack("PRIORITY", flood(priority(7)), CALM, "ignored_frames"),
    Attack("unknown frames", flood(frame(0x42, 0, 0, b"")), CALM, "ignored_frames"),
    Attack(
        "DATA of a stream that is over",
        flood(data(1, b"x"), before=headers(1, HANG) + rst_stream(1)),
        CALM,
        "ignored_frames",
    ),
    Attack(
        "RST_STREAM of a stream that is over",
        flood(rst_stream(1), before=headers(1, HANG)),
        CALM,
        "ignored_frames",
    ),
    Attack(
        "the connection's window overflows",
        flood(window_update(0, MAX_WINDOW), times=1),
        Code.FLOW_CONTROL_ERROR,
        "window_overflows",
    ),
    Attack(
        "size updates of the table",
        flood(headers(1, integer(0, 5, 0x20) * 2_000 + ECHO), times=1),
        Code.COMPRESSION_ERROR,
        "",
    ),
)


@functools.cache
def zip_bomb() -> bytes:
    """A message of 100 kB that stands for 100 MB."""
    return message(gzip.compress(bytes(100 << 20), 9), 1)


GARBAGE = {
    "HTTP/1.1": b"POST /s/Echo HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    "a TLS hello": bytes.fromhex("16030100f8010000f40303") + bytes(240),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "zeros": bytes(1_000),
    "noise": bytes(range(255, -1, -1)) * 8,
    "nearly a preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r!" + settings(),
    "preface, then noise": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    "a long line": b"a" * 100_000,
}
