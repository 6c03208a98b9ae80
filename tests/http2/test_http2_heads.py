"""What a request's and a response's header fields mean, and what is answered to wrong ones."""

import asyncio
import socket
import tracemalloc
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.transport.http2 import heads as module
from penstock.transport.http2.answers import (
    HEAD,
    OK_TRAILERS,
    response_head,
    trailers,
    trailers_only,
    trailing_block,
)
from penstock.transport.http2.heads import RequestHead, RequestHeads, valid_trailers
from penstock.transport.http2.hpack import HeaderDecoder
from penstock.transport.http2.hpack_encode import block
from penstock.transport.http2.hpack_tables import Field
from penstock.transport.http2.response_heads import ResponseHead, ResponseHeads, final_status

Fields = list[Field]

USUAL: Fields = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
    (b":authority", b"localhost:8001"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
    (b"user-agent", b"grpc-c++/1.51.1"),
]


def with_field(name: str, value: str | bytes | None) -> Fields:
    """The usual request with one field changed or added; None takes it away."""
    raw = value.encode() if isinstance(value, str) else value
    changed = [
        (known, old if known != name.encode() else raw or b"")
        for known, old in USUAL
        if known != name.encode() or raw is not None
    ]
    if name.encode() not in dict(USUAL) and raw is not None:
        changed.append((name.encode(), raw))
    return changed


def read(fields: Fields) -> RequestHead:
    return RequestHeads()(fields)


def answered(head: RequestHead) -> dict[str, str]:
    """The fields of the block that the problem is answered with."""
    assert head.problem is not None
    assert head.problem.block is not None
    fields = HeaderDecoder(list).decode(head.problem.block)
    return {name.decode(): value.decode() for name, value in fields}


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    module._shapes.clear()
    yield
    module._shapes.clear()


def test_a_usual_request_says_what_it_says() -> None:
    """Every part that a server needs."""
    fields = [
        *USUAL,
        (b"grpc-timeout", b"250m"),
        (b"grpc-encoding", b"gzip"),
        (b"grpc-accept-encoding", b"identity, deflate;q=1,gzip, zstd"),
        (b"traceparent", b"00-ab-cd-01"),
        (b"x-key-bin", b"YWJj,YQ=="),
    ]

    head = read(fields)

    assert head.problem is None
    assert head.path == "/inference.GRPCInferenceService/ModelInfer"
    assert head.authority == "localhost:8001"
    assert head.timeout_ns == 250_000_000
    assert head.encoding == "gzip"
    assert head.accepts == ("gzip", "deflate")
    assert head.metadata == {"user-agent": "grpc-c++/1.51.1", "traceparent": "00-ab-cd-01"}
    assert head.binary_metadata == {"x-key-bin": b"a"}
    assert head.size == sum(len(name) + len(value) + 32 for name, value in fields)


@pytest.mark.parametrize(
    ("why", "fields"),
    [
        ("no :method", with_field(":method", None)),
        ("no :scheme", with_field(":scheme", None)),
        ("no :path", with_field(":path", None)),
        ("an empty :path", with_field(":path", "")),
        ("a pseudo field twice", [USUAL[0], *USUAL]),
        ("a pseudo field behind others", [USUAL[4], *USUAL[:4], *USUAL[5:]]),
        ("a pseudo field behind the usual ones", [*USUAL[1:], USUAL[0]]),
        ("an unknown pseudo field", [(b":foo", b"x"), *USUAL]),
        ("a pseudo field of responses", [(b":status", b"200"), *USUAL]),
        ("capitals", with_field("X-Foo", "x")),
        ("an empty name", with_field("", "x")),
        ("a blank in a name", with_field("x foo", "x")),
        ("a colon in a name", with_field("x:foo", "x")),
        ("bytes in a name", [*USUAL, (b"x-\xff", b"")]),
        ("connection", with_field("connection", "close")),
        ("transfer-encoding", with_field("transfer-encoding", "chunked")),
        ("upgrade", with_field("upgrade", "h2c")),
        ("another te", with_field("te", "gzip")),
        ("NUL", with_field("x-a", b"a\0b")),
        ("CR", with_field("x-a", b"a\rb")),
        ("LF in a path", with_field(":path", b"/a\nb")),
        ("a content-length that is none", with_field("content-length", "-1")),
        ("nothing", []),
    ],
)
def test_a_malformed_request_resets_its_stream(why: str, fields: Fields) -> None:
    """RFC 9113, 8.2 and 8.3; grpcio lets most of these pass."""
    head = read(fields)

    assert head.problem is not None, why
    assert head.problem.block is None
    assert head.problem.name == "malformed_head"
    assert head.problem.text


