"""The one way in which a request finds the model that serves it, from wherever it comes: a client,
a step of an ensemble, the code of another model. Thread-safe; never blocks.
"""

import time
from collections.abc import Callable
from typing import Protocol

from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import PenstockError, Unavailable
from penstock_runtime.labels import Labels
from penstock_runtime.request import InferRequest
from penstock_runtime.scheduling.base import Retired
from penstock_runtime.stream import ResponseStream
from penstock_runtime.traced_stream import follow

# A reload may retire the version between look-up and submit; a name that is retired this often in a
# row is being unloaded faster than it can be asked.
_LOOKUPS = 5


class Serving(Protocol):
    """A model, as far as whoever calls it must know."""

    decoupled: bool

    @property
    def config(self) -> ModelConfig:
        """The complete configuration."""

    @property
    def class_labels(self) -> Labels:
        """The labels of its outputs' classes."""

    @property
    def loads(self) -> tuple[int, ...]:
        """Numbers of the loads that its answers come from."""

    @property
    def healthy(self) -> bool:
        """Whether it can execute."""

    def submit(self, request: InferRequest, stream: ResponseStream) -> None:
        """Check the request and queue it; its answers go to the stream."""


Finder = Callable[[str, str], Serving]
"""The READY model of a name and a version ("" for the highest); raises why there is none."""

Continues = Callable[[InferRequest], Serving | None]
"""The model, out of service, that is not done yet with the sequence that a request belongs to."""


class Dispatch:
    """Hands requests to models by name. `bind` it before the first request."""

    def __init__(self) -> None:
        self._find: Finder = _nothing_yet
        self._continues: Continues = _nothing_goes_on
        self._closed = False

    def bind(self, find: Finder, continues: Continues | None = None) -> None:
        """From now on models are found there."""
        self._find = find
        if continues is not None:
            self._continues = continues

    def model(self, name: str, version: str = "") -> Serving:
        """The model that would serve such a request; NotFound, Unavailable or InvalidArgument if
        none.
        """
        return self._find(name, version)

    def serving(self, request: InferRequest) -> Serving:
        """The model that would serve this request; raises as `model` if there is none."""
        try:
            return self._find(request.model_name, request.model_version)
        except PenstockError:
            # Its sequence may have begun when there was one.
            model = self._continues(request)
            if model is None:
                raise
            return model

    def infer(
        self, request: InferRequest, stream: ResponseStream, model: Serving | None = None
    ) -> None:
        """Queue the request; its answers, errors included, go to the stream unless this raises.

        `model` is what `model` gave for the request, if it has just been asked.
        """
        trace = request.trace
        if trace is None:
            self._submit(request, stream, model)
            return
        try:
            self._submit(request, follow(trace, request, stream), model)
        except PenstockError as error:
            trace.finish(time.monotonic_ns(), error.status, error.message)
            raise

    def _submit(self, request: InferRequest, stream: ResponseStream, model: Serving | None) -> None:
        for attempt in range(_LOOKUPS):
            if model is None:
                model = self.serving(request)
            try:
                model.submit(request, stream)
            except Retired:
                if self._closed or attempt == _LOOKUPS - 1:
                    raise
                model = None
                continue
            return

    def close(self) -> None:
        """From now on a model that is retired is not looked up again: nothing will replace it."""
        self._closed = True


def _nothing_goes_on(_request: InferRequest) -> Serving | None:
    return None


def _nothing_yet(name: str, _version: str) -> Serving:
    raise Unavailable(f"model '{name}' cannot be called before the repository is open")
