"""Makes an input into another one, frame by frame: most of what comes out is still HTTP/2."""

import random
from collections.abc import Callable, Sequence

from tests.http2.frames import (
    HEADER_SIZE,
    PREFACE,
    Frame,
    block,
    continuation,
    data,
    frame,
    goaway,
    header,
    headers,
    message,
    ping,
    priority,
    rst_stream,
    settings,
    split,
    window_update,
)
from tests.http2.fuzz.seeds import HEAD, OK
from tests.http2.raw import request_fields

MOST_FRAMES = 60
LONGEST = 12_000
ODD_SIZES = (0, 1, 4, 5, 8, 9, 16_383, 16_384, 16_385, 65_535, 65_536, 1 << 20, (1 << 24) - 1)
ODD_NUMBERS = (0, 1, 2, 127, 128, 255, 256, 16_383, 65_535, 1 << 20, 2**31 - 1, 2**31, 2**32 - 1)
REQUEST = block(request_fields())


def mutate(raw: bytes, other: bytes, chance: random.Random) -> bytes:
    """A changed copy; `other` is another input to take frames from."""
    way, start, frames, rest = _parts(raw)
    if chance.random() < 0.15:
        way = bytes((way[0] ^ (1 << chance.randrange(8)), chance.randrange(256)))
    for _ in range(chance.choice((1, 1, 2, 3, 5))):
        chance.choice(CHANGES)(frames, other, chance)
    body = b"".join(frames[:MOST_FRAMES]) + rest
    if chance.random() < 0.1:
        body = _bytes_changed(body, chance)
    if chance.random() < 0.03:
        start = _bytes_changed(start, chance)
    return (way + start + body)[:LONGEST]


def _parts(raw: bytes) -> tuple[bytes, bytes, list[bytes], bytes]:
    way, body = raw[:2].ljust(2, b"\0"), raw[2:]
    start = PREFACE if body.startswith(PREFACE) else b""
    body = body[len(start) :]
    frames = [_joined(one) for one in split(body)]
    return way, start, frames, body[sum(map(len, frames)) :]


def _joined(one: Frame) -> bytes:
    return frame(one.type, one.flags, one.stream, one.payload)


def _bytes_changed(raw: bytes, chance: random.Random) -> bytes:
    changed = bytearray(raw)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(changed) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            changed[at:at] = chance.randbytes(chance.choice((1, 2, 9, 40)))
        elif kind == 1:
            del changed[at : at + chance.choice((1, 1, 4, 100))]
        elif at < len(changed):
            changed[at] = chance.choice((chance.randrange(256), changed[at] ^ 1 << (at & 7)))
    return bytes(changed)


Change = Callable[[list[bytes], bytes, random.Random], None]


def _at(frames: Sequence[bytes], chance: random.Random) -> int:
    return chance.randrange(len(frames)) if frames else 0


def _drop(frames: list[bytes], other: bytes, chance: random.Random) -> None:
    if frames:
        del frames[_at(frames, chance)]


def _repeat(frames: list[bytes], other: bytes, chance: random.Random) -> None:
    if frames:
        at = _at(frames, chance)
        frames[at:at] = [frames[at]] * chance.choice((1, 1, 3, 12))


def _swap(frames: list[bytes], other: bytes, chance: random.Random) -> None:
    if len(frames) > 1:
        one, two = _at(frames, chance), _at(frames, chance)
        frames[one], frames[two] = frames[two], frames[one]


def _splice(frames: list[bytes], other: bytes, chance: random.Random) -> None:
    taken = _parts(other)[2]
    if taken:
        first = chance.randrange(len(taken))
        at = chance.randrange(len(frames) + 1)
        frames[at:at] = taken[first : first + chance.choice((1, 2, 8))]


def _header(frames: list[bytes], other: bytes, chance: random.Random) -> None:
    if not frames:
        return
    at = _at(frames, chance)
    raw = bytearray(frames[at])
    kind = chance.randrange(5)
    if kind == 0:
        raw[3] = chance.choice((*range(10), 0x42))
    elif kind == 1:
        raw[4] ^= 1 << chance.randrange(8)
    elif kind == 2:
        raw[5:9] = chance.choice((0, 1, 2, 3, 5, 7, 99, 2**31 - 1, 2**31 + 1)).to_bytes(4)
    else:
        size = chance.choice((*ODD_SIZES, len(raw) - 8, len(raw) - 10)) % (1 << 24)
        raw[:3] = size.to_bytes(3)
    frames[at] = bytes(raw)


def _payload(frames: list[bytes], other: bytes, chance: random.Random) -> None:
    if not frames:
        return
    at = _at(frames, chance)
    raw = frames[at]
    payload = bytearray(_bytes_changed(raw[HEADER_SIZE:], chance))
    if len(payload) >= 4 and chance.random() < 0.4:
        word = chance.randrange(len(payload) - 3)
        payload[word : word + 4] = chance.choice(ODD_NUMBERS).to_bytes(4)
    # Its length stays true.
    frames[at] = header(len(payload), raw[3], raw[4])[:5] + raw[5:9] + bytes(payload)


def _cut(frames: list[bytes], other: bytes, chance: random.Random) -> None:
    """One DATA frame or header block becomes two."""
    if not frames:
        return
    at = _at(frames, chance)
    raw = frames[at]
    payload, stream = raw[HEADER_SIZE:], int.from_bytes(raw[5:9])
    middle = chance.randrange(len(payload) + 1)
    if raw[3] == 0:
        frames[at : at + 1] = [
            frame(0, raw[4] & ~1, stream, payload[:middle]),
            frame(0, raw[4], stream, payload[middle:]),
        ]
    elif raw[3] == 1:
        frames[at : at + 1] = [
            frame(1, raw[4] & ~4, stream, payload[:middle]),
            continuation(stream, payload[middle:], last=bool(raw[4] & 4)),
        ]


def _insert(frames: list[bytes], other: bytes, chance: random.Random) -> None:
    stream = chance.choice((0, 1, 1, 3, 5, 7, 9, 31))
    number = chance.choice(ODD_NUMBERS)
    body = message(bytes(chance.choice((0, 1, 100, 9_000))), chance.choice((0, 0, 0, 1)))
    end = chance.random() < 0.5
    new = chance.choice(
        (
            settings((chance.randrange(1, 8), number)),
            settings(),
            window_update(stream, number),
            rst_stream(stream, number),
            ping(chance.randbytes(8), chance.choice((0, 1))),
            goaway(number, stream),
            priority(stream, chance.choice((0, 1, 3))),
            data(stream, body, end=end),
            data(stream, b"", end=end),
            headers(stream, chance.choice((REQUEST, HEAD, OK, b"")), end=end),
            headers(stream, REQUEST) + data(stream, body, end=True),
            frame(chance.randrange(256), chance.randrange(256), stream, b"?" * (number % 99)),
        )
    )
    frames.insert(chance.randrange(len(frames) + 1), new)


CHANGES: tuple[Change, ...] = (
    _drop,
    _repeat,
    _swap,
    _splice,
    _header,
    _payload,
    _payload,
    _cut,
    _insert,
    _insert,
)
