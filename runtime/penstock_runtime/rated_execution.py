"""The rate limiter for models whose batches are not a queue's: an instance has its batch and waits
with it, until it has the resources to execute it.

Sequences need it so, since their slots decide what goes together; a queue's instances ask before
they take anything, see `scheduling.rated_scheduler`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from penstock_runtime.backends.base import (
    AnyExecutable,
    Arrays,
    Executable,
    LoadedModel,
    Placement,
    RequestExecutable,
    RequestTask,
    StreamingExecutable,
)
from penstock_runtime.context import RequestContext
from penstock_runtime.loop_inbox import release_news
from penstock_runtime.placement import Seat
from penstock_runtime.scheduling.gate import Gate
from penstock_runtime.scheduling.rate_limiter import claim_of
from penstock_runtime.scheduling.rates import Rates


class RatedModel:
    """A loaded model whose instances execute when they have their turn; `key` is its name among
    those that wait for each other.
    """

    def __init__(
        self, loaded: LoadedModel, rates: Rates, places: Sequence[Seat], key: str = ""
    ) -> None:
        self._loaded = loaded
        self._rates = rates
        self._key = key
        self._groups = {seat.placement: seat.group for seat in places}

    def executable(self, placement: Placement) -> AnyExecutable:
        """A new instance; it holds its place in the books until it is closed."""
        made = self._loaded.executable(placement)
        try:
            claim = claim_of(self._groups.get(placement), placement.device_id)
            turns = Turns(self._rates, self._rates.enter(claim, self._key, placement.name))
        except BaseException:
            made.close()
            raise
        if isinstance(made, StreamingExecutable):
            return RatedStreaming(made, turns)
        if isinstance(made, RequestExecutable):
            return RatedRequests(made, turns)
        return RatedExecutable(made, turns)

    def close(self) -> None:
        """Give the model's memory back."""
        self._loaded.close()

    def memory_bytes(self) -> Mapping[str, int]:
        """Bytes held per device."""
        return self._loaded.memory_bytes()


class Turns:
    """One instance's turns; waits in the instance's thread."""

    def __init__(self, rates: Rates, gate: Gate) -> None:
        self._rates = rates
        self._gate = gate

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold what the instance needs."""
        while not self._rates.acquire(self._gate):
            # What the last execution held back does not wait for this one.
            release_news()
            self._gate.wait(None)
        try:
            yield
        finally:
            self._rates.give_back(self._gate)

    def leave(self) -> None:
        """The instance is gone."""
        self._rates.leave(self._gate)


class RatedExecutable:
    """An instance that answers a batch in one turn."""

    def __init__(self, inner: Executable, turns: Turns) -> None:
        self._inner = inner
        self._turns = turns

    def execute(self, inputs: Arrays, contexts: Sequence[RequestContext]) -> Arrays:
        """The outputs of one batch."""
        with self._turns.turn():
            return self._inner.execute(inputs, contexts)

    def close(self) -> None:
        """Leave the books, and give back what the instance holds."""
        self._turns.leave()
        self._inner.close()


class RatedStreaming:
    """An instance that answers a request in one turn, however many responses it has."""

    def __init__(self, inner: StreamingExecutable, turns: Turns) -> None:
        self._inner = inner
        self._turns = turns

    def stream(self, inputs: Arrays, context: RequestContext) -> Iterator[Arrays]:
        """The responses of one request."""
        with self._turns.turn():
            yield from self._inner.stream(inputs, context)

    def close(self) -> None:
        """Leave the books, and give back what the instance holds."""
        self._turns.leave()
        self._inner.close()


class RatedRequests(RequestExecutable):
    """An instance that is handed the requests of a batch in one turn."""

    def __init__(self, inner: RequestExecutable, turns: Turns) -> None:
        self._inner = inner
        self._turns = turns

    def execute_requests(self, tasks: Sequence[RequestTask]) -> None:
        """Have them answered, now or later; the turn ends with the call."""
        with self._turns.turn():
            self._inner.execute_requests(tasks)

    def finalize(self) -> None:
        """Let the model end what it has begun."""
        self._inner.finalize()

    @property
    def ready(self) -> bool:
        """Whether the model says that it can serve."""
        return self._inner.ready

    @property
    def lost(self) -> str:
        """How its device was lost."""
        return self._inner.lost

    def close(self) -> None:
        """Leave the books, and give back what the instance holds."""
        self._turns.leave()
        self._inner.close()
