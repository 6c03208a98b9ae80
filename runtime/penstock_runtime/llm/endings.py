"""How the texts of a step end: by what was chosen, or by what went wrong. Pure."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock_runtime.backends.lost_device import gpu_lost, lost_device
from penstock_runtime.errors import FailureReason, Internal, PenstockError, Unavailable
from penstock_runtime.exhausted import memory_exhausted, out_of_memory
from penstock_runtime.llm.engine_seams import RowResult
from penstock_runtime.llm.generation import Choice, Logprobs, News
from penstock_runtime.llm.step import Row, StepPlan

_log = logging.getLogger("penstock.llm")

THE_MODEL = "the model"


@dataclass(frozen=True, slots=True)
class Failed:
    """The result of a row that could not be computed."""

    error: PenstockError
    tokens: list[int] = field(default_factory=list)
    logprobs: Sequence[Logprobs] = ()
    prompt_logprobs: Sequence[Logprobs] = ()


@dataclass(frozen=True, slots=True)
class Chosen:
    """The result of a row of which nothing but the tokens is known."""

    tokens: list[int]
    logprobs: Sequence[Logprobs] = ()
    prompt_logprobs: Sequence[Logprobs] = ()
    error: PenstockError | None = None


@dataclass(frozen=True, slots=True)
class End:
    """The tokens of a row, why they are the last ("" if they are not), and whether the very last
    one is a sign of the end rather than a part of the text.
    """

    tokens: list[int]
    reason: str = ""
    stop_reason: str = ""
    hidden: bool = False

    def news(self, choice: Choice, logprobs: Sequence[Logprobs], now: int) -> News:
        """What there is to tell of it."""
        found = logprobs[: len(self.tokens)]
        return News(choice, self.tokens, found, self.reason, self.stop_reason, now, self.hidden)


def cut(row: Row, result: RowResult, eos: frozenset[int]) -> End:
    """The tokens up to the one that ends the answer, and why it does."""
    sequence, params, tokens = row.sequence, row.sequence.params, result.tokens
    before = sequence.n_generated
    if not sequence.max_tokens and row.start + row.count >= sequence.n_prompt:
        # Only its prompt was to be looked at.
        return End([], "length")
    for place, token in enumerate(tokens, 1):
        if before + place >= params.min_tokens:
            if token in eos and not params.ignore_eos:
                return End(tokens[:place], "stop", hidden=True)
            if token in params.stop_token_ids:
                return End(tokens[:place], "stop", str(token), hidden=True)
        if before + place >= sequence.max_tokens:
            return End(tokens[:place], "length")
    grammar = sequence.grammar
    done = bool(tokens) and grammar is not None and grammar.finished
    return End(tokens, "stop" if done else "")


def end_of(row: Row, result: RowResult, eos: frozenset[int]) -> tuple[End, PenstockError | None]:
    """What of a row counts, or the error that ends its request."""
    if result.error is not None:
        return End([]), result.error
    try:
        return cut(row, result, eos), None
    except Exception as error:  # a grammar is foreign code
        _log.exception("the end of a text could not be looked for")
        return End([]), step_failure(error)


def accepted(plan: StepPlan, results: Sequence[RowResult]) -> int:
    """How many guessed tokens of a step stand."""
    pairs = zip(plan.rows, results, strict=True)
    return sum(max(len(result.tokens) - 1, 0) for row, result in pairs if row.drafts)


def engine_ended(lost: str) -> PenstockError:
    """What refuses a request of an engine that has ended, `lost` telling how its GPU was lost."""
    if lost:
        return gpu_lost(THE_MODEL, lost)
    return Unavailable("the engine of the model has ended; load it anew", scheduled=True)


def step_failure(error: Exception) -> PenstockError:
    """What a caller is told of a step that raised this: nothing of the machine that it ran on."""
    if isinstance(error, PenstockError):
        return error
    if out_of_memory(error):
        return memory_exhausted("the device ran out of memory in a step of the model")
    lost = lost_device(error)
    if lost:
        return gpu_lost(THE_MODEL, lost)
    return Internal(
        f"a step of the model failed: {type(error).__name__}",
        reason="MODEL_FAILED",
        failure=FailureReason.BACKEND,
        scheduled=True,
    )
