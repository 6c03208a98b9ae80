"""Where an answer ends by its tokens, and why."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from penstock_runtime.llm.generation import Choice, Logprobs, News
from penstock_runtime.llm.sequence import Sequence as Tokens


@dataclass(frozen=True, slots=True)
class End:
    """The tokens of a step that count, why they are the last ("" if they are not), and whether the
    very last one is a sign of the end rather than a part of the text.
    """

    tokens: list[int]
    reason: str = ""
    stop_reason: str = ""
    hidden: bool = False

    def news(self, choice: Choice, logprobs: Sequence[Logprobs], now: int) -> News:
        """What there is to tell of it."""
        found = logprobs[: len(self.tokens)]
        return News(choice, self.tokens, found, self.reason, self.stop_reason, now, self.hidden)


def cut(sequence: Tokens, tokens: list[int], ends: Collection[int]) -> End:
    """The tokens up to the one that ends the answer of a sequence that they follow; `ends` are the
    model's own signs of the end.
    """
    params, before = sequence.params, sequence.n_generated
    for place, token in enumerate(tokens, 1):
        if before + place >= params.min_tokens:
            if token in ends and not params.ignore_eos:
                return End(tokens[:place], "stop", hidden=True)
            if token in params.stop_token_ids:
                return End(tokens[:place], "stop", str(token), hidden=True)
        if before + place >= sequence.max_tokens:
            return End(tokens[:place], "length")
    grammar = sequence.grammar
    done = bool(tokens) and grammar is not None and grammar.finished
    return End(tokens, "stop" if done else "")
