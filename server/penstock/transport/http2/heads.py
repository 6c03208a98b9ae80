"""What the header fields of a request say: once carefully, and once quickly for the usual ones."""

from collections.abc import Mapping
from functools import lru_cache

from penstock.transport.http2.compression import ENCODINGS
from penstock.transport.http2.grpc_timeout import parse_timeout
from penstock.transport.http2.head_problems import (
    KNOWN_ENCODINGS,
    PSEUDO,
    SCHEMES,
    Problem,
    bad_value,
    malformed,
    malformed_field,
    malformed_values,
    not_grpc,
    too_large,
)
from penstock.transport.http2.hpack_tables import ENTRY_OVERHEAD, Field
from penstock.transport.http2.metadata import BINARY_SUFFIX, binary_metadata, text_metadata

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


_CONTENT_TYPES = (b"application/grpc", b"application/grpc+proto")
_MAX_NAMES = 4096
# Names that were looked at already and need no second look, whatever their values are.
_plain_names: set[bytes] = set(PSEUDO)


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
            or not PSEUDO.issuperset(names[:4])
            or not _plain_names.issuperset(names)
            or found.get(b":method") != b"POST"
            or found.get(b"te") != b"trailers"
            or found.get(b"content-type") not in _CONTENT_TYPES
            or found.get(b":scheme") not in SCHEMES
            or (timeout is not None and timeout_ns is None)
            or encoding not in KNOWN_ENCODINGS
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
            KNOWN_ENCODINGS[encoding],
            _accepted(found.get(b"grpc-accept-encoding")),
            fields,
            size,
        )

    def careful(self, fields: list[Field]) -> RequestHead:
        """The head of any request, after every check."""
        size = sum([len(name) + len(value) for name, value in fields])
        size += ENTRY_OVERHEAD * len(fields)
        if size > self._limit:
            return _refused(too_large(size, self._limit), size)
        wrong = malformed(fields)
        if wrong is not None:
            return _refused(Problem(None, -1, wrong, "malformed_head"), size)
        found = dict(fields)
        problem = not_grpc(found) or bad_value(fields, found)
        if problem is not None:
            return _refused(problem, size)
        _remember(found)
        timeout = found.get(b"grpc-timeout")
        length = found.get(b"content-length")
        return RequestHead(
            found[b":path"].decode("latin-1"),
            None if timeout is None else parse_timeout(timeout),
            KNOWN_ENCODINGS[found.get(b"grpc-encoding")],
            _accepted(found.get(b"grpc-accept-encoding")),
            fields,
            size,
            None if length is None else int(length),
        )


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
        _plain_names.update(PSEUDO)
    _plain_names.update(
        name
        for name in found
        if not name.endswith(BINARY_SUFFIX) and name != b"content-length" and len(name) <= 128
    )


def valid_trailers(fields: list[Field]) -> bool:
    """Whether these may stand behind a request's body: no pseudo fields, nothing malformed."""
    return (
        not any(name[:1] == b":" for name, _ in fields)
        and malformed_field(fields) is None
        and malformed_values(fields) is None
    )
