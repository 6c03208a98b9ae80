"""What the header fields of a request say, and what must be answered when they are wrong.

Held against a grpcio server over raw sockets. Stricter than it where RFC 9113 or the gRPC protocol
demand it (content type, malformed fields, size), milder where other servers are (no `te`).
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from penstock.transport.http2.answers import UNIMPLEMENTED_ENCODING, http_answer, trailers_only
from penstock.transport.http2.compression import ENCODINGS
from penstock.transport.http2.grpc_timeout import parse_timeout
from penstock.transport.http2.hpack_encode import literal
from penstock.transport.http2.hpack_tables import ENTRY_OVERHEAD, Field
from penstock.transport.http2.metadata import (
    BINARY_SUFFIX,
    binary_metadata,
    decode_binary,
    text_metadata,
)

METADATA_LIMIT = 16384
"""Bytes of a request's fields as RFC 9113, 6.5.2 counts them; grpc's own hard limit."""

INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 3, 8, 12, 13


class Problem(NamedTuple):
    """Why a request is not served. `name` is the tally that counts it.

    `block` is the whole answer (HEADERS with END_STREAM); None: RST_STREAM with PROTOCOL_ERROR.
    `status` is the gRPC status that the answer bears, -1 without one.
    """

    block: bytes | None
    status: int
    text: str
    name: str


class RequestHead:
    """The head of one request; shared by all that send the same block, so nobody may change it.

    `timeout_ns` counts from arrival. `encoding` is that of messages with the compressed flag,
    `accepts` what answers may be compressed with; each of gzip and deflate. `content_length` is
    what the body must then add up to. A head with a `problem` says nothing else.
    """

    __slots__ = (
        "_metadata",
        "accepts",
        "content_length",
        "encoding",
        "fields",
        "path",
        "problem",
        "size",
        "timeout_ns",
    )

    def __init__(
        self,
        path: str,
        timeout_ns: int | None,
        encoding: str | None,
        accepts: tuple[str, ...],
        fields: list[Field],
        size: int,
        content_length: int | None = None,
        problem: Problem | None = None,
    ) -> None:
        self.path = path
        self.timeout_ns = timeout_ns
        self.encoding = encoding
        self.accepts = accepts
        self.fields = fields
        self.size = size
        self.content_length = content_length
        self.problem = problem
        self._metadata: dict[str, str] | None = None

    def __repr__(self) -> str:
        if self.problem is not None:
            return f"<RequestHead {self.problem.name}: {self.problem.text}>"
        return f"<RequestHead {self.path} timeout {self.timeout_ns} ns, {len(self.fields)} fields>"

    @property
    def authority(self) -> str:
        """The host that the caller meant; empty if it did not say."""
        return self._value(b":authority") or self._value(b"host")

    @property
    def metadata(self) -> Mapping[str, str]:
        """The caller's metadata as grpcio shows it, without binary values."""
        if self._metadata is None:
            self._metadata = text_metadata(self.fields)
        return self._metadata

    @property
    def binary_metadata(self) -> Mapping[str, bytes]:
        """The values under names that end in -bin."""
        return binary_metadata(self.fields)

    def _value(self, wanted: bytes) -> str:
        return next((value.decode("latin-1") for name, value in self.fields if name == wanted), "")


_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_CONNECTION_SPECIFIC = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_CONTENT_TYPE = re.compile(rb"application/grpc(?:[+;].*)?", re.IGNORECASE | re.DOTALL)
_DIGITS = re.compile(rb"[0-9]{1,15}")
_SCHEMES = (b"http", b"https")
_ENCODINGS: dict[bytes | None, str | None] = {
    None: None,
    b"identity": None,
    b"gzip": "gzip",
    b"deflate": "deflate",
}

_MAX_NAMES = 4096
# Names that were looked at already and need no second look, whatever their values are.
_plain_names: set[bytes] = set(_PSEUDO)


class RequestHeads:
    """Makes a RequestHead of a block's fields; `limit` bounds what they weigh together."""

    __slots__ = ("_limit",)

    def __init__(self, limit: int = METADATA_LIMIT) -> None:
        self._limit = limit

    def __call__(self, fields: list[Field]) -> RequestHead:
        """The head, with a problem if the request cannot be served. Never raises."""
        return self.quick(fields) or self.careful(fields)

    def quick(self, fields: list[Field]) -> RequestHead | None:
        """The head of a request that has nothing unusual about it, else None.

        A few passes in C over all fields at once, where looking at each costs three times as much.
        """
        found = dict(fields)
        names = list(found)
        values = b"".join(found.values())
        timeout = found.get(b"grpc-timeout")
        timeout_ns = None if timeout is None else parse_timeout(timeout)
        encoding = found.get(b"grpc-encoding")
        size = len(b"".join(names)) + len(values) + ENTRY_OVERHEAD * len(names)
        if (
            len(names) != len(fields)
            or not _PSEUDO.issuperset(names[:4])
            or not _plain_names.issuperset(names)
            or found.get(b":method") != b"POST"
            or found.get(b"te") != b"trailers"
            or found.get(b"content-type") != b"application/grpc"
            or found.get(b":scheme") not in _SCHEMES
            or (timeout is not None and timeout_ns is None)
            or encoding not in _ENCODINGS
            or size > self._limit
            or b"\0" in values
            or b"\r" in values
            or b"\n" in values
        ):
            return None
        path = found.get(b":path")
        if not path or b":authority" not in found:
            return None
        return RequestHead(
            path.decode("latin-1"),
            timeout_ns,
            _ENCODINGS[encoding],
            _accepted(found.get(b"grpc-accept-encoding")),
            fields,
            size,
        )

    def careful(self, fields: list[Field]) -> RequestHead:
        """The head of any request, after every check."""
        size = sum([len(name) + len(value) for name, value in fields])
        size += ENTRY_OVERHEAD * len(fields)
        if size > self._limit:
            return _refused(_too_large(size, self._limit), size)
        wrong = _malformed(fields)
        if wrong is not None:
            return _refused(Problem(None, -1, wrong, "malformed_head"), size)
        found = dict(fields)
        problem = _not_grpc(found) or _bad_value(fields, found)
        if problem is not None:
            return _refused(problem, size)
        _remember(found)
        timeout = found.get(b"grpc-timeout")
        length = found.get(b"content-length")
        return RequestHead(
            found[b":path"].decode("latin-1"),
            None if timeout is None else parse_timeout(timeout),
            _ENCODINGS[found.get(b"grpc-encoding")],
            _accepted(found.get(b"grpc-accept-encoding")),
            fields,
            size,
            None if length is None else int(length),
        )


