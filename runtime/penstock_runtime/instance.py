"""A model instance: one executable, one device, one thread that asks its scheduler for batches."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from penstock_runtime.backends.base import (
    AnyExecutable,
    Executable,
    LoadedModel,
    Placement,
    RequestExecutable,
    Staged,
    StreamingExecutable,
    Supervised,
)
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.batch_staging import staged_merge
from penstock_runtime.errors import Internal, PenstockError, Unavailable
from penstock_runtime.execution import Desk, execute_batch
from penstock_runtime.execution_alone import execute_alone
from penstock_runtime.execution_requests import HeldTasks, execute_requests
from penstock_runtime.execution_stream import execute_stream
from penstock_runtime.in_place import LentInstance
from penstock_runtime.loop_inbox import hold_news, release_news
from penstock_runtime.niceness import give_way
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.scheduling.answering import SupervisedScheduler, WorkScheduler
from penstock_runtime.scheduling.batch_scheduler import HANDFUL_NS, SHORT_NS, Work
from penstock_runtime.scheduling.gate import Gate
from penstock_runtime.scheduling.in_place_scheduler import InPlaceScheduler
from penstock_runtime.warmup import WarmupRequest, warm_up

_log = logging.getLogger("penstock.instance")

# How long an instance that was dismissed waits for what its model has not answered yet.
LEAVE_S = 60.0


def _nothing_more(_gate: Gate, **_how: bool) -> None:
    """Where an instance that was dismissed gets its work: that costs the others no question."""


class ModelInstance:
    """One instance of a model, and its thread; `on_end` is told when it asks for no more work."""

    def __init__(
        self,
        placement: Placement,
        loaded: LoadedModel,
        plan: BatchPlan,
        scheduler: WorkScheduler,
        statistics: ModelStatistics,
        warmups: tuple[WarmupRequest, ...] = (),
        gate: Gate | None = None,
        on_end: Callable[[Gate], None] | None = None,
    ) -> None:
        self.placement = placement
        self.gate = Gate() if gate is None else gate
        self._loaded = loaded
        self._scheduler = scheduler
        # Where work comes from, until the instance is to end.
        self._next_work: Callable[..., Any] = scheduler.next_work
        self._on_end = on_end
        self._warmups = warmups
        self._desk = Desk(placement.name, plan, scheduler, statistics)
        self._held = HeldTasks(scheduler.call_at)
        self._asked: RequestExecutable | Supervised | None = None
        self._lent: LentInstance | None = None
        self._dismissed = False
        self._restarts = 0
        self._ready = threading.Event()
        self._failure: PenstockError | None = None
        self._thread = threading.Thread(target=self._run, name=placement.name, daemon=True)

    def start(self) -> None:
        """Begin to make the executable, in the thread that will run it."""
        self._thread.start()

    def wait_ready(self) -> None:
        """Return once the instance is warm; raise what kept it from being so."""
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    @property
    def healthy(self) -> bool:
        """Whether the instance is there to execute, and its model says nothing else."""
        alive, asked = self._thread.is_alive() and self._failure is None, self._asked
        return alive and (asked is None or asked.ready)

    @property
    def name(self) -> str:
        """What it is called."""
        return self.placement.name

    @property
    def process(self) -> Supervised | None:
        """What is in a process of its own, if it is."""
        asked = self._asked
        return asked if isinstance(asked, Supervised) else None

    def dismiss(self) -> None:
        """End after what it executes now."""
        self._dismissed = True
        self._next_work = _nothing_more

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end, once its scheduler has been stopped; False if it did not."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def let_go(self) -> None:
        """The model is gone: what it has kept and not answered is answered UNAVAILABLE."""
        self._held.end()

    def _run(self) -> None:
        if self.placement.kind != "KIND_GPU":
            give_way()
        executable = self._prepare()
        asked: object = executable
        if isinstance(asked, RequestExecutable | Supervised):
            self._asked = asked
        if isinstance(asked, Supervised):
            self._supervise(asked)
        self._ready.set()
        if executable is None:
            self._leave()
            return
        try:
            self._work(executable)
        except Exception:
            # Not the model's fault, whose errors are answered: the instance is gone, and says so.
            _log.exception("instance %s died", self.placement.name)
            self._failure = Internal(f"instance '{self.placement.name}' died")
        finally:
            # What the last executions held back would otherwise never be told.
            release_news()
            # Before the model's own code is asked to end, which may take its time.
            self._leave()
            self._end(executable)

    def _end(self, executable: AnyExecutable) -> None:
        if isinstance(executable, RequestExecutable):
            if self._dismissed:
                # The model goes on with others: what this one has kept it may still answer.
                self._held.wait(LEAVE_S)
            executable.finalize()
            # Before the model is let go of, and with it what it would answer by.
            self._held.end()
            self._asked = None
        executable.close()

    def _supervise(self, process: Supervised) -> None:
        """Ask for work only while the process is there; whatever it is at, it is called away when
        the process ends.
        """
        scheduler = self._scheduler
        assert isinstance(scheduler, SupervisedScheduler)
        process.supervise(
            lambda: self._dismissed or scheduler.stopped,
            lambda: scheduler.dismiss(self.gate),
            lambda: self._warm_up(process),  # type: ignore[arg-type] # it is an executable as well
        )
        if not self._dismissed:
            self._next_work = partial(self._supervised_work, process, scheduler)
        # Dismissed in the meantime, it must not be forgotten.
        if self._dismissed:
            self._next_work = _nothing_more

    def _supervised_work(
        self,
        process: Supervised,
        scheduler: SupervisedScheduler,
        gate: Gate,
        *,
        several: bool = False,
    ) -> Any:
        """As the scheduler's; what is executed in another process is not so short that several
        should be in hand.
        """
        del several
        while True:
            if process.pid is None:
                scheduler.away(gate)
            # In this order: a process that ends from now on is noticed at the gate.
            scheduler.readmit(gate)
            if not process.revive():
                self._lose(scheduler)
                return None
            if process.restarts != self._restarts:
                # It may have ended and come back between two looks.
                self._restarts = process.restarts
                scheduler.away(gate)
            if self._dismissed:
                return None
            work = scheduler.next_work(gate)
            if work is not None or scheduler.stopped or self._dismissed:
                return work

    def _lose(self, scheduler: SupervisedScheduler) -> None:
        """The process does not come back, unless nobody wants it to."""
        if self._dismissed or scheduler.stopped:
            return
        name = self.placement.name
        self._failure = Unavailable(
            f"instance '{name}' has died, and did not start again", reason="INSTANCE_DIED"
        )
        _log.error("%s: nobody tries to start it again; load its model anew", name)
        refusal = "every instance of the model has died, and none could be started again"
        self._give_up(refusal, "INSTANCE_DIED")

    def _lose_device(self, lost: str) -> None:
        """Nothing can be executed on its GPU any more: others may have the work, who have not."""
        name = self.placement.name
        self._failure = Unavailable(
            f"instance '{name}' has lost its GPU: {lost}", reason="DEVICE_LOST"
        )
        _log.critical("%s has lost its GPU (%s): the server has to be started again", name, lost)
        self._give_up("every instance of the model has lost its GPU", "DEVICE_LOST")

    def _give_up(self, refusal: str, reason: str) -> None:
        """Ask for no more work; where this was the last instance, requests are refused so."""
        if isinstance(self._scheduler, SupervisedScheduler):
            error = Unavailable(refusal, reason=reason, scheduled=True)
            self._scheduler.lose(error, self.gate)

    def _warm_up(self, executable: AnyExecutable) -> None:
        for request in self._warmups:
            warm_up(executable, self._desk.plan, request)

    def _leave(self) -> None:
        if self._on_end is not None:
            self._on_end(self.gate)

    def _prepare(self) -> AnyExecutable | None:
        made: list[AnyExecutable] = []
        try:
            made.append(self._loaded.executable(self.placement))
            self._warm_up(made[0])
            self._stage(made[0])
            if isinstance(self._scheduler, InPlaceScheduler):
                self._lent = LentInstance(self._desk, made[0])  # type: ignore[arg-type] # judged there
            return made[0]
        except PenstockError as error:
            self._failure = error
        except Exception as error:
            _log.exception("instance %s failed to start", self.placement.name)
            self._failure = Internal(
                f"instance '{self.placement.name}' failed to start: {type(error).__name__}"
            )
        for executable in made:
            self._discard(executable)
        return None

    def _stage(self, executable: AnyExecutable) -> None:
        """Have inputs put together where the executable takes them, if it says where."""
        if isinstance(executable, Staged) and (deck := executable.deck) is not None:
            staged = staged_merge(self._desk.plan.config, deck, executable.tables)
            self._desk = replace(self._desk, staged=staged)

    def _discard(self, executable: AnyExecutable) -> None:
        """Give back what it holds, although it never served."""
        try:
            executable.close()
        except Exception:
            _log.exception("instance %s failed to close", self.placement.name)

    def _work(self, executable: AnyExecutable) -> None:
        if isinstance(executable, RequestExecutable):
            self._work_by_request(executable)
            return
        if self._lent is not None:
            self._work_lent(self._lent, executable)  # type: ignore[arg-type] # it has a function
            return
        streaming = isinstance(executable, StreamingExecutable)
        several = not streaming
        staged = executable if isinstance(executable, Staged) else None
        while (work := self._next_work(self.gate, several=several)) is not None:
            if streaming:
                execute_stream(self._desk, executable, work)  # type: ignore[arg-type]
            else:
                self._execute(executable, work)  # type: ignore[arg-type]
            # It holds the requests' bytes, and must not outlive its execution while idle.
            del work
            if staged is not None and staged.lost:
                self._lose_device(staged.lost)
                return

    def _work_by_request(self, executable: RequestExecutable) -> None:
        while (work := self._next_work(self.gate)) is not None:
            execute_requests(self._desk, executable, work, self._held)
            del work
            if executable.lost:
                self._lose_device(executable.lost)
                return

    def _work_lent(self, lent: LentInstance, executable: Executable) -> None:
        """Execute what nobody executes in place."""
        scheduler = self._scheduler
        assert isinstance(scheduler, InPlaceScheduler)
        scheduler.borrow(lent)
        try:
            while (work := self._next_work(self.gate, several=True)) is not None:
                with lent.own:
                    self._execute(executable, work)
                del work
        finally:
            scheduler.borrow(None)
            # Whoever executes it still is waited for: the executable is closed next.
            lent.own.acquire()

    def _execute(self, executable: Executable, work: Work) -> None:
        """Execute; the answers of several short executions wake their consumers together."""
        if self._scheduler.predictor.mean_ns < SHORT_NS:
            hold_news()
        else:
            # Nor does an answer wait for an execution that is not short.
            release_news()
        if isinstance(work, Batch):
            execute_batch(self._desk, executable, work)
        else:
            execute_alone(self._desk, executable, work)
        release_news(HANDFUL_NS)

    def __repr__(self) -> str:
        state = "healthy" if self.healthy else "dead"
        process = f", process {self.process.pid}" if self.process is not None else ""
        return f"<ModelInstance {self.placement.name} on {self.placement.device}, {state}{process}>"
