"""An instance whose model is in a process of its own: it lives, dies and lives again, and says so.

All of that is done by the thread of the instance: nobody else waits for a process.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from penstock_runtime.backends.base import ModelSource, Placement
from penstock_runtime.config_reader import config_to_dict
from penstock_runtime.errors import FailureReason, InstanceDied, Internal, PenstockError
from penstock_runtime.isolation.backoff import Backoff
from penstock_runtime.isolation.desk import ServerDesk
from penstock_runtime.isolation.frames import Frame, Kind
from penstock_runtime.isolation.life import Life, hello
from penstock_runtime.isolation.server_reports import ToldEngine
from penstock_runtime.isolation.settings import Settings
from penstock_runtime.isolation.tasks import OpenTasks
from penstock_runtime.isolation.values import text_of

_log = logging.getLogger("penstock.model")
_LOOK_S = 0.05
FORMS = ("batch", "stream", "requests")
Reason = Callable[[], bool]


def _never() -> bool:
    return False


def _nothing() -> None:
    return


class Keeper:
    """Keeps a process for one instance; `form` is what kind of executable there is in it."""

    def __init__(self, source: ModelSource, placement: Placement, settings: Settings) -> None:
        self.source = source
        self.placement = placement
        self.settings = settings
        self.form = ""
        self.restarts = 0
        # A sequence that has begun in one process does not go on in the next.
        self._stateful = source.config.sequence_batching is not None
        self._life: Life | None = None
        self._tasks: OpenTasks | None = None
        self._settled = False
        self._trying = False
        self._closing = threading.Event()
        self._backoff = Backoff(settings.failed_starts)
        self._memory: dict[str, int] = {}
        self._engine = ToldEngine(source, placement.name)
        self._give_up: Reason = _never
        self._on_death: Callable[[], None] = _nothing
        self._warm: Callable[[], None] = _nothing

    # -- what is told of it ------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the process is there, warm, and its model says nothing else."""
        life = self._life
        return life is not None and life.alive and self._settled and life.says_ready

    @property
    def pid(self) -> int | None:
        """The process; None while there is none."""
        life = self._life
        return life.process.pid if life is not None and life.alive else None

    def memory_bytes(self) -> Mapping[str, int]:
        """What the model says that it holds."""
        return dict(self._memory)

    # -- its lives ---------------------------------------------------------------------------------

    def supervise(
        self, give_up: Reason, on_death: Callable[[], None], warm: Callable[[], None]
    ) -> None:
        """See `backends.base.Supervised`."""
        self._give_up, self._on_death, self._warm = give_up, on_death, warm

    def begin(self) -> None:
        """The first life; raises what kept it from beginning."""
        self._start()
        self._backoff.started(time.monotonic())
        self._settled = True

    @property
    def hopeless(self) -> bool:
        """Whether nobody will try again."""
        return self._backoff.hopeless

    def revive(self, give_up: Reason = _never) -> bool:
        """See to it that there is a process, warm; False if there is none, and no hope, or whoever
        waits has given up.
        """
        while not self._alive():
            until = time.monotonic() + self._backoff.delay_s
            while (rest := until - time.monotonic()) > 0:
                if self._no_more(give_up):
                    return False
                self._closing.wait(min(rest, _LOOK_S))
            if self._no_more(give_up):
                return False
            self._try()
        return True

    def _no_more(self, give_up: Reason) -> bool:
        return self._closing.is_set() or self.hopeless or self._give_up() or give_up()

    def _alive(self) -> bool:
        life = self._life
        if life is None:
            return False
        if life.alive:
            return True
        # Its process has been reaped before another takes its place.
        life.death()
        self._backoff.died(time.monotonic())
        self._life, self._settled = None, False
        return False

    def _try(self) -> None:
        self._trying = True
        try:
            self._start()
            self._warm()
        except PenstockError as error:
            self._failed(error.message)
        except Exception:
            _log.exception("%s could not be warmed up", self.placement.name)
            self._failed("its warm-up failed")
        else:
            self._backoff.started(time.monotonic())
            self._settled = True
            self.restarts += 1
            _log.warning("%s is back: process %s", self.placement.name, self.pid)
        finally:
            self._trying = False

    def _failed(self, why: str) -> None:
        life, self._life = self._life, None
        if life is not None:
            life.close()
        self._backoff.failed()
        _log.error(
            "%s could not be started again (%r): %s", self.placement.name, self._backoff, why
        )

    def _start(self) -> None:
        """A process with the model in it. Raises the model's own failure to load."""
        config, name = self.source.config, self.placement.name
        made: list[OpenTasks] = []

        def desk(life: Life) -> ServerDesk:
            made.append(OpenTasks(life))
            return ServerDesk(life, made[0], self, self.source, name, self._engine)

        life = Life(config.name, name, self.settings, desk, self._died)
        try:
            with life.question() as question:
                question.ask(Kind.HELLO, self._hello())
                frame = question.answer(self._look_at_start)
        except BaseException:
            # It has told why, or it is at something that nobody needs.
            life.kill()
            raise
        form = text_of(frame.note.get("form"))
        if form not in FORMS or self.form not in ("", form):
            life.close()
            raise Internal(f"{name} became of another kind: {form[:32]!r}, was {self.form!r}")
        self.form, self._life, self._tasks = form, life, made[0]
        if self._closing.is_set():
            # Whoever closed did so before there was anything to close.
            life.kill()
            raise Internal(f"{name} is not needed any more")
        self._memory = _sizes(frame)

    def _look_at_start(self) -> None:
        if self._closing.is_set() or self._give_up():
            raise Internal(f"{self.placement.name} is not needed any more")

    def _hello(self) -> dict[str, Any]:
        source, place, services = self.source, self.placement, self.source.services
        calls = services.calls if services is not None else None
        return hello(
            "load",
            config_to_dict(source.config),
            version=source.version,
            directory=str(source.directory),
            root=str(source.root),
            pickle=source.allow_pickle,
            beat=min(self.settings.heartbeat_s / 4, 0.5),
            placement=[place.name, place.kind, place.device_id],
            services=services is not None,
            calls=calls.content if calls is not None else None,
            reading=services is not None and services.reading is not None,
        )

    def _died(self) -> None:
        self._on_death()

    # -- for executions ----------------------------------------------------------------------------

    def living(self, given_up: Reason = _never) -> tuple[Life, OpenTasks]:
        """The process, that an execution may begin; waited for if it is just coming back.

        InstanceDied if it does not.
        """
        life, tasks = self._life, self._tasks
        if life is None or not life.alive:
            # What warms a process up does not get another one for it.
            if self._trying or self._stateful or not self.revive(given_up):
                raise self.gone()
            life, tasks = self._life, self._tasks
        assert life is not None
        assert tasks is not None
        return life, tasks

    def gone(self) -> InstanceDied:
        """The error of a request that met no process."""
        return InstanceDied(
            f"the process of model '{self.source.config.name}' ({self.placement.name}) has ended"
            " and is not there again",
            reason="INSTANCE_DIED",
            failure=FailureReason.BACKEND,
            scheduled=True,
        )

    def finalize(self) -> None:
        """Let the model end what it has begun."""
        life = self._life
        if life is None or not life.alive:
            return
        until = time.monotonic() + _FINALIZE_S

        def look() -> None:
            if time.monotonic() > until:
                life.accuse(f"did not finalize within {_FINALIZE_S:.0f} s")

        life.closing = True
        try:
            with life.question() as question:
                question.ask(Kind.FINALIZE, {})
                question.answer(look)
        except PenstockError as error:
            _log.warning("%s: %s", self.placement.name, error.message)

    def close(self) -> None:
        """End the process."""
        self._closing.set()
        life, self._life = self._life, None
        if life is not None:
            life.close()


# Together with what a process is given to end, less than an instance is waited for.
_FINALIZE_S = 3.0


def _sizes(frame: Frame) -> dict[str, int]:
    told = frame.note.get("memory")
    if not isinstance(told, dict):
        return {}
    return {
        name[:64]: size
        for name, size in list(told.items())[:64]
        if type(size) is int and 0 <= size < 1 << 62
    }
