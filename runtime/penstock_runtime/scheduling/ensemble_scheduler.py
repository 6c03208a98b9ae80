"""The scheduler of an ensemble: each step goes through the dispatch to its own model's scheduler,
with its own batches and statistics. There is no thread and no queue here, only a count of requests.

Lock order: the scheduler's own lock, and nothing inside it.
"""

import threading
import time
from collections.abc import Callable, Sequence

from penstock_runtime.batch import BatchPlan
from penstock_runtime.config import ModelConfig
from penstock_runtime.dispatch import Dispatch
from penstock_runtime.errors import (
    FailedPrecondition,
    NotFound,
    Unavailable,
)
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.request import InferRequest
from penstock_runtime.scheduling.base import Pending, QueueStats, Refused, submit_each
from penstock_runtime.scheduling.endings import retired
from penstock_runtime.scheduling.ensemble_agreement import Agreement
from penstock_runtime.scheduling.ensemble_graph import EnsembleGraph, Plan, Step
from penstock_runtime.scheduling.ensemble_run import EnsembleRun, Kit
from penstock_runtime.scheduling.ensemble_step import StepStream, handed_over
from penstock_runtime.scheduling.queue import queue_full
from penstock_runtime.scheduling.queue_report import NOTHING_WAITS, QueueReport
from penstock_runtime.tensor import Tensor

# Beyond these a request is refused at once. Ensembles inside each other: one that is loaded inside
# itself by two loads at a time would go on for ever.
MOST_INSIDE = 16_384
MOST_DEPTH = 16
_MOST_PLANS = 64


class EnsembleScheduler:
    """Between the requests for one version of an ensemble and the models of its steps."""

    def __init__(
        self,
        config: ModelConfig,
        graph: EnsembleGraph,
        agreement: Agreement,
        form: BatchPlan,
        dispatch: Dispatch,
        statistics: ModelStatistics,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        ensemble = config.ensemble_scheduling
        limit = ensemble.max_inflight_requests if ensemble is not None else 0
        self._kit = Kit(config.name, config.decoupled, form, statistics, limit, clock)
        self._agreement = agreement
        self._graph = graph
        self._datatypes = {declared.name: declared.data_type for declared in config.input}
        self._dispatch = dispatch
        self._plans: dict[tuple[frozenset[str], frozenset[str]], Plan] = {}
        self._changed = threading.Condition()
        self._runs: set[EnsembleRun] = set()
        self._accepting = True

    # -- from the front --------------------------------------------------------------------------

    def submit(self, pending: Pending) -> None:
        """Accept the request (answered through its stream), or raise the error that refuses it."""
        depth = pending.request.depth
        if depth >= MOST_DEPTH:
            raise FailedPrecondition(
                f"ensemble '{self._kit.name}' is called inside {depth} others, at most "
                f"{MOST_DEPTH} are allowed: does it contain itself?",
                scheduled=True,
            )
        run = EnsembleRun(self, self._kit, pending, self._plan(pending))
        with self._changed:
            if not self._accepting:
                raise retired()
            if len(self._runs) >= MOST_INSIDE:
                raise queue_full()
            self._runs.add(run)
        run.begin(
            {
                name: handed_over(Tensor(name, self._datatypes[name], tuple(array.shape), array))
                for name, array in pending.arrays.items()
            }
        )
        pending.queued_at(run.cancel)

    def submit_all(self, pendings: Sequence[Pending]) -> Sequence[Refused]:
        """As `submit` for each of them; those that were refused, and why."""
        return submit_each(self.submit, pendings)

    def _plan(self, pending: Pending) -> Plan:
        """What a request of this kind needs."""
        wanted = frozenset(output.name for output in pending.request.outputs)
        absent = frozenset(self._datatypes.keys() - pending.arrays.keys())
        plan = self._plans.get((wanted, absent))
        if plan is None:
            plan = self._graph.plan(wanted, absent)
            # Starting afresh costs each kind one plan, and is safe from any thread.
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            self._plans[wanted, absent] = plan
        return plan

    # -- for the requests under way --------------------------------------------------------------

    def call(self, step: Step, request: InferRequest, stream: StepStream) -> None:
        """Hand a request to the model that serves the step now; raises what refuses it."""
        try:
            # Its sequence may go on at a version that is out of service.
            model = self._dispatch.serving(request)
        except NotFound as error:
            # The ensemble itself is there.
            raise Unavailable(error.message, reason="MODEL_NOT_READY", scheduled=True) from error
        problem = self._agreement.problem(step.index, model)
        if problem:
            raise FailedPrecondition(
                f"the model was loaded again and does not fit any more: {problem}; change the "
                "ensemble and load it again",
                reason="STEP_CHANGED",
                scheduled=True,
            )
        self._dispatch.infer(request, stream, model)

    def left(self, run: EnsembleRun) -> None:
        """A request has its last answer."""
        with self._changed:
            self._runs.discard(run)
            if not self._runs:
                self._changed.notify_all()

    # -- life cycle ------------------------------------------------------------------------------

    def drain(self, timeout_s: float) -> bool:
        """Accept nothing more, wait until all is answered; False if time ran out."""
        with self._changed:
            self._accepting = False
            return self._changed.wait_for(lambda: not self._runs, timeout_s)

    def stop(self) -> None:
        """What is still under way is answered UNAVAILABLE."""
        with self._changed:
            self._accepting = False
            rest = tuple(self._runs)
        for run in rest:
            run.end(retired())

    def stats(self) -> QueueStats:
        """What waits: nothing, that is in the queues of the steps' models."""
        return QueueStats(0, 0, 0)

    def report(self) -> QueueReport:
        """The same, by priority."""
        return NOTHING_WAITS

    @property
    def unanswered(self) -> int:
        """Requests that were accepted and have no last answer yet."""
        return len(self._runs)

    def __repr__(self) -> str:
        return f"<EnsembleScheduler of {self._graph!r}, {self.unanswered} unanswered>"
