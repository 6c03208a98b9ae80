"""What can be wrong with a request's header fields, and what must be answered.

Malformed in the sense of HTTP/2 resets the stream; what is well-formed but no call that we can
serve gets an answer. Held against a grpcio server over raw sockets: stricter than that where RFC
9113 or the gRPC protocol demand it (content type, malformed fields, size), milder where other
servers are (no `te`, no authority).
"""

import re
from typing import NamedTuple

from penstock.transport.http2.answers import UNIMPLEMENTED_ENCODING, http_answer, trailers_only
from penstock.transport.http2.grpc_timeout import parse_timeout
from penstock.transport.http2.hpack_encode import literal
from penstock.transport.http2.hpack_tables import Field
from penstock.transport.http2.metadata import BINARY_SUFFIX, TOKEN, is_binary

INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 3, 8, 12, 13

PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
SCHEMES = (b"http", b"https")
KNOWN_ENCODINGS: dict[bytes | None, str | None] = {
    None: None,
    b"identity": None,
    b"gzip": "gzip",
    b"deflate": "deflate",
}
"""The values of grpc-encoding that we can serve, and what they mean for a message."""

_CONNECTION_SPECIFIC = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_CONTENT_TYPE = re.compile(rb"application/grpc(?:[+;].*)?", re.IGNORECASE | re.DOTALL)
_DIGITS = re.compile(rb"[0-9]{1,15}")


class Problem(NamedTuple):
    """Why a request is not served. `name` is the tally that counts it.

    `block` is the whole answer (HEADERS with END_STREAM); None: RST_STREAM with PROTOCOL_ERROR.
    `status` is the gRPC status that the answer bears, -1 without one.
    """

    block: bytes | None
    status: int
    text: str
    name: str


def too_large(size: int, limit: int) -> Problem:
    """The answer to metadata that weighs more than it may."""
    text = f"received metadata size exceeds hard limit ({size} vs. {limit})"
    block = trailers_only(RESOURCE_EXHAUSTED, text)
    return Problem(block, RESOURCE_EXHAUSTED, text, "metadata_too_large")


def malformed(fields: list[Field]) -> str | None:
    """What makes HTTP/2 call a request malformed (RFC 9113, 8.2 and 8.3), or None."""
    names = [name for name, _ in fields]
    pseudo = [name for name in names if name[:1] == b":"]
    if not PSEUDO.issuperset(pseudo):
        return "a pseudo field that no request has"
    if len(set(pseudo)) != len(pseudo):
        return "a pseudo field twice"
    if names[: len(pseudo)] != pseudo:
        return "a pseudo field after another field"
    found = dict(fields)
    for name in (b":method", b":scheme", b":path"):
        if not found.get(name):
            return f"no {name.decode()}"
    return malformed_field(fields[len(pseudo) :]) or malformed_values(fields)


def malformed_field(fields: list[Field]) -> str | None:
    """What is malformed about fields that are no pseudo fields, or None."""
    for name, value in fields:
        if not TOKEN.fullmatch(name):
            return "a field name that is empty, in capitals or no token"
        if name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
            return f"{name.decode()} belongs to one connection of HTTP/1.1"
        if name == b"content-length" and not _DIGITS.fullmatch(value):
            return "a content-length that is no number"
    return None


def malformed_values(fields: list[Field]) -> str | None:
    """What no value may hold, or None."""
    values = b"".join([value for _, value in fields])
    if b"\0" in values or b"\r" in values or b"\n" in values:
        return "a value with NUL, CR or LF"
    return None


def not_grpc(found: dict[bytes, bytes]) -> Problem | None:
    """The answer to a request that is HTTP/2 but no gRPC."""
    method = found[b":method"]
    if method != b"POST":
        text = f"method {method.decode('latin-1')[:32]!r}, expected POST"
        block = http_answer(405, INTERNAL, text, literal(b"allow", b"POST"))
        return Problem(block, INTERNAL, text, "bad_method")
    kind = found.get(b"content-type", b"")
    if not _CONTENT_TYPE.fullmatch(kind):
        text = f"content type {kind.decode('latin-1')[:64]!r}, expected application/grpc"
        return Problem(
            http_answer(415, INVALID_ARGUMENT, text), INVALID_ARGUMENT, text, "bad_content_type"
        )
    return None


def bad_value(fields: list[Field], found: dict[bytes, bytes]) -> Problem | None:
    """The answer to a call with a field of gRPC's own that cannot be understood."""
    timeout = found.get(b"grpc-timeout")
    if timeout is not None and parse_timeout(timeout) is None:
        return _unparsable("grpc-timeout")
    if found[b":scheme"] not in SCHEMES:
        return _unparsable(":scheme")
    encoding = found.get(b"grpc-encoding")
    if encoding not in KNOWN_ENCODINGS:
        unknown = (encoding or b"").decode("latin-1")[:64]
        text = f"grpc-encoding {unknown!r} is not supported, expected identity, deflate or gzip"
        block = trailers_only(UNIMPLEMENTED, text) + UNIMPLEMENTED_ENCODING
        return Problem(block, UNIMPLEMENTED, text, "bad_encoding")
    for name, value in fields:
        if name.endswith(BINARY_SUFFIX) and not is_binary(value):
            return _unparsable(name.decode()[:64], ": illegal base64 encoding")
    return None


def _unparsable(name: str, why: str = "") -> Problem:
    text = f"Error parsing '{name}' metadata{why}"
    return Problem(trailers_only(INTERNAL, text), INTERNAL, text, "bad_metadata")