@pytest.mark.parametrize(
    ("why", "fields", "http", "status", "text"),
    [
        ("GET", with_field(":method", "GET"), "405", "13", "method 'GET', expected POST"),
        (
            "html",
            with_field("content-type", "text/html"),
            "415",
            "3",
            "content type 'text/html', expected application/grpc",
        ),
        (
            "grpc-web",
            with_field("content-type", "application/grpc-web+proto"),
            "415",
            "3",
            "content type 'application/grpc-web+proto', expected application/grpc",
        ),
        (
            "no content type",
            with_field("content-type", None),
            "415",
            "3",
            "content type '', expected application/grpc",
        ),
        # The three as grpcio answers them, word for word.
        (
            "a timeout",
            with_field("grpc-timeout", "1s"),
            "200",
            "13",
            "Error parsing 'grpc-timeout' metadata",
        ),
        ("a scheme", with_field(":scheme", "ftp"), "200", "13", "Error parsing ':scheme' metadata"),
        (
            "base64",
            with_field("x-bin", "!"),
            "200",
            "13",
            "Error parsing 'x-bin' metadata: illegal base64 encoding",
        ),
        # grpcio says INTERNAL; the protocol's own description of compression says this.
        (
            "compression",
            with_field("grpc-encoding", "snappy"),
            "200",
            "12",
            "grpc-encoding 'snappy' is not supported, expected identity, deflate or gzip",
        ),
        (
            "size",
            with_field("x-a", "a" * 16384),
            "200",
            "8",
            "received metadata size exceeds hard limit (16799 vs. 16384)",
        ),
    ],
)
def test_what_cannot_be_served_is_answered(
    why: str, fields: Fields, http: str, status: str, text: str
) -> None:
    """An HTTP client learns an HTTP status, a gRPC client a gRPC status with a text."""
    head = read(fields)

    answer = answered(head)

    assert (answer[":status"], answer["grpc-status"], answer["grpc-message"]) == (
        http,
        status,
        text,
    ), why
    assert answer["content-type"] == "application/grpc"
    assert head.problem is not None
    assert (str(head.problem.status), head.problem.text) == (status, text)


def test_refusals_say_what_would_be_taken() -> None:
    """As HTTP and gRPC ask for it."""
    assert answered(read(with_field(":method", "GET")))["allow"] == "POST"
    refused = answered(read(with_field("grpc-encoding", "br")))
    assert refused["grpc-accept-encoding"] == "identity,deflate,gzip"


@pytest.mark.parametrize(
    ("why", "fields"),
    [
        ("+proto", with_field("content-type", "application/grpc+proto")),
        ("a parameter", with_field("content-type", "application/grpc;charset=utf8")),
        ("capitals", with_field("content-type", "Application/GRPC")),
        ("https", with_field(":scheme", "https")),
        ("no te", with_field("te", None)),
        ("no authority", with_field(":authority", None)),
        ("identity", with_field("grpc-encoding", "identity")),
        ("host", with_field("host", "h")),
        ("crumbs of a cookie", [*USUAL, (b"cookie", b"a=b"), (b"cookie", b"c=d")]),
        ("bytes beyond ASCII", with_field("x-a", "café")),
        ("padding left out", with_field("x-bin", "YWI")),
        ("an empty binary value", with_field("x-bin", "")),
        ("a path without a slash", with_field(":path", "s/M")),
    ],
)
def test_what_other_servers_let_pass_passes(why: str, fields: Fields) -> None:
    """Strict only where the standards are, or where guessing would be needed."""
    assert read(fields).problem is None, why


