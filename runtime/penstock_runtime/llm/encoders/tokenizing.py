"""Texts to tokens, with the folder's own tokenizer, cut where the model ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.encoders.spec import EncoderSpec

Texts = Sequence[str] | Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text, or a pair of them: token ids, which of the two each is of, whether it was cut."""

    ids: Sequence[int]
    types: Sequence[int]
    cut: bool

    def __len__(self) -> int:
        return len(self.ids)


class TextTokenizer:
    """A tokenizer that may be asked from any thread; nothing of it changes after it was made."""

    def __init__(self, spec: EncoderSpec, path: Path) -> None:
        self._model = spec.model
        self.max_tokens = spec.max_tokens
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path))
            # Whatever was saved with it: rows are filled up later, call by call.
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(spec.max_tokens, direction=spec.truncation_side)
        # The library raises bare Exceptions.
        except Exception as error:
            raise InvalidArgument(
                f"model '{spec.model}': {path.name} is no tokenizer of at least"
                f" {spec.max_tokens} tokens: {str(error)[:128]}"
            ) from error

    @property
    def size(self) -> int:
        """How many tokens it knows."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, texts: Texts) -> list[Tokens]:
        """The tokens of each text or pair, the special ones included."""
        encoded = self._tokenizer.encode_batch_fast(texts)
        return [Tokens(one.ids, one.type_ids, bool(one.overflowing)) for one in encoded]
