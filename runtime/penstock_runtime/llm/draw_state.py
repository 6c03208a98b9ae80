"""What one sequence asks of its draws, worked out once, and what they depend on besides the logits:
counts of tokens, the state of its grammar, words that must not come.
"""

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Several
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock_runtime.errors import Internal, InvalidArgument
from penstock_runtime.llm.logit_edits import LogitEdits
from penstock_runtime.llm.penalties import TokenCounts, penalised
from penstock_runtime.llm.sequence import Sequence

Tokenise = Callable[[str], list[int]]
"""The tokens of a text, without those that open or close one."""

# vLLM's: below it, a division would overflow, and there is one token left anyway.
_COLDEST = 1e-5


class DrawState:
    """One sequence's demands. `greedy`: its likeliest token is taken; `edited`: its logits are
    changed at every step; `ends`: the tokens that end it; `given`: how many of its prompt's tokens
    have had their logprobs.
    """

    __slots__ = (
        "_allowed",
        "_bad_words",
        "_counts",
        "_fed",
        "_late",
        "_vocab_size",
        "edited",
        "ends",
        "given",
        "greedy",
        "sequence",
    )

    def __init__(
        self,
        sequence: Sequence,
        vocab_size: int,
        eos_token_ids: Iterable[int],
        tokenise: Tokenise | None,
    ) -> None:
        params = sequence.params
        _check_ids("logit_bias", params.logit_bias, vocab_size)
        _check_ids("allowed_token_ids", params.allowed_token_ids or (), vocab_size)
        eos, stops = set(eos_token_ids), set(params.stop_token_ids)
        self.sequence = sequence
        self._vocab_size = vocab_size
        self.greedy = params.temperature < _COLDEST
        self.ends = frozenset(stops if params.ignore_eos else eos | stops)
        self.given = 1  # nothing precedes the first token
        # What may not come before min_tokens: the end of a sequence too, even if it is ignored.
        self._late = frozenset(token for token in eos | stops if 0 <= token < vocab_size)
        self._allowed: npt.NDArray[Any] | None = None
        if params.allowed_token_ids is not None:
            self._allowed = np.unique(np.array(params.allowed_token_ids, np.int64))
        self._bad_words = _bad_words(params.bad_words, vocab_size, tokenise)
        self._counts: TokenCounts | None = None
        if penalised(params):
            self._counts = TokenCounts(sequence.tokens[: sequence.n_prompt], vocab_size)
        # Of each token that was generated, whether the grammar has been told.
        self._fed: list[bool] = []
        self.edited = bool(
            self._allowed is not None or self._bad_words or self._counts or params.logit_bias
        )

    @property
    def plain(self) -> bool:
        """Whether the next token is the likeliest, whatever came before."""
        return self.greedy and self.untouched

    @property
    def untouched(self) -> bool:
        """Whether the logits are used as they are."""
        sequence = self.sequence
        early = sequence.n_generated < sequence.params.min_tokens
        return not (self.edited or early or sequence.grammar is not None)

    def positions(self, drafts: Several[int]) -> int:
        """How many tokens can be drawn: one after the text and one after each of its drafts, but
        none after one that ends it.
        """
        return next((i for i, draft in enumerate(drafts) if draft in self.ends), len(drafts)) + 1

    def edit(self, edits: LogitEdits, first: int, drafts: Several[int]) -> int:
        """Collect the edits of the logits that follow the text and each of its drafts, in rows from
        `first` on; how many rows there are: none behind a draft that the grammar does not allow.
        """
        self._catch_up()
        told = used = 0
        for used, draft in enumerate((*drafts, None)):
            self._edit(edits, first + used, drafts[:used])
            if draft is None or not self._go_on(draft):
                break
            told += 1
        self._go_back(drafts[:told])
        return used + 1

    def accept(self, tokens: Iterable[int]) -> None:
        """Tell the grammar what was chosen."""
        if self.sequence.grammar is None:
            return
        for token in tokens:
            self._feed(token)

    def _edit(self, edits: LogitEdits, row: int, drafts: Several[int]) -> None:
        sequence, params = self.sequence, self.sequence.params
        grammar = sequence.grammar
        if self._allowed is not None:
            edits.allow(row, self._allowed)
        if params.logit_bias:
            edits.bias(row, params.logit_bias)
        early = sequence.n_generated + len(drafts) < params.min_tokens
        if grammar is not None:
            mask = edits.mask(row)
            grammar.fill(mask, 0)
            # Where a grammar leaves nothing but the end, it comes early.
            early = early and self._leaves_more(mask)
        if early:
            edits.ban(row, self._late)
        if self._bad_words:
            edits.ban(row, self._last_of_bad_words(drafts))
        if self._counts is not None:
            edits.penalise(self._counts.seen(row, params))

    def _leaves_more(self, mask: npt.NDArray[Any]) -> bool:
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: self._vocab_size]
        bits[list(self._late)] = 0
        return bool(bits.any())

    def _last_of_bad_words(self, drafts: Several[int]) -> list[int]:
        sequence = self.sequence
        longest = max(map(len, self._bad_words)) - 1
        start = max(sequence.n_prompt, len(sequence.tokens) - longest)
        text = (*sequence.tokens[start:], *drafts)
        return [
            word[-1]
            for word in self._bad_words
            if len(word) - 1 <= len(text) and text[len(text) - len(word) + 1 :] == word[:-1]
        ]

    def _go_on(self, draft: int) -> bool:
        """Go on as if the draft were there; False where nothing can follow it."""
        grammar = self.sequence.grammar
        if draft in self.ends or (grammar is not None and not grammar.accept(draft)):
            return False
        if self._counts is not None:
            self._counts.push(draft)
        return True

    def _go_back(self, drafts: Several[int]) -> None:
        if drafts and self.sequence.grammar is not None:
            self.sequence.grammar.rollback(len(drafts))
        if self._counts is not None:
            for draft in reversed(drafts):
                self._counts.pop(draft)

    def _catch_up(self) -> None:
        """Follow the text, whoever wrote it: an engine may keep less of it than was chosen."""
        sequence = self.sequence
        if self._counts is not None:
            for token in sequence.tokens[sequence.n_prompt + self._counts.n_generated :]:
                self._counts.push(token)
        if sequence.grammar is None:
            return
        undone = sum(self._fed[sequence.n_generated :])
        if undone:
            sequence.grammar.rollback(undone)
        del self._fed[sequence.n_generated :]
        for token in sequence.tokens[sequence.n_prompt + len(self._fed) :]:
            self._feed(token)

    def _feed(self, token: int) -> None:
        grammar = self.sequence.grammar
        told = grammar is not None and token not in self._late
        if told and grammar is not None and not grammar.accept(token):
            raise Internal(f"the grammar allowed token {token} and does not accept it")
        self._fed.append(told)


def _bad_words(
    words: Several[str], vocab_size: int, tokenise: Tokenise | None
) -> tuple[tuple[int, ...], ...]:
    """The tokens of each word, at the start of a text and (where that is one token sequence of the
    same length) after a space, as vLLM has it.
    """
    if not words:
        return ()
    if tokenise is None:
        raise InvalidArgument("bad_words: this model has no tokenizer, expected none")
    found: list[tuple[int, ...]] = []
    for word in words:
        bare, spaced = (tuple(tokenise(space + word.lstrip())) for space in ("", " "))
        _check_ids("bad_words", bare + spaced, vocab_size)
        if bare:
            found.append(bare)
        if bare and len(spaced) == len(bare) and spaced[0] != bare[0]:
            found.append(spaced)
    return tuple(found)


def _check_ids(name: str, tokens: Iterable[int], vocab_size: int) -> None:
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise InvalidArgument(f"{name}: token {token}, expected 0 to {vocab_size - 1}")
