"""What bytes a token stands for, told from its piece of the vocabulary and the tokenizer's decoder.

Pure: it knows the JSON of a decoder and pieces, and no tokenizer. Two forms cover nearly all
generative models: byte-level BPE, where each character of a piece is a byte, and SentencePiece's,
where "▁" is a space and "<0x0A>" a byte.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class PieceForm:
    """How the pieces of one vocabulary are read: as `byte_level` characters, or with `space` for a
    space and, by `byte_fallback`, "<0x0A>" for a byte. A text loses up to `strip` spaces at its
    start, or, with `first_piece`, all that are in its first piece.
    """

    byte_level: bool = False
    byte_fallback: bool = False
    space: str = ""
    strip: int = 0
    first_piece: bool = False

    def raw_byte(self, piece: str) -> int | None:
        """The byte that a piece of SentencePiece's form stands for, if it does."""
        match = _BYTE.fullmatch(piece) if self.byte_fallback else None
        return int(match[1], 16) if match else None

    def bytes_of(self, piece: str) -> bytes:
        """The bytes of a piece, leading spaces included."""
        if self.byte_level:
            return _byte_level(piece)
        byte = self.raw_byte(piece)
        if byte is not None:
            return bytes((byte,))
        return (piece.replace(self.space, " ") if self.space else piece).encode()


def read_form(decoder: Mapping[str, Any] | None) -> PieceForm | None:
    """The form that a decoder of a tokenizer.json implies; None for one that is of neither."""
    if decoder is None:
        return None
    kind = decoder.get("type")
    if kind == "ByteLevel":
        return PieceForm(byte_level=True)
    if kind == "Metaspace":
        # It drops each of its marks in the first token, unless it never put one there.
        strip = 0 if decoder.get("prepend_scheme", "always") == "never" else 1
        return PieceForm(space=str(decoder["replacement"]), strip=strip, first_piece=True)
    if kind == "Sequence":
        return _read_sequence(decoder["decoders"])
    return None


def _read_sequence(decoders: list[Mapping[str, Any]]) -> PieceForm | None:
    """SentencePiece's: Replace, ByteFallback, Fuse, Strip, the last of which may be missing."""
    kinds = [one["type"] for one in decoders]
    if kinds == ["ByteLevel"]:
        return PieceForm(byte_level=True)
    if kinds[:1] != ["Replace"] or kinds[1:] not in (
        ["ByteFallback", "Fuse", "Strip"],
        ["ByteFallback", "Fuse"],
        ["Fuse", "Strip"],
        ["Fuse"],
    ):
        return None
    pattern, strip = decoders[0]["pattern"].get("String"), decoders[-1]
    if not pattern or decoders[0]["content"] != " ":
        return None
    if strip["type"] != "Strip":
        return PieceForm(space=pattern, byte_fallback="ByteFallback" in kinds)
    if strip["stop"] or strip["content"] != " ":
        return None
    return PieceForm(space=pattern, byte_fallback="ByteFallback" in kinds, strip=strip["start"])


def _byte_level(piece: str) -> bytes:
    table = _byte_table()
    try:
        return bytes(map(table.__getitem__, piece))
    except KeyError:
        # A token that was added as it is written, with a space in it, say.
        return piece.encode()


@lru_cache(maxsize=1)
def _byte_table() -> dict[str, int]:
    """GPT-2's characters for bytes: those that can be printed stand for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if chr(byte) not in table)
    return table | {chr(256 + place): byte for place, byte in enumerate(others)}
