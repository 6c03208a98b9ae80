"""What can be said of a version of a model without loading it: whether its configuration fits its
files, this machine, and the models that it is made of.

Nothing is changed, and no weights are read; a backend may run a model's code to complete what the
configuration leaves open, as it does before a load.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import cast

from penstock_runtime.backends.base import Backend, ModelSource
from penstock_runtime.config import ModelConfig
from penstock_runtime.dispatch import Dispatch, Serving
from penstock_runtime.ensemble import ComposingModels
from penstock_runtime.errors import PenstockError
from penstock_runtime.execution_sequence import StepPlan
from penstock_runtime.labels import read_labels
from penstock_runtime.placement import seats
from penstock_runtime.scheduling.ensemble_graph import EnsembleGraph
from penstock_runtime.starting import Common, labels_of, rates_of
from penstock_runtime.unavailable import refuse_unavailable
from penstock_runtime.warmup import warmup_requests

Examined = Mapping[str, ModelConfig]
"""Complete configurations of models that do not serve, but would."""


def examine_model(
    source: ModelSource, backend: Backend, examined: Examined, common: Common
) -> None:
    """Raise what would prevent this load as far as that is known before it."""
    config = source.config
    refuse_unavailable(config)
    if config.ensemble_scheduling is not None:
        _examine_ensemble(source, examined, common)
        return
    rates_of(seats(config, uses_gpu=backend.uses_gpu), common.rates)
    warmup_requests(config, source.root)
    labels_of(source, backend)
    if config.sequence_batching is not None:
        StepPlan(config, config.sequence_batching, source.root)


def _examine_ensemble(source: ModelSource, examined: Examined, common: Common) -> None:
    config = source.config
    models = ComposingModels(config, _dispatch(common.dispatch, examined))
    composing = models.configs()
    models.check(config, composing)
    EnsembleGraph(config, composing, models.names)
    read_labels(config, source.root)


def _dispatch(dispatch: Dispatch, examined: Examined) -> Dispatch:
    """Finds the models that serve, and those that would."""

    def find(name: str, version: str) -> Serving:
        try:
            return dispatch.model(name, version)
        except PenstockError:
            config = examined.get(name)
            if config is None:
                raise
            return cast(Serving, SimpleNamespace(config=config, decoupled=config.decoupled))

    found = Dispatch()
    found.bind(find)
    return found
