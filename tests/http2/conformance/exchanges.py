"""Section 8 of RFC 9113, HTTP's own rules, and what RFC 7541 says of broken header blocks."""

from collections.abc import Iterator

from tests.http2.conformance.case import (
    Act,
    Case,
    Row,
    answers,
    connection_error,
    outcome,
    sending,
)
from tests.http2.conformance.generic import BLOCK, HELLO
from tests.http2.frames import (
    Code,
    block,
    data,
    headers,
    integer,
    literal,
)
from tests.http2.raw import RawClient, request_fields

PROTOCOL, COMPRESSION = Code.PROTOCOL_ERROR, Code.COMPRESSION_ERROR


def malformed(client: RawClient) -> None:
    """The stream ends in PROTOCOL_ERROR, after an answer of 400 perhaps; the connection lives."""
    got = outcome(client)
    assert not got.closed, got
    assert 1 in got.resets, got
    answered = client.so_far(1).head
    if answered is None:
        assert got.resets[1] == PROTOCOL, got
    else:
        assert answered[":status"] == "400", answered
    assert client.call(1001, b"after").messages == [b"after"]


def unknown(client: RawClient) -> None:
    """There is no such method."""
    assert client.answer(1).status == 12


def request(*more: tuple[bytes, bytes], without: tuple[bytes, ...] = ()) -> Act:
    """A request with these fields behind the usual ones."""
    raw = block(request_fields("/s/Echo", *more, without=without))
    return sending(headers(1, raw), data(1, HELLO, end=True))


def instead(name: bytes, *values: bytes) -> Act:
    """A request whose field of this name has these values, at its place."""
    fields: list[tuple[bytes, bytes]] = []
    for key, value in request_fields():
        fields += [(key, one) for one in values] if key == name else [(key, value)]
    return sending(headers(1, block(fields)), data(1, HELLO, end=True))


def of_length(said: bytes, *bodies: bytes) -> Act:
    """A request that says its content's length."""
    raw = block(request_fields("/s/Echo", (b"content-length", said)))
    frames = [data(1, body, end=body is bodies[-1]) for body in bodies]
    return sending(headers(1, raw), *frames)


def trailed(*fields: tuple[bytes, bytes], end: bool = True) -> Act:
    """A request with a second block of fields."""
    trailers = headers(1, block(fields), end=end)
    return sending(headers(1, BLOCK), data(1, HELLO), trailers)


