"""Compiles the grammars of structured answers off the engine's step, and keeps the last ones.

A grammar that is no good fails the future of its own request only. The compiler's limits bound how
long it takes and how large it gets; it holds no lock of the interpreter meanwhile.
"""

import logging
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from penstock_runtime.errors import (
    Internal,
    InvalidArgument,
    PenstockError,
    Unavailable,
    Unsupported,
)
from penstock_runtime.llm.grammar_matcher import Matcher
from penstock_runtime.llm.grammar_source import grammar_source, one_line
from penstock_runtime.llm.sampling_params import Structured
from penstock_runtime.llm.sequence import Grammar

WORKERS = 2
MAX_ENTRIES = 128
MAX_BYTES = 16 << 20
MAX_PENDING = 64
RETRY_AFTER_NS = 100_000_000
# About 20 ms to build, 15 ms and 3 ms for the lexer's and the parser's part of one mask.
_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_items_in_row=2_000,
    max_lexer_states=50_000,
    max_grammar_size=500_000,
    verbose_errors=False,
)

logger = logging.getLogger(__name__)


class GrammarTokenizer(Protocol):
    """What a grammar needs to know of a tokenizer."""

    vocab_size: int
    eos_token_ids: tuple[int, ...]
    special_ids: frozenset[int]

    @property
    def backend(self) -> Any:
        """The tokenizer of the `tokenizers` library."""

    def piece(self, token: int) -> str | None:
        """A token as it is in the vocabulary."""


@dataclass(frozen=True, slots=True)
class GrammarStats:
    """`size` is the text in bytes of the `entries` that are kept."""

    entries: int
    size: int
    pending: int
    hits: int
    misses: int
    failures: int


class Grammars:
    """The grammars of one model. `vocab_size` is that of its logits."""

    def __init__(
        self,
        tokenizer: GrammarTokenizer,
        vocab_size: int,
        *,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self._vocab_size = max(vocab_size, tokenizer.vocab_size)
        self._eos = tuple(id_ for id_ in tokenizer.eos_token_ids if id_ < self._vocab_size)
        self._special = frozenset(tokenizer.piece(id_) or "" for id_ in tokenizer.special_ids)
        self._max_entries, self._max_bytes, self._max_pending = max_entries, max_bytes, max_pending
        self._lock = Lock()
        # As they are before any token, to be copied; the oldest use is first.
        self._kept: OrderedDict[Structured, LLMatcher] = OrderedDict()
        self._waiting: dict[Structured, list[Future[Grammar]]] = {}
        self._closed = False
        self._size = self._hits = self._misses = self._failures = 0
        self._pool = ThreadPoolExecutor(WORKERS, "grammar")
        # A large vocabulary takes a second, which loading need not wait for.
        self._tokenizer = self._pool.submit(self._read_vocabulary, tokenizer)

    def compile(self, structured: Structured) -> Future[Grammar]:
        """The grammar of a form, at its beginning. The future fails with InvalidArgument where the
        form is no good, and with Unavailable where too many are being compiled.
        """
        future: Future[Grammar] = Future()
        with self._lock:
            if self._closed:
                raise Unavailable("the model is being unloaded")
            kept = self._kept.get(structured)
            waiting = self._waiting.get(structured)
            full = len(self._waiting) >= self._max_pending
            if kept is not None:
                self._hits += 1
                self._kept.move_to_end(structured)
                future.set_result(self._begin(kept))
            elif waiting is not None:
                self._hits += 1
                waiting.append(future)
            elif not full:
                self._misses += 1
                self._waiting[structured] = [future]
                self._pool.submit(self._compile, structured)
        if kept is None and waiting is None and full:
            future.set_exception(
                Unavailable(
                    f"{self._max_pending} grammars are being compiled, expected fewer",
                    retry_after_ns=RETRY_AFTER_NS,
                )
            )
        return future

    def stats(self) -> GrammarStats:
        """How many there are, and how they came."""
        with self._lock:
            return GrammarStats(
                len(self._kept),
                self._size,
                len(self._waiting),
                self._hits,
                self._misses,
                self._failures,
            )

    def close(self) -> None:
        """Compile no more; what waits fails."""
        with self._lock:
            self._closed = True
            self._pool.shutdown(wait=False, cancel_futures=True)
            waiting = [future for futures in self._waiting.values() for future in futures]
            self._waiting.clear()
        for future in waiting:
            _fail(future, Unavailable("the model is being unloaded"))

    # -- in the pool -----------------------------------------------------------------------------

    def _compile(self, structured: Structured) -> None:
        try:
            matcher = self._made(structured)
        except PenstockError as error:
            self._failed(structured, error)
        except Exception:
            logger.exception("a grammar could not be compiled")
            self._failed(structured, Internal("the grammar could not be compiled"))
        else:
            self._succeeded(structured, matcher)

    def _made(self, structured: Structured) -> LLMatcher:
        name = structured.kind.value
        source = grammar_source(structured, self._special)
        matcher = LLMatcher(self._tokenizer.result(), source, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise InvalidArgument(f"{name}: {one_line(matcher.get_error())}")
        # One that nothing can follow shows only when it is asked what may.
        first = matcher.deep_copy()
        first.compute_bitmask()
        if first.is_error():
            raise InvalidArgument(f"{name}: nothing follows it: {one_line(first.get_error())}")
        return matcher

    def _succeeded(self, structured: Structured, matcher: LLMatcher) -> None:
        with self._lock:
            futures = self._waiting.pop(structured, [])
            begun = [(future, self._begin(matcher)) for future in futures]
            self._keep(structured, matcher)
        for future, grammar in begun:
            if future.set_running_or_notify_cancel():
                future.set_result(grammar)

    def _failed(self, structured: Structured, error: PenstockError) -> None:
        with self._lock:
            self._failures += 1
            futures = self._waiting.pop(structured, [])
        for future in futures:
            _fail(future, error)

    def _keep(self, structured: Structured, matcher: LLMatcher) -> None:
        self._kept[structured] = matcher
        self._size += len(structured.text.encode())
        while self._kept and (len(self._kept) > self._max_entries or self._size > self._max_bytes):
            oldest, _ = self._kept.popitem(last=False)
            self._size -= len(oldest.text.encode())

    def _begin(self, matcher: LLMatcher) -> Grammar:
        # The one that is kept is never moved on; copies do not share a state with it.
        return Matcher(matcher.deep_copy(), self._vocab_size, self._eos)

    def _read_vocabulary(self, tokenizer: GrammarTokenizer) -> LLTokenizer:
        ends = list(self._eos) or None
        try:
            return LLTokenizer(tokenizer.backend.to_str(), n_vocab=self._vocab_size, eos_token=ends)
        except Exception as error:  # whatever the library has against a vocabulary
            logger.warning("structured answers are not offered: %s", one_line(error))
            raise Unsupported(
                "structured answers are not offered: the tokenizer of the model is neither"
                " byte-level nor of byte fallback"
            ) from error


def _fail(future: Future[Grammar], error: PenstockError) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)
