"""One text that is being generated: its tokens, how far they are computed, and where its keys and
values lie. Owned by the engine's thread.
"""

from enum import Enum
from typing import Protocol

from penstock_runtime.llm.sampling_params import SamplingParams


class Phase(Enum):
    """Where a sequence is between its arrival and its end."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Grammar(Protocol):
    """What an answer may go on with, token by token. None of it blocks."""

    def fill(self, mask: object, row: int) -> None:
        """Write the tokens that may come next into one row of a mask (int32, a bit a token)."""

    def accept(self, token: int) -> bool:
        """Go on by this token; False, and nothing has changed, where it may not come."""

    def rollback(self, count: int) -> None:
        """Take so many tokens back."""

    @property
    def finished(self) -> bool:
        """Whether nothing but the end may follow."""


class Sequence:
    """A prompt and what has been generated after it.

    `n_computed` of `tokens` have their keys and values in `blocks` (position p lies in slot
    `blocks[p // B] * B + p % B`); `hashes` are of the full blocks among them; `drafts` are proposed
    tokens that follow `tokens` if they are accepted; `foreseen` is 1 while the last of `tokens`
    only holds the place of one that a step on its way will tell, else 0. `priority` 1 goes before
    2; `salt` and `adapter` keep prefixes of different callers and weights apart; `ready` is False
    while its grammar is compiled.
    """

    __slots__ = (
        "adapter",
        "arrived_ns",
        "blocks",
        "cached_tokens",
        "deadline_ns",
        "drafts",
        "foreseen",
        "grammar",
        "hashes",
        "id",
        "max_tokens",
        "n_computed",
        "n_prompt",
        "owner",
        "params",
        "phase",
        "planned_ns",
        "preemptions",
        "priority",
        "ready",
        "salt",
        "seed",
        "tenant",
        "tokens",
    )

    def __init__(
        self,
        identity: int,
        prompt: list[int],
        params: SamplingParams,
        *,
        max_tokens: int,
        seed: int = 0,
        arrived_ns: int = 0,
        deadline_ns: int | None = None,
        priority: int = 0,
        tenant: str = "",
        salt: bytes = b"",
        adapter: str = "",
        owner: object = None,
    ) -> None:
        self.id = identity
        self.tokens = list(prompt)
        self.n_prompt = len(prompt)
        self.params = params
        self.max_tokens = max_tokens
        self.seed = seed
        self.arrived_ns = arrived_ns
        self.deadline_ns = deadline_ns
        self.priority = priority
        self.tenant = tenant
        self.salt = salt
        self.adapter = adapter
        self.owner = owner
        self.phase = Phase.WAITING
        self.ready = True
        self.grammar: Grammar | None = None
        self.n_computed = 0
        self.blocks: list[int] = []
        self.hashes: list[bytes] = []
        self.drafts: list[int] = []
        self.foreseen = 0
        self.cached_tokens = 0
        self.preemptions = 0
        self.planned_ns = 0

    @property
    def n_generated(self) -> int:
        """How many tokens are known to follow the prompt."""
        return len(self.tokens) - self.n_prompt - self.foreseen

    @property
    def n_left(self) -> int:
        """How many more tokens it may get, those that are foreseen not among them."""
        return self.max_tokens - (len(self.tokens) - self.n_prompt)

    def __repr__(self) -> str:
        return (
            f"<Sequence {self.id} {self.phase.value}, {self.n_prompt}+{self.n_generated} tokens,"
            f" {self.n_computed} computed, {len(self.blocks)} blocks>"
        )
