"""What all engines are asked: the same prompts, greedy, so many tokens each."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.llm.engines.turns import Prompts

# Sixteen requests of 32 to 256 tokens, 2421 in all.
LENGTHS = (252, 46, 131, 100, 120, 195, 223, 73, 166, 239, 205, 206, 123, 175, 45, 122)
_FIRST_WORD = 2


@dataclass(frozen=True, slots=True)
class Workload:
    """`lengths` of the prompts, of which the first `shared` tokens are the same in all; the rest is
    drawn anew for each `seed`. Each is answered with `max_tokens`.
    """

    lengths: Sequence[int] = LENGTHS
    max_tokens: int = 64
    shared: int = 0
    vocabulary: int = 8192

    def prompts(self, seed: int) -> Prompts:
        """The prompts of a round."""
        head = _words(random.Random(0), self.shared, self.vocabulary)
        chance = random.Random(seed)
        return [
            head + _words(chance, length - self.shared, self.vocabulary) for length in self.lengths
        ]

    @property
    def n_prompt(self) -> int:
        """Tokens of all prompts."""
        return sum(self.lengths)

    def shrunk(self, requests: int, tokens: int, vocabulary: int) -> "Workload":
        """Less of the same, to see whether it runs."""
        return replace(
            self, lengths=self.lengths[:requests], max_tokens=tokens, vocabulary=vocabulary
        )


def _words(chance: random.Random, count: int, vocabulary: int) -> list[int]:
    return [chance.randrange(_FIRST_WORD, vocabulary) for _ in range(count)]


STANDARD = Workload()
# A system prompt that all requests begin with, and short questions.
SYSTEM = Workload(lengths=tuple(200 + length // 8 for length in LENGTHS), max_tokens=16, shared=200)
ALONE = Workload(lengths=(122,))
