"""An instance of a model with sequences: what it executes are steps."""

from penstock_runtime.backends.base import (
    AnyExecutable,
    LoadedModel,
    Placement,
    RequestExecutable,
    StreamingExecutable,
)
from penstock_runtime.batch import BatchPlan
from penstock_runtime.execution_sequence import StepPlan, execute_step, execute_step_streaming
from penstock_runtime.execution_step_requests import hand_over_step
from penstock_runtime.instance import ModelInstance
from penstock_runtime.loop_inbox import hold_news, release_news
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.scheduling.sequence_scheduler import SequenceScheduler
from penstock_runtime.warmup import WarmupRequest


class SequenceInstance(ModelInstance):
    """One instance of a model with sequences, and its thread."""

    def __init__(
        self,
        placement: Placement,
        loaded: LoadedModel,
        plan: BatchPlan,
        scheduler: SequenceScheduler,
        statistics: ModelStatistics,
        warmups: tuple[WarmupRequest, ...],
        steps: StepPlan,
    ) -> None:
        super().__init__(placement, loaded, plan, scheduler, statistics, warmups)
        self._steps = steps

    def _work(self, executable: AnyExecutable) -> None:
        while (step := self._next_work(self.gate)) is not None:
            if isinstance(executable, RequestExecutable):
                hand_over_step(self._desk, executable, self._steps, step, self._held)
            elif isinstance(executable, StreamingExecutable):
                execute_step_streaming(self._desk, executable, self._steps, step)
            else:
                # The answers of a step wake their consumers together.
                hold_news()
                execute_step(self._desk, executable, self._steps, step)
                release_news()
            # It holds the requests' bytes, and must not outlive its execution while idle.
            del step
