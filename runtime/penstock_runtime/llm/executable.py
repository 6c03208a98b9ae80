"""A language model as an instance executes it: requests go in, and answer themselves."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Protocol

from penstock_runtime.backends.base import RequestExecutable, RequestTask
from penstock_runtime.errors import Internal, PenstockError
from penstock_runtime.llm.engine import GRAMMAR
from penstock_runtime.llm.generation import Choice, Generation
from penstock_runtime.llm.preparing import Preparer
from penstock_runtime.llm.sampling_params import Structured
from penstock_runtime.llm.scribe import Scribe
from penstock_runtime.llm.sequence import Grammar

_log = logging.getLogger("penstock.llm")


class GeneratingEngine(Protocol):
    """What generates for one instance."""

    @property
    def healthy(self) -> bool:
        """Whether it can be expected to generate."""

    @property
    def lost(self) -> str:
        """How its GPU was lost to this process; nothing as long as it was not."""

    def submit(self, generation: Generation) -> None:
        """Queue a request, or raise what refuses it."""

    def end(self, choices: Sequence[Choice]) -> None:
        """Nothing more is wanted of these."""

    def release(self, choice: Choice, hold: str, grammar: Grammar | None = None) -> None:
        """One thing less that keeps a sequence from being planned."""

    def stop(self) -> None:
        """End after what is computed now."""


Compile = Callable[[Structured], "Future[Grammar]"]


class GenerativeExecutable(RequestExecutable):
    """One instance of a language model. `refused` is told of requests that are refused, `compile_`
    makes grammars, `left` ends what else there is of the instance.
    """

    def __init__(
        self,
        engine: GeneratingEngine,
        scribe: Scribe,
        preparer: Preparer,
        compile_: Compile,
        refused: Callable[[], None],
        left: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._scribe = scribe
        self._preparer = preparer
        self._compile = compile_
        self._refused = refused
        self._left = left

    @property
    def ready(self) -> bool:
        """Whether its steps do not all fail."""
        return self._engine.healthy

    @property
    def lost(self) -> str:
        """As its engine found it."""
        return self._engine.lost

    def execute_requests(self, tasks: Sequence[RequestTask]) -> None:
        """Queue them; each is answered on its own, also with what is wrong with it."""
        for task in tasks:
            try:
                self._accept(task)
            except PenstockError as error:
                self._refused()
                task.fail(error)
            except Exception as error:
                _log.exception("a request could not be prepared")
                task.fail(Internal(f"the request could not be prepared: {type(error).__name__}"))

    def _accept(self, task: RequestTask) -> None:
        told = self._preparer.of_prompt(task)
        if told is not None:
            task.send(told)
            return
        generation = self._preparer.prepare(task)
        self._engine.submit(generation)
        task.on_abandon(partial(self._scribe.abandon, generation))
        for choice in generation.choices:
            if GRAMMAR in choice.holds:
                self._bind(choice)

    def _bind(self, choice: Choice) -> None:
        """Let the sequence go once its grammar is there."""
        structured = choice.sequence.params.structured
        assert structured is not None
        try:
            compiling = self._compile(structured)
        except Exception as error:
            self._unbound(choice, error)
            return
        compiling.add_done_callback(partial(self._compiled, choice))

    def _compiled(self, choice: Choice, compiling: "Future[Grammar]") -> None:
        error = compiling.exception()
        if error is None:
            self._engine.release(choice, GRAMMAR, compiling.result())
        else:
            self._unbound(choice, error)

    def _unbound(self, choice: Choice, error: BaseException) -> None:
        """There is no grammar: the sequence, which waits for it, must not wait any longer."""
        if not isinstance(error, PenstockError):
            _log.error("a grammar could not be compiled", exc_info=error)
            error = Internal(f"the grammar could not be compiled: {type(error).__name__}")
        self._scribe.fail(choice.generation, error)

    def finalize(self) -> None:
        """Nothing more comes; what has come is generated to its end by then."""

    def close(self) -> None:
        """End the engine's threads, and let go of the model."""
        self._engine.stop()
        self._scribe.stop()
        self._left()
