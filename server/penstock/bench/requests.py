"""What the calls of a load carry: bodies in turn or at random, each with an id of its own if asked,
and metadata that changes with every call if asked. All of it is prepared, so that one more call
costs next to nothing.
"""

import secrets
from collections.abc import Iterator, Sequence
from itertools import count, cycle
from random import Random
from typing import TypeVar

from penstock.codec.wire import read_field, sized
from penstock.transport.http2.client_requests import field, timeout_field

Body = bytes | tuple[bytes, ...]
"""A ModelInferRequest, whole or in pieces that follow each other."""

T = TypeVar("T")

_ID = 3
_ID_TAG = b"\x1a"
_JOINED = 16384
_RANDOM_CHUNK = 256
_STEPS = 997


def in_turn(bodies: Sequence[T], seed: int | None = None) -> Iterator[T]:
    """The bodies over and over: in their order, or drawn at random from this seed."""
    return cycle(bodies) if seed is None or len(bodies) == 1 else _drawn(bodies, Random(seed))


def _drawn(bodies: Sequence[T], random: Random) -> Iterator[T]:
    while True:
        yield from random.choices(bodies, k=_RANDOM_CHUNK)


def with_fresh_ids(
    bodies: Sequence[bytes], seed: int | None = None, prefix: str = ""
) -> Iterator[Body]:
    """The bodies over and over, each time with another id: the prefix and 16 hexadecimal digits."""
    start = (prefix or secrets.token_hex(4)).encode()
    tag = _ID_TAG + bytes([len(start) + 16])
    pieces = [split_at_id(body) for body in bodies]
    order = in_turn([(head + tag + start, tail) for head, tail in pieces], seed)
    for number, (head, tail) in enumerate(order):
        if len(tail) > _JOINED:
            yield b"%b%016x" % (head, number), tail
        else:
            yield b"%b%016x%b" % (head, number, tail)


def split_at_id(body: bytes) -> tuple[bytes, bytes]:
    """What stands before and behind the place of the id in a ModelInferRequest; an id is dropped.

    The place is the one that serialisers give it, by its number. InvalidArgument when malformed.
    """
    head: list[bytes] = []
    tail: list[bytes] = []
    at = 0
    while at < len(body):
        number, _, _, stop = read_field(body, at, len(body))
        if number != _ID:
            (head if number < _ID and not tail else tail).append(body[at:stop])
        at = stop
    return b"".join(head), b"".join(tail)


def with_id(body: bytes, identity: str) -> bytes:
    """The body with this id."""
    head, tail = split_at_id(body)
    return head + sized(_ID_TAG, identity.encode()) + tail


def traceparents() -> Iterator[str]:
    """A W3C trace context for each call, all of one random start."""
    trace = int.from_bytes(secrets.token_bytes(16)) >> 1 | 1
    span = int.from_bytes(secrets.token_bytes(8)) >> 1 | 1
    for number in count():
        yield f"00-{trace + number:032x}-{span + number:016x}-01"


def fresh_blocks(block: bytes, timeout_s: float) -> Iterator[bytes]:
    """The header block again and again, with a traceparent and a grpc-timeout of its own for each
    call. The encodings of values of one length differ in nothing but the value: one is the mould.
    """
    trace_mould = field("traceparent", "0" * 55).removesuffix(b"0" * 55)
    timeout_mould = timeout_field(12_345_678_000).removesuffix(b"12345678u")
    first = block + timeout_mould
    most, unit = _timeout(timeout_s)
    for number, trace in enumerate(traceparents()):
        timeout = most - number % _STEPS
        yield b"%b%08d%b%b%b" % (first, timeout, unit, trace_mould, trace.encode())


def _timeout(seconds: float) -> tuple[int, bytes]:
    """A number of at most 8 digits of at least _STEPS, and its unit in grpc-timeout."""
    for unit, per_second in ((b"u", 1e6), (b"m", 1e3)):
        if seconds * per_second < 1e8:
            return max(int(seconds * per_second), _STEPS), unit
    return 99_999_999, b"m"
