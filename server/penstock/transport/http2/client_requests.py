"""Header blocks of requests. Nothing in them touches a dynamic table, so that a block is built once
for all calls that share it, and what differs from call to call is put behind it as bytes.
"""

import re
from collections.abc import Sequence

from penstock.transport.http2.grpc_timeout import format_timeout
from penstock.transport.http2.hpack_encode import literal, string
from penstock.transport.http2.metadata import encode_metadata
from penstock.version import __version__

USER_AGENT = f"penstock/{__version__}"
ACCEPT_ENCODING = b"identity,deflate,gzip"

_VALUE = re.compile(r"[\x20-\x7e]+")
_TIMEOUT = b"\x00" + string(b"grpc-timeout")


def request_block(
    path: str,
    authority: str,
    *,
    scheme: str = "http",
    metadata: Sequence[tuple[str, str | bytes]] = (),
    encoding: str = "",
    user_agent: str = USER_AGENT,
) -> bytes:
    """The header block of a request, but for its deadline.

    `encoding` names how messages with the compressed flag are compressed (gzip, deflate). Metadata
    under names that end in -bin may be bytes. ValueError for a name or value that gRPC forbids.
    """
    for text in (path, authority, user_agent):
        if not _VALUE.fullmatch(text):
            raise ValueError(f"{text!r} cannot be sent, expected printable ASCII")
    fields = [
        (b":method", b"POST"),
        (b":scheme", scheme.encode()),
        (b":path", path.encode()),
        (b":authority", authority.encode()),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", user_agent.encode()),
        (b"grpc-accept-encoding", ACCEPT_ENCODING),
    ]
    if encoding:
        fields.append((b"grpc-encoding", encoding.encode()))
    return b"".join([literal(*pair) for pair in fields]) + encode_metadata(metadata)


def field(name: str, value: str | bytes) -> bytes:
    """The block of one field of metadata; ValueError when gRPC forbids its name or value."""
    return encode_metadata(((name, value),))


def timeout_field(timeout_ns: int) -> bytes:
    """The block of `grpc-timeout`, in the finest unit that holds it, rounded up; at least 1 ns."""
    text = format_timeout(timeout_ns)
    return b"%b%c%b" % (_TIMEOUT, len(text), text)
