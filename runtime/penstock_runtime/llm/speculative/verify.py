"""Which of the proposed tokens stand, and what follows them.

Two ways, both of which leave the model's distribution as it is. *Matching*: the model's own tokens
are drawn at each position and stand as far as they equal the drafts. A draft of which nothing but
its name is known is so accepted with its probability p, and what replaces it comes from the rest;
and as the draws are the same without drafts, so is the text. *Rejection* (Leviathan, Kalman and
Matias, "Fast inference from transformers via speculative decoding", ICML 2023): where a draft was
drawn from a known q, it is accepted with min(1, p/q), else replaced from max(p - q, 0). More is
accepted, but the text depends on what was proposed.
"""

from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Protocol

import torch

from penstock_runtime.llm.philox import Stream, uniforms
from penstock_runtime.llm.race import invert
from penstock_runtime.llm.sequence import Sequence


class Proposals(Protocol):
    """Whoever knows the distributions that drafts were drawn from."""

    def distributions(self, sequence: Sequence) -> torch.Tensor | None:
        """[drafts, vocabulary] for the drafts that a sequence has; None if they are to be
        matched.
        """


@dataclass(slots=True)
class SpeculationStats:
    """How many sequences had drafts in a step, how many tokens were proposed and how many stood, in
    all and by their place.
    """

    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_per_position: list[int] = field(default_factory=list)

    def count(self, drafts: Several[int], tokens: Several[int]) -> None:
        """One sequence's drafts were looked at, and these tokens came of it."""
        stood = takewhile(lambda pair: pair[0] == pair[1], zip(drafts, tokens, strict=False))
        accepted = len(list(stood))
        self.drafts += 1
        self.draft_tokens += len(drafts)
        self.accepted_tokens += accepted
        missing = len(drafts) - len(self.accepted_per_position)
        self.accepted_per_position += [0] * missing
        for place in range(accepted):
            self.accepted_per_position[place] += 1


def match(drawn: Several[int], drafts: Several[int]) -> list[int]:
    """The drawn tokens as far as the drafts foresaw them, and the one after."""
    accepted = 0
    while accepted < len(drawn) - 1 and drawn[accepted] == drafts[accepted]:
        accepted += 1
    return list(drawn[: accepted + 1])


def reject(
    p: torch.Tensor, q: torch.Tensor, drafts: Several[int], bonus: int, seed: int, position: int
) -> list[int]:
    """The drafts that stand, and the one after: `bonus`, drawn from the last p, if all do. p is
    float64 [drafts + 1, vocabulary] (less if nothing can follow some draft); the first draft is for
    `position`.
    """
    places = range(position, position + len(p))
    accepts, _ = uniforms([seed] * len(p), places, Stream.ACCEPT)
    for i, draft in enumerate(drafts[: len(p)]):
        if not accepts[i] * float(q[i, draft]) < float(p[i, draft]):
            return [*drafts[:i], _replacement(p[i], q[i], seed, position + i)]
    stands = list(drafts[: len(p)])
    return [*stands, bonus] if len(stands) < len(p) else stands


def _replacement(p: torch.Tensor, q: torch.Tensor, seed: int, position: int) -> int:
    uniform, _ = uniforms([seed], [position], Stream.RESIDUAL)
    rest = (p - q.to(p)).clamp_(min=0)
    # Nothing is left only where p and q are equal but for rounding.
    return invert(rest if float(rest.sum()) > 0 else p, float(uniform[0]))
