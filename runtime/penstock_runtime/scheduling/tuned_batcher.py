"""The dynamic batcher that chooses its sizes and delay to keep a goal of latency, `slo_p99_ms`.

Pure: it learns from the model of latencies that its scheduler feeds, and from what arrives. What it
decides by, once chosen, are Triton's rules as ever.
"""

from collections.abc import Sequence

from penstock_runtime.config import ModelConfig
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.dynamic_batcher import DynamicBatcher
from penstock_runtime.scheduling.latency_model import LatencyModel
from penstock_runtime.scheduling.tuning import Choice, choose, first_choice

# How often it chooses anew.
PERIOD_NS = 50_000_000
_RATE_WEIGHT = 0.3


class TunedBatcher(DynamicBatcher):
    """Forms batches as large as need be, and not larger than the goal allows."""

    def __init__(self, config: ModelConfig, model: LatencyModel, instances: int = 1) -> None:
        super().__init__(config)
        rules = config.dynamic_batching or DynamicBatching()
        self._model = model
        self._instances = instances
        self._most = self._max_rows
        self._goal_ns = int(rules.slo_p99_ms * 1e6)
        self._longest_ns = rules.max_queue_delay_microseconds * 1000
        self._arrived = 0
        self._rate = 0.0
        self._since_ns: int | None = None
        self.choice = first_choice(self._goal_ns, self._most)
        self._adopt(self.choice)

    def add(self, pending: Pending, now: int) -> None:
        """As the dynamic batcher; what is refused does not count as arrived."""
        super().add(pending, now)
        self._arrived += pending.batch_size

    def add_plain(self, pendings: Sequence[Pending]) -> bool:
        """As the dynamic batcher."""
        if not super().add_plain(pendings):
            return False
        self._arrived += sum(pending.batch_size for pending in pendings)
        return True

    def resize(self, instances: int) -> None:
        """The next choice goes by so many instances."""
        self._instances = instances

    def take(self, now: int) -> Sequence[Pending] | None:
        """As the dynamic batcher, by the choice that is in force."""
        if self._since_ns is None:
            self._since_ns = now
        elif now - self._since_ns >= PERIOD_NS:
            self._choose(now, now - self._since_ns)
        return super().take(now)

    def _choose(self, now: int, elapsed_ns: int) -> None:
        rate = self._arrived * 1e9 / elapsed_ns
        # After a long silence what was before it says little.
        weight = min(_RATE_WEIGHT * elapsed_ns / PERIOD_NS, 1.0)
        self._rate += weight * (rate - self._rate)
        self._since_ns, self._arrived = now, 0
        self.choice = choose(
            self._model, self._goal_ns, self._most, self._rate, self._instances, self._longest_ns
        )
        self._adopt(self.choice)

    def _adopt(self, choice: Choice) -> None:
        self._max_rows = choice.limit
        self._preferred, self._max_preferred = frozenset({choice.size}), choice.size
        self._delay_ns = choice.wait_ns

    def __repr__(self) -> str:
        choice = self.choice
        return (
            f"<TunedBatcher {choice.size} rows, {choice.wait_ns / 1e6:.1f} ms, "
            f"{self.queue.size} requests waiting>"
        )
