"""The engine of one instance: plan a step, compute it, choose the tokens, tell the scribe.

Its thread is the only one that computes. Requests come and go from any thread, under a lock that is
never held while a step is computed, so that a caller that gives up gets its blocks back at once.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence

from penstock_runtime.errors import Internal, PenstockError
from penstock_runtime.llm.adapter_gate import ADAPTER, AdapterGate
from penstock_runtime.llm.admission import cannot_grow, deadline_passed
from penstock_runtime.llm.continuous_batcher import ContinuousBatcher
from penstock_runtime.llm.endings import Failed, accepted, end_of, engine_ended
from penstock_runtime.llm.engine_seams import Proposer, RowResult, StepWatcher, Teller
from penstock_runtime.llm.generation import Choice, Generation, News
from penstock_runtime.llm.metering import Meter
from penstock_runtime.llm.roster import BatcherStats
from penstock_runtime.llm.sequence import Grammar, Phase
from penstock_runtime.llm.sequence import Sequence as Tokens
from penstock_runtime.llm.step import StepPlan
from penstock_runtime.llm.stepping import Step, Steps

_log = logging.getLogger("penstock.llm")

# An instance whose steps fail so often in a row is not healthy, whatever is asked of it.
_MOST_FAILURES = 3
# How long the engine sleeps when there is nothing that it may plan.
_IDLE_S = 1.0
GRAMMAR = "grammar"


def _nothing() -> None:
    """What is done before the first step where there is nothing to prepare."""


class Engine:
    """Generates for the requests of one instance; `prepare` is called in its thread first."""

    def __init__(
        self,
        name: str,
        steps: Steps,
        batcher: ContinuousBatcher,
        watcher: StepWatcher,
        eos_token_ids: Collection[int],
        proposer: Proposer | None = None,
        prepare: Callable[[], None] = _nothing,
        gate: AdapterGate | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._steps = steps
        self._batcher = batcher
        self._watcher = watcher
        self._eos = frozenset(eos_token_ids)
        self._proposer = proposer
        self._prepare = prepare
        self._gate = gate
        self._clock = clock
        self._teller: Teller | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False
        # Set under the lock: from then on nothing that is queued would ever be computed.
        self._over = False
        self._failures = 0
        self._meter = Meter(batcher.limits.max_batched_tokens)
        # Launched, and not asked for: the next step is planned meanwhile.
        self._flying: Step | None = None
        # The next is not launched ahead: the last was lost on its way.
        self._careful = False
        # Sequences that ended since the last step: their state is the engine's thread's to drop.
        self._gone: list[Tokens] = []
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, teller: Teller) -> None:
        """Begin; what is generated is told there."""
        self._teller = teller
        self._thread.start()

    def stop(self) -> None:
        """End after the step that is computed now."""
        with self._lock:
            self._stopped = self._over = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def healthy(self) -> bool:
        """Whether it can be expected to generate."""
        return self._failures < _MOST_FAILURES

    @property
    def lost(self) -> str:
        """How its GPU was lost to this process; nothing as long as it was not."""
        return self._steps.lost

    def stats(self) -> BatcherStats:
        """What runs, what waits, and how full the cache is."""
        with self._lock:
            return self._batcher.stats()

    # -- requests: any thread --------------------------------------------------------------------

    def submit(self, generation: Generation) -> None:
        """Queue all sequences of a request, or raise what refuses it, and then queue none."""
        for choice in generation.choices:
            choice.sequence.ready = not choice.holds
        with self._lock:
            if self._over:
                raise engine_ended(self.lost)
            # What is known of the rate may be wrong: where nothing waits, it is tried.
            rate = self._meter.rate if self._batcher.stats().waiting else 0.0
            self._batcher.add_all(generation.sequences, self._clock(), rate)
        if self._gate is not None:
            self._gate.enter(choice for choice in generation.choices if ADAPTER in choice.holds)
        self._wake.set()

    def end(self, choices: Sequence[Choice]) -> None:
        """Nothing more is wanted of these: their blocks are free from now on."""
        with self._lock:
            self._finish(choices)
        self._wake.set()

    def release(self, choice: Choice, hold: str, grammar: Grammar | None = None) -> None:
        """One thing less that keeps a sequence from being planned."""
        with self._lock:
            if grammar is not None:
                choice.sequence.grammar = grammar
            choice.holds.discard(hold)
            choice.sequence.ready = not choice.holds
        self._wake.set()

    def _finish(self, choices: Sequence[Choice]) -> None:
        for choice in choices:
            if choice.sequence.phase is not Phase.FINISHED:
                self._batcher.finish(choice.sequence)
                self._gone.append(choice.sequence)

    # -- the loop --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._prepare()
            while not self._stopped:
                self._wake.clear()
                if not self.step():
                    self._wake.wait(self._idle_s())
            self._land(self._flying)
        except Exception:
            # A defect of the engine's, not of a request: nobody may wait for it any more.
            _log.exception("%r died", self)
            self._failures = _MOST_FAILURES
            self._abandon_all(Internal("the engine of the model died", scheduled=True))

    def _idle_s(self) -> float:
        """How long there may be nothing to do."""
        with self._lock:
            deadline = self._batcher.next_deadline()
        if deadline is None:
            return _IDLE_S
        return min(max((deadline - self._clock()) / 1e9, 0.0), _IDLE_S)

    def _abandon_all(self, error: PenstockError) -> None:
        with self._lock:
            self._over = True
            sequences = self._batcher.sequences
        for sequence in sequences:
            self._fail(sequence, error)

    def step(self) -> bool:
        """Compute one step; False if there was nothing to compute. Where a step can be on its way
        while the next is planned, this one is launched before the last is taken in.
        """
        began = self._clock()
        self._expire()
        self._forget()
        self._admit()
        self._propose()
        last, self._flying = self._flying, None
        plan = self._plan(last)
        step = self._launch(plan, last, began) if plan.rows else None
        # What is launched behind a step that is lost is computed from nothing.
        if not self._land(last) or step is None:
            return last is not None or bool(plan.stuck)
        if step.drawn is None:
            self._take_in(step, self._steps.results(step))
        else:
            self._flying = step
        return True

    def _launch(self, plan: StepPlan, last: Step | None, began: int) -> Step:
        careful, self._careful = self._careful, False
        return Step(plan, began) if careful else self._steps.launch(plan, last, began)

    def _plan(self, last: Step | None) -> StepPlan:
        with self._lock:
            if last is not None:
                self._batcher.foresee(last.plan)
            plan = self._batcher.plan(self._clock())
        # Whoever is stuck while a step is on its way may have ended with it.
        for sequence in plan.stuck if last is None else ():
            self._fail(sequence, cannot_grow(sequence, self._batcher.pool.capacity))
        return plan

    def _land(self, step: Step | None) -> bool:
        """Take in a step that was on its way, if one was; False where it is lost."""
        if step is None:
            return True
        try:
            results = self._steps.results(step)
        except Exception:
            # It is planned again, and computed such that what breaks it is found.
            _log.exception("a step of %d sequences was lost", len(step.plan.rows))
            self._careful = True
            with self._lock:
                self._batcher.take_back(step.plan)
            return False
        self._take_in(step, results)
        return True

    def _take_in(self, step: Step, results: Sequence[RowResult]) -> None:
        # Of a step in which others were computed, none that failed says anything of the engine.
        lost = all(isinstance(result, Failed) for result in results)
        self._failures = self._failures + 1 if lost else 0
        plan, now = step.plan, self._clock()
        spent = self._meter.take(plan, step.began_ns, now)
        news = self._settle(plan, results, now)
        if news:
            self._tell().put(news)
        self._watcher.stepped(plan, spent, accepted(plan, results))
        if self.lost:
            _log.critical("%s has lost its GPU: %s", self._thread.name, self.lost)
            self._failures = _MOST_FAILURES
            self._stopped = True
            self._abandon_all(engine_ended(self.lost))

    def _expire(self) -> None:
        """End those whose time is over, whoever else may do so."""
        now = self._clock()
        with self._lock:
            late = self._batcher.expired(now)
        for sequence in late:
            self._fail(sequence, deadline_passed(sequence, now))

    def _admit(self) -> None:
        """Let those be planned that have waited for their adapter."""
        if self._gate is None:
            return
        ready, failed = self._gate.admit()
        for choice in ready:
            self.release(choice, ADAPTER)
        for choice, error in failed:
            self._tell().fail(choice.generation, error)

    def _propose(self) -> None:
        if self._proposer is None:
            return
        with self._lock:
            running = self._batcher.running
        try:
            self._proposer.propose(running)
        except Exception:
            # Without a guess all is as it would be with one, but slower.
            _log.exception("nothing could be guessed")
            for sequence in running:
                sequence.drafts = []
                self._proposer.forget(sequence)

    def _settle(self, plan: StepPlan, results: Sequence[RowResult], now: int) -> list[News]:
        """Take in what was chosen; what there is to tell of it."""
        news: list[News] = []
        kept: list[list[int]] = []
        for row, result in zip(plan.rows, results, strict=True):
            if row.sequence.phase is Phase.FINISHED:
                # Whatever comes behind its end is nobody's.
                kept.append([])
                continue
            choice: Choice = row.sequence.owner  # type: ignore[assignment] # whose it is
            end, error = end_of(row, result, self._eos)
            kept.append(end.tokens)
            choice.prompt_logprobs += result.prompt_logprobs
            if error is not None:
                self._tell().fail(choice.generation, error)
            elif end.tokens or end.reason:
                news.append(end.news(choice, result.logprobs, now))
        with self._lock:
            self._batcher.update(plan, kept)
            self._finish([item.choice for item in news if item.reason])
        return news

    # -- what goes wrong -------------------------------------------------------------------------

    def _fail(self, sequence: Tokens, error: PenstockError) -> None:
        choice: Choice = sequence.owner  # type: ignore[assignment] # whose it is
        self._tell().fail(choice.generation, error)

    def _forget(self) -> None:
        with self._lock:
            gone, self._gone = self._gone, []
        for sequence in gone:
            self._steps.forget(sequence)
            if self._gate is not None:
                self._gate.forget(sequence)
            if self._proposer is not None:
                self._proposer.forget(sequence)

    def _tell(self) -> Teller:
        assert self._teller is not None
        return self._teller

    def __repr__(self) -> str:
        return f"<Engine {self._thread.name}, {self._batcher!r}>"
