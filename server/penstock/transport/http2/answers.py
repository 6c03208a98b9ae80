"""The header blocks that a server sends: heads, trailers, and answers that consist of one block."""

from functools import lru_cache

from penstock.transport.http2.compression import ACCEPT_ENCODING
from penstock.transport.http2.hpack_encode import block, literal
from penstock.transport.http2.metadata import Metadata, encode_metadata, percent_encode

OK = 0

HEAD = block([(b":status", b"200"), (b"content-type", b"application/grpc")])
"""Before the first message of an answer that is not compressed."""

OK_TRAILERS = literal(b"grpc-status", b"0")
"""After the last message of a call that succeeded; a block of trailing metadata may follow."""

UNIMPLEMENTED_ENCODING = literal(b"grpc-accept-encoding", ACCEPT_ENCODING)
"""What goes with the refusal of a compression that we do not have."""


@lru_cache(maxsize=8)
def response_head(encoding: str | None = None) -> bytes:
    """Before the first message; `encoding` is that of messages with the compressed flag."""
    if encoding is None:
        return HEAD
    return HEAD + literal(b"grpc-encoding", encoding.encode())


def trailing_block(metadata: Metadata) -> bytes:
    """Custom metadata, to be put behind `OK_TRAILERS`. ValueError for what gRPC forbids."""
    return encode_metadata(metadata) if metadata else b""


def trailers(code: int, text: str = "", metadata: Metadata = ()) -> bytes:
    """How a call ends after its head was sent. ValueError for metadata that gRPC forbids."""
    status = OK_TRAILERS if code == OK else literal(b"grpc-status", b"%d" % code)
    message = literal(b"grpc-message", percent_encode(text)) if text else b""
    return status + message + trailing_block(metadata)


def trailers_only(code: int, text: str = "", metadata: Metadata = ()) -> bytes:
    """A whole answer without a message. ValueError for metadata that gRPC forbids."""
    return HEAD + trailers(code, text, metadata)


def http_answer(http_status: int, code: int, text: str, extra: bytes = b"") -> bytes:
    """A whole answer to what is no gRPC: an HTTP client sees its status, a gRPC client `code`."""
    status = literal(b":status", b"%d" % http_status)
    return b"%b%b%b%b" % (
        status,
        literal(b"content-type", b"application/grpc"),
        trailers(code, text),
        extra,
    )
