"""Answers of the response cache: each is counted once, before it is given, and in the order of the
requests where the model wants that.
"""

from collections.abc import Callable
from functools import partial

from penstock_runtime.errors import PenstockError
from penstock_runtime.observability.statistics import ModelStatistics, RequestTiming
from penstock_runtime.request import EMPTY, InferResponse, Timing
from penstock_runtime.response_cache import Kept
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.flight import Caller
from penstock_runtime.scheduling.ordering import Answer, OrderKeeper
from penstock_runtime.stream import OneOutput
from penstock_runtime.tensor import Tensor


class AnswerDesk:
    """Counts and answers the requests for one version of a model."""

    def __init__(
        self, statistics: ModelStatistics, order: OrderKeeper | None, clock: Callable[[], int]
    ) -> None:
        self._statistics = statistics
        self._model, self._version = statistics.model, str(statistics.version)
        self._order = order
        self._clock = clock
        # By name; a model has few outputs, and each has one datatype.
        self._kinds: dict[str, OneOutput] = {}

    def enter(self, caller: Caller) -> None:
        """A request has come: its place is behind all that came before."""
        if self._order is not None:
            self._order.enter(caller)

    def answer(self, caller: Caller, answer: Answer) -> None:
        """Give the request its last answer, at once or in its turn."""
        if self._order is None:
            answer()
        else:
            self._order.answer(caller, answer)

    def hit(self, caller: Caller, kept: Kept) -> None:
        """Answer with what was made for another."""
        pending, lookup_ns = caller.pending, caller.lookup_ns
        total_ns = self._clock() - pending.arrived_ns
        queue_ns = max(total_ns - lookup_ns, 0)
        timing = Timing(queue_ns, cache_hit=True) if pending.stream.wants_timing else None
        try:
            answer = self._answer_of(pending, kept, timing)
        except PenstockError as error:
            self.fail(caller, error)
            return
        spent = RequestTiming(total_ns, queue_ns, pending.batch_size)
        # Before it is answered: whoever has an answer finds it in the statistics.
        self._statistics.record_cache_hit(spent, lookup_ns)
        self.answer(caller, answer)

    def _answer_of(self, pending: Pending, kept: Kept, timing: Timing | None) -> Answer:
        """What gives a request what was kept. Raises what keeps it from being given."""
        stream = pending.stream
        first = kept.outputs[0] if len(kept.outputs) == 1 else None
        if first is not None and not first.is_raw and not stream.placed:
            return partial(stream.put_only, self._kind(first), pending.id, first.array, timing)
        response = InferResponse(
            self._model, self._version, pending.id, kept.outputs, EMPTY, True, False, timing
        )
        return stream.ready(response)

    def _kind(self, output: Tensor) -> OneOutput:
        """What responses of this one output have in common, for who encodes them."""
        kind = self._kinds.get(output.name)
        if kind is None:
            kind = OneOutput(self._model, self._version, output.name, output.datatype)
            self._kinds[output.name] = kind
        return kind

    def missed(self, caller: Caller, insertion_ns: int = 0) -> None:
        """Count the look into the cache of a request that is executed."""
        if caller.key is not None:
            self._statistics.record_cache_miss(caller.lookup_ns + insertion_ns)

    def fail(self, caller: Caller, error: PenstockError) -> None:
        """The last answer of a request that waited and is not executed."""
        duration = self._clock() - caller.pending.arrived_ns
        self._statistics.record_failure(error.failure, duration)
        self.answer(caller, partial(caller.pending.stream.fail, error))

    def __repr__(self) -> str:
        return f"<AnswerDesk of {self._model} version {self._version}>"
