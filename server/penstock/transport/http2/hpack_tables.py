"""What RFC 7541 fixes: the static table, the Huffman code, and what is wrong with a bad block."""

Field = tuple[bytes, bytes]
"""Name and value of one header field."""


class HpackError(ValueError):
    """A block that cannot be decoded: the connection has lost its table (COMPRESSION_ERROR)."""


class HeaderBlockTooLarge(HpackError):
    """A block that is refused for its size before it is decoded (ENHANCE_YOUR_CALM)."""


ENTRY_OVERHEAD = 32
"""What a field weighs beyond its name and its value (RFC 7541, 4.1)."""


def weight(fields: list[Field]) -> int:
    """What header fields weigh together (RFC 9113, 6.5.2).

    To be known before anyone joins or decodes them: a block of 64 KiB may stand for 250 MiB.
    """
    return sum([len(name) + len(value) for name, value in fields]) + ENTRY_OVERHEAD * len(fields)


_STATIC = """\
:authority
:method GET
:method POST
:path /
:path /index.html
:scheme http
:scheme https
:status 200
:status 204
:status 206
:status 304
:status 400
:status 404
:status 500
accept-charset
accept-encoding gzip, deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate"""


def _static_field(line: str) -> Field:
    name, _, value = line.partition(" ")
    return name.encode(), value.encode()


STATIC_TABLE: tuple[Field, ...] = tuple(map(_static_field, _STATIC.splitlines()))
"""Appendix A; the field of index i stands at i - 1."""

STATIC_SIZE = len(STATIC_TABLE)

STATIC_NAMES: dict[bytes, int] = {
    name: STATIC_SIZE - place for place, (name, _) in enumerate(reversed(STATIC_TABLE))
}
"""The smallest index at which a name stands."""

STATIC_FIELDS: dict[Field, int] = {
    field: place for place, field in enumerate(STATIC_TABLE, start=1) if field[1]
}
"""The index of a field that stands in the table whole."""

EOS = 256

# Appendix B. The code is canonical: shorter codes first, equally long ones in the order of their
# symbols, each one more than the one before. So the lengths are all there is to say.
# fmt: off
_LENGTHS = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
)
# fmt: on


def _canonical(lengths: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    codes = [(0, 0)] * len(lengths)
    code = previous = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths)):
        code <<= length - previous
        codes[symbol] = (code, length)
        code, previous = code + 1, length
    return tuple(codes)


HUFFMAN_CODES: tuple[tuple[int, int], ...] = _canonical(_LENGTHS)
"""Code and its length in bits of each symbol, EOS last."""
