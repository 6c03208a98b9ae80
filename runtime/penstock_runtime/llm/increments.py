"""From tokens, one at a time, to text, whole characters only.

`ByteIncrements` is exact and costs the same for each token; it needs to know the bytes of tokens.
`WindowIncrements` works with any decoder: it decodes the last few tokens again and gives what is
new. Neither knows of stop strings.
"""

import codecs
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from penstock_runtime.llm.token_bytes import PieceForm

REPLACEMENT = "\ufffd"
PRIMING = 8
"""How many tokens of a prompt tell how the text goes on."""
_WINDOW = 16
"""A character has at most four bytes, so what is not one after so many tokens never will be."""


class Increments(Protocol):
    """The text of a growing list of tokens."""

    def push(self, token: int) -> str:
        """The characters that this token completes."""

    def flush(self) -> str:
        """What is left: a character that was begun, as U+FFFD."""


def _one_for_each_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return REPLACEMENT * (error.end - error.start), error.end


# As the ByteFallback decoder has it, where `replace` gives one for each run of bytes.
codecs.register_error("penstock-each-byte", _one_for_each_byte)
_utf8 = codecs.getincrementaldecoder("utf-8")


class ByteIncrements:
    """For tokens whose bytes are known. What it gives, put together, equals what the tokenizer's
    decoder gives for all tokens at once, except where bytes of SentencePiece's fallback are a
    character and others beside them are none: there the character is kept, not lost with them.
    """

    def __init__(
        self, form: PieceForm, piece: Callable[[int], str | None], skip: Collection[int] = ()
    ) -> None:
        self._form, self._piece, self._skip = form, piece, skip
        self._utf8 = _utf8("replace" if form.byte_level else "penstock-each-byte")
        self._strip = form.strip

    def push(self, token: int) -> str:
        """The characters that this token completes."""
        piece = None if token in self._skip else self._piece(token)
        if piece is None:
            return ""
        text = self._text(piece)
        return self._stripped(text) if self._strip else text

    def _text(self, piece: str) -> str:
        form = self._form
        if form.byte_level or form.raw_byte(piece) is not None:
            return self._utf8.decode(form.bytes_of(piece))
        # A piece of whole characters ends the bytes before it.
        return self._utf8.decode(b"", True) + form.bytes_of(piece).decode("utf-8", "replace")

    def _stripped(self, text: str) -> str:
        if self._form.first_piece:
            self._strip = 0
            return text.replace(" ", "")
        while self._strip and text.startswith(" "):
            text, self._strip = text[1:], self._strip - 1
        if text:
            self._strip = 0
        return text

    def flush(self) -> str:
        """What is left: a character that was begun, as U+FFFD."""
        return self._utf8.decode(b"", True)


class WindowIncrements:
    """For any other decoder, of which it only knows what it makes of some tokens. Exact where a
    decoder's text of a token depends on the one before it, and on no more.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], skip: Collection[int] = ()) -> None:
        self._decode, self._skip = decode, skip
        self._tokens: list[int] = []
        # Tokens before this one are given; the window begins at those that were given last.
        self._given = 0

    def push(self, token: int) -> str:
        """The characters that this token completes."""
        if token in self._skip:
            return ""
        self._tokens.append(token)
        text = self._new()
        pending = text.endswith(REPLACEMENT) and len(self._tokens) - self._given < _WINDOW
        return "" if pending or not text else self._give(text)

    def flush(self) -> str:
        """What is left: a character that was begun, as U+FFFD."""
        return self._give(self._new())

    def _new(self) -> str:
        before = self._decode(self._tokens[: self._given])
        return self._decode(self._tokens)[len(before) :]

    def _give(self, text: str) -> str:
        del self._tokens[: self._given]
        self._given = len(self._tokens)
        return text


def prime(increments: Increments, prompt: Iterable[int]) -> Increments:
    """Let it go on from a prompt: a space between the two is kept, and a character that the prompt
    begins is completed.
    """
    for token in prompt:
        increments.push(token)
    return increments
