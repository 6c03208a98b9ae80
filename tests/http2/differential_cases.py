"""Calls that a well-behaved client cannot make, byte by byte, for both transports."""

import gzip
import zlib
from collections.abc import Iterator

from tests.http2.frames import Fields, block, continuation, data, headers, message
from tests.http2.raw import request_fields

HELLO = message(b"hello")
UNARY, STREAM = "/s/Echo", "/s/Double"
Named = tuple[str, tuple[bytes, ...]]


def call(
    *more: tuple[bytes, bytes],
    path: str = UNARY,
    body: bytes = HELLO,
    without: tuple[bytes, ...] = (),
) -> tuple[bytes, ...]:
    """A request on stream 1 with these fields and this body."""
    raw = block(request_fields(path, *more, without=without))
    return headers(1, raw), data(1, body, end=True)


def instead(name: bytes, value: bytes, path: str = UNARY) -> tuple[bytes, ...]:
    """A request with another value of one field, at its place."""
    fields: Fields = tuple(
        (key, value if key == name else old) for key, old in request_fields(path)
    )
    return headers(1, block(fields)), data(1, HELLO, end=True)


def content_types() -> Iterator[Named]:
    """What a request may be called."""
    for said in (
        b"application/grpc",
        b"application/grpc+proto",
        b"application/grpc+json",
        b"application/grpc;charset=utf-8",
        b"application/grpc ",
        b"APPLICATION/GRPC",
        b"application/grpc-web",
        b"application/grpcx",
        b"application/json",
        b"text/html",
        b"",
    ):
        yield f"content-type {said.decode()!r}", instead(b"content-type", said)
    yield "no content-type", call(without=(b"content-type",))


def methods() -> Iterator[Named]:
    """Verbs, paths and the field te."""
    for verb in (b"GET", b"PUT", b"DELETE", b"OPTIONS", b"HEAD", b"post", b"PATCH"):
        yield f"method {verb.decode()}", instead(b":method", verb)
    yield "no te", call(without=(b"te",))
    for path in (
        "/s/Nothing",
        "/nobody/Echo",
        "/",
        "/s",
        "/s/",
        "//",
        "/s/Echo/",
        "/s/echo",
        "/s/Echo?a",
    ):
        yield f"path {path}", call(path=path)
    yield "https where there is no TLS", instead(b":scheme", b"https")
    yield "no authority", call(without=(b":authority",))
    yield "host and authority", call((b"host", b"other"))


def timeouts() -> Iterator[Named]:
    """grpc-timeout, right and wrong."""
    for said in (b"1H", b"60M", b"3600S", b"3600000m", b"99999999u", b"99999999n", b"00000005H"):
        yield f"timeout {said.decode()}", call((b"grpc-timeout", said), path="/s/Describe")
    for said in (b"", b"1", b"H", b"-1S", b"1.5S", b"123456789S", b"1s", b"1 S", b"1Sx", b"\xff"):
        yield f"bad timeout {said!r}", call((b"grpc-timeout", said))
    for said in (b"0S", b"1n", b"0n"):
        yield (
            f"timeout {said.decode()} of a call that hangs",
            call((b"grpc-timeout", said), path="/s/Hang"),
        )
    yield "two timeouts", call((b"grpc-timeout", b"1H"), (b"grpc-timeout", b"2H"))


def metadata() -> Iterator[Named]:
    """Metadata as it may come."""
    for name, value in (
        (b"x-a", b"1"),
        (b"x-a", b""),
        (b"x-a", b" spaces "),
        (b"x-a", b"tab\tin"),
        (b"x-a", b"caf\xc3\xa9"),
        (b"x-a", b"\x01"),
        (b"x-a-bin", b"AAEC"),
        (b"x-a-bin", b"AAE="),
        (b"x-a-bin", b"AAE"),
        (b"x-a-bin", b"AAEC,AwQ"),
        (b"x-a-bin", b""),
        (b"x-a-bin", b"!!"),
        (b"x-a-bin", b"A"),
        (b"x_under.dot-1", b"v"),
        (b"grpc-tags-bin", b"AAEC"),
        (b"user-agent", b"me"),
        (b"cookie", b"a=b"),
        (b"grpc-accept-encoding", b"nonsense"),
        (b"grpc-previous-rpc-attempts", b"2"),
    ):
        yield f"metadata {name.decode()} {value!r}", call((name, value), path="/s/Describe")
    yield "a key twice", call((b"x-a", b"1"), (b"x-a", b"2"), path="/s/Describe")
    yield "metadata of 15,000 bytes", call((b"x-a", b"v" * 15_000))
    yield "metadata of 40,000 bytes", call(*[(b"x-%d" % n, b"v" * 4000) for n in range(10)])
    yield "a thousand fields", call(*[(b"x-%d" % n, b"v") for n in range(1000)])


