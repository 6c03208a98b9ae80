"""Laws of length-aware batching: like lengths together, nobody starved, every bound kept."""

from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.fakes import MS, config, pending

from penstock_runtime.config_scheduling import DynamicBatching, LengthBatching
from penstock_runtime.scheduling.length_batcher import LengthBatcher, padded_length


def batcher(max_batch: int = 4, delay_us: int = 0, **rules: object) -> LengthBatcher:
    """A length-aware batcher over input X with these rules."""
    lengths = LengthBatching(input=("X",), **rules)  # type: ignore[arg-type]
    settings = DynamicBatching(max_queue_delay_microseconds=delay_us, length_batching=lengths)
    return LengthBatcher(config(max_batch=max_batch, batching=settings, dims=(-1,)), lengths)


def test_the_nearest_lengths_share_the_first_requests_batch() -> None:
    """SORT fills the batch of the request whose turn it is with those nearest to it in length."""
    decider = batcher(max_batch=3)
    for length in (10, 500, 11, 480, 9):
        decider.add(pending(length=length), 0)

    first, second = decider.take(0), decider.take(0)

    assert first is not None
    assert second is not None
    assert sorted(p.length for p in first) == [9, 10, 11]
    assert sorted(p.length for p in second) == [480, 500]


def test_a_bucket_keeps_to_itself_and_pads_to_its_boundary() -> None:
    """BUCKET never mixes buckets, and every batch of one has the same padded length."""
    decider = batcher(max_batch=4, strategy="BUCKET", bucket_boundaries=(16, 64))
    for length in (5, 40, 16, 17, 100):
        decider.add(pending(length=length), 0)

    batches = []
    while (members := decider.take(0)) is not None:
        batches.append([p.length for p in members])

    assert batches == [[5, 16], [40, 17], [100]]
    rules = LengthBatching(strategy="BUCKET", bucket_boundaries=(16, 64))
    assert [padded_length(rules, n) for n in (5, 16, 17, 64, 100)] == [16, 16, 64, 64, 100]


def test_a_batch_waits_for_company_only_as_long_as_the_delay() -> None:
    """Fewer rows than a full batch wait for the delay and not longer."""
    decider = batcher(delay_us=1000)
    decider.add(pending(length=3, at=0), 0)

    early, due = decider.take(MS - 1), decider.take(MS)

    assert early is None
    assert due is not None
    assert decider.wake_at(MS) is None


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=60),
    max_batch=st.integers(1, 9),
    max_padding=st.sampled_from([0.05, 0.2, 0.9]),
    bound=st.sampled_from([0, 600]),
)
def test_every_bound_holds_and_the_anchor_is_always_served(
    lengths: list[int], max_batch: int, max_padding: float, bound: int
) -> None:
    """Rows, padded share and padded elements stay bounded; whose turn it is leaves first."""
    decider = batcher(max_batch=max_batch, max_padding=max_padding, max_batch_elements=bound)
    waiting = [pending(length=length, at=i) for i, length in enumerate(lengths)]
    for item in waiting:
        decider.add(item, 0)

    left = 0
    while waiting:
        members = decider.take(10**9)
        assert members is not None
        assert members[0] is waiting[0]
        assert len(members) <= max_batch
        padded = len(members) * max(p.length for p in members)
        waste = padded - sum(p.length for p in members)
        assert len(members) == 1 or waste <= max_padding * padded
        assert len(members) == 1 or not bound or padded <= bound
        waiting = [item for item in waiting if item not in members]
        left += len(members)

    assert left == len(lengths)
    assert decider.take(10**9) is None
