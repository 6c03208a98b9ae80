"""Ordinary conversations that every server must hold: the frames one by one, and HPACK's forms."""

from collections.abc import Iterator

import hpack
from tests.http2.conformance.case import (
    Act,
    Case,
    Row,
    alive,
    all_of,
    answers,
    sending,
    steps,
)
from tests.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    INCREMENTAL,
    NEVER,
    PADDED,
    PRIORITY_FLAG,
    WITHOUT,
    Code,
    Fields,
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
    priority_fields,
    rst_stream,
    settings,
    string,
    window_update,
)
from tests.http2.raw import RawClient, request_fields

HELLO = message(b"hello")
BLOCK = block(request_fields())
HANG = block(request_fields("/s/Hang"))


def call(client: RawClient, raw: bytes = BLOCK, stream: int = 1) -> None:
    """A whole call of this block."""
    client.send(headers(stream, raw), data(stream, HELLO, end=True))


def half_closed(*frames: bytes) -> Act:
    """A call that the server works on, then these frames."""
    return sending(headers(1, HANG), data(1, HELLO, end=True), *frames)


def after_call(*frames: bytes) -> Act:
    """A call that is over, then these frames."""

    def act(client: RawClient) -> None:
        assert client.call(1, b"hello").status == 0
        client.send(*frames)

    return act


def padded(kind: Type, flags: int, payload: bytes, padding: int) -> bytes:
    """A frame of stream 1 with so much padding."""
    body = bytes((padding,)) + payload + bytes(padding)
    return frame(kind, flags | PADDED, 1, body)


def _one_by_one(client: RawClient) -> None:
    for at in range(len(HELLO)):
        client.send(data(1, HELLO[at : at + 1], end=at == len(HELLO) - 1))


def _settings_acknowledged(client: RawClient) -> None:
    client.wait(lambda one: one.is_(Type.SETTINGS, ACK))


def _ping_answered(client: RawClient) -> None:
    found = client.wait(lambda one: one.is_(Type.PING, ACK))
    assert found.payload == b"12345678"


def _has_settings(client: RawClient) -> None:
    assert client.seen[0].type == Type.SETTINGS
    assert not client.seen[0].flags & ACK


def _still_answers(client: RawClient) -> None:
    answer = client.answer(1)
    assert (answer.status, answer.messages) == (0, [b"hello"])


def _nothing(client: RawClient) -> None:
    pass


FRAMES: tuple[Row, ...] = (
    ("1", "the server's preface is a SETTINGS frame", _nothing, all_of(_has_settings, alive)),
    ("2", "PRIORITY of an idle stream is accepted", sending(priority(1)), alive),
    ("2", "WINDOW_UPDATE of a half-closed stream", half_closed(window_update(1, 100)), alive),
    ("2", "PRIORITY of a half-closed stream", half_closed(priority(1)), alive),
    ("2", "RST_STREAM of a half-closed stream", half_closed(rst_stream(1)), alive),
    ("2", "PRIORITY of a closed stream", after_call(priority(1)), alive),
    ("2", "WINDOW_UPDATE of a closed stream", after_call(window_update(1, 100)), alive),
    ("2", "RST_STREAM of a closed stream", after_call(rst_stream(1, Code.NO_ERROR)), alive),
    ("3.1", "one DATA frame", call, answers(1)),
    ("3.1", "DATA of a byte each", steps(sending(headers(1, BLOCK)), _one_by_one), answers(1)),
    (
        "3.1",
        "DATA with padding",
        sending(headers(1, BLOCK), padded(Type.DATA, END_STREAM, HELLO, 255)),
        answers(1),
    ),
    (
        "3.1",
        "DATA that is padding alone",
        sending(headers(1, BLOCK), padded(Type.DATA, 0, b"", 9), data(1, HELLO, end=True)),
        answers(1),
    ),
    (
        "3.1",
        "an empty DATA frame ends the stream",
        sending(headers(1, BLOCK), data(1, HELLO), data(1, end=True)),
        answers(1),
    ),
    (
        "3.2",
        "HEADERS with padding",
        sending(padded(Type.HEADERS, END_HEADERS, BLOCK, 77), data(1, HELLO, end=True)),
        answers(1),
    ),
    (
        "3.2",
        "HEADERS with priority",
        sending(
            frame(Type.HEADERS, END_HEADERS | PRIORITY_FLAG, 1, priority_fields() + BLOCK),
            data(1, HELLO, end=True),
        ),
        answers(1),
    ),
    (
        "3.2",
        "HEADERS with priority and padding",
        sending(
            padded(Type.HEADERS, END_HEADERS | PRIORITY_FLAG, priority_fields(3) + BLOCK, 5),
            data(1, HELLO, end=True),
        ),
        answers(1),
    ),
    ("3.3", "PRIORITY of weight 1", steps(sending(priority(1, 0, 1)), call), answers(1)),
    ("3.3", "PRIORITY of weight 256", steps(sending(priority(1, 0, 256)), call), answers(1)),
    ("3.3", "PRIORITY with a parent", steps(sending(priority(3, 1)), call), answers(1)),
    (
        "3.3",
        "PRIORITY that is exclusive",
        steps(sending(priority(3, 1, 16, True)), call),
        answers(1),
    ),
    (
        "3.3",
        "PRIORITY opens nothing: a lower stream may come",
        steps(sending(priority(7)), call),
        answers(1),
    ),
    ("3.4", "RST_STREAM of an open call", sending(headers(1, BLOCK), rst_stream(1)), alive),
    (
        "3.5",
        "SETTINGS are acknowledged",
        sending(settings((Setting.INITIAL_WINDOW_SIZE, 1 << 20))),
        all_of(_settings_acknowledged, alive),
    ),
    ("3.7", "PING is answered with its data", sending(ping(b"12345678")), _ping_answered),
    (
        "3.8",
        "a client's GOAWAY lets open calls end",
        steps(call, sending(goaway())),
        _still_answers,
    ),
    (
        "3.9",
        "WINDOW_UPDATE of the connection",
        steps(sending(window_update(0, 1)), call),
        answers(1),
    ),
    (
        "3.9",
        "WINDOW_UPDATE of a stream",
        sending(headers(1, BLOCK), window_update(1, 1), data(1, HELLO, end=True)),
        answers(1),
    ),
    (
        "3.10",
        "one CONTINUATION",
        sending(
            headers(1, BLOCK[:5], flags=0), continuation(1, BLOCK[5:]), data(1, HELLO, end=True)
        ),
        answers(1),
    ),
    (
        "3.10",
        "several CONTINUATION frames",
        sending(
            headers(1, BLOCK[:1], flags=0),
            continuation(1, BLOCK[1:9], last=False),
            continuation(1, BLOCK[9:30], last=False),
            continuation(1, BLOCK[30:]),
            data(1, HELLO, end=True),
        ),
        answers(1),
    ),
    (
        "3.10",
        "an empty HEADERS and an empty last CONTINUATION",
        sending(
            headers(1, b"", flags=0),
            continuation(1, BLOCK, last=False),
            continuation(1, b""),
            data(1, HELLO, end=True),
        ),
        answers(1),
    ),
    (
        "4",
        "trailers end a request",
        sending(headers(1, BLOCK), data(1, HELLO), headers(1, block([(b"x-a", b"1")]), end=True)),
        answers(1),
    ),
)


