"""One request to a language model while it is answered: its choices, each a sequence with the text
that has come of it so far.

The engine's thread writes the sequences, the scribe's all else.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Protocol

from penstock_runtime.backends.base import RequestTask
from penstock_runtime.llm.asking import Ask
from penstock_runtime.llm.detokenizer import TextDelta
from penstock_runtime.llm.sequence import Sequence


class Logprobs(Protocol):
    """What the sampler says of one chosen token: its logprob, its rank, and the likeliest ones."""

    @property
    def token(self) -> int:
        """The chosen token."""

    @property
    def logprob(self) -> float:
        """Its logprob."""

    @property
    def rank(self) -> int:
        """How many tokens are at least as likely, itself among them."""

    @property
    def top(self) -> Items[tuple[int, float, int]]:
        """Token, logprob and rank of the likeliest."""


class Texts(Protocol):
    """The text of a sequence, as its tokens come; see `detokenizer`."""

    def push(self, tokens: Items[int]) -> TextDelta:
        """Go on by these tokens."""

    def flush(self) -> TextDelta:
        """What was held back, now that no token follows."""


@dataclass(frozen=True, slots=True)
class News:
    """Tokens that a sequence got in one step, and its end by them ("" if it goes on); the last of
    them may be `hidden`: a sign of the end, and no part of the text.
    """

    choice: "Choice"
    tokens: list[int]
    logprobs: Items[Logprobs] = ()
    reason: str = ""
    stop_reason: str = ""
    at_ns: int = 0
    hidden: bool = False


@dataclass(slots=True, eq=False)
class Choice:
    """One of the answers of a request. What is `unsent` has not been given to its reader yet;
    `holds` are the reasons for which its sequence may not be planned.
    """

    generation: "Generation"
    index: int
    sequence: Sequence
    text: Texts
    holds: set[str] = field(default_factory=set)
    finish_reason: str = ""
    stop_reason: str = ""
    n_tokens: int = 0
    cumulative_logprob: float = 0.0
    unsent_text: str = ""
    pieces: list[str] = field(default_factory=list)
    unsent_ids: list[int] = field(default_factory=list)
    unsent_logprobs: list[Logprobs] = field(default_factory=list)
    prompt_logprobs: list[Logprobs] = field(default_factory=list)
    compute_ns: int = 0
    first_ns: int = 0
    last_ns: int = 0
    told_end: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return bool(self.finish_reason)

    def say(self, text: str) -> None:
        """Add to what is to be sent."""
        self.unsent_text += text
        if text and self.generation.recorded:
            self.pieces.append(text)

    @property
    def whole_text(self) -> str:
        """All of its text, where that is recorded."""
        return "".join(self.pieces)


@dataclass(slots=True, eq=False)
class Generation:
    """A request and its choices, those of the first prompt first; `prompt_text` goes before the
    answers of a caller that wants its prompts back, `prompts` is what is recorded of them where
    texts are `recorded`.
    """

    task: RequestTask
    ask: Ask
    arrived_ns: int
    prompt_texts: tuple[str, ...] = ()
    choices: list[Choice] = field(default_factory=list)
    stalled_ns: int = 0
    over: bool = False
    accounted: bool = False
    prompts: tuple[str, ...] = ()
    recorded: bool = False

    @property
    def ended(self) -> bool:
        """Whether every choice has ended."""
        return all(choice.finish_reason for choice in self.choices)

    @property
    def sequences(self) -> list[Sequence]:
        """What is generated for it."""
        return [choice.sequence for choice in self.choices]

    @property
    def first_ns(self) -> int:
        """When the first token of any choice came; 0 before."""
        return min((c.first_ns for c in self.choices if c.first_ns), default=0)

    @property
    def planned_ns(self) -> int:
        """When the first of its sequences was planned; 0 before."""
        return min((s.planned_ns for s in self.sequences if s.planned_ns), default=0)

    @property
    def n_prompt(self) -> int:
        """Tokens of its prompts."""
        return sum(c.sequence.n_prompt for c in self.choices[:: self.ask.params.n])
