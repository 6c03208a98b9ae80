"""`penstock serve --processes N`: several whole servers on one gRPC port, and who looks after them.

The kernel shares connections out (SO_REUSEPORT). The supervisor holds the port, starts a process
again when it dies, passes on signals, and answers for all of them on one metrics port; no call goes
through it, and it imports neither gRPC nor anything of the models'.
"""

import asyncio
import contextlib
import json
import logging
import signal
import socket
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from penstock.cache_config import cache_settings
from penstock.config import ServerOptions
from penstock.http import MetricsServer
from penstock.http_side import require_http
from penstock.limits import default_inflight_bytes
from penstock.logs import configure_logs
from penstock.merged_metrics import LABEL, merged
from penstock.neighbours import Change, Changes
from penstock.reserved_ports import reserved
from penstock.transport.addresses import UNIX, listen_addresses
from penstock.version import __version__
from penstock.worker_process import EXIT_FAILED, State, WorkerProcess
from penstock_runtime.errors import InvalidArgument, PenstockError
from penstock_runtime.observability.metrics import Family, Sample, render

STOP_S, HURRY_S = 20.0, 10.0
"""How long a process may take beyond its drain, and when told to hurry, until it is killed."""

ANSWER_S = 4.0

_log = logging.getLogger("penstock.supervisor")
_STATES = ("starting", "ready", "not_ready", "waiting", "stopping")

T = TypeVar("T")


def run(options: ServerOptions) -> int:
    """Serve until a signal; the exit code of the process. Blocks; main thread only.

    InvalidArgument for options that do not go with several processes.
    """
    check(options)
    logs = configure_logs(options)
    code = EXIT_FAILED
    try:
        with asyncio.Runner() as runner:
            code = runner.run(Supervisor(options).serve())
    except PenstockError as error:
        _log.error("%s", error.message)
    except Exception:
        _log.exception("the supervisor failed")
    logs.close()
    return code


def check(options: ServerOptions) -> None:
    """InvalidArgument says which option does not go with several processes, and what does."""
    flag = f"--processes {options.processes}"
    require_http(options.allow_http)
    if not hasattr(socket, "SO_REUSEPORT"):
        raise InvalidArgument(f"{flag} needs SO_REUSEPORT, which this system does not have")
    for address in options.grpc_address:
        if address.strip().startswith(UNIX):
            raise InvalidArgument(
                f"{flag} does not go with --grpc-address {address}: a Unix socket cannot be shared "
                "by several processes; listen on a port, or serve with one process"
            )
    if options.allow_client_shm:
        raise InvalidArgument(
            f"{flag} does not go with --allow-client-shm: a region would be registered with "
            "one process only, and requests that use it would reach others; share no memory, or "
            "serve with one process"
        )
    if options.model_control_mode == "explicit":
        raise InvalidArgument(
            f"{flag} does not go with --model-control-mode explicit: a RepositoryModelLoad or "
            "RepositoryModelUnload would reach one process only, and the others would go on "
            "serving what they did; use none or poll, or one process"
        )