def test_the_last_of_equal_names_counts() -> None:
    """In metadata and in gRPC's own fields, as in grpcio."""
    fields = [*USUAL, *[(b"grpc-timeout", b"5S"), (b"x-a", b"1")], (b"grpc-timeout", b"9S")]

    head = read([*fields, (b"x-a", b"2")])

    assert head.timeout_ns == 9_000_000_000
    assert head.metadata["x-a"] == "2"


def test_a_length_of_the_body_is_told() -> None:
    """Whoever counts the bytes of the body must compare."""
    assert read(USUAL).content_length is None
    assert read(with_field("content-length", "17")).content_length == 17


def test_trailers_of_a_request_bear_no_pseudo_fields() -> None:
    """Nor anything else that is malformed."""
    assert valid_trailers([(b"x-checksum", b"1")])
    assert not valid_trailers([(b":path", b"/")])
    assert not valid_trailers([(b"X", b"1")])
    assert not valid_trailers([(b"x", b"\n")])


def test_trailers_of_a_request_weigh_no_more_than_metadata_may() -> None:
    """Names, values, and 32 bytes for each field."""
    fields = [(b"x-a", b"a" * 65), (b"x-b", b"b" * 65)]

    assert valid_trailers(fields, limit=200)
    assert not valid_trailers(fields, limit=199)


# What the fields of a request may hold, right and wrong, so that each check is met often.
odd_fields = st.one_of(
    st.sampled_from(USUAL),
    st.sampled_from(
        [
            (b":method", b"GET"),
            (b":path", b"/x/y"),
            (b":path", b""),
            (b":scheme", b"https"),
            (b":scheme", b"x"),
            (b"te", b"x"),
            (b"content-type", b"application/grpc+proto"),
            (b"content-type", b"text/plain"),
            (b"grpc-timeout", b"1S"),
            (b"grpc-timeout", b"1"),
            (b"grpc-encoding", b"gzip"),
            (b"grpc-encoding", b"x"),
            (b"grpc-accept-encoding", b"gzip"),
            (b"content-length", b"5"),
            (b"content-length", b"x"),
            (b"x-bin", b"YQ"),
            (b"x-bin", b"Y"),
            (b"x-a", b"a" * 20_000),
            (b"x-a", b"\n"),
            (b"Capital", b""),
            (b"connection", b""),
        ]
    ),
    st.tuples(st.sampled_from([b"x-a", b"x-b", b"traceparent"]), st.binary(max_size=5)),
)
requests = st.one_of(
    st.lists(odd_fields, max_size=12),
    st.lists(odd_fields, max_size=3).map(lambda more: [*USUAL, *more]),
)


@settings(max_examples=200)
@given(st.lists(requests, min_size=1, max_size=6))
def test_the_quick_look_says_what_the_careful_one_says(sequence: list[Fields]) -> None:
    """Whatever was seen before: it may only say nothing where it is not sure."""
    heads = RequestHeads()

    for fields in sequence:
        careful = heads.careful(list(fields))
        quick = heads.quick(list(fields))
        if quick is not None:
            for name in RequestHead.__slots__:
                assert getattr(quick, name) == getattr(careful, name), name


def test_a_request_like_one_before_is_looked_at_quickly() -> None:
    """Fresh timeouts, ids and binary values included."""
    heads = RequestHeads()
    fresh = [(b"grpc-timeout", b"1S"), (b"x-id", b"1"), (b"grpc-trace-bin", b"YQ")]
    heads([*USUAL, *fresh])

    again = heads.quick(
        [*USUAL, (b"grpc-timeout", b"17m"), (b"x-id", b"2"), (b"grpc-trace-bin", b"")]
    )

    assert again is not None
    assert again.timeout_ns == 17_000_000
    assert again.metadata["x-id"] == "2"


