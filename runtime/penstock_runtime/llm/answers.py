"""What is sent of a generation: its text, tokens and figures as arrays, whole or bit by bit."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from penstock_runtime.llm.generation import Choice, Generation, Logprobs

TokenText = Callable[[int], str]


class Answers:
    """Makes the outputs of one model's requests; `price_per_second` is of its compute."""

    def __init__(self, token_text: TokenText, price_per_second: float = 0.0) -> None:
        self._token_text = token_text
        self._price = price_per_second
        self._makers: dict[str, Callable[[Generation, Sequence[Choice]], Any]] = {
            "finish_reason": lambda _, choices: _texts(c.finish_reason for c in choices),
            "stop_reason": lambda _, choices: _texts(c.stop_reason for c in choices),
            "index": lambda _, choices: np.array([c.index for c in choices], np.int32),
            "output_ids": lambda _, choices: _ids(choices),
            "cumulative_logprob": lambda _, choices: _cumulative(choices),
            "logprobs": lambda _, choices: _texts(
                self._logprobs(c.unsent_logprobs) for c in choices
            ),
            "prompt_logprobs": self._prompt_logprobs,
            "prompt_ids": _prompt_ids,
            "prompt_text": lambda g, choices: _texts(
                g.prompt_texts if _is_opening(g, choices) else [""] * len(g.prompt_texts)
            ),
            "num_input_tokens": lambda g, _: _counts(c.sequence.n_prompt for c in _firsts(g)),
            "num_output_tokens": lambda _, choices: _counts(c.n_tokens for c in choices),
            "cached_tokens": lambda g, _: _counts(c.sequence.cached_tokens for c in _firsts(g)),
            "ttft_ns": lambda g, _: _ns(g.first_ns - g.arrived_ns if g.first_ns else 0),
            "queue_ns": lambda g, _: _ns(g.planned_ns - g.arrived_ns if g.planned_ns else 0),
            "itl_mean_ns": lambda g, _: _ns(mean_gap_ns(g)),
            "compute_ns": lambda g, _: _ns(compute_ns(g)),
            "cost": lambda g, _: np.array([compute_ns(g) / 1e9 * self._price]),
        }

    def outputs(self, generation: Generation, choices: Sequence[Choice]) -> dict[str, Any]:
        """What is unsent of these choices, and the figures so far; from now on it is sent."""
        wants = generation.ask.wants
        found: dict[str, Any] = {}
        if "text_output" in wants:
            found["text_output"] = _texts(self._text(generation, c) for c in choices)
        for name in wants:
            make = self._makers.get(name)
            if make is not None:
                found[name] = make(generation, choices)
        if generation.ask.batched:
            found = {name: array[None] for name, array in found.items()}
        for choice in choices:
            choice.unsent_text, choice.unsent_ids, choice.unsent_logprobs = "", [], []
            choice.told_end = choice.ended
        return found

    def _text(self, generation: Generation, choice: Choice) -> str:
        if not generation.ask.echo or not _is_first(choice):
            return choice.unsent_text
        return generation.prompt_texts[choice.index // generation.ask.params.n] + choice.unsent_text

    def _logprobs(self, logprobs: Sequence[Logprobs]) -> str:
        return json.dumps([self._entry(item) for item in logprobs])

    def _entry(self, item: Logprobs) -> dict[str, Any]:
        """One token's logprobs in vLLM's form: the chosen one first."""
        ranked = [(item.token, item.logprob, item.rank), *item.top]
        found: dict[str, Any] = {}
        for token, logprob, rank in ranked:
            if str(token) not in found:
                text = self._token_text(token)
                # JSON has no infinity; a token that cannot come is told by a number that low.
                value = max(logprob, -9999.0)
                found[str(token)] = {"logprob": value, "rank": rank, "decoded_token": text}
        return found

    def _prompt_logprobs(self, generation: Generation, choices: Sequence[Choice]) -> Any:
        if not _is_opening(generation, choices):
            return _texts("[]" for _ in _firsts(generation))
        entries = [[None, *map(self._entry, c.prompt_logprobs)] for c in _firsts(generation)]
        return _texts(json.dumps(entry) for entry in entries)


def _is_opening(generation: Generation, choices: Sequence[Choice]) -> bool:
    """Whether what is long and does not change is to be told: with the first response."""
    return not generation.ask.streams or (choices[0].index == 0 and _is_first(choices[0]))


def _prompt_ids(generation: Generation, choices: Sequence[Choice]) -> Any:
    firsts = _firsts(generation) if _is_opening(generation, choices) else ()
    tokens = [t for c in firsts for t in c.sequence.tokens[: c.sequence.n_prompt]]
    return np.array(tokens, np.int64)


def _is_first(choice: Choice) -> bool:
    """Whether nothing of it was sent: only then is all of it unsent."""
    return len(choice.unsent_ids) == choice.n_tokens


def mean_gap_ns(generation: Generation) -> int:
    """The mean time between tokens of one choice; 0 where none has two."""
    gaps = [(c.last_ns - c.first_ns, c.n_tokens - 1) for c in generation.choices]
    count = sum(n for _, n in gaps if n > 0)
    return sum(ns for ns, n in gaps if n > 0) // count if count else 0


def compute_ns(generation: Generation) -> int:
    """The share of the device's time that went into a request."""
    return sum(choice.compute_ns for choice in generation.choices)


def _firsts(generation: Generation) -> Sequence[Choice]:
    """The first choice of each prompt."""
    return generation.choices[:: generation.ask.params.n]


def _texts(values: Any) -> Any:
    return np.array([value.encode() for value in values], dtype=object)


def _counts(values: Any) -> Any:
    return np.array(list(values), np.uint32)


def _ns(value: int) -> Any:
    return np.array([max(value, 0)], np.uint64)


def _ids(choices: Sequence[Choice]) -> Any:
    return np.array([token for choice in choices for token in choice.unsent_ids], np.int64)


def _cumulative(choices: Sequence[Choice]) -> Any:
    return np.array([choice.cumulative_logprob for choice in choices], np.float32)
