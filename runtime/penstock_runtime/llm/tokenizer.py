"""A Hugging Face tokenizer as the engine uses it, from files alone: no network, no code of a model.

Imports `tokenizers`, and transformers only for a directory without a tokenizer.json. It is safe to
use from any thread; an encoding of a long text holds no lock, yet takes its time.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.increments import (
    PRIMING,
    ByteIncrements,
    Increments,
    WindowIncrements,
    prime,
)
from penstock_runtime.llm.loading import LOADING, import_alone
from penstock_runtime.llm.token_bytes import read_form
from penstock_runtime.llm.tokenizer_files import TokenizerFiles, read_files

_OTHER_FILES = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_ADDED_FLAGS = ("lstrip", "normalized", "rstrip", "single_word", "special")
# A normalizer may shorten a text, though hardly to a third.
_SHORTENS = 3


class Tokenizer:
    """Text to tokens and back. `vocab_size` is one more than the largest token id; a model's may be
    larger, and the tokens between have no text.
    """

    def __init__(self, backend: Backend, files: TokenizerFiles | None = None) -> None:
        self._files = files or TokenizerFiles()
        self._backend = backend
        decoder = backend.decoder
        self._form = read_form(json.loads(decoder.__getstate__()) if decoder is not None else None)
        vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        self._longest = max((len(piece.encode()) for piece in vocabulary), default=1)
        self._shortens = 1 if backend.normalizer is None else _SHORTENS
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(id_ for id_, token in added.items() if token.special)
        self.special_tokens = self._files.special_tokens
        self.eos_token_ids = self._files.eos_ids or self._named("eos_token")
        self.bos_token_id = next(iter(self._named("bos_token")), None)
        self.chat_templates = self._files.templates

    @property
    def chat_template(self) -> str | None:
        """The template of chats, unless they have tools and there is one for those."""
        return self.chat_templates.get("default")

    @property
    def backend(self) -> Backend:
        """The tokenizer of the `tokenizers` library."""
        return self._backend

    def encode(self, text: str, special: bool = True, limit: int | None = None) -> list[int]:
        """The tokens of a text; with `special` those around it too, such as a begin-of-sequence.
        Where it surely has more than `limit` tokens it is refused before it is encoded.
        """
        _check_text(text)
        if limit is not None:
            self._check_length(text, limit)
        try:
            ids: list[int] = self._backend.encode(text, add_special_tokens=special).ids
        except Exception as error:  # such as a character that an old vocabulary lacks
            raise InvalidArgument(f"the text cannot be encoded: {_line(error)}") from error
        return ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of tokens; those that the tokenizer does not know have none."""
        known = [id_ for id_ in ids if 0 <= id_ < self.vocab_size]
        text: str = self._backend.decode(known, skip_special_tokens=skip_special)
        return text

    def increments(self, skip_special: bool = True, prompt: Sequence[int] = ()) -> Increments:
        """The text of tokens that follow a prompt, as they come."""
        skip = self.special_ids if skip_special else frozenset()
        increments: Increments = (
            ByteIncrements(self._form, self.piece, skip)
            if self._form is not None
            else WindowIncrements(lambda ids: self.decode(ids, False), skip)
        )
        return prime(increments, prompt[-PRIMING:])

    def piece(self, token: int) -> str | None:
        """The token as it is in the vocabulary; None for one that is not."""
        if not 0 <= token < self.vocab_size:
            return None
        piece: str | None = self._backend.id_to_token(token)
        return piece

    def token_bytes(self, token: int) -> bytes:
        """What the token stands for within a text; nothing for one that is not known."""
        piece = self.piece(token)
        if piece is None:
            return b""
        return piece.encode() if self._form is None else self._form.bytes_of(piece)

    def token_text(self, token: int) -> str:
        """As `token_bytes`, with U+FFFD for a part of a character."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def _named(self, name: str) -> tuple[int, ...]:
        id_ = self._backend.token_to_id(self.special_tokens.get(name, ""))
        return () if id_ is None else (id_,)

    def _check_length(self, text: str, limit: int) -> None:
        at_least = len(text) // (self._longest * self._shortens)
        if at_least > limit:
            raise InvalidArgument(
                f"the text has {len(text)} characters, at least {at_least} tokens, expected at most"
                f" {limit} tokens",
                reason="PROMPT_TOO_LONG",
                scheduled=True,
            )

    def __repr__(self) -> str:
        return f"<Tokenizer of {self.vocab_size} tokens, ends {list(self.eos_token_ids)}>"


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a directory; InvalidArgument says which file is missing or broken."""
    folder = Path(directory)
    files = read_files(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        return Tokenizer(_convert(folder), files)
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the library has no class of its own for it
        raise InvalidArgument(f"tokenizer.json is broken: {_line(error)}") from error
    backend.no_padding()
    backend.no_truncation()
    _add_tokens(backend, files)
    return Tokenizer(backend, files)


def _convert(folder: Path) -> Backend:
    """What transformers makes of a tokenizer's older files."""
    if not any((folder / name).is_file() for name in _OTHER_FILES):
        raise InvalidArgument(
            "tokenizer.json is missing, and so are tokenizer.model and vocab.json"
        )
    # Only here, as it takes seconds to import and most models do without.
    transformers = import_alone("transformers")
    try:
        with LOADING:
            loaded = transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        backend: Backend = loaded.backend_tokenizer
    except Exception as error:  # a class of any library that a tokenizer may need
        raise InvalidArgument(
            f"tokenizer.json is missing and cannot be made: {_line(error)}"
        ) from error
    return backend


def _add_tokens(backend: Backend, files: TokenizerFiles) -> None:
    """As transformers: tokens that tokenizer_config.json has and tokenizer.json lacks are added,
    and those that have a name there, such as "eos_token", are special.
    """
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    next_id = max(vocabulary.values(), default=-1) + 1
    for id_, token in _listed(files.settings.get("added_tokens_decoder")):
        # Any other id would not be the one that the model was trained with.
        if id_ == next_id and token.content not in vocabulary:
            backend.add_tokens([token])
            next_id += 1
    added = backend.get_added_tokens_decoder()
    special = {token.content for token in added.values() if token.special}
    named = set(files.special_tokens.values()) - special
    known = [text for text in sorted(named) if backend.token_to_id(text) is not None]
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in known])


def _listed(entries: object) -> list[tuple[int, AddedToken]]:
    """The tokens of `added_tokens_decoder`, by their ids."""
    if not isinstance(entries, dict):
        return []
    found = []
    for key, entry in entries.items():
        if str(key).isdecimal() and isinstance(entry, dict) and "content" in entry:
            flags = {name: bool(entry.get(name)) for name in _ADDED_FLAGS}
            found.append((int(key), AddedToken(str(entry["content"]), **flags)))
    return sorted(found, key=lambda one: one[0])


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"the text is not Unicode: a lone surrogate at character {error.start}"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
