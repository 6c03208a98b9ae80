"""What header blocks and messages cost the HTTP/2 transport, in microseconds of one core.

    python benchmarks/http2_headers.py [--rounds 5]

Blocks are those of grpc's C core (plain literals, a table that stands still) and of grpc-go (every
field indexed, Huffman everywhere, so that each block changes the table). Needs the package hpack,
which plays the peer, and which is the last column.
"""

import argparse
import gzip
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import hpack

from penstock.transport.http2 import huffman
from penstock.transport.http2.compression import compress
from penstock.transport.http2.heads import RequestHead, RequestHeads
from penstock.transport.http2.hpack import HeaderDecoder
from penstock.transport.http2.hpack_encode import literal
from penstock.transport.http2.messages import Assembler, prefix

CALLS = 5_000
STEADY = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/inference.GRPCInferenceService/ModelInfer"),
    (":authority", "localhost:8001"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("user-agent", "grpc-c++/1.51.1 grpc-c/29.0.0 (linux; chttp2)"),
    ("grpc-accept-encoding", "identity, deflate, gzip"),
    ("accept-encoding", "identity"),
]
draw = random.Random(1)


def fresh() -> list[tuple[str, str]]:
    """What differs from call to call."""
    trace, span = draw.randbytes(16).hex(), draw.randbytes(8).hex()
    return [
        ("grpc-timeout", f"{draw.randrange(10**6)}u"),
        ("traceparent", f"00-{trace}-{span}-01"),
        ("x-request-id", draw.randbytes(16).hex()),
    ]


def core_blocks() -> tuple[bytes, list[bytes]]:
    """The first block of a connection, and those of the calls after it, as grpc's C core sends."""
    encoder = hpack.Encoder()
    first = encoder.encode(STEADY, huffman=False)
    steady = encoder.encode(STEADY, huffman=False)
    tails = [b"".join(literal(n.encode(), v.encode()) for n, v in fresh()) for _ in range(CALLS)]
    return first, [steady + tail for tail in tails]


def go_blocks() -> tuple[bytes, list[bytes]]:
    """The same as grpc-go sends them."""
    encoder = hpack.Encoder()
    first = encoder.encode(STEADY)
    return first, [encoder.encode(STEADY + fresh()) for _ in range(CALLS)]


def fastest(rounds: int, run: Callable[[], object]) -> float:
    """Microseconds per call of the best round; a round makes `CALLS` calls."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best / CALLS * 1e6


def each(function: Callable[[Any], object], items: Sequence[Any]) -> Callable[[], None]:
    def run() -> None:
        for item in items:
            function(item)

    return run


def replayed(make: Callable[[], Any], first: bytes, blocks: list[bytes]) -> Callable[[], None]:
    """A connection from its beginning: blocks that change the table cannot be decoded twice."""

    def run() -> None:
        decode = make().decode
        decode(first)
        for block in blocks:
            decode(block)

    return run


def decoder() -> HeaderDecoder[RequestHead]:
    return HeaderDecoder(RequestHeads())


def header_rows(rounds: int) -> list[tuple[str, float, float | None]]:
    core_first, core = core_blocks()
    go_first, go = go_blocks()
    fields = HeaderDecoder(list)
    fields.decode(core_first)
    lists = [fields.decode(block) for block in core]
    heads = RequestHeads()
    traces = [huffman.encode(fresh()[1][1].encode()) for _ in range(CALLS)]
    same = [core[0]] * CALLS
    oracle = hpack.Decoder
    return [
        ("a block that repeats, to its head", _replay(rounds, decoder, core_first, same), None),
        (
            "C core, three fresh values, to its head",
            _replay(rounds, decoder, core_first, core),
            _replay(1, oracle, core_first, core),
        ),
        (
            "C core, the same, to its fields",
            _replay(rounds, lambda: HeaderDecoder(list), core_first, core),
            None,
        ),
        ("    fields to a head", fastest(rounds, each(heads.quick, lists)), None),
        ("    the same, every check", fastest(rounds, each(heads.careful, lists)), None),
        (
            "grpc-go, three fresh values, to its head",
            _replay(rounds, decoder, go_first, go),
            _replay(1, oracle, go_first, go),
        ),
        ("    Huffman of a traceparent", fastest(rounds, each(huffman.decode, traces)), None),
    ]


def _replay(rounds: int, make: Callable[[], Any], first: bytes, blocks: list[bytes]) -> float:
    return fastest(rounds, replayed(make, first, blocks))


def message_rows(rounds: int) -> list[tuple[str, float, float | None]]:
    small = prefix(100) + bytes(100)
    many = small * 50
    packed = gzip.compress(draw.randbytes(500) * 2)
    squeezed = prefix(len(packed), compressed=True) + packed

    def feed(data: bytes) -> Callable[[Any], object]:
        return lambda _: Assembler(1 << 20, "gzip").feed(data, 0, len(data))

    calls = range(CALLS)
    return [
        (
            "one message of 100 bytes, assembler included",
            fastest(rounds, each(feed(small), calls)),
            None,
        ),
        ("50 messages of 100 bytes in one frame", fastest(rounds, each(feed(many), calls)), None),
        ("one gzip message of 1000 bytes", fastest(rounds, each(feed(squeezed), calls)), None),
        (
            "compressing 1000 bytes, level low",
            fastest(rounds, each(lambda _: compress(bytes(1000), "gzip", 1), calls)),
            None,
        ),
    ]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--rounds", type=int, default=5, help="of each; the best one counts")
    rounds = arguments.parse_args().rounds
    print(f"{'':48}{'us':>8}{'hpack':>8}")
    for name, ours, theirs in header_rows(rounds) + message_rows(rounds):
        print(f"{name:48}{ours:8.2f}" + (f"{theirs:8.1f}" if theirs is not None else ""))


if __name__ == "__main__":
    main()
