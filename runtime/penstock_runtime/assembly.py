"""The runtime put together: backends, loader, repository, core."""

import os
from collections.abc import Collection, Mapping
from functools import partial

from penstock_runtime.backends.registry import default_registry
from penstock_runtime.dispatch import Dispatch
from penstock_runtime.examining import examine_model
from penstock_runtime.llm.calls import Calls
from penstock_runtime.model import Model
from penstock_runtime.model_services import ModelServices, Reading
from penstock_runtime.observability.custom_metrics import CustomMetrics
from penstock_runtime.observability.engine_metrics import EngineBook
from penstock_runtime.repository.loader import ConfigParser, Loader
from penstock_runtime.repository.options import RepositoryOptions
from penstock_runtime.repository.repository import ModelRepository
from penstock_runtime.response_cache import ResponseCache
from penstock_runtime.scheduling.rate_limiter import Totals
from penstock_runtime.scheduling.rates import Rates
from penstock_runtime.scheduling.timer import Timer
from penstock_runtime.sequence_book import SequenceBook
from penstock_runtime.starting import Common, start_model
from penstock_runtime.wait_graph import WaitGraph

HOLD_HOOK = "TRITONSERVER_DELAY_SCHEDULER"
HOLD_BACKLOG_HOOK = "TRITONSERVER_BACKLOG_DELAY_SCHEDULER"


def open_repository(
    options: RepositoryOptions,
    parsers: Mapping[str, ConfigParser] | None = None,
    *,
    allow_pickle: Collection[str] = (),
    complete: bool = True,
    hold_until: int = 0,
    cache: ResponseCache | None = None,
    rate_totals: Totals | None = None,
    hold_backlog: int = 0,
    sequences: SequenceBook | None = None,
    custom: CustomMetrics | None = None,
    engines: EngineBook | None = None,
    calls: Calls | None = None,
    reading: Reading | None = None,
) -> ModelRepository[Model]:
    """A repository with every backend there is; nothing is loaded before its `start`.

    `parsers` are for configuration files beyond JSON and YAML; with `hold_until` each model's
    batcher waits once for so many requests, and with `hold_backlog` each backlog of sequences, as
    Triton's tests want it; `cache` is shared by the models that ask for one; with `rate_totals`,
    empty or not, instances need a turn where they share resources; `sequences` is for whoever has
    to find those of models that were replaced; `custom` holds the metrics that the code of models
    makes, `engines` those of language models, whose requests are
    recorded in `calls`; `reading` is told how far large weights are read.
    """
    rates = Rates(rate_totals) if rate_totals is not None else None
    book = sequences if sequences is not None else SequenceBook()
    dispatch = Dispatch()
    services = ModelServices(
        dispatch,
        custom or CustomMetrics(),
        waits=WaitGraph(rates),
        engines=engines or EngineBook(),
        calls=calls,
        reading=reading,
    )
    common = Common(Timer(), dispatch, hold_until, cache, rates, hold_backlog, book, services)
    loader = Loader(
        default_registry(),
        partial(start_model, common=common),
        parsers,
        allow_pickle=allow_pickle,
        complete=complete,
        examiner=partial(examine_model, common=common),
    )
    repository = ModelRepository(options, loader)
    book.bind(repository.get)
    dispatch.bind(repository.get, book.find)
    services.control.bind(repository)
    return repository


def hold_until_hook(environ: Mapping[str, str] = os.environ, name: str = HOLD_HOOK) -> int:
    """What a hook of Triton's tests asks for; 0 when it is unset or no number."""
    text = environ.get(name, "0")
    return int(text) if text.isdigit() else 0
