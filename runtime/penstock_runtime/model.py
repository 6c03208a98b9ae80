"""A model: one version, loaded, with its scheduler and its instances.

Made by `starting.start_model`, which returns only when every instance is warm; ended by `drain` and
`stop`.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count

from penstock_runtime.backends.base import LoadedModel
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import PenstockError
from penstock_runtime.instance import ModelInstance
from penstock_runtime.labels import NO_LABELS, Labels
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.request import InferRequest
from penstock_runtime.scheduling.base import Pending, QueueStats, Refused, Scheduler
from penstock_runtime.scheduling.queue_report import QueueReport
from penstock_runtime.staff import Change, Staff
from penstock_runtime.stream import ResponseStream
from penstock_runtime.validation import Known, RequestValidator

_log = logging.getLogger("penstock.model")

# How long an instance may take to notice that it should end before it is left behind.
_JOIN_S = 10.0
_numbers = count()


class Regrouping:
    """A change of a model's instances that is prepared: it is settled, or else undone."""

    def __init__(self, model: "Model", config: ModelConfig, change: Change) -> None:
        self._model = model
        self._config = config
        self._change = change

    def settle(self) -> None:
        """The model is from now on what the new configuration says."""
        model = self._model
        assert model.staff is not None
        model.config, model.instances = self._config, self._change.instances
        model.staff.settle(self._change)

    def undo(self) -> None:
        """Those who joined leave again."""
        assert self._model.staff is not None
        self._model.staff.dismiss(self._change.joined)


class Model:
    """One version of a model that serves."""

    def __init__(
        self,
        config: ModelConfig,
        version: int,
        loaded: LoadedModel,
        scheduler: Scheduler,
        instances: tuple[ModelInstance, ...],
        statistics: ModelStatistics,
        labels: Labels = NO_LABELS,
    ) -> None:
        self.config = config
        self.version = version
        # Not a property: it is asked for with every request.
        self.decoupled = config.decoupled
        self.answers_whole = config.answers_whole
        self.input_device: int | None = None
        """The GPU on which inputs may lie already; None: they are given in host memory."""
        self.statistics = statistics
        self.instances = instances
        self.class_labels = labels
        self._number = next(_numbers)
        # Whoever can change the instances while the model serves, if they may change at all.
        self.staff: Staff | None = None
        self._loaded = loaded
        self._scheduler = scheduler
        self._validator = RequestValidator(config)
        self._after: list[Callable[[], None]] = []

    def submit(self, request: InferRequest, stream: ResponseStream) -> None:
        """Check the request and queue it; its answers go to the stream. Never blocks.

        Raises InvalidArgument for a request that does not fit, and what the scheduler refuses.
        """
        now = time.monotonic_ns()
        try:
            arrays, rows, signature, length = self._validator.check(request)
            self._scheduler.submit(Pending(request, stream, arrays, rows, now, signature, length))
        except PenstockError as error:
            self.statistics.record_failure(error.failure, time.monotonic_ns() - now)
            raise

    def recall(self, likeness: object) -> Known | None:
        """What is known of requests of this likeness, if one was found to fit before."""
        return self._validator.recall(likeness)

    def accept(self, pendings: Sequence[Pending]) -> Sequence[Refused]:
        """Queue requests that are like ones that were found to fit; those that were refused, and
        why.
        """
        refused = self._scheduler.submit_all(pendings)
        for pending, error in refused:
            spent = time.monotonic_ns() - pending.arrived_ns
            self.statistics.record_failure(error.failure, spent)
        return refused

    @property
    def labels(self) -> Mapping[str, str]:
        """Name and version, as metrics tell them."""
        return {"model": self.config.name, "version": str(self.version)}

    @property
    def loads(self) -> tuple[int, ...]:
        """Numbers of the loads that its answers come from: equal for as long as nothing that they
        are made of is loaded again.
        """
        return (self._number,)

    @property
    def healthy(self) -> bool:
        """Whether every instance is there to execute."""
        return all(instance.healthy for instance in self.instances)

    @property
    def unanswered(self) -> int:
        """Requests that were accepted and have no last answer yet."""
        return self._scheduler.unanswered

    def queue_stats(self) -> QueueStats:
        """What waits for execution."""
        return self._scheduler.stats()

    def queue_report(self) -> QueueReport:
        """What waits, by priority, how long one more would wait, and what the batcher chose."""
        return self._scheduler.report()

    def regroup(self, config: ModelConfig) -> "Regrouping | None":
        """Let the instances join that this configuration has more, which differs in nothing but its
        instance groups. They execute from now on, the others leave once it is settled.

        None where it takes a reload; raises what kept an instance from being warm.
        """
        change = self.staff.change(self.instances, config) if self.staff is not None else None
        return None if change is None else Regrouping(self, config, change)

    def memory_bytes(self) -> Mapping[str, int]:
        """Bytes held per device, as far as the backend knows."""
        return self._loaded.memory_bytes()

    def drain(self, timeout_s: float) -> bool:
        """Accept nothing more and wait until all is answered; False if time ran out."""
        return self._scheduler.drain(timeout_s)

    def stop(self) -> None:
        """End the instances and give the memory back; what still waits is answered UNAVAILABLE."""
        self._scheduler.stop()
        former = self.staff.former if self.staff is not None else ()
        for instance in (*self.instances, *former):
            if not instance.join(_JOIN_S):
                _log.warning("%r still executes and is left behind", instance)
            instance.let_go()
            if self.staff is not None:
                self.staff.forget((instance,))
        try:
            self._loaded.close()
        finally:
            for callback in self._after:
                callback()

    def on_stopped(self, callback: Callable[[], None]) -> None:
        """Call this at the end of `stop`."""
        self._after.append(callback)

    def __repr__(self) -> str:
        return f"<Model {self.config.name} version {self.version}, {self._scheduler!r}>"
