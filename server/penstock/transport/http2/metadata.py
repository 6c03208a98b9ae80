"""Custom metadata and status texts, as gRPC writes them into header fields."""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence

from penstock.transport.http2.hpack_encode import literal, secret
from penstock.transport.http2.hpack_tables import Field

Metadata = Sequence[tuple[str, str | bytes]]

BINARY = "-bin"
BINARY_SUFFIX = b"-bin"

HIDDEN = frozenset(
    {
        b":method",
        b":scheme",
        b":path",
        b":authority",
        b":status",
        b"te",
        b"content-type",
        b"grpc-timeout",
        b"grpc-encoding",
        b"grpc-accept-encoding",
        b"grpc-internal-encoding-request",
        b"grpc-status",
        b"grpc-message",
        b"grpc-trace-bin",
        b"grpc-tags-bin",
        b"grpc-server-stats-bin",
        b"endpoint-load-metrics-bin",
        b"x-envoy-peer-metadata",
    }
)
"""What grpc keeps to itself: fields that grpcio shows to no handler, found by asking it."""

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
"""A field name that HTTP/2 allows."""

MAX_MESSAGE = 8192
"""Bytes of an encoded status text: a client refuses trailers that weigh more than 16 KiB."""

_SECRET = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie"})
_NAME = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(rb"[\x20-\x7e]*")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
# Blanks at the ends too: HTTP/2 allows none around a value.
_ESCAPED = re.compile(rb"[^\x20-\x24\x26-\x7e]|^ | $")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


def encode_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    """The header block of custom metadata; values under names in -bin may be any bytes.

    ValueError for a name or a value that gRPC forbids, and for names that only the transport may
    send.
    """
    return b"".join([_encode_pair(name, value) for name, value in metadata])


def _encode_pair(name: str, value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    if not _NAME.fullmatch(name) or name.encode() in HIDDEN:
        raise ValueError(
            f"metadata name {name!r}, expected lower-case letters, digits, '-', '_' or '.',"
            " and none of grpc's own names"
        )
    if name.endswith(BINARY):
        return literal(name.encode(), base64.b64encode(raw).rstrip(b"="))
    if not _VALUE.fullmatch(raw):
        raise ValueError(
            f"metadata {name!r} has a value of {len(raw)} bytes that is not printable ASCII;"
            " other bytes go under a name that ends in '-bin'"
        )
    # HTTP/2 forbids blanks around a value, and gRPC lets us drop them.
    encode = secret if name in _SECRET else literal
    return encode(name.encode(), raw.strip(b" "))


def decode_binary(value: bytes) -> list[bytes]:
    """The values of one -bin field: base64 with or without padding, joined by commas or alone.

    ValueError for what is no base64.
    """
    return [_decode_base64(part) for part in value.split(b",")]


def is_binary(value: bytes) -> bool:
    """Whether the value of a -bin field can be decoded."""
    try:
        decode_binary(value)
    except ValueError:
        return False
    return True


def _decode_base64(text: bytes) -> bytes:
    if not _BASE64.fullmatch(text):
        raise ValueError("illegal base64 encoding")
    text = text.rstrip(b"=")
    try:
        return binascii.a2b_base64(text + b"=" * (-len(text) % 4))
    except binascii.Error:
        raise ValueError("illegal base64 encoding") from None


def decode_text(value: bytes) -> str:
    """A value as text. ASCII by the protocol; other bytes are read as grpcio reads them."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def text_metadata(fields: Iterable[Field]) -> dict[str, str]:
    """What handlers see of received fields: the last of equal names, without binary values."""
    return {
        name.decode(): decode_text(value)
        for name, value in fields
        if name not in HIDDEN and not name.endswith(BINARY_SUFFIX)
    }


def binary_metadata(fields: Iterable[Field]) -> dict[str, bytes]:
    """The binary values of received fields, which must be good; the last of equal names."""
    return {
        name.decode(): decode_binary(value)[-1]
        for name, value in fields
        if name.endswith(BINARY_SUFFIX) and name not in HIDDEN
    }


def all_metadata(fields: Iterable[Field]) -> tuple[tuple[str, str | bytes], ...]:
    """Everything that a client shows of received fields, in order; ValueError for bad base64."""
    pairs: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        if name in HIDDEN:
            continue
        if name.endswith(BINARY_SUFFIX):
            pairs.extend((name.decode(), part) for part in decode_binary(value))
        else:
            pairs.append((name.decode(), decode_text(value)))
    return tuple(pairs)


def percent_encode(text: str) -> bytes:
    """A status text as the header grpc-message carries it, cut off at `MAX_MESSAGE` bytes."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= MAX_MESSAGE and not _ESCAPED.search(raw):
        return raw
    encoded = _ESCAPED.sub(_escape, raw)
    if len(encoded) > MAX_MESSAGE:
        # Neither an escape nor a character may lose its end.
        encoded = re.sub(rb"%[0-9A-F]?$", b"", encoded[:MAX_MESSAGE])
        whole = _ESCAPE.sub(_unescape, encoded).decode("utf-8", "ignore").encode()
        encoded = _ESCAPED.sub(_escape, whole)
    return encoded


def percent_decode(value: bytes) -> str:
    """The status text of a header grpc-message. Never fails: what is wrong stays as it stands."""
    if b"%" in value:
        value = _ESCAPE.sub(_unescape, value)
    return value.decode("utf-8", "replace")


def _escape(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes((int(match[1], 16),))
