"""What the HTTP/2 core costs per call, in nanoseconds: bytes in, events, answers, bytes out.

    python -m benchmarks.http2_core

Without sockets, loop or handlers. A client's bytes are made beforehand as gRPC's C core sends them:
names and repeated values by their index, what is fresh as literals, eight calls to a read. The
best of several rounds, in one thread.
"""

import time
from collections.abc import Callable, Iterator

from benchmarks.report import Finding, arguments, publish

from penstock.transport.http2.events import Message, Opened, Request
from penstock.transport.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    frame,
    window_update,
)
from penstock.transport.http2.hpack_encode import literal
from penstock.transport.http2.server_connection import ServerConnection
from penstock.transport.http2.settings import INITIAL_WINDOW_SIZE, settings_frame

ROUNDS = 15
READS = 1_000
TOGETHER = 8
REQUEST = bytes(180)
ANSWER = (bytes(60), bytes(64))
WIDE = 2**31 - 1
FIELDS = (
    (b":scheme", b"http"),
    (b":method", b"POST"),
    (b":authority", b"127.0.0.1:8001"),
    (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
    (b"user-agent", b"grpc-python/1.80.0 grpc-c/50.0.0 (linux; chttp2)"),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
)


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    plain = list(_reads(lambda _: b""))
    fresh = list(_reads(_fresh_fields))
    figures = {
        "unary, headers repeated": _best(lambda: _unary(plain)),
        "unary, fresh traceparent, id and timeout": _best(lambda: _unary(fresh)),
        "message of a stream, sent alone": _best(lambda: _streamed(1)),
        "message of a stream, sent by eight": _best(lambda: _streamed(TOGETHER)),
        "message of a stream, received": _best(_received),
    }
    rows = [(name, f"{ns:,.0f}") for name, ns in figures.items()]
    summary = "; ".join(f"{name} {ns:,.0f} ns" for name, ns in figures.items())
    publish(Finding("HTTP/2 core", ("work", "ns"), rows, summary), record=options.record)


def _best(measure: Callable[[], float]) -> float:
    return min(measure() for _ in range(ROUNDS))


def _reads(extra: Callable[[int], bytes]) -> Iterator[bytes]:
    """What the socket gives: the first read opens the connection and fills the header table."""
    inserted = b"".join(_inserted(name, value) for name, value in FIELDS)
    indexed = bytes(0x80 | (61 + len(FIELDS) - i) for i in range(len(FIELDS)))
    opening = PREFACE + settings_frame({INITIAL_WINDOW_SIZE: WIDE})
    opening += window_update(0, WIDE - 65_535)
    body = _prefixed(REQUEST)
    stream_id = 1
    for read in range(READS):
        calls = []
        for _ in range(TOGETHER):
            block = (inserted if stream_id == 1 else indexed) + extra(stream_id)
            calls.append(frame(HEADERS, END_HEADERS, stream_id, block))
            calls.append(frame(DATA, END_STREAM, stream_id, body))
            stream_id += 2
        start = window_update(0, TOGETHER) if read else opening
        yield start + b"".join(calls)


def _inserted(name: bytes, value: bytes) -> bytes:
    return b"\x40%c%b%c%b" % (len(name), name, len(value), value)


def _prefixed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def _fresh_fields(number: int) -> bytes:
    span = b"%032x-%016x" % (number * 0x9E3779B97F4A7C15 % 2**128, number)
    return (
        literal(b"traceparent", b"00-" + span + b"-01")
        + literal(b"x-request-id", b"%032x" % (number * 0xC2B2AE3D27D4EB4F % 2**128))
        + literal(b"grpc-timeout", b"%dm" % (number % 90_000 + 1_000))
    )


def _unary(reads: list[bytes]) -> float:
    connection = ServerConnection()
    answered = 0
    start = time.perf_counter_ns()
    for data in reads:
        buffer = connection.buffer()
        size = len(data)
        buffer[:size] = data
        for event in connection.received(size, start):
            if type(event) is Request:
                connection.respond(event.stream, ANSWER)
                answered += 1
        connection.output()
    elapsed = time.perf_counter_ns() - start
    assert answered == READS * TOGETHER, connection.error
    return elapsed / answered


def _streamed(together: int) -> float:
    connection = ServerConnection()
    opening = next(_reads(lambda _: b""))
    requests = [e.stream for e in connection.feed(opening, 0) if type(e) is Request]
    messages = [bytes(100)] * together
    start = time.perf_counter_ns()
    for _ in range(READS):
        for stream in requests:
            connection.send_messages(stream, messages)
        connection.output()
    return (time.perf_counter_ns() - start) / (READS * len(requests) * together)


def _received() -> float:
    connection = ServerConnection()
    opening = PREFACE + settings_frame({})
    block = b"".join(_inserted(name, value) for name, value in FIELDS)
    events = connection.feed(opening + frame(HEADERS, END_HEADERS, 1, block), 0)
    stream = next(e.stream for e in events if type(e) is Opened)
    data = frame(DATA, 0, 1, _prefixed(REQUEST)) * TOGETHER
    size = len(data)
    received = 0
    start = time.perf_counter_ns()
    for _ in range(READS):
        connection.buffer()[:size] = data
        for event in connection.received(size, start):
            if type(event) is Message:
                connection.consumed(stream, len(event.message))
                received += 1
        connection.output()
    elapsed = time.perf_counter_ns() - start
    assert received == READS * TOGETHER, connection.error
    return elapsed / received


if __name__ == "__main__":
    main()
