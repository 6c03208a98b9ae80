"""What an engine is put together of, as it sees it: who computes, chooses, guesses and tells."""

from collections.abc import Sequence
from typing import Any, Protocol

from penstock_runtime.errors import PenstockError
from penstock_runtime.llm.generation import Generation, Logprobs, News
from penstock_runtime.llm.sequence import Sequence as Tokens
from penstock_runtime.llm.step import StepPlan


class Runner(Protocol):
    """Computes the rows of a step."""

    def run(self, plan: StepPlan) -> Any:
        """The wanted logits of all rows, one after the other."""


class FedRunner(Runner, Protocol):
    """Computes rows whose last tokens may be known to the device alone."""

    def run(self, plan: StepPlan, feed: Any = None) -> Any:
        """`feed` has the tokens, drawn by the step before, that are foreseen in these rows."""


class RowResult(Protocol):
    """What was chosen for one row; `error` says why nothing could be."""

    @property
    def tokens(self) -> list[int]:
        """The tokens that the sequence goes on with."""

    @property
    def logprobs(self) -> Sequence[Logprobs]:
        """Those of the tokens, if they were asked for."""

    @property
    def prompt_logprobs(self) -> Sequence[Logprobs]:
        """Those of the prompt's tokens that this row had."""

    @property
    def error(self) -> PenstockError | None:
        """Why nothing could be chosen."""


class Chooser(Protocol):
    """Chooses tokens by their logits."""

    def sample(self, plan: StepPlan, logits: Any) -> Sequence[RowResult]:
        """One result per row, in order."""

    def forget(self, sequence: Tokens) -> None:
        """The sequence is over."""


class Drawn(Protocol):
    """Tokens of a step that are on their way."""

    @property
    def feed(self) -> Any:
        """What the runner takes of them for the next step."""

    def results(self) -> Sequence[RowResult]:
        """One result per row, in order; waits for the step."""


class AheadChooser(Chooser, Protocol):
    """Chooses tokens that nobody waits for, where it can."""

    def begin(self, plan: StepPlan, logits: Any) -> Drawn | None:
        """None where they can only be chosen by `sample`, after all before them are known."""


class Proposer(Protocol):
    """Guesses what comes next."""

    def propose(self, sequences: Sequence[Tokens]) -> None:
        """Fill the drafts of these sequences."""

    def forget(self, sequence: Tokens) -> None:
        """The sequence is over."""


class Teller(Protocol):
    """Where the news of each step goes."""

    def put(self, news: Sequence[News]) -> None:
        """Take the news of one step."""

    def fail(self, generation: Generation, error: PenstockError) -> None:
        """End a request with an error."""


class StepWatcher(Protocol):
    """Told of every step."""

    def stepped(self, plan: StepPlan, spent_ns: int, accepted: int) -> None:
        """A step was computed; so many drafts of it were accepted."""
