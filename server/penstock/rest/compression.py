"""gzip and deflate, as the heads Content-Encoding and Accept-Encoding name them."""

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from penstock.rest.exchange import Piece
from penstock.rest.problems import HttpProblem, too_large
from penstock_runtime.errors import InvalidArgument

LEVEL = 1
"""Tensors hardly get smaller by more effort."""
WORTH_IT = 1024
"""Bytes below which nothing is compressed: the answer fits a packet either way."""
_GZIP, _ZLIB, _BARE = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_WBITS: Mapping[str, int] = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_OFFERED = ("gzip", "deflate")


class _Wish(NamedTuple):
    name: str
    weight: float


def decompress(body: bytes, encoding: str, most: int) -> bytes:
    """The body as it was before; never more than `most` bytes are made of it.

    HttpProblem 415 for another encoding and 413 beyond the bound, InvalidArgument for broken data.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    wbits = _WBITS.get(name)
    if wbits is None:
        supported = {"Accept-Encoding": ", ".join(_OFFERED)}
        text = f"Content-Encoding {name[:32]!r} is not supported, expected gzip or deflate"
        raise HttpProblem(415, text, supported)
    if wbits == _ZLIB and not _has_zlib_head(body):
        wbits = _BARE
    inflater = zlib.decompressobj(wbits)
    try:
        plain = inflater.decompress(body, most + 1)
    except zlib.error:
        raise InvalidArgument(f"the body is not {name} data") from None
    if len(plain) > most:
        raise too_large("the body holds", most)
    if not inflater.eof or inflater.unused_data:
        raise InvalidArgument(f"the body is {name} data that is cut off, or has more behind it")
    return plain


def _has_zlib_head(body: bytes) -> bool:
    """Some clients leave the head of zlib out, although it is what deflate means in HTTP."""
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


def accepted(header: str) -> str:
    """The encoding that suits a caller best of those that are offered; "" for none."""
    wishes = {wish.name: wish.weight for wish in map(_wish, header.split(",")[:16])}
    best, most = "", 0.0
    for name in _OFFERED:
        weight = wishes.get(name, wishes.get("*", 0.0))
        if weight > most:
            best, most = name, weight
    return best


def _wish(text: str) -> _Wish:
    name, _, rest = text.partition(";")
    key, _, value = rest.strip().partition("=")
    weight = 1.0
    if key.strip().lower() == "q":
        try:
            weight = float(value)
        except ValueError:
            weight = 0.0
    return _Wish(name.strip().lower(), weight)


def compress(pieces: Sequence[Piece], encoding: str) -> tuple[bytes, ...]:
    """The pieces as compressed ones."""
    deflater = zlib.compressobj(LEVEL, zlib.DEFLATED, _WBITS[encoding])
    made = [deflater.compress(piece) for piece in pieces]
    return (*filter(None, made), deflater.flush())