def worker_options(
    options: ServerOptions, addresses: tuple[str, ...], http: tuple[str, ...] = ()
) -> ServerOptions:
    """What each process is told: these, on the shared ports, without a metrics port of its own.

    The bound on requests in flight is one for all processes, and so is the size of the response
    cache: each has its share of it.
    """
    inflight = options.max_inflight_bytes or default_inflight_bytes()
    cache = cache_settings(options.cache_config, options.response_cache_byte_size)
    share = replace(cache, size=cache.size // options.processes)
    return replace(
        options,
        grpc_address=addresses,
        reuse_grpc_port=True,
        http_address=http[0] if http else options.http_address,
        reuse_http_port=True,
        allow_metrics=False,
        max_inflight_bytes=max(1, inflight // options.processes),
        cache_config=share.flags(),
        response_cache_byte_size=0,
    )


class Supervisor:
    """Starts the processes, and looks after them until it is told to stop."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._workers: tuple[WorkerProcess, ...] = ()
        self._addresses: tuple[str, ...] = ()
        self._http: tuple[str, ...] = ()
        self._metrics_port: int | None = None
        self._announced = False
        self._changes = Changes()
        self._passing: asyncio.Task[None] | None = None
        self._told: asyncio.Task[None] | None = None
        self._stopping = False
        self._hurried = False

    async def serve(self) -> int:
        """Serve until told to stop; the worst exit code of the processes."""
        o = self._options
        self._loop = asyncio.get_running_loop()
        metrics = MetricsServer(
            o.metrics_address,
            o.metrics_port,
            self._render,
            self._is_live,
            self._is_ready,
            documents={"/queues": self._queues},
        )
        hosts = listen_addresses(o.grpc_address, o.grpc_port)
        web = listen_addresses((o.http_address,), o.http_port) if o.allow_http else ()
        with (
            reserved(hosts, shared=o.reuse_grpc_port) as self._addresses,
            reserved(web, shared=o.reuse_http_port, flag="--http-port") as self._http,
            self._signals(),
        ):
            if o.allow_metrics:
                self._metrics_port = metrics.start()
            try:
                return await self._run()
            finally:
                # It may be waiting for this loop to answer a scrape.
                await asyncio.to_thread(metrics.stop)

    async def _run(self) -> int:
        options = worker_options(self._options, self._addresses, self._http)
        self._workers = tuple(
            WorkerProcess(number, options, self._heard, self._changed, self._changes.all)
            for number in range(options.processes)
        )
        lives = [asyncio.create_task(worker.run()) for worker in self._workers]
        await asyncio.wait(lives, return_when=asyncio.FIRST_COMPLETED)
        if not self._stopping:
            _log.error("a process that ends during the first start ends the server")
            self._stop(signal.SIGTERM)
        codes = await asyncio.gather(*lives)
        _log.info("all processes have ended, with exit codes %s", ", ".join(map(str, codes)))
        return max(codes)

    # -- signals ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        stops = (signal.SIGTERM, signal.SIGINT)
        for number in stops:
            self._loop.add_signal_handler(number, self._asked_to_stop, number)
        self._loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        try:
            yield
        finally:
            for number in (*stops, signal.SIGHUP):
                self._loop.remove_signal_handler(number)

    def _asked_to_stop(self, number: signal.Signals) -> None:
        if self._stopping:
            self._hurry(number)
        else:
            self._stop(number)

    def _stop(self, number: signal.Signals) -> None:
        self._stopping = True
        _log.info("stopping %d processes (%s)", len(self._workers), number.name)
        for worker in self._workers:
            worker.stop(number)
        patience_s = max(self._options.drain_delay, 0.0) + self._options.exit_timeout_secs + STOP_S
        self._loop.call_later(patience_s, self._kill)

    def _hurry(self, number: signal.Signals) -> None:
        if self._hurried:
            return
        self._hurried = True
        _log.warning("asked again to stop (%s): what is in flight is not waited for", number.name)
        for worker in self._workers:
            worker.hurry()
        self._loop.call_later(HURRY_S, self._kill)

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()

    def _hang_up(self) -> None:
        for worker in self._workers:
            worker.hang_up()

    # -- settings that are changed in one of them --------------------------------------------------

    def _changed(self, worker: WorkerProcess, news: str) -> None:
        """Pass a change on to all, each after the one before, so that they end alike."""
        before = self._passing
        self._passing = asyncio.create_task(self._pass_on(worker, news, before))

    async def _pass_on(
        self, worker: WorkerProcess, news: str, before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:
            await asyncio.wait((before,))
        number, word = news.split()
        self._changes.add(Change.decode(word))
        await asyncio.gather(*(one.change(word) for one in self._workers))
        await worker.settle(number)

    # -- what is said at the start ---------------------------------------------------------------

    def _heard(self) -> None:
        if not self._announced and all(worker.listened for worker in self._workers):
            self._announced = True
            self._announce()
        if self._told is None and all(worker.loaded for worker in self._workers):
            self._told = asyncio.create_task(self._tell_whether_ready())

    def _announce(self) -> None:
        o = self._options
        for address in self._addresses:
            text = "penstock %s: gRPC on %s by %d processes"
            _log.info(text, __version__, address, o.processes)
        for address in self._http:
            _log.info("HTTP on http://%s", address)
        if self._metrics_port is not None:
            _log.info("metrics on http://%s:%d/metrics", o.metrics_address, self._metrics_port)

    async def _tell_whether_ready(self) -> None:
        health = await self._health()
        ready = [number for number, (_, ready) in enumerate(health) if ready]
        if len(ready) == len(health):
            _log.info("ready: all %d processes", len(ready))
        else:
            _log.info("not ready: see the models above; ready are %s", ready or "no processes")

    # -- the metrics port, in its thread ---------------------------------------------------------

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(ANSWER_S)

    def _is_live(self) -> bool:
        return all(live for live, _ in self._on_loop(self._health()))

    def _is_ready(self) -> bool:
        if self._stopping or not self._workers:
            return False
        return all(ready for _, ready in self._on_loop(self._health()))

    def _render(self) -> bytes:
        health, scrapes = self._on_loop(self._ask())
        texts = {str(number): text for number, text in enumerate(scrapes)}
        return merged(texts) + render(self._families([ready for _, ready in health]))

    def _queues(self) -> bytes:
        """What waits in each process."""
        told = self._on_loop(self._ask_for_queues())
        rows = [
            {LABEL: str(number), **row}
            for number, text in enumerate(told)
            for row in (json.loads(text)["queues"] if text else ())
        ]
        return json.dumps({"queues": rows}, indent=2).encode() + b"\n"

    async def _ask_for_queues(self) -> list[bytes]:
        return await asyncio.gather(*(worker.queues() for worker in self._workers))

    async def _health(self) -> list[tuple[bool, bool]]:
        return await asyncio.gather(*(worker.health() for worker in self._workers))

    async def _ask(self) -> tuple[list[tuple[bool, bool]], list[bytes]]:
        scrapes = asyncio.gather(*(worker.scrape() for worker in self._workers))
        return await self._health(), await scrapes

    def _families(self, ready: list[bool]) -> list[Family]:
        pairs = zip(self._workers, ready, strict=True)
        states = Counter(_state_name(worker.state, ready) for worker, ready in pairs)
        restarts = (
            Sample(worker.restarts, {LABEL: str(worker.number)}) for worker in self._workers
        )
        return [
            Family(
                "penstock_processes",
                "gauge",
                "Server processes by what they are doing",
                tuple(Sample(states[state], {"state": state}) for state in _STATES),
            ),
            Family(
                "penstock_process_restarts_total",
                "counter",
                "How often a server process died and was started again",
                tuple(restarts),
            ),
        ]


def _state_name(state: State, ready: bool) -> str:
    if state is State.RUNNING:
        return "ready" if ready else "not_ready"
    return "stopping" if state is State.ENDED else state.value
