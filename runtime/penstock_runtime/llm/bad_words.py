"""The tokens that may not come for the sake of words that may not."""

from collections.abc import Iterable
from typing import Protocol


class Encoder(Protocol):
    """What makes tokens of text."""

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The tokens of a text, with `special` those around it too."""


def bad_word_tokens(tokenizer: Encoder, words: Iterable[str]) -> list[list[int]]:
    """For each word its tokens at the start of a text and, where they are others, after a space:
    none of these lists may be completed.
    """
    found: list[list[int]] = []
    for word in words:
        bare = tokenizer.encode(word.lstrip(), special=False)
        spaced = tokenizer.encode(" " + word.lstrip(), special=False)
        if bare:
            found.append(bare)
        # Where the space is a token of its own, the bare word is what follows it.
        if bare and spaced[-len(bare) :] != bare:
            found.append(spaced)
    return found
