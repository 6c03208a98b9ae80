"""The server of one of several processes: it stops when it is told to, hurries only when its
supervisor says so, and answers that one's questions.
"""

import asyncio
import contextlib
import logging
import signal
from dataclasses import replace

from penstock.app import announce_setup, handled_signals, model_table
from penstock.describe_queue import queues_json
from penstock.drain import StopRequest
from penstock.logs import Logs
from penstock.neighbours import LOGS, TRACES, Change, SupervisedNeighbours
from penstock.server import EXIT_FAILED, Server
from penstock.trace_config import of_process
from penstock.worker import end_now
from penstock.worker_channel import (
    CHANGE,
    CHANGED,
    HEALTH,
    HURRY,
    LISTENING,
    LIVE,
    LOADED,
    METRICS,
    QUEUES,
    READY,
    SETTLED,
    Assignment,
    WorkerEnd,
)
from penstock_runtime.backends.host import settle
from penstock_runtime.errors import InvalidArgument, PenstockError

_log = logging.getLogger("penstock.server")


class WorkerStop(StopRequest):
    """A request to stop that may be made any number of times.

    A service manager signals every process of a service, and the supervisor passes on what it gets
    itself: what comes twice is not meant twice.
    """

    __slots__ = ()

    def ask(self, reason: str, delay_s: float = 0.0, code: int = 0) -> None:
        """Ask for the end, on the loop."""
        if not self.wanted.is_set():
            StopRequest.ask(self, reason, delay_s, code)

    def hasten(self) -> None:
        """Do not wait for what is in flight; on the loop."""
        if self.wanted.is_set():
            StopRequest.ask(self, "the supervisor")


class WorkerServer:
    """Serves what it was assigned; one that replaces another opens its port when it is loaded."""

    def __init__(self, assignment: Assignment, end: WorkerEnd) -> None:
        self._assignment = assignment
        self._end = end
        self._stop = WorkerStop()

    async def serve(self, logs: Logs) -> int:
        """Serve until told to stop; the exit code."""
        options = self._assignment.options
        traces = of_process(options.trace_config, self._assignment.number)
        options = replace(options, trace_config=traces)
        try:
            with handled_signals(self._stop, options) as on_hangup:
                neighbours = SupervisedNeighbours(lambda text: self._end.tell(CHANGED + text))
                server = Server(options, self._stop, logs, neighbours=neighbours)
                on_hangup.append(server.hang_up)
                server.core.subscribe(settle)
                self._answer_questions(server, logs, neighbours)
                return await self._serve(server)
        finally:
            # All that is left is to write the log.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)

    async def _serve(self, server: Server) -> int:
        try:
            # Others serve in the meantime: whoever came here would be refused.
            await server.start(listen=self._assignment.first)
        except BaseException:
            await server.close()
            raise
        starting = asyncio.create_task(self._see_to_the_start(server))
        try:
            return await server.run_until_stopped()
        finally:
            starting.cancel()

    def _answer_questions(
        self, server: Server, logs: Logs, neighbours: SupervisedNeighbours
    ) -> None:
        loop = asyncio.get_running_loop()

        def answer(question: str) -> bytes:
            if question == METRICS:
                return server.metrics.render()
            if question == HEALTH:
                return health_of(server)
            if question == HURRY:
                # A loop that is closed has nothing left to hurry.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._stop.hasten)
                return b""
            if question == QUEUES:
                return queues_json(server.repository.models())
            if question.startswith(CHANGE):
                change(server, logs, Change.decode(question.removeprefix(CHANGE)))
                return b""
            if question.startswith(SETTLED):
                neighbours.settled(int(question.removeprefix(SETTLED)))
                return b""
            raise InvalidArgument(f"the question {question!r} is unknown")

        self._end.answer(answer, end_now)

    async def _see_to_the_start(self, server: Server) -> None:
        assigned = self._assignment
        speaks = assigned.first and assigned.number == 0
        if assigned.first:
            self._end.tell(LISTENING)
        if speaks:
            announce_setup(server)
        try:
            await server.loaded()
        except Exception:
            # The server has said why, and is on its way down.
            return
        for line in model_table(server.core.index()) if speaks else ():
            _log.info("%s", line)
        if self._stop.wanted.is_set() or not await self._listens(server):
            return
        self._end.tell(LOADED)

    async def _listens(self, server: Server) -> bool:
        if self._assignment.first:
            return True
        try:
            await server.listen()
        except PenstockError as error:
            _log.error("%s", error.message)
            self._stop.ask("no port", code=EXIT_FAILED)
            return False
        self._end.tell(LISTENING)
        return True


def change(server: Server, logs: Logs, told: Change) -> None:
    """Change settings as they were changed in another process; from any thread."""
    if told.kind == LOGS:
        logs.change(logs.settings.changed(told.given))
    elif told.kind == TRACES:
        server.tracer.change({name: tuple(texts) for name, texts in told.given.items()}, told.model)


def health_of(server: Server) -> bytes:
    """The words that are true of it, of live and ready; from any thread."""
    words = [word for word, on in ((LIVE, server.is_live()), (READY, server.is_ready())) if on]
    return " ".join(words).encode()
