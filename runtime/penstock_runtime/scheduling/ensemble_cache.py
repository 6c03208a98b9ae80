"""The response cache in front of an ensemble: an answer is kept for as long as the models that made
it serve.
"""

from collections.abc import Callable

from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.response_cache import ResponseCache
from penstock_runtime.scheduling.base import Pending, Scheduler
from penstock_runtime.scheduling.caching_scheduler import CachingScheduler
from penstock_runtime.scheduling.timer import Timer

Loads = tuple[int, ...]
"""The numbers of the loads that answers come from; others after one of the models was loaded again.
"""


class EnsembleCachingScheduler(CachingScheduler):
    """A `CachingScheduler` that forgets everything when `loads` gives something else."""

    def __init__(
        self,
        inner: Scheduler,
        cache: ResponseCache,
        statistics: ModelStatistics,
        timer: Timer,
        loads: Callable[[], Loads],
    ) -> None:
        super().__init__(inner, cache, statistics, timer)
        self._loads = loads
        self._seen = loads()

    def submit(self, pending: Pending) -> None:
        """As any cache does, but for answers of models that have been replaced."""
        loads = self._loads()
        if loads != self._seen:
            # Two threads may both do it: then little is kept for a moment.
            self._seen = loads
            self.renew()
        super().submit(pending)