@settings(max_examples=20)
@given(st.lists(st.lists(st.binary(min_size=1, max_size=4), max_size=4), max_size=400))
def test_what_is_remembered_of_requests_is_bounded(namesakes: list[list[bytes]]) -> None:
    """However many names and paths a caller invents."""
    heads = RequestHeads()

    for number, names in enumerate(namesakes):
        fields = [*USUAL, *[(b"x-" + name.hex().encode(), b"") for name in names]]
        fields[2] = (b":path", b"/%d" % number)
        heads(fields)

    assert len(module._shapes) <= module._MAX_SHAPES
    assert all(len(shape.known) <= module._MAX_KNOWN for shape in module._shapes.values())


METADATA: Fields = [
    (b"x-a", b"1"),
    (b"x-a", b"2"),
    (b"x-b", b""),
    (b"x-c", b" lead "),
    (b"x-utf", "café".encode()),
    (b"x-latin", b"\xe9"),
    (b"x-tab", b"a\tb"),
    (b"x-bin", b"YWJj"),
    (b"y-bin", b"YWI="),
    (b"accept-encoding", b"gzip"),
    (b"content-encoding", b"gzip"),
    (b"grpc-accept-encoding", b"gzip, identity"),
    (b"grpc-encoding", b"identity"),
    (b"grpc-timeout", b"9S"),
    (b"grpc-foo", b"foo"),
    (b"grpc-trace-bin", b"YWJj"),
    (b"grpc-tags-bin", b"YWJj"),
    (b"grpc-server-stats-bin", b"YWJj"),
    (b"endpoint-load-metrics-bin", b"YWJj"),
    (b"grpc-previous-rpc-attempts", b"1"),
    (b"grpc-retry-pushback-ms", b"3"),
    (b"grpc-message", b"m"),
    (b"grpc-status", b"1"),
    (b"grpc-internal-encoding-request", b"gzip"),
    (b"lb-token", b"z"),
    (b"x-forwarded-for", b"1.2.3.4"),
    (b"x-envoy-peer-metadata", b"aa"),
    (b"traceparent", b"00"),
    (b"host", b"hh"),
    (b"cookie", b"a=b"),
    (b"cookie", b"c=d"),
    (b"user-agent", b"second"),
]


class _Recorder(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self) -> None:
        self.metadata: dict[str, str | bytes] = {}

    def service(self, details: Any) -> Any:
        async def serve(request: bytes, context: Any) -> bytes:
            self.metadata = dict(context.invocation_metadata())
            return request

        return grpc.unary_unary_rpc_method_handler(serve)


async def _shown_by_grpcio(fields: Fields) -> dict[str, str | bytes]:
    recorder = _Recorder()
    server = grpc.aio.server(handlers=(recorder,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, family=socket.AF_INET)
    data = block(fields)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")
    writer.write(len(data).to_bytes(3, "big") + b"\x01\x04\0\0\0\x01" + data)
    writer.write(b"\0\0\x05\0\x01\0\0\0\x01" + bytes(5))
    received = b""
    while b"grpc-status" not in received:
        received += await asyncio.wait_for(reader.readuntil(b"\0"), 10)
    writer.close()
    await server.stop(None)
    return recorder.metadata


def test_metadata_is_what_grpcio_shows() -> None:
    """Held against a grpcio server: what it keeps to itself, how it reads bytes, which one wins."""
    shown = asyncio.run(_shown_by_grpcio([*USUAL, *METADATA]))

    head = read([*USUAL, *METADATA])

    assert {**head.metadata, **head.binary_metadata} == shown


texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=60)
ascii_values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30)
pairs = st.one_of(
    st.tuples(st.sampled_from(["x-a", "retry.after", "grpc-retry-pushback-ms"]), ascii_values),
    st.tuples(st.sampled_from(["x-bin", "grpc-status-details-bin"]), st.binary(max_size=40)),
)


@given(st.integers(0, 16), texts, st.lists(pairs, max_size=5))
def test_an_ending_round_trip_changes_nothing(
    code: int, text: str, metadata: list[tuple[str, str | bytes]]
) -> None:
    """Status, text and metadata, from the server's block to what a client is told."""
    decoder = HeaderDecoder(ResponseHeads())

    end = decoder.decode(trailers(code, text, metadata))
    only = decoder.decode(trailers_only(code, text, metadata))

    assert (final_status(end), end.metadata, end.http_status) == ((code, text), tuple(metadata), 0)
    assert final_status(only) == (code, text)
    assert only.http_status == 200
    assert only.metadata == tuple(metadata)


