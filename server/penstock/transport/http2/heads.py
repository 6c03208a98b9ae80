"""What the header fields of a request say: once carefully, and once quickly for the usual ones."""

from collections.abc import Mapping
from functools import lru_cache
from operator import itemgetter

from penstock.transport.http2.compression import ENCODINGS
from penstock.transport.http2.grpc_timeout import parse_timeout
from penstock.transport.http2.head_problems import (
    KNOWN_ENCODINGS,
    PSEUDO,
    Problem,
    bad_value,
    malformed,
    malformed_field,
    malformed_values,
    not_grpc,
    too_large,
)
from penstock.transport.http2.hpack_tables import ENTRY_OVERHEAD, Field, weight
from penstock.transport.http2.metadata import (
    BINARY_SUFFIX,
    binary_metadata,
    is_binary,
    text_metadata,
)

METADATA_LIMIT = 16384
"""Bytes of a request's fields as RFC 9113, 6.5.2 counts them; grpc's own hard limit."""


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


class _Shape:
    """What can be said of all requests with the same names in the same order.

    `protocol` takes the values out that HTTP/2 and gRPC care for. `known` holds what they mean
    where they passed every check: path, encoding, accepts.
    """

    __slots__ = ("binary", "known", "protocol", "size", "timeout")

    def __init__(self, names: tuple[bytes, ...]) -> None:
        places = [place for place, name in enumerate(names) if name in _PROTOCOL]
        self.protocol = itemgetter(*places)
        self.timeout = names.index(b"grpc-timeout") if b"grpc-timeout" in names else -1
        self.binary = tuple(
            place for place, name in enumerate(names) if name.endswith(BINARY_SUFFIX)
        )
        self.size = sum([len(name) + ENTRY_OVERHEAD for name in names])
        self.known: dict[tuple[bytes, ...], tuple[str, str | None, tuple[str, ...]]] = {}


_PROTOCOL = PSEUDO | {b"te", b"content-type", b"grpc-encoding", b"grpc-accept-encoding"}
_MAX_SHAPES = 256
_MAX_KNOWN = 64
_MAX_REMEMBERED = 2048
# Shared by all connections: clients of one kind send the same names, if never the same values.
_shapes: dict[tuple[bytes, ...], _Shape] = {}


class RequestHeads:
    """Makes a RequestHead of a block's fields; `limit` bounds what they weigh together."""

    __slots__ = ("_limit",)

    def __init__(self, limit: int = METADATA_LIMIT) -> None:
        self._limit = limit

    def __call__(self, fields: list[Field]) -> RequestHead:
        """The head, with a problem if the request cannot be served. Never raises."""
        return self.quick(fields) or self.careful(fields)

    def quick(self, fields: list[Field]) -> RequestHead | None:
        """The head of a request like one that passed every check before, else None.

        A few passes in C over all fields at once; a look at each of them costs four times as much.
        """
        if not fields:
            return None
        values: tuple[bytes, ...]
        names, values = zip(*fields)  # noqa: B905 - pairs are equally long
        shape = _shapes.get(names)
        if shape is None:
            return None
        known = shape.known.get(shape.protocol(values))
        if known is None:
            return None
        text = b"".join(values)
        size = shape.size + len(text)
        if size > self._limit or b"\0" in text or b"\r" in text or b"\n" in text:
            return None
        timeout_ns = None
        if shape.timeout >= 0:
            timeout_ns = parse_timeout(values[shape.timeout])
            if timeout_ns is None:
                return None
        for place in shape.binary:
            if not is_binary(values[place]):
                return None
        path, encoding, accepts = known
        return RequestHead(path, timeout_ns, encoding, accepts, fields, size)

    def careful(self, fields: list[Field]) -> RequestHead:
        """The head of any request, after every check."""
        size = weight(fields)
        if size > self._limit:
            return _refused(too_large(size, self._limit), size)
        wrong = malformed(fields)
        if wrong is not None:
            return _refused(Problem(None, -1, wrong, "malformed_head"), size)
        found = dict(fields)
        problem = not_grpc(found) or bad_value(fields, found)
        if problem is not None:
            return _refused(problem, size)
        timeout = found.get(b"grpc-timeout")
        length = found.get(b"content-length")
        head = RequestHead(
            found[b":path"].decode("latin-1"),
            None if timeout is None else parse_timeout(timeout),
            KNOWN_ENCODINGS[found.get(b"grpc-encoding")],
            _accepted(found.get(b"grpc-accept-encoding")),
            fields,
            size,
            None if length is None else int(length),
        )
        if length is None and len(found) == len(fields) and size <= _MAX_REMEMBERED:
            _remember(head, fields)
        return head


def _remember(head: RequestHead, fields: list[Field]) -> None:
    """Let requests with these names, and with these values of the protocol's own, pass quickly."""
    names = tuple([name for name, _ in fields])
    shape = _shapes.get(names)
    if shape is None:
        if len(_shapes) >= _MAX_SHAPES:
            _shapes.clear()
        shape = _shapes[names] = _Shape(names)
    if len(shape.known) >= _MAX_KNOWN:
        shape.known.clear()
    protocol = shape.protocol([value for _, value in fields])
    shape.known[protocol] = head.path, head.encoding, head.accepts


@lru_cache(maxsize=256)
def _accepted(value: bytes | None) -> tuple[str, ...]:
    if value is None:
        return ()
    offered = {part.strip().partition(b";")[0] for part in value.split(b",")}
    return tuple(encoding for encoding in ENCODINGS if encoding.encode() in offered)


def _refused(problem: Problem, size: int) -> RequestHead:
    return RequestHead("", None, None, (), [], size, None, problem)


def valid_trailers(fields: list[Field], limit: int = METADATA_LIMIT) -> bool:
    """Whether these may stand behind a request's body: no pseudo fields, nothing malformed, and
    together no heavier than `limit`.
    """
    return (
        weight(fields) <= limit
        and not any(name[:1] == b":" for name, _ in fields)
        and malformed_field(fields) is None
        and malformed_values(fields) is None
    )
