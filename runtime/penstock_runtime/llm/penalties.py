"""Which tokens a text has, and what that takes from their logits: repetition, presence, frequency.

vLLM's definitions: repetition counts the prompt too, presence and frequency only what was generated
after it. Counts grow and shrink by one token, so that drafts are counted as if they were there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from penstock_runtime.llm.sampling_params import SamplingParams

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """The tokens that one row of logits follows, how often each was generated, and what is asked
    of them.
    """

    row: int
    tokens: Array
    counts: Array
    params: SamplingParams


class TokenCounts:
    """The different tokens of one text, and how often each stands after the prompt."""

    __slots__ = ("_counts", "_limit", "_n_prompt", "_places", "_size", "_tokens", "n_generated")

    def __init__(self, prompt: Sequence[int], vocab_size: int) -> None:
        tokens = np.unique(np.asarray(prompt, np.int64))
        tokens = tokens[(tokens >= 0) & (tokens < vocab_size)]
        self._limit = vocab_size
        self._places = {token: place for place, token in enumerate(tokens.tolist())}
        self._n_prompt = self._size = len(tokens)
        self._tokens = np.concatenate([tokens, np.zeros(64, np.int64)])
        self._counts = np.zeros(len(self._tokens), np.float32)
        self.n_generated = 0

    def push(self, token: int) -> None:
        """One more token was generated."""
        self.n_generated += 1
        place = self._places.get(token)
        if place is None:
            place = self._place(token)
        self._counts[place] += 1

    def pop(self, token: int) -> None:
        """The token that was pushed last is taken back."""
        self.n_generated -= 1
        place = self._places[token]
        self._counts[place] -= 1
        if place == self._size - 1 >= self._n_prompt and self._counts[place] == 0:
            del self._places[token]
            self._size -= 1

    def seen(self, row: int, params: SamplingParams) -> Seen:
        """What a row of logits at this point follows."""
        tokens, counts = self._tokens[: self._size], self._counts[: self._size]
        return Seen(row, tokens.copy(), counts.copy(), params)

    def _place(self, token: int) -> int:
        if not 0 <= token < self._limit:
            raise ValueError(f"token {token} is not one of {self._limit}")
        if self._size == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        place = self._places[token] = self._size
        self._tokens[place] = token
        self._size += 1
        return place


def penalise(x: torch.Tensor, rows: Sequence[Seen]) -> None:
    """Lower the logits [rows, vocabulary], in place, of what each of these rows has seen."""
    sizes = [len(seen.tokens) for seen in rows]
    start = np.repeat([seen.row * x.shape[1] for seen in rows], sizes)
    places = _tensor(start + np.concatenate([seen.tokens for seen in rows]), x)
    counts = _tensor(np.concatenate([seen.counts for seen in rows]), x)
    repetition, presence, frequency = (
        _tensor(np.repeat(np.array(values, np.float32), sizes), x)
        for values in zip(*(_penalties(seen.params) for seen in rows), strict=True)
    )
    flat = x.view(-1)
    logits = flat[places]
    logits = torch.where(logits > 0, logits / repetition, logits * repetition)
    flat[places] = logits - frequency * counts - presence * (counts > 0)


def penalised(params: SamplingParams) -> bool:
    """Whether any penalty is asked for."""
    return _penalties(params) != (1.0, 0.0, 0.0)


def _penalties(params: SamplingParams) -> tuple[float, float, float]:
    return params.repetition_penalty, params.presence_penalty, params.frequency_penalty


def _tensor(values: Array, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(values).to(like.device)
