"""The inference core: the one door that a server needs. Thread-safe; `infer` never blocks."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from penstock_runtime.dispatch import Dispatch
from penstock_runtime.errors import NotFound, PenstockError
from penstock_runtime.gathered_stream import GatheredStream
from penstock_runtime.model import Model
from penstock_runtime.observability.snapshot import StatisticsSnapshot
from penstock_runtime.repository.lifecycle import ModelIndexEntry
from penstock_runtime.repository.overrides import LoadOverrides
from penstock_runtime.request import InferRequest
from penstock_runtime.sequence_book import SequenceBook
from penstock_runtime.stream import ResponseStream

_log = logging.getLogger("penstock.core")


class Shelf(Protocol):
    """The repository, as the core sees it."""

    def get(self, name: str, version: str) -> Model:
        """The READY model of this name and version ("" for the highest)."""

    def models(self) -> Sequence[Model]:
        """Every READY model."""

    def load(self, name: str, overrides: LoadOverrides) -> None:
        """Load or reload; returns once the new version serves."""

    def unload(self, name: str, unload_dependents: bool) -> None:
        """Take the model out of service."""

    def parts(self, name: str, config_json: str | None = None) -> Sequence[str]:
        """What a model is made of, by its own configuration or another one."""

    def index(self, ready_only: bool) -> Sequence[ModelIndexEntry]:
        """What is on the shelf, and in what state."""

    def ready(self) -> bool:
        """Whether every selected model serves."""

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back on every change of state; the result ends the subscription."""

    def stop(self, timeout_s: float) -> None:
        """Drain and stop everything."""


class InferenceCore:
    """Requests in, answers through their streams; models come and go behind it."""

    def __init__(self, repository: Shelf, sequences: SequenceBook | None = None) -> None:
        self.repository = repository
        self._sequences = sequences if sequences is not None else SequenceBook()
        self._dispatch = Dispatch()
        self._dispatch.bind(repository.get, self._sequences.find)
        self._exiting = False

    # -- inference -------------------------------------------------------------------------------

    def model(self, name: str, version: str = "") -> Model:
        """The model that would serve such a request; NotFound, Unavailable or InvalidArgument if
        none.
        """
        return self.repository.get(name, version)

    def serving(self, request: InferRequest) -> Model:
        """As `model`, for a request that may belong to a sequence of a model that was replaced."""
        try:
            return self.repository.get(request.model_name, request.model_version)
        except PenstockError:
            model: object = self._sequences.find(request)
            if not isinstance(model, Model):
                raise
            return model

    def infer(
        self, request: InferRequest, stream: ResponseStream, model: Model | None = None
    ) -> None:
        """Queue the request; its answers, errors included, go to the stream unless this raises.

        `model` is what `model` gave for the request, if it has just been asked.
        """
        if request.gathered:
            stream = GatheredStream(stream, request.gathered)
        self._dispatch.infer(request, stream, model)

    # -- state -----------------------------------------------------------------------------------

    @property
    def exiting(self) -> bool:
        """Whether the server has begun to go down."""
        return self._exiting

    def ready(self) -> bool:
        """Whether every selected model serves and every instance of it is alive."""
        if self._exiting or not self.repository.ready():
            return False
        return all(model.healthy for model in self.repository.models())

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether this model serves; False for an unknown one, as clients poll it after an
        unload.
        """
        try:
            return self.repository.get(name, version).healthy
        except PenstockError:
            return False

    def statistics(self, name: str = "", version: str = "") -> list[StatisticsSnapshot]:
        """Statistics of one version, of all versions of one model, or of everything."""
        if name and version:
            return [_snapshot(self.repository.get(name, version))]
        models = [m for m in self.repository.models() if not name or m.config.name == name]
        if name and not models:
            raise NotFound(f"Request for unknown model: '{name}' is not found")
        return [_snapshot(model) for model in models]

    @property
    def inflight(self) -> int:
        """Requests that were accepted and have no last answer yet."""
        return sum(model.unanswered for model in self.repository.models())

    @property
    def open_sequences(self) -> int:
        """Sequences that have not had their END."""
        return self._sequences.open_sequences

    def parts(self, name: str, config_json: str | None = None) -> Sequence[str]:
        """The models that an ensemble is made of, directly or not, as far as they are there; by
        this configuration (JSON) if one is given. Reads files.
        """
        return self.repository.parts(name, config_json)

    # -- control ---------------------------------------------------------------------------------

    def load(self, name: str, overrides: LoadOverrides) -> None:
        """Load or reload a model; returns once it serves, raises what prevented it. Blocks."""
        self.repository.load(name, overrides)

    def unload(self, name: str, unload_dependents: bool = False) -> None:
        """Take a model out of service. Blocks until no new request reaches it."""
        self.repository.unload(name, unload_dependents)

    def index(self, ready_only: bool = False) -> Sequence[ModelIndexEntry]:
        """What is in the repository, and in what state."""
        return self.repository.index(ready_only)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back, from any thread, on every change of a model's state."""
        return self.repository.subscribe(callback)

    def begin_shutdown(self) -> None:
        """From now on the server is not ready; it serves all the same."""
        self._exiting = True

    def begin_drain(self) -> None:
        """From now on no sequence starts, and what is retired is not replaced; what was accepted is
        still answered.
        """
        self.begin_shutdown()
        self._dispatch.close()
        self._sequences.close()

    def stop(self, timeout_s: float) -> None:
        """Drain and stop every model."""
        self.begin_drain()
        self.repository.stop(timeout_s)


def _snapshot(model: Model) -> StatisticsSnapshot:
    return replace(model.statistics.snapshot(), waiting=model.queue_report())