def test_the_constant_blocks_are_what_they_stand_for() -> None:
    """A call that succeeds costs no encoding."""
    decoder = HeaderDecoder(ResponseHeads())

    assert decoder.decode(HEAD).http_status == 200
    assert decoder.decode(HEAD).is_grpc
    assert decoder.decode(HEAD).status is None
    assert decoder.decode(OK_TRAILERS).status == 0
    assert decoder.decode(response_head("gzip")).encoding == "gzip"
    assert decoder.decode(response_head()).encoding is None
    whole = decoder.decode(OK_TRAILERS + trailing_block([("x-a", "1"), ("y-bin", b"\0")]))
    assert whole.metadata == (("x-a", "1"), ("y-bin", b"\0"))


def response(*fields: tuple[str, str]) -> ResponseHead:
    return ResponseHeads()([(name.encode(), value.encode()) for name, value in fields])


@pytest.mark.parametrize(
    ("http", "status"),
    [
        ("400", 13),
        ("401", 16),
        ("403", 7),
        ("404", 12),
        ("429", 14),
        ("502", 14),
        ("503", 14),
        ("504", 14),
        ("500", 2),
        ("302", 2),
        ("200", 2),
    ],
)
def test_an_http_status_stands_in_for_a_missing_grpc_status(http: str, status: int) -> None:
    """The table of the gRPC protocol, for proxies that know no gRPC."""
    assert final_status(response((":status", http))).status == status


def test_a_grpc_status_goes_before_the_http_status() -> None:
    """A server that says both means the former."""
    head = response((":status", "503"), ("grpc-status", "5"), ("grpc-message", "a%20b%zz%C3%A9"))

    assert final_status(head) == (5, "a b%zzé")


@pytest.mark.parametrize("number", ["17", "-1", "x", "", "1e1", "99999"])
def test_a_status_that_is_none_is_unknown(number: str) -> None:
    """Never an error in the client."""
    assert final_status(response((":status", "200"), ("grpc-status", number))).status == 2


@pytest.mark.parametrize(
    "fields",
    [
        [(":status", "20")],
        [(":status", "abc")],
        [("x", "1"), (":status", "200")],
        [(":status", "200"), (":status", "200")],
        [(":path", "/")],
        [(":status", "200"), ("X", "1")],
        [(":status", "200"), ("x-bin", "!")],
    ],
)
def test_a_malformed_response_ends_the_call_as_internal(fields: list[tuple[str, str]]) -> None:
    """With a text that says what was wrong."""
    head = response(*fields)

    assert head.problem
    assert final_status(head).status == 13


def test_a_response_with_too_much_metadata_is_not_kept() -> None:
    """The client is told, the fields are dropped."""
    head = response((":status", "200"), ("x-a", "a" * 20_000), ("grpc-status", "0"))

    assert final_status(head).status == 8
    assert head.metadata == ()


@pytest.mark.parametrize("status", [[], [(b":status", b"200")]])
def test_a_response_with_too_much_metadata_is_weighed_before_it_is_read(
    status: list[Field],
) -> None:
    """A few bytes may stand for megabytes; nobody looks for what else is wrong with those."""
    bomb = [*status, *[(b"x-bin", b"!" * 4_000)] * 60_000]

    tracemalloc.start()
    head = ResponseHeads()(bomb)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert final_status(head).status == 8
    assert head.http_status == (200 if status else 0)
    assert head.metadata == ()
    assert most < 8 << 20


def test_a_response_with_too_much_metadata_still_keeps_the_rules_of_pseudo_fields() -> None:
    """What a block is, head or trailers, has to be known in any case."""
    head = response((":status", "200"), (":status", "200"), ("x-a", "a" * 20_000))

    assert head.problem
    assert final_status(head).status == 13
