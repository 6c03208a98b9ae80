"""The engine of a model that does not run packed: one text after the other, each token by token.

It has the face of `engine.Engine`, so that whoever asks need not know which one answers.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from typing import Protocol

from penstock_runtime.errors import Internal, InvalidArgument, PenstockError
from penstock_runtime.llm.admission import (
    Limits,
    Queue,
    deadline_passed,
    never_fits,
    queue_full,
)
from penstock_runtime.llm.endings import Chosen, cut, engine_ended, step_failure
from penstock_runtime.llm.engine_seams import StepWatcher, Teller
from penstock_runtime.llm.generation import Choice, Generation
from penstock_runtime.llm.roster import BatcherStats
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Grammar, Phase
from penstock_runtime.llm.step import Row, StepPlan

_log = logging.getLogger("penstock.llm")

# What only an engine that draws the tokens itself can do, by the parameters that ask for it.
_BEYOND = (
    "structured",
    "logprobs",
    "prompt_logprobs",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "presence_penalty",
    "frequency_penalty",
    "adapter",
)
_PLAIN = SamplingParams()


class TextRunner(Protocol):
    """Generates one text."""

    lost: str
    """How the GPU was lost to this process; nothing as long as it was not."""

    def stream(
        self, tokens: list[int], params: SamplingParams, max_tokens: int | None, seed: int
    ) -> Iterator[int]:
        """The tokens that follow a prompt; closing it ends the generation."""


class SerialEngine:
    """Generates for the requests of one instance, one answer at a time; `reason` is why no more."""

    def __init__(
        self,
        name: str,
        runner: TextRunner,
        limits: Limits,
        watcher: StepWatcher,
        eos_token_ids: Collection[int],
        reason: str,
        prepare: Callable[[], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._runner = runner
        self._limits = limits
        self._watcher = watcher
        self._ends = frozenset(eos_token_ids)
        self._reason = reason
        self._prepare = prepare
        self._clock = clock
        self._teller: Teller | None = None
        self._changed = threading.Condition()
        self._waiting: deque[Choice] = deque()
        self._running: Choice | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, teller: Teller) -> None:
        """Begin; what is generated is told there."""
        self._teller = teller
        self._thread.start()

    def stop(self) -> None:
        """End after the token that is computed now."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def healthy(self) -> bool:
        """Whether it can be expected to generate."""
        return self._thread.is_alive() or self._teller is None

    @property
    def lost(self) -> str:
        """How the GPU was lost to this process; nothing as long as it was not."""
        return self._runner.lost

    def stats(self) -> BatcherStats:
        """What runs and what waits; there is no cache."""
        with self._changed:
            waiting = [choice.sequence.n_prompt for choice in self._waiting]
            return BatcherStats(
                int(self._running is not None), len(waiting), 0, 0, 0, 0, 0, sum(waiting)
            )

    # -- requests: any thread --------------------------------------------------------------------

    def submit(self, generation: Generation) -> None:
        """Queue the answers of a request, or raise what refuses it."""
        self._check(generation.ask.params)
        sequences = generation.sequences
        for sequence in sequences:
            error = never_fits(sequence, self._limits, self._limits.max_model_len)
            if error is not None:
                raise error
        with self._changed:
            if self._stopped:
                raise engine_ended(self.lost)
            tokens = sum(choice.sequence.n_prompt for choice in self._waiting)
            refusal = queue_full(sequences, self._limits, Queue(len(self._waiting), tokens))
            if refusal is not None:
                raise refusal
            self._waiting.extend(generation.choices)
            self._changed.notify_all()

    def end(self, choices: Sequence[Choice]) -> None:
        """Nothing more is wanted of these."""
        with self._changed:
            for choice in choices:
                choice.sequence.phase = Phase.FINISHED
                if choice in self._waiting:
                    self._waiting.remove(choice)

    def release(self, choice: Choice, hold: str, grammar: Grammar | None = None) -> None:
        """There is nothing here that could keep a text from being generated."""
        del choice, hold, grammar

    def _check(self, params: SamplingParams) -> None:
        for name in _BEYOND:
            if getattr(params, name) != getattr(_PLAIN, name):
                raise InvalidArgument(
                    f"'{name}' cannot be had of this model, which generates one text at a time:"
                    f" {self._reason}",
                    scheduled=True,
                )

    # -- the loop --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._prepare()
            while not self.lost and (choice := self._next()) is not None:
                self._guarded(choice)
        finally:
            self._leave()

    def _guarded(self, choice: Choice) -> None:
        try:
            self._generate(choice)
        except PenstockError as error:
            self._tell().fail(choice.generation, error)
        except Exception as error:
            _log.exception("a text could not be generated")
            self._tell().fail(choice.generation, step_failure(error))
        with self._changed:
            self._running = None

    def _leave(self) -> None:
        """Nobody may wait for it any more, unless it was asked to end: then others answer."""
        with self._changed:
            asked, self._stopped = self._stopped, True
            left = list(self._waiting)
        died = Internal("the engine of the model died", scheduled=True)
        for choice in () if asked else left:
            self._tell().fail(choice.generation, engine_ended(self.lost) if self.lost else died)

    def _next(self) -> Choice | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            if self._stopped:
                return None
            self._running = self._waiting.popleft()
            # Here, so that nobody ends it in between.
            self._running.sequence.phase = Phase.RUNNING
            return self._running

    def _generate(self, choice: Choice) -> None:
        sequence = choice.sequence
        started = sequence.planned_ns = self._clock()
        tokens = self._runner.stream(
            list(sequence.tokens), sequence.params, sequence.max_tokens, sequence.seed
        )
        with closing(tokens):  # type: ignore[type-var] # a generator, which can be closed
            for token in tokens:
                if sequence.phase is Phase.FINISHED or self._stopped:
                    return
                started = self._take(choice, token, started)
                if sequence.deadline_ns is not None and started >= sequence.deadline_ns:
                    raise deadline_passed(sequence, started)
        if sequence.phase is not Phase.FINISHED:
            raise Internal("the model ended a text that was to go on", scheduled=True)

    def _take(self, choice: Choice, token: int, started: int) -> int:
        """Take a token in, and tell it; when that was."""
        sequence, now = choice.sequence, self._clock()
        row = Row(sequence, len(sequence.tokens) - 1, 1, 0, 1, True)
        end = cut(row, Chosen([token]), self._ends)
        sequence.tokens.append(token)
        choice.compute_ns += now - started
        if end.reason:
            sequence.phase = Phase.FINISHED
        self._tell().put([end.news(choice, (), now)])
        self._watcher.stepped(StepPlan((row,)), now - started, 0)
        return now

    def _tell(self) -> Teller:
        assert self._teller is not None
        return self._teller

    def __repr__(self) -> str:
        return f"<SerialEngine {self._thread.name}, {len(self._waiting)} wait>"
