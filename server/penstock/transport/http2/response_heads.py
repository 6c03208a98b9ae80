"""What the header fields of a response say to a client: its head, its trailers, or both in one."""

from typing import NamedTuple

from penstock.transport.http2.hpack_tables import Field, weight
from penstock.transport.http2.metadata import TOKEN, all_metadata, percent_decode

METADATA_LIMIT = 16384

UNKNOWN, RESOURCE_EXHAUSTED, INTERNAL = 2, 8, 13
_MOST = 16

_HTTP_STATUSES = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
"""HTTP statuses and what gRPC makes of them when no grpc-status came; others are UNKNOWN."""


class FinalStatus(NamedTuple):
    """How a call ended: the number of the gRPC status, and its text."""

    status: int
    text: str


class ResponseHead:
    """One header block of a response; shared by all that are equal, so nobody may change it.

    `http_status` is 0 in trailers; `status` is grpc-status, None in a head that messages follow.
    `encoding` is grpc-encoding, None for identity. `problem` says what is malformed: the stream is
    over then.
    """

    __slots__ = (
        "_metadata",
        "encoding",
        "fields",
        "http_status",
        "is_grpc",
        "problem",
        "size",
        "status",
        "text",
    )

    def __init__(self, fields: list[Field], limit: int) -> None:
        found = dict(fields)
        self.fields = fields
        self.size = weight(fields)
        self.problem = _misframed(fields, found)
        self.http_status = 0 if self.problem else int(found.get(b":status", b"0"))
        self.status = _number(found.get(b"grpc-status"))
        self.text = percent_decode(found.get(b"grpc-message", b""))
        self.encoding = _encoding(found.get(b"grpc-encoding"))
        self.is_grpc = found.get(b"content-type", b"").lower().startswith(b"application/grpc")
        self._metadata: tuple[tuple[str, str | bytes], ...] | None = None
        if self.size > limit:
            self.status = RESOURCE_EXHAUSTED
            self.text = f"received metadata size exceeds hard limit ({self.size} vs. {limit})"
            self.fields = []
        elif self.problem is None:
            self.problem = _malformed(fields, found)

    def __repr__(self) -> str:
        return f"<ResponseHead http {self.http_status} grpc {self.status} {self.text!r}>"

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What an application sees, in order; bytes under names that end in -bin."""
        if self._metadata is None:
            self._metadata = all_metadata(self.fields)
        return self._metadata


class ResponseHeads:
    """Makes a ResponseHead of a block's fields; `limit` bounds what they weigh together."""

    __slots__ = ("_limit",)

    def __init__(self, limit: int = METADATA_LIMIT) -> None:
        self._limit = limit

    def __call__(self, fields: list[Field]) -> ResponseHead:
        """The head or the trailers. Never raises."""
        return ResponseHead(fields, self._limit)


def final_status(end: ResponseHead) -> FinalStatus:
    """What a call's last block says: its trailers, or the head that ended the stream.

    Where no gRPC server spoke, the HTTP status decides.
    """
    if end.problem is not None:
        return FinalStatus(INTERNAL, f"malformed response: {end.problem}")
    if end.status is not None:
        return FinalStatus(end.status, end.text)
    if end.http_status in (0, 200):
        return FinalStatus(UNKNOWN, "the response ended without a grpc-status")
    status = _HTTP_STATUSES.get(end.http_status, UNKNOWN)
    return FinalStatus(status, f"Received http2 header with status: {end.http_status}")


def _encoding(value: bytes | None) -> str | None:
    return None if value is None or value == b"identity" else value.decode("latin-1")


def _number(value: bytes | None) -> int | None:
    if value is None:
        return None
    return int(value) if value.isdigit() and len(value) <= 2 and int(value) <= _MOST else UNKNOWN


def _misframed(fields: list[Field], found: dict[bytes, bytes]) -> str | None:
    """Why nobody can say what kind of block this is, or None."""
    pseudo = [name for name, _ in fields if name[:1] == b":"]
    if pseudo not in ([], [b":status"]) or (pseudo and fields[0][0] != b":status"):
        return "pseudo fields other than one :status at the front"
    status = found.get(b":status", b"000")
    if len(status) != 3 or not status.isdigit():
        return "a :status that is no three digits"
    return None


def _malformed(fields: list[Field], found: dict[bytes, bytes]) -> str | None:
    """What is wrong with the fields themselves, or None."""
    if not all(TOKEN.fullmatch(name) for name in found if name != b":status"):
        return "a field name that is empty, in capitals or no token"
    try:
        all_metadata(fields)
    except ValueError as error:
        return f"binary metadata: {error}"
    return None
