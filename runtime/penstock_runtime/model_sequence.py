"""A model with sequences: one version that keeps those it has until they end, when another one has
taken its name.
"""

from penstock_runtime.backends.base import LoadedModel
from penstock_runtime.config import ModelConfig
from penstock_runtime.instance import ModelInstance
from penstock_runtime.labels import NO_LABELS, Labels
from penstock_runtime.model import Model
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.request import InferRequest
from penstock_runtime.scheduling.sequence import SequenceId
from penstock_runtime.scheduling.sequence_scheduler import SequenceScheduler
from penstock_runtime.sequence_book import SequenceBook
from penstock_runtime.stream import ResponseStream
from penstock_runtime.validation import Known


class SequenceModel(Model):
    """One version of a model with sequences that serves."""

    def __init__(
        self,
        config: ModelConfig,
        version: int,
        loaded: LoadedModel,
        scheduler: SequenceScheduler,
        instances: tuple[ModelInstance, ...],
        statistics: ModelStatistics,
        book: SequenceBook,
        labels: Labels = NO_LABELS,
    ) -> None:
        super().__init__(config, version, loaded, scheduler, instances, statistics, labels)
        self._sequences = scheduler
        self._book = book
        book.enter(self)

    def submit(self, request: InferRequest, stream: ResponseStream) -> None:
        """Check the request and queue it, or hand it to the version that has its sequence."""
        other = self._book.find(request, but=self)
        if other is None or self.knows(request.correlation_id):
            super().submit(request, stream)
        else:
            other.submit(request, stream)

    def recall(self, likeness: object) -> Known | None:  # noqa: ARG002
        """Nothing: requests that are recognised are queued behind others that came later."""
        return None

    @property
    def name(self) -> str:
        """The model."""
        return self.config.name

    @property
    def open_sequences(self) -> int:
        """Sequences that have not had their END."""
        return self._sequences.open_sequences

    def knows(self, identity: SequenceId) -> bool:
        """Whether a request may join a sequence of this id."""
        return self._sequences.knows(identity)

    def close_to_new(self) -> None:
        """No sequence starts any more; those that run may go on."""
        self._sequences.close()

    def stop(self) -> None:
        """End the instances and give the memory back; sequences that still run are cut off."""
        self._book.leave(self)
        super().stop()
