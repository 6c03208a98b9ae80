"""Laws of the checks of `penstock selftest`, against a server that counts late or never."""

from collections.abc import Sequence
from typing import cast

import pytest

from penstock.cli import selftest_checks
from penstock.cli.selftest_target import Failed, Target
from penstock_protos import inference as pb


class CountingClient:
    """Says one number of successes after the other, and the last one for ever."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = list(counts)

    def infer(self, *_: object, **__: object) -> None:
        """Answer at once."""

    def statistics(self, *_: object) -> list[pb.ModelStatistics]:
        """The next number of successes."""
        count = self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]
        success = pb.StatisticDuration(count=count)
        return [pb.ModelStatistics(inference_stats=pb.InferStatistics(success=success))]


class CountedTarget:
    """A server under test, of which nothing but its statistics is of interest."""

    model = "m"
    version = ""
    inputs: dict[str, object] = {}

    def __init__(self, counts: Sequence[int]) -> None:
        self.client = CountingClient(counts)


def target(*counts: int) -> Target:
    """A target whose statistics say these numbers."""
    return cast(Target, CountedTarget(counts))


def test_a_request_may_be_counted_after_its_answer_has_arrived() -> None:
    """The check looks again, since an answer may overtake its count."""
    selftest_checks.statistics(target(9, 9, 9, 10))


def test_a_request_that_is_never_counted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check fails with both numbers once it has waited long enough."""
    monkeypatch.setattr(selftest_checks, "COUNTED_WITHIN_S", 0.05)

    with pytest.raises(Failed, match="9 successes before a request, 9 after it"):
        selftest_checks.statistics(target(9))
