"""Turns the tokens of every step into text, and sends it: the half of the engine that its device
need not wait for.

One thread of its own reads what the engine tells; one that is held back by a slow reader sends that
reader more at once instead of stopping the others.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from penstock_runtime.backends.base import SLOW_READER_S
from penstock_runtime.errors import Internal, PenstockError, ResourceExhausted
from penstock_runtime.llm.answers import Answers
from penstock_runtime.llm.generation import Choice, Generation, News
from penstock_runtime.loop_inbox import hold_news, release_news
from penstock_runtime.request import EMPTY

_log = logging.getLogger("penstock.llm")

# How often readers that had no room are looked at again.
_LOOK_S = 0.02
# Steps that may wait to be told; the engine goes no further ahead than that.
_MOST_STEPS = 64


class Watcher(Protocol):
    """Told of what becomes of requests."""

    def ended(self, generation: Generation, error: PenstockError | None) -> None:
        """The request has its last answer, or nobody waits for one."""

    def tokens(self, choice: Choice, count: int, now: int) -> None:
        """A choice got so many tokens."""

    def trace(self, generation: Generation) -> None:
        """The request is about to get its last answer."""


@dataclass(frozen=True, slots=True)
class _Fate:
    """What ends a request from outside: an error, or (None) that nobody waits any more."""

    generation: Generation
    error: PenstockError | None


class Scribe:
    """Tells callers what the engine generates. `end` is called with choices whose text has reached
    a stop string, and with the choices of requests that fail.

    Whoever ends a request, all that is told of it is told by the one thread, in order: nothing is
    lost between two that want to have the last word.
    """

    def __init__(
        self,
        answers: Answers,
        end: Callable[[Sequence[Choice]], None],
        watcher: Watcher,
        name: str = "scribe",
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._answers = answers
        self._end = end
        self._watcher = watcher
        self._clock = clock
        self._steps: queue.SimpleQueue[Sequence[News] | _Fate | None] = queue.SimpleQueue()
        self._ahead = threading.Semaphore(_MOST_STEPS)
        self._stalled: set[Generation] = set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to tell what is put."""
        self._thread.start()

    def put(self, news: Sequence[News]) -> None:
        """The news of one step; blocks while too many steps are untold."""
        self._ahead.acquire()
        self._steps.put(news)

    def abandon(self, generation: Generation) -> None:
        """The caller has given up: nothing more is told. From any thread; never blocks."""
        self._end(generation.choices)
        self._steps.put(_Fate(generation, None))

    def fail(self, generation: Generation, error: PenstockError) -> None:
        """End a request with an error, after what was put. From any thread; never blocks."""
        self._end(generation.choices)
        self._steps.put(_Fate(generation, error))

    def stop(self) -> None:
        """Tell what was put, and end."""
        self._steps.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def drain(self) -> None:
        """Tell what was put, in the calling thread: for one that was not started."""
        while not self._steps.empty():
            found = self._steps.get()
            if found is not None:
                self._handle(found)

    def _run(self) -> None:
        while True:
            try:
                found = self._steps.get(timeout=_LOOK_S if self._stalled else None)
            except queue.Empty:
                found = ()
            if found is None:
                return
            self._handle(found)

    def _handle(self, found: Sequence[News] | _Fate) -> None:
        try:
            if isinstance(found, _Fate):
                self._meet(found)
            else:
                self.tell(found)
        except Exception:
            # Whatever it was: others wait for what comes after it.
            _log.exception("what a step brought could not be told")
        finally:
            if not isinstance(found, _Fate) and found:
                self._ahead.release()

    def tell(self, news: Sequence[News]) -> None:
        """Take the news of one step in, and send what can be sent."""
        touched = dict.fromkeys(self._stalled)
        self._stalled.clear()
        for item in news:
            touched[item.choice.generation] = None
            self._guarded(item.choice.generation, partial(self._take_in, item))
        hold_news()
        try:
            for generation in touched:
                self._guarded(generation, partial(self._send, generation))
        finally:
            release_news()

    def _guarded(self, generation: Generation, work: Callable[[], None]) -> None:
        """Do this; whatever is wrong with it is wrong with one request only."""
        try:
            work()
        except PenstockError as error:
            self._fail(generation, error)
        except BaseException as error:  # a tokenizer's panic is no Exception
            _log.exception("an answer could not be told")
            text = f"the answer could not be told: {type(error).__name__}"
            self._fail(generation, Internal(text, scheduled=True))

    def _meet(self, fate: _Fate) -> None:
        generation = fate.generation
        if fate.error is not None:
            self._fail(generation, fate.error)
            return
        self._stalled.discard(generation)
        if not generation.over:
            generation.over = True
            self._watcher.ended(generation, None)

    def _fail(self, generation: Generation, error: PenstockError) -> None:
        if generation.over:
            return
        generation.over = True
        self._stalled.discard(generation)
        self._end(generation.choices)
        self._watcher.trace(generation)
        generation.task.fail(error)
        self._watcher.ended(generation, error)

    # -- in --------------------------------------------------------------------------------------

    def _take_in(self, news: News) -> None:
        choice = news.choice
        if choice.ended or choice.generation.over:
            return
        tokens, reason, stop_reason = news.tokens, news.reason, news.stop_reason
        # A token that ends the answer is no part of its text, unless that is asked for.
        silent = news.hidden and not choice.sequence.params.include_stop_str_in_output
        delta = choice.text.push(tokens[:-1] if silent else tokens)
        choice.say(delta.text)
        if delta.finished:
            reason, stop_reason, tokens = "stop", delta.stop_reason, tokens[: delta.kept]
            self._end([choice])
        elif reason:
            choice.say(choice.text.flush().text)
        self._count(choice, tokens, news)
        choice.finish_reason, choice.stop_reason = reason, stop_reason

    def _count(self, choice: Choice, tokens: list[int], news: News) -> None:
        choice.unsent_ids += tokens
        choice.n_tokens += len(tokens)
        logprobs = news.logprobs[: len(tokens)]
        choice.unsent_logprobs += logprobs
        choice.cumulative_logprob += sum(item.logprob for item in logprobs)
        if tokens:
            self._watcher.tokens(choice, len(tokens), news.at_ns)
            choice.first_ns = choice.first_ns or news.at_ns
            choice.last_ns = news.at_ns

    # -- out -------------------------------------------------------------------------------------

    def _send(self, generation: Generation) -> None:
        if generation.over:
            return
        if generation.task.abandoned:
            self._meet(_Fate(generation, None))
        elif generation.ask.streams:
            self._send_deltas(generation)
        elif generation.ended:
            self._finish(generation, generation.choices)

    def _send_deltas(self, generation: Generation) -> None:
        """One response for each choice that has something to say, while the reader has room: what
        it has none for waits, and others are not kept waiting.
        """
        ready = [choice for choice in generation.choices if _is_due(choice)]
        for place, choice in enumerate(ready, 1):
            if not generation.task.has_room:
                self._stall(generation)
                return
            generation.stalled_ns = 0
            if place == len(ready) and generation.ended:
                self._finish(generation, (choice,))
            else:
                self._send_one(generation, choice)

    def _send_one(self, generation: Generation, choice: Choice) -> None:
        outputs = self._answers.outputs(generation, (choice,))
        generation.task.send(outputs, EMPTY, last=False)

    def _finish(self, generation: Generation, choices: Sequence[Choice]) -> None:
        outputs = self._answers.outputs(generation, choices)
        self._watcher.trace(generation)
        generation.task.send(outputs, EMPTY, last=True)
        generation.over = True
        self._watcher.ended(generation, None)

    def _stall(self, generation: Generation) -> None:
        now = self._clock()
        generation.stalled_ns = generation.stalled_ns or now
        if now - generation.stalled_ns < SLOW_READER_S * 1e9:
            self._stalled.add(generation)
            return
        text = f"the reader of the stream took nothing for {SLOW_READER_S:.0f} s"
        self._fail(generation, ResourceExhausted(text, reason="SLOW_READER", scheduled=True))


def _is_due(choice: Choice) -> bool:
    """Whether a choice has something to say: text, enough tokens of it, or its end."""
    if choice.ended:
        return not choice.told_end
    enough = len(choice.unsent_ids) >= choice.sequence.params.stream_interval
    return bool(choice.unsent_text) and enough
