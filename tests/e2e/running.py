"""A whole server on a loopback port, in this process, on an event loop in a thread of its own."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from tests.transports import chosen

from penstock.app import serve
from penstock.config import ServerOptions
from penstock.drain import StopRequest
from penstock.logs import Logs
from penstock.server import Server

MODELS = Path(__file__).parents[1] / "models"


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs: where, and what is inside."""

    target: str
    server: Server
    loop: asyncio.AbstractEventLoop

    @property
    def metrics_port(self) -> int:
        """The bound port of metrics and HTTP health."""
        port = self.server.metrics_port
        assert port is not None
        return port


class ServerThread:
    """Starts a server for these options, waits until its models are loaded, stops it by its
    drain. With `logs` its callers may see to them.
    """

    def __init__(self, settings: ServerOptions, logs: Logs | None = None) -> None:
        self._settings = settings
        self._logs = logs
        self._started: Future[Running] = Future()
        self._thread = threading.Thread(target=self._run, name="server-loop")
        self._stop = StopRequest()
        self.exit_code: int | None = None

    def __enter__(self) -> Running:
        self._thread.start()
        return self._started.result(60)

    def __exit__(self, *_: object) -> None:
        running = self._started.result()
        running.loop.call_soon_threadsafe(self._stop.ask, "end of test")
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert self.exit_code == 0

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                self.exit_code = runner.run(self._main())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            raise

    async def _main(self) -> int:
        loop = asyncio.get_running_loop()
        tasks = []

        async def tell(server: Server) -> None:
            await server.loaded()
            self._started.set_result(Running(server.grpc_addresses[0], server, loop))

        return await serve(
            self._settings,
            logs=self._logs,
            stop=self._stop,
            started=lambda server: tasks.append(asyncio.ensure_future(tell(server))),
        )


def options(repositories: Sequence[Path], **more: object) -> ServerOptions:
    """Options for a quiet server on free loopback ports."""
    settings: dict[str, object] = {
        "model_repository": tuple(str(path) for path in repositories),
        "grpc_address": ("127.0.0.1",),
        "grpc_port": 0,
        "transport": chosen(),
        "metrics_address": "127.0.0.1",
        "metrics_port": 0,
        "exit_on_error": False,
        **more,
    }
    return ServerOptions(**settings)  # type: ignore[arg-type]
