"""A server in a thread of this process: for tests, notebooks and programs that bring their own
main loop.
"""

import asyncio
import threading
from types import TracebackType
from typing import Self

from penstock.app import loop_factory, quiet_grpc, serve
from penstock.config import ServerOptions
from penstock.drain import StopRequest
from penstock.server import Server
from penstock_runtime.errors import Unavailable
from penstock_runtime.repository.start_report import LoadProgress

START_TIMEOUT_S = 60.0


class BackgroundServer:
    """Serves while its `with` block runs; entered once the models of the start are loaded.

    With `wait_loaded=False` it is entered as soon as the ports are open.
    """

    def __init__(self, options: ServerOptions, *, wait_loaded: bool = True) -> None:
        self._options = options
        self._wait_loaded = wait_loaded
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="penstock-server", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: StopRequest | None = None
        self._error: BaseException | None = None
        self.server: Server | None = None
        self.exit_code: int | None = None

    @property
    def grpc_address(self) -> str:
        """The first address to call; one that listens everywhere is called on the loopback."""
        if self.server is None:
            raise Unavailable("the server has not been started")
        return self.server.grpc_addresses[0].replace("0.0.0.0:", "127.0.0.1:")

    @property
    def http_address(self) -> str:
        """host:port of the protocol over HTTP, which `allow_http=True` switches on."""
        if self.server is None or self.server.http_address is None:
            raise Unavailable("the server does not serve HTTP")
        return self.server.http_address.replace("0.0.0.0:", "127.0.0.1:")

    @property
    def metrics_address(self) -> str:
        """host:port of the metrics."""
        if self.server is None or self.server.metrics_port is None:
            raise Unavailable("the server serves no metrics")
        return f"127.0.0.1:{self.server.metrics_port}"

    def start(self) -> Self:
        """Start and wait; raises what prevented it."""
        quiet_grpc()
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S):
            raise TimeoutError(f"the server did not start within {START_TIMEOUT_S:g} s")
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def stop(self, timeout_s: float = 30.0) -> None:
        """Drain and end."""
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None and self._thread.is_alive():
            loop.call_soon_threadsafe(stop.ask, "end of the block")
        self._thread.join(timeout_s)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                self.exit_code = runner.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> int:
        self._loop = asyncio.get_running_loop()
        self._stop = StopRequest()
        return await serve(self._options, stop=self._stop, started=self._started)

    def _started(self, server: Server) -> None:
        self.server = server
        if not self._wait_loaded:
            self._ready.set()
            return
        asyncio.ensure_future(server.loaded()).add_done_callback(self._loaded)

    def _loaded(self, loading: "asyncio.Future[tuple[LoadProgress, ...]]") -> None:
        if not loading.cancelled():
            # Looked at here; the server itself acts on it.
            loading.exception()
        self._ready.set()