REQUESTS: tuple[Row, ...] = (
    ("8.1", "a second HEADERS without END_STREAM", trailed((b"x-a", b"1"), end=False), malformed),
    ("8.1", "trailers with a pseudo-header field", trailed((b":method", b"POST")), malformed),
    ("8.1", "ordinary trailers", trailed((b"x-a", b"1"), (b"x-b-bin", b"AA")), answers(1)),
    ("8.1", "empty trailers", trailed(), answers(1)),
    ("8.1", "trailers with an upper-case name", trailed((b"X-A", b"1")), malformed),
    ("8.2", "an upper-case name", request((b"X-TEST", b"ok")), malformed),
    ("8.2.1", "a blank in a name", request((b"x test", b"ok")), malformed),
    ("8.2.1", "a NUL in a name", request((b"x\0test", b"ok")), malformed),
    ("8.2.1", "a name with 0x7f", request((b"x\x7f", b"ok")), malformed),
    ("8.2.1", "a name with 0xff", request((b"x\xff", b"ok")), malformed),
    ("8.2.1", "a colon inside a name", request((b"x:y", b"ok")), malformed),
    ("8.2.1", "an empty name", request((b"", b"ok")), malformed),
    ("8.2.1", "a NUL in a value", request((b"x-a", b"a\0b")), malformed),
    ("8.2.1", "CR LF in a value", request((b"x-a", b"a\r\nb: c")), malformed),
    ("8.2.1", "LF in a value", request((b"x-a", b"a\nb")), malformed),
    ("8.2.2", "connection", request((b"connection", b"keep-alive")), malformed),
    ("8.2.2", "transfer-encoding", request((b"transfer-encoding", b"chunked")), malformed),
    ("8.2.2", "upgrade", request((b"upgrade", b"h2c")), malformed),
    ("8.2.2", "keep-alive", request((b"keep-alive", b"5")), malformed),
    ("8.2.2", "proxy-connection", request((b"proxy-connection", b"x")), malformed),
    ("8.2.2", "te other than trailers", instead(b"te", b"trailers, deflate;q=0.5"), malformed),
    ("8.3", "an unknown pseudo-header field", request((b":test", b"ok")), malformed),
    ("8.3", "one of an answer", request((b":status", b"200")), malformed),
    (
        "8.3",
        "one behind an ordinary field",
        request((b":method", b"POST"), without=(b":method",)),
        malformed,
    ),
    ("8.3.1", "an empty :path", instead(b":path", b""), malformed),
    ("8.3.1", "a :path without a slash names no method", instead(b":path", b"s/Echo"), unknown),
    ("8.3.1", "no :method", request(without=(b":method",)), malformed),
    ("8.3.1", "no :scheme", request(without=(b":scheme",)), malformed),
    ("8.3.1", "no :path", request(without=(b":path",)), malformed),
    ("8.3.1", "two :method", instead(b":method", b"POST", b"POST"), malformed),
    ("8.3.1", "two :scheme", instead(b":scheme", b"http", b"http"), malformed),
    ("8.3.1", "two :path", instead(b":path", b"/s/Echo", b"/s/Echo"), malformed),
    ("8.3.1", "two :authority", instead(b":authority", b"a", b"b"), malformed),
    (
        "8.3.1",
        "no :authority, but host",
        request((b"host", b"a"), without=(b":authority",)),
        answers(1),
    ),
    ("8.1.1", "a content-length that is true", of_length(b"10", HELLO), answers(1)),
    ("8.1.1", "more than content-length", of_length(b"1", HELLO), malformed),
    ("8.1.1", "more than content-length, in two", of_length(b"1", HELLO[:5], HELLO[5:]), malformed),
    ("8.1.1", "less than content-length", of_length(b"11", HELLO), malformed),
    ("8.1.1", "a content-length of no number", of_length(b"1x", HELLO), malformed),
    ("8.1.1", "a negative content-length", of_length(b"-1", HELLO), malformed),
)


def broken(raw: bytes) -> Act:
    """A request whose block is this."""
    return sending(headers(1, raw, end=True))


HPACK = {
    "2.3.3": (
        ("an index behind the tables", BLOCK + b"\xbe"),
        ("the name of an index behind the tables", BLOCK + literal(70, b"", (0x40, 6))),
        ("an index without end", BLOCK + integer(1 << 70, 7, 0x80)),
    ),
    "4.2": (
        ("a size update at the end", BLOCK + integer(1, 5, 0x20)),
        ("a size update in the middle", BLOCK[:9] + integer(1, 5, 0x20) + BLOCK[9:]),
    ),
    "5.1": (
        ("an integer that is cut short", BLOCK + b"\x7f\x80"),
        ("an integer of ten bytes and more", BLOCK + b"\x7f" + b"\x80" * 20 + b"\x01"),
    ),
    "5.2": (
        ("a string longer than the block", BLOCK + b"\x00\x7f\xff\x01a"),
        (
            "padding of more than 7 bits",
            BLOCK + b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff",
        ),
        ("padding of zeros", BLOCK + b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"),
        (
            "the code for the end of a string",
            BLOCK + b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x51\xff\xff\xff\xfa\x7f",
        ),
        ("a literal without a value", BLOCK + b"\x00\x01a"),
        ("a literal of nothing", BLOCK + b"\x40"),
    ),
    "6.1": (("index 0", BLOCK + b"\x80"),),
    "6.3": (
        ("a table larger than was said", integer(4097, 5, 0x20) + BLOCK),
        ("a table of 2^32", integer(1 << 32, 5, 0x20) + BLOCK),
    ),
}


def cases() -> Iterator[Case]:
    """All of them."""
    for section, law, act, check in REQUESTS:
        yield Case(section, law, act, check)
    for section, rows in HPACK.items():
        for law, raw in rows:
            yield Case(f"hpack {section}", law, broken(raw), connection_error(COMPRESSION))
