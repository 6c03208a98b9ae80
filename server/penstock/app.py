"""`penstock serve`: a process that serves until it is told to stop.

Signals: SIGTERM drains (after --drain-delay), SIGINT drains at once, the second of either hurries;
SIGHUP looks at the model repository now, and reads who may call what again. Exit codes: 0 drained,
1 failed or cut calls off.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from penstock.config import ServerOptions
from penstock.drain import StopRequest
from penstock.logs import Logs, configure_logs
from penstock.restrictions import HTTP, describe_restrictions, read_restrictions
from penstock.server import EXIT_FAILED, ProgressCallback, Server
from penstock.version import __version__
from penstock_runtime.backends.host import settle
from penstock_runtime.errors import InvalidArgument, PenstockError
from penstock_runtime.repository.lifecycle import ModelIndexEntry

_log = logging.getLogger("penstock.server")

SWITCH_INTERVAL_S = 0.001
Started = Callable[[Server], None]

_BUSY_THREADS = ("penstock-load", "penstock-stop", "penstock-admin")
_LAST_JOIN_S = 0.2


def run(options: ServerOptions, progress: ProgressCallback | None = None) -> int:
    """Serve until a signal; the exit code of the process. Blocks; main thread only."""

    def main(logs: Logs) -> Coroutine[Any, Any, int]:
        return serve(options, logs=logs, progress=progress, signals=True)

    return run_main(options, main)


def run_main(
    options: ServerOptions,
    main: Callable[[Logs], Coroutine[Any, Any, int]],
    process: int | None = None,
) -> int:
    """Run what serves, with the logs that it is given; the exit code of the process.

    `process` is its number if it is one of several. Blocks; main thread only.
    """
    # A thread that holds the interpreter makes every call wait this long, so it is kept short.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    quiet_grpc()
    logs = configure_logs(options, process)
    code = EXIT_FAILED
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            code = runner.run(main(logs))
    except PenstockError as error:
        _log.error("%s", error.message)
    except Exception:
        _log.exception("the server failed")
    logs.close()
    if _threads_left():
        # Python would wait for some of them however long a load may take, and end under the feet of
        # the others.
        sys.stdout.flush()
        os._exit(code)
    return code


async def serve(
    options: ServerOptions,
    *,
    logs: Logs | None = None,
    stop: StopRequest | None = None,
    started: Started | None = None,
    progress: ProgressCallback | None = None,
    signals: bool = False,
) -> int:
    """Serve on this loop until `stop` is asked for; the exit code.

    `started` is called once the ports are open. With `signals` the process is ours: they are
    handled, from the first moment on, and garbage is collected as suits a server. InvalidArgument
    for more than one process: this is one.
    """
    if options.processes > 1:
        raise InvalidArgument(
            f"--processes {options.processes}: this is one server, several are started by"
            " `penstock serve`"
        )
    request = stop if stop is not None else StopRequest()
    with contextlib.ExitStack() as stack:
        on_hangup = stack.enter_context(handled_signals(request, options)) if signals else []
        server = Server(options, request, logs, progress)
        on_hangup.append(server.hang_up)
        if signals:
            server.core.subscribe(settle)
        try:
            await server.start()
        except BaseException:
            await server.close()
            raise
        announce(server)
        if started is not None:
            started(server)
        telling = asyncio.create_task(_tell_when_loaded(server))
        try:
            return await server.run_until_stopped()
        finally:
            telling.cancel()


@contextlib.contextmanager
def handled_signals(
    request: StopRequest, options: ServerOptions
) -> Iterator[list[Callable[[], None]]]:
    """Signals of this process stop the server; the list is what is called on SIGHUP."""
    loop = asyncio.get_running_loop()
    on_hangup: list[Callable[[], None]] = []

    def hangup() -> None:
        for callback in on_hangup:
            callback()

    handlers: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGTERM: lambda: request.ask("SIGTERM", options.drain_delay),
        signal.SIGINT: lambda: request.ask("SIGINT"),
        signal.SIGHUP: hangup,
    }
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield on_hangup
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loops where it is installed, else Python's."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def quiet_grpc() -> None:
    """Keep grpc's own log lines off stderr; to be called before grpc is imported."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Nothing here forks, and the handlers for it cost every call.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")


# -- what is said at the start -------------------------------------------------------------------


def announce(server: Server) -> None:
    """Say where the server listens and how it is set up."""
    o = server.options
    for address in server.grpc_addresses:
        _log.info("penstock %s: gRPC on %s", __version__, address)
    if server.http_address is not None:
        _log.info("HTTP on http://%s", server.http_address)
    if server.metrics_port is not None:
        _log.info("metrics on http://%s:%d/metrics", o.metrics_address, server.metrics_port)
    announce_setup(server)


def announce_setup(server: Server) -> None:
    """Say how the server is set up."""
    o = server.options
    _log.info(
        "messages of any size up to 2 GiB, %d MiB of requests in flight; keepalive %g s / %g s, "
        "pings at most every %g s",
        server.services.budget.limit >> 20,
        o.grpc_keepalive_time / 1000,
        o.grpc_keepalive_timeout / 1000,
        o.grpc_http2_min_recv_ping_interval_without_data / 1000,
    )
    if o.grpc_restricted_protocol:
        restricted = read_restrictions(o.grpc_restricted_protocol)
        _log.info("restricted protocols: %s", describe_restrictions(restricted))
    if server.authority is not None:
        _announce_callers(server)
    if server.cache is not None:
        _log.info(
            "a response cache of %d bytes for models that enable it", server.cache.limit_bytes
        )
    if o.allow_http and o.http_restricted_api:
        restricted = read_restrictions(o.http_restricted_api, HTTP)
        _log.info("restricted over HTTP: %s", describe_restrictions(restricted))
    if o.http_off:
        _log.info("gRPC only: %s", o.http_off)
    if o.ignored:
        flags = ", ".join(f"--{name}" for name in o.ignored)
        _log.warning("flags that have no effect here: %s", flags)


def _announce_callers(server: Server) -> None:
    _log.info("callers have to be known: %r", server.authority)
    encrypted = server.options.grpc_use_ssl or server.options.grpc_use_ssl_mutual
    if not encrypted and not all(map(_stays_here, server.grpc_addresses)):
        _log.warning("tokens travel readable: without --grpc-use-ssl, something else must encrypt")


def _stays_here(address: str) -> bool:
    return address.startswith(("unix:", "127.", "localhost:", "[::1]"))


async def _tell_when_loaded(server: Server) -> None:
    try:
        await server.loaded()
    except Exception:
        # The server has said why, and is on its way down.
        return
    for line in model_table(server.core.index()):
        _log.info("%s", line)
    _log.info("ready" if server.is_ready() else "not ready: see the models above")


def model_table(entries: Sequence[ModelIndexEntry]) -> list[str]:
    """One line for each version: name, version, state, reason."""
    if not entries:
        return ["the model repository is empty"]
    rows = [("model", "version", "state", "reason")]
    rows += [(e.name, e.version or "-", e.state.value or "-", e.reason) for e in entries]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        "  ".join(
            (*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3])
        ).rstrip()
        for row in rows
    ]


def _threads_left() -> bool:
    """Whether a model loads, executes or stops although the server is gone."""
    busy = [thread for thread in threading.enumerate() if thread.name.startswith(_BUSY_THREADS)]
    for thread in busy:
        thread.join(_LAST_JOIN_S)
    return any(thread.is_alive() for thread in busy)
