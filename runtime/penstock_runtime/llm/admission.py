"""What an engine takes in, and the errors of what it does not: at once, with the numbers."""

from collections.abc import Sequence as Items
from dataclasses import dataclass

from penstock_runtime.errors import (
    DeadlineExceeded,
    FailureReason,
    InvalidArgument,
    PenstockError,
    ResourceExhausted,
    Unavailable,
)
from penstock_runtime.llm.sequence import Sequence
from penstock_runtime.scheduling.queue import RETRY_AFTER_NS


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of an engine; 0 is none, but for the first two.

    So many sequences run at once and so many tokens are computed in a step, `long_prefill_cap` of
    them at most for one sequence; so many requests, and tokens of their prompts, wait;
    `max_model_len` is what a prompt and its answer have together; `watermark` is the share of the
    pool that an admission leaves free for those that run to grow into.
    """

    max_num_seqs: int = 64
    max_batched_tokens: int = 2048
    long_prefill_cap: int = 0
    max_queued_requests: int = 1024
    max_queued_tokens: int = 0
    max_model_len: int = 0
    watermark: float = 0.01

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_batched_tokens"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} is {getattr(self, name)}, expected at least 1")
        if not 0 <= self.watermark < 1:
            raise InvalidArgument(f"watermark is {self.watermark}, expected from 0 to below 1")

    @property
    def slots(self) -> int:
        """How many run at once: in every step each must get a token."""
        return min(self.max_num_seqs, self.max_batched_tokens)


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits: requests, tokens of theirs, and how many tokens a second are computed (0: not
    measured yet).
    """

    requests: int
    tokens: int
    rate: float = 0.0

    @property
    def retry_after_ns(self) -> int:
        """When there may be room again: when half of what waits has begun."""
        return max(int(self.tokens / 2 / self.rate * 1e9), 1) if self.rate else RETRY_AFTER_NS


def never_fits(sequence: Sequence, limits: Limits, capacity: int) -> InvalidArgument | None:
    """The error of a sequence that cannot be held whole, whatever else runs."""
    if not sequence.n_prompt:
        return InvalidArgument("the prompt is empty, expected at least 1 token", scheduled=True)
    total = sequence.n_prompt + sequence.max_tokens
    length = limits.max_model_len or capacity
    if total <= min(length, capacity):
        return None
    bound = (
        f"the {length} tokens that the model can attend to (max_model_len)"
        if length <= capacity
        else f"the {capacity} tokens that the KV cache can hold"
    )
    return InvalidArgument(
        f"a prompt of {sequence.n_prompt} tokens and max_tokens {sequence.max_tokens} are {total}"
        f" tokens together, more than {bound}",
        reason="NEVER_FITS",
        scheduled=True,
    )


def queue_full(coming: Items[Sequence], limits: Limits, queue: Queue) -> PenstockError | None:
    """The error of sequences for which there is no room among those that wait."""
    most, most_tokens = limits.max_queued_requests, limits.max_queued_tokens
    # What is larger than a bound by itself gets its turn when nothing else waits.
    if most and queue.requests and queue.requests + len(coming) > most:
        return Unavailable(
            f"Exceeds maximum queue size: {queue.requests} sequences wait and {len(coming)} more"
            f" would, of {most} (max_queued_requests)",
            reason="QUEUE_FULL",
            retry_after_ns=queue.retry_after_ns,
            failure=FailureReason.REJECTED,
            scheduled=True,
        )
    tokens = sum(sequence.n_prompt for sequence in coming)
    if most_tokens and queue.requests and queue.tokens + tokens > most_tokens:
        return ResourceExhausted(
            f"Exceeds maximum queue size: {queue.tokens} tokens wait and {tokens} more would,"
            f" of {most_tokens} (max_queued_tokens)",
            reason="QUEUE_TOKENS",
            retry_after_ns=queue.retry_after_ns,
            failure=FailureReason.REJECTED,
            scheduled=True,
        )
    return None


def too_late(sequence: Sequence, now: int, ahead: int, rate: float) -> PenstockError | None:
    """The error of a sequence that cannot have its first token by its deadline, where so many
    tokens are computed before its own, at so many a second (0: not known).
    """
    deadline = sequence.deadline_ns
    if deadline is None:
        return None
    if deadline <= now:
        return deadline_passed(sequence, now)
    if not rate:
        return None
    wait_ns, own_ns = int(ahead / rate * 1e9), int(sequence.n_prompt / rate * 1e9)
    if now + wait_ns + own_ns <= deadline:
        return None
    return Unavailable(
        f"the deadline cannot be met: {(wait_ns + own_ns) / 1e6:.1f} ms needed for the first token,"
        f" {wait_ns / 1e6:.1f} ms of them in the queue,"
        f" and {(deadline - now) / 1e6:.1f} ms left",
        reason="QUEUE_DEADLINE",
        retry_after_ns=max(wait_ns, 1),
        failure=FailureReason.REJECTED,
        scheduled=True,
    )


def deadline_passed(sequence: Sequence, now: int) -> DeadlineExceeded:
    """The error of a sequence that was not done when its time was over."""
    took_ms = (now - sequence.arrived_ns) / 1e6
    return DeadlineExceeded(
        f"deadline exceeded after {took_ms:.1f} ms, with {sequence.n_generated} of"
        f" {sequence.max_tokens} tokens generated",
        reason="DEADLINE_EXPIRED",
        scheduled=True,
    )


def cannot_grow(sequence: Sequence, capacity: int) -> ResourceExhausted:
    """The error of a sequence that runs alone and fills the whole pool."""
    return ResourceExhausted(
        f"{len(sequence.tokens)} tokens are more than the {capacity} that the KV cache can hold",
        reason="KV_CACHE_FULL",
        scheduled=True,
    )