def _with(prefix: bytes, fields: Fields) -> bytes:
    return prefix + block(fields)


def _huffman(fields: Fields) -> bytes:
    return hpack.Encoder().encode(fields, huffman=True)


REST = request_fields(without=(b":method",))
PLAIN = request_fields("/s/Echo", (b"x-own", b"value"))
INDEXED_FORMS = {
    "an indexed field": _with(b"\x83", REST),
    "a literal with indexing, its name indexed": _with(literal(2, b"POST", INCREMENTAL), REST),
    "a literal with indexing, its name new": b"".join(literal(n, v, INCREMENTAL) for n, v in PLAIN),
    "a literal without indexing, its name indexed": _with(literal(2, b"POST", WITHOUT), REST),
    "a literal without indexing, its name new": block(PLAIN),
    "a literal never indexed, its name indexed": _with(literal(2, b"POST", NEVER), REST),
    "a literal never indexed, its name new": b"".join(literal(n, v, NEVER) for n, v in PLAIN),
    "Huffman's code everywhere": _huffman(PLAIN),
    "a size update of the dynamic table": integer(128, 5, 0x20) + BLOCK,
    "two size updates": integer(0, 5, 0x20) + integer(4096, 5, 0x20) + BLOCK,
    "an index of the dynamic table in the same block": _with(literal(2, b"POST", INCREMENTAL), REST)
    + literal(b"x-own", b"1", INCREMENTAL)
    + b"\xbe",
    "an integer with needless zeros": block(request_fields(without=(b"content-type",)))
    + b"\x0f\x90\x80\x00"
    + string(b"application/grpc"),
}


def _calling(raw: bytes) -> Act:
    return lambda client: call(client, raw)


def _dynamic(client: RawClient) -> None:
    encoder = hpack.Encoder()
    for stream in range(1, 41, 2):
        fields = request_fields("/s/Echo", (b"x-count", b"%d" % (stream % 7)))
        call(client, encoder.encode(fields), stream)


def _evicting(client: RawClient) -> None:
    encoder = hpack.Encoder()
    for stream in range(1, 41, 2):
        fields = request_fields("/s/Echo", (b"x-long-%d" % stream, b"v" * 1000))
        call(client, encoder.encode(fields), stream)


def _shrinking(client: RawClient) -> None:
    encoder = hpack.Encoder()
    for stream, size in zip(range(1, 9, 2), (4096, 100, 0, 4096), strict=True):
        encoder.header_table_size = size
        call(client, encoder.encode(PLAIN), stream)


def cases() -> Iterator[Case]:
    """All of them."""
    for section, law, act, check in FRAMES:
        yield Case(f"generic {section}", law, act, check)
    for law, raw in INDEXED_FORMS.items():
        yield Case("generic 5", law, _calling(raw), answers(1))
    streams = range(1, 41, 2)
    yield Case("generic 5", "fields out of the dynamic table", _dynamic, answers(*streams))
    yield Case("generic 5", "fields that push others out", _evicting, answers(*streams))
    yield Case("generic 5", "a table that shrinks and grows", _shrinking, answers(1, 3, 5, 7))
