"""Laws of admission: what is refused is refused at once, with the numbers."""

import pytest
from tests.llm.plan_fakes import engine, generated, right

from penstock_runtime.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from penstock_runtime.llm.admission import Limits, cannot_grow
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Sequence

SECOND = 1_000_000_000


def sequence(prompt: int, max_tokens: int = 1, deadline: int | None = None) -> Sequence:
    """A sequence of this length."""
    return Sequence(1, [1] * prompt, SamplingParams(), max_tokens=max_tokens, deadline_ns=deadline)


def test_what_is_longer_than_the_model_allows_is_refused() -> None:
    """Both numbers are named, and the bound."""
    served = engine(length=20)

    with pytest.raises(InvalidArgument) as caught:
        served.add([1] * 15, 6)

    assert caught.value.message == (
        "a prompt of 15 tokens and max_tokens 6 are 21 tokens together, more than the 20 tokens"
        " that the model can attend to (max_model_len)"
    )
    assert caught.value.reason == "NEVER_FITS"
    served.add([1] * 15, 5)


def test_what_is_larger_than_the_pool_is_refused() -> None:
    """It would wait for ever; the smaller bound is named."""
    served = engine(blocks=3, length=20)

    with pytest.raises(InvalidArgument, match=r"15 tokens .* more than the 12 .* KV cache"):
        served.add([1] * 12, 3)


def test_what_fits_to_the_last_token_is_served() -> None:
    """A request as large as the pool gets all of it."""
    served = engine(blocks=3, watermark=0.5)
    whole = served.add([1] * 6, 6)

    served.run()

    assert generated(whole) == right(whole)


def test_an_empty_prompt_is_refused() -> None:
    """There is nothing to go on from."""
    with pytest.raises(InvalidArgument, match="prompt is empty"):
        engine().add([])


def test_a_full_queue_refuses_with_a_hint() -> None:
    """By requests it is UNAVAILABLE; those that run do not count."""
    served = engine(queued=2, seqs=1)
    served.add([1])
    served.step()
    served.add([1])
    served.add([1])

    with pytest.raises(Unavailable, match=r"2 sequences wait and 1 more .* of 2") as caught:
        served.add([1])

    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.retry_after_ns == 100_000_000
    assert served.batcher.stats().waiting == 2


def test_a_queue_that_is_full_of_tokens_refuses_with_a_hint() -> None:
    """By tokens it is RESOURCE_EXHAUSTED; the hint goes by how fast they are computed."""
    served = engine(queued_tokens=10)
    served.add([1] * 8)

    with pytest.raises(ResourceExhausted, match=r"8 tokens wait and 3 more .* of 10") as caught:
        served.batcher.add(sequence(3), 0, rate=4.0)

    assert caught.value.retry_after_ns == SECOND
    served.add([1] * 2)


def test_a_prompt_larger_than_the_queue_waits_where_nothing_else_does() -> None:
    """The bound is for what piles up, and no second bound for one request."""
    served = engine(queued_tokens=10)

    served.add([1] * 20)

    assert served.batcher.stats().waiting_tokens == 20


def test_the_siblings_of_a_request_are_accepted_all_or_none() -> None:
    """A refusal leaves nothing behind."""
    served = engine(queued=3)
    served.add([1])

    with pytest.raises(Unavailable):
        served.batcher.add_all([sequence(2) for _ in range(3)], 0)

    assert served.batcher.stats().waiting == 1


def test_a_deadline_that_has_passed_is_refused() -> None:
    """Without being computed."""
    served = engine()

    with pytest.raises(DeadlineExceeded, match="with 0 of 1 tokens generated"):
        served.batcher.add(sequence(3, deadline=5), 5)


def test_a_deadline_that_cannot_be_met_is_refused_before_the_wait() -> None:
    """As every scheduler of the house does: UNAVAILABLE, with how long the queue is."""
    served = engine()
    served.add([1] * 60)

    with pytest.raises(Unavailable) as caught:
        served.batcher.add(sequence(30, deadline=SECOND // 2), 0, rate=100.0)

    assert caught.value.message == (
        "the deadline cannot be met: 900.0 ms needed for the first token,"
        " 600.0 ms of them in the queue, and 500.0 ms left"
    )
    assert (caught.value.reason, caught.value.retry_after_ns) == ("QUEUE_DEADLINE", 600_000_000)
    served.batcher.add(sequence(30, deadline=SECOND // 2), 0)
    served.batcher.add(sequence(30, deadline=SECOND), 0, rate=1000.0)


@pytest.mark.parametrize(("policy", "refused"), [("fcfs", True), ("priority", False)])
def test_only_what_is_before_a_request_counts_against_its_deadline(
    policy: str, refused: bool
) -> None:
    """What waits at a worse priority does not."""
    served = engine(policy=policy)
    served.add([1] * 60, priority=5)
    urgent = sequence(10, deadline=SECOND // 2)

    if refused:
        with pytest.raises(Unavailable):
            served.batcher.add(urgent, 0, rate=100.0)
    else:
        served.batcher.add(urgent, 0, rate=100.0)


def test_another_tenant_does_not_count_against_a_deadline() -> None:
    """Under the virtual clock only what one's own tenant has waiting is sure to come before."""
    served = engine(policy="vtc")
    served.add([1] * 60, tenant="loud")

    served.batcher.add(sequence(10, deadline=SECOND // 2), 0, rate=100.0)

    assert served.batcher.stats().waiting == 2


def test_limits_without_sense_are_refused() -> None:
    """The message names the limit and its value."""
    with pytest.raises(InvalidArgument, match="max_num_seqs is 0, expected at least 1"):
        Limits(max_num_seqs=0)
    with pytest.raises(InvalidArgument, match=r"watermark is 1\.5"):
        Limits(watermark=1.5)


def test_who_cannot_grow_is_told_how_much_there_is() -> None:
    """RESOURCE_EXHAUSTED names both numbers."""
    error = cannot_grow(sequence(9), 8)

    assert error.message == "9 tokens are more than the 8 that the KV cache can hold"