def encodings() -> Iterator[Named]:
    """Compressed messages, and what is called so."""
    raw = b"hello" * 100
    deflated, zipped = zlib.compress(raw), gzip.compress(raw, mtime=0)
    said = b"grpc-encoding"
    yield "gzip", call((said, b"gzip"), body=message(zipped, 1))
    yield "deflate", call((said, b"deflate"), body=message(deflated, 1))
    yield "gzip said, plain sent", call((said, b"gzip"), body=HELLO)
    yield "gzip of nothing", call((said, b"gzip"), body=message(gzip.compress(b""), 1))
    yield "identity", call((said, b"identity"), body=HELLO)
    yield "identity said, compressed flag", call((said, b"identity"), body=message(b"hello", 1))
    yield "no encoding said, compressed flag", call(body=message(zipped, 1))
    yield "an unknown encoding", call((said, b"snappy"), body=message(b"hello", 1))
    yield "an unknown encoding, plain message", call((said, b"snappy"), body=HELLO)
    yield "an empty encoding", call((said, b""), body=HELLO)
    yield "GZIP in capitals", call((said, b"GZIP"), body=message(zipped, 1))
    yield "gzip that is none", call((said, b"gzip"), body=message(b"hello", 1))
    yield "gzip cut short", call((said, b"gzip"), body=message(zipped[:-9], 1))
    yield "gzip and more behind it", call((said, b"gzip"), body=message(zipped + b"more", 1))
    yield "gzip twice", call((said, b"gzip"), body=message(zipped + zipped, 1))
    yield "deflate without zlib's frame", call((said, b"deflate"), body=message(deflated[2:-4], 1))
    yield "gzip called deflate", call((said, b"deflate"), body=message(zipped, 1))
    yield "a compressed empty message", call((said, b"gzip"), body=message(b"", 1))
    for flag in (2, 3, 0x80, 0xFF):
        yield f"flag {flag}", call(body=message(b"hello", flag))


def framing() -> Iterator[Named]:
    """Messages in their frames: none, several, cut, split."""
    head, stream_head = (headers(1, block(request_fields(path))) for path in (UNARY, STREAM))
    for kind, start in (("unary", head), ("stream", stream_head)):
        yield f"{kind}: one byte a frame", (start, *_bytewise(HELLO))
        yield f"{kind}: END_STREAM alone", (start, data(1, HELLO), data(1, end=True))
        yield (
            f"{kind}: trailers",
            (start, data(1, HELLO), headers(1, block([(b"x", b"y")]), end=True)),
        )
        yield f"{kind}: no message", (start, data(1, end=True))
        yield f"{kind}: no body", (headers(1, start[9:], end=True),)
        yield f"{kind}: two messages", (start, data(1, HELLO + message(b"two"), end=True))
        yield (
            f"{kind}: two messages in two frames",
            (start, data(1, HELLO), data(1, HELLO, end=True)),
        )
        yield f"{kind}: an empty message", (start, data(1, message(b""), end=True))
        yield f"{kind}: cut inside the prefix", (start, data(1, HELLO[:3], end=True))
        yield f"{kind}: cut behind the prefix", (start, data(1, HELLO[:5], end=True))
        yield f"{kind}: cut inside the message", (start, data(1, HELLO[:7], end=True))
        yield f"{kind}: a message, then a piece", (start, data(1, HELLO + HELLO[:7], end=True))
        yield f"{kind}: a length of 4 GiB", (start, data(1, b"\0\xff\xff\xff\xff", end=True))
        yield f"{kind}: empty frames between", (start, data(1), data(1), *_bytewise(HELLO))
    yield (
        "a block in pieces",
        (
            headers(1, head[9:][:20], flags=0),
            continuation(1, head[9:][20:]),
            data(1, HELLO, end=True),
        ),
    )


def _bytewise(raw: bytes) -> Iterator[bytes]:
    for at in range(len(raw)):
        yield data(1, raw[at : at + 1], end=at == len(raw) - 1)


def endings() -> Iterator[Named]:
    """What handlers answer."""
    for path in ("/s/Refuse", "/s/RefuseStream", "/s/Break", "/s/BreakStream", "/s/Drain"):
        yield f"ending of {path}", call(path=path)
    yield "many messages", call(path="/s/Count", body=message(b"500"))
    yield "a large answer", call(path="/s/Big", body=message(b"60000"))
    yield "a unary method called with a stream's path", call(path="/s/Double")


def cases() -> Iterator[Named]:
    """All of them."""
    for part in (content_types, methods, timeouts, metadata, encodings, framing, endings):
        yield from part()
