"""One server: ports open at once, models load behind them, and all of it goes down in order."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from penstock.auth.authority import read_again, read_authority
from penstock.cache_config import cache_settings
from penstock.config import ServerOptions
from penstock.config_text import parse_config_text
from penstock.describe_queue import queues_json
from penstock.drain import Ports, Stoppable, StopRequest, drain
from penstock.http import MetricsServer
from penstock.logs import Logs
from penstock.metrics import metrics_options, server_metrics
from penstock.neighbours import Neighbours
from penstock.observer import CallObserver, rpc_metrics
from penstock.parts import make_cache, make_http, make_transport, open_call_log, repository_options
from penstock.rate_config import rate_totals
from penstock.services import Services, build_services
from penstock.tracer import open_tracer
from penstock.transport.base import Transport
from penstock.watchdog import LoopWatch
from penstock_runtime.assembly import HOLD_BACKLOG_HOOK, hold_until_hook, open_repository
from penstock_runtime.core import InferenceCore
from penstock_runtime.errors import PenstockError
from penstock_runtime.model import Model
from penstock_runtime.observability.access_log import AccessLog
from penstock_runtime.observability.custom_metrics import CustomMetrics
from penstock_runtime.observability.engine_metrics import EngineBook
from penstock_runtime.repository.repository import ModelRepository
from penstock_runtime.repository.start_report import LoadProgress
from penstock_runtime.sequence_book import SequenceBook

_log = logging.getLogger("penstock.server")

T = TypeVar("T")
ProgressCallback = Callable[[LoadProgress], None]

CORE_STOP_S, HASTY_STOP_S = 10.0, 1.0
TRACE_STOP_S = 5.0
EXIT_OK, EXIT_FAILED = 0, 1


class Server:
    """A server on the running loop: `start`, then `run_until_stopped`."""

    def __init__(
        self,
        options: ServerOptions,
        stop: StopRequest,
        logs: Logs | None = None,
        progress: ProgressCallback | None = None,
        neighbours: Neighbours | None = None,
    ) -> None:
        self.options = options
        self.stop = stop
        self.grpc_addresses: Sequence[str] = ()
        self.metrics_port: int | None = None
        self.cache = make_cache(
            cache_settings(options.cache_config, options.response_cache_byte_size)
        )
        sequences = SequenceBook()
        self._calls = open_call_log(options)
        custom, engines = CustomMetrics(), EngineBook(options.metrics_compat)
        self.repository: ModelRepository[Model] = open_repository(
            repository_options(options),
            {"config.pbtxt": parse_config_text},
            allow_pickle=options.allow_pickle,
            complete=not options.disable_auto_complete_config,
            hold_until=hold_until_hook(),
            cache=self.cache,
            rate_totals=rate_totals(options.rate_limit, options.rate_limit_resource),
            hold_backlog=hold_until_hook(name=HOLD_BACKLOG_HOOK),
            sequences=sequences,
            custom=custom,
            engines=engines,
            calls=self._calls,
            reading=getattr(progress, "reading", None),
        )
        self.core = InferenceCore(self.repository, sequences)
        self._progress = progress
        access = logs.access if logs is not None else AccessLog()
        counts = rpc_metrics() if options.rpc_metrics else None
        self.authority = read_authority(options.auth_config)
        self.tracer = open_tracer(options)
        observer = CallObserver(counts, access)
        self.services: Services = build_services(
            self.core,
            options,
            observer if observer.needed else None,
            access,
            logs,
            self.authority,
            self.tracer,
            neighbours,
        )
        self._watch = LoopWatch(options.stall_dump_secs, self.services.health.beat)
        self._transport: Transport = make_transport(options, self.services.methods)
        self.http_address: str | None = None
        self._http = make_http(options, self.services, self.core, self._render)
        sources = [self.services.families, self._watch.families, self._transport.families]
        sources += [self.tracer.families]
        sources += [counts.families] if counts is not None else []
        sources += [logs.families] if logs is not None else []
        sources += [self.authority.families] if self.authority is not None else []
        sources += [self.cache.families] if self.cache is not None else []
        sources += [self._http.families] if self._http is not None else []
        sources += [custom.families, engines.families]
        self.metrics = server_metrics(
            self.repository, sources, metrics_options(options.metrics_config)
        )
        self._metrics = MetricsServer(
            options.metrics_address,
            options.metrics_port,
            self.metrics.render,
            self.is_live,
            lambda: self.is_live() and self.is_ready(),
            documents={"/queues": lambda: queues_json(self.repository.models())},
        )
        self._loading: asyncio.Future[tuple[LoadProgress, ...]] | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    def _render(self) -> bytes:
        return self.metrics.render()

    # -- up --------------------------------------------------------------------------------------

    async def start(self, *, listen: bool = True) -> None:
        """Open the ports and begin to load; FailedPrecondition if a port cannot be had.

        Without `listen` those of gRPC and HTTP are left to `listen`.
        """
        self._watch.start()
        if self.options.allow_metrics:
            self.metrics_port = self._metrics.start()
        if listen:
            await self.listen()
        self._unsubscribe = self.core.subscribe(self.services.health.refresh)
        self._loading = in_daemon(lambda: self.repository.start(self._progress), "penstock-load")
        self._loading.add_done_callback(self._loaded)

    async def listen(self) -> None:
        """Open the ports of gRPC and HTTP; FailedPrecondition if one cannot be had."""
        self.grpc_addresses = await self._transport.start()
        if self._http is not None:
            self.http_address = await self._http.port.start()

    async def loaded(self) -> tuple[LoadProgress, ...]:
        """Wait until the models of the start are loaded; those that failed."""
        if self._loading is None:
            raise RuntimeError("the server has not been started")
        return await asyncio.shield(self._loading)

    def _loaded(self, loading: "asyncio.Future[tuple[LoadProgress, ...]]") -> None:
        self.services.health.look()
        if loading.cancelled():
            return
        error = loading.exception()
        if error is not None:
            text = error.message if isinstance(error, PenstockError) else repr(error)
            _log.error("the model repository cannot be served: %s", text)
            self.stop.ask("no repository", code=EXIT_FAILED)
        elif loading.result() and self.options.exit_on_error and not self.stop.wanted.is_set():
            names = ", ".join(failed.name for failed in loading.result())
            _log.error("models that did not load: %s (--exit-on-error=false goes on)", names)
            self.stop.ask("models did not load", code=EXIT_FAILED)

    def is_live(self) -> bool:
        """Whether the event loop turns; from any thread."""
        return self._watch.alive

    def is_ready(self) -> bool:
        """Whether traffic may be sent here; from any thread."""
        return not self.services.health.draining and self.services.metadata.is_ready()

    def poll_now(self) -> None:
        """Look at the repository now, if the mode is to look at it at all."""
        if self.options.model_control_mode == "poll":
            in_daemon(self.repository.poll, "penstock-poll")
        else:
            _log.info("nothing to poll in mode %s", self.options.model_control_mode)

    def hang_up(self) -> None:
        """What SIGHUP asks for: to look at the files, those of the models and of the callers."""
        if self.authority is not None:
            read_again(self.authority, self.options.auth_config)
        self.poll_now()

    # -- down ------------------------------------------------------------------------------------

    async def run_until_stopped(self) -> int:
        """Serve until asked to stop, then go down; the exit code."""
        await self.stop.wanted.wait()
        clean = await drain(
            self.stop,
            core=self.core,
            probes=self.services.health,
            gate=self.services.gate,
            transport=Ports(self._stoppable()),
            exit_timeout_s=self.options.exit_timeout_secs,
        )
        # Models that hang would be waited for in vain.
        await self.close(CORE_STOP_S if clean else HASTY_STOP_S)
        return self.stop.code if clean else self.stop.code or EXIT_FAILED

    def _stoppable(self) -> tuple[Stoppable, ...]:
        return (self._transport, self._http.port) if self._http is not None else (self._transport,)

    async def close(self, timeout_s: float = CORE_STOP_S) -> None:
        """Stop what is left: the models, then whatever told of them."""
        await Ports(self._stoppable()).stop(0)
        self._unsubscribe()
        stopping = in_daemon(lambda: self.core.stop(timeout_s), "penstock-stop")
        await asyncio.wait((stopping,), timeout=timeout_s)
        if not stopping.done():
            _log.warning("the models did not stop within %g s and are left behind", timeout_s)
        # Behind the models, whose last answers end the last traces.
        await in_daemon(lambda: self.tracer.close(TRACE_STOP_S), "penstock-stop-trace")
        if self._calls is not None:
            await in_daemon(self._calls.close, "penstock-stop-calls")
        self.services.close()
        self._watch.stop()
        if self.metrics_port is not None:
            self._metrics.stop()


def in_daemon(work: Callable[[], T], name: str) -> "asyncio.Future[T]":
    """Run this in a thread that no one has to wait for at exit, unlike those of an executor."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(set_it: Callable[[Any], None], value: Any) -> None:
        try:
            loop.call_soon_threadsafe(lambda: None if future.done() else set_it(value))
        except RuntimeError:
            # The loop is gone, and with it whoever wanted to know.
            return

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            tell(future.set_exception, error)
        else:
            tell(future.set_result, result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