def valid_trailers(fields: list[Field]) -> bool:
    """Whether these may stand behind a request's body: no pseudo fields, nothing malformed."""
    return not any(name[:1] == b":" for name, _ in fields) and _malformed_field(fields) is None


@lru_cache(maxsize=256)
def _accepted(value: bytes | None) -> tuple[str, ...]:
    if value is None:
        return ()
    offered = {part.strip().partition(b";")[0] for part in value.split(b",")}
    return tuple(encoding for encoding in ENCODINGS if encoding.encode() in offered)


def _refused(problem: Problem, size: int) -> RequestHead:
    return RequestHead("", None, None, (), [], size, None, problem)


def _remember(found: dict[bytes, bytes]) -> None:
    if len(_plain_names) + len(found) > _MAX_NAMES:
        _plain_names.clear()
        _plain_names.update(_PSEUDO)
    _plain_names.update(
        name
        for name in found
        if not name.endswith(BINARY_SUFFIX) and name != b"content-length" and len(name) <= 128
    )


def _too_large(size: int, limit: int) -> Problem:
    text = f"received metadata size exceeds hard limit ({size} vs. {limit})"
    block = trailers_only(RESOURCE_EXHAUSTED, text)
    return Problem(block, RESOURCE_EXHAUSTED, text, "metadata_too_large")


def _malformed(fields: list[Field]) -> str | None:
    """What makes HTTP/2 call a request malformed (RFC 9113, 8.2 and 8.3), or None."""
    names = [name for name, _ in fields]
    pseudo = [name for name in names if name[:1] == b":"]
    if not _PSEUDO.issuperset(pseudo):
        return "a pseudo field that no request has"
    if len(set(pseudo)) != len(pseudo):
        return "a pseudo field twice"
    if names[: len(pseudo)] != pseudo:
        return "a pseudo field after another field"
    found = dict(fields)
    for name in (b":method", b":scheme", b":path"):
        if not found.get(name):
            return f"no {name.decode()}"
    return _malformed_field(fields[len(pseudo) :]) or _malformed_values(fields)


def _malformed_field(fields: list[Field]) -> str | None:
    for name, value in fields:
        if not _TOKEN.fullmatch(name):
            return "a field name that is empty, in capitals or no token"
        if name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
            return f"{name.decode()} belongs to one connection of HTTP/1.1"
        if name == b"content-length" and not _DIGITS.fullmatch(value):
            return "a content-length that is no number"
    return _malformed_values(fields)


def _malformed_values(fields: list[Field]) -> str | None:
    values = b"".join([value for _, value in fields])
    if b"\0" in values or b"\r" in values or b"\n" in values:
        return "a value with NUL, CR or LF"
    return None


def _not_grpc(found: dict[bytes, bytes]) -> Problem | None:
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


def _bad_value(fields: list[Field], found: dict[bytes, bytes]) -> Problem | None:
    timeout = found.get(b"grpc-timeout")
    if timeout is not None and parse_timeout(timeout) is None:
        return _unparsable("grpc-timeout")
    if found[b":scheme"] not in _SCHEMES:
        return _unparsable(":scheme")
    encoding = found.get(b"grpc-encoding")
    if encoding not in _ENCODINGS:
        name = (encoding or b"").decode("latin-1")[:64]
        text = f"grpc-encoding {name!r} is not supported, expected identity, deflate or gzip"
        block = trailers_only(UNIMPLEMENTED, text) + UNIMPLEMENTED_ENCODING
        return Problem(block, UNIMPLEMENTED, text, "bad_encoding")
    for name, value in fields:
        if name.endswith(BINARY_SUFFIX):
            try:
                decode_binary(value)
            except ValueError as error:
                return _unparsable(name.decode()[:64], f": {error}")
    return None


def _unparsable(name: str, why: str = "") -> Problem:
    text = f"Error parsing '{name}' metadata{why}"
    return Problem(trailers_only(INTERNAL, text), INTERNAL, text, "bad_metadata")
