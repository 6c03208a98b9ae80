"""The answer of a generative model as it comes: its choices, why each ended, and how long it took,
measured here and as the server tells it.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from penstock.client.result import InferResult

_NS = 1_000_000_000
_MS = 1_000_000
_TOLD = (
    *("num_input_tokens", "cached_tokens"),
    *("ttft_ns", "queue_ns", "itl_mean_ns", "compute_ns"),
)


@dataclass(frozen=True, slots=True)
class Delta:
    """What was added to one choice; `logprobs` has an object for each token, if asked for."""

    index: int
    text: str
    finish_reason: str = ""
    stop_reason: str = ""
    logprobs: tuple[dict[str, Any], ...] = ()

    def document(self) -> dict[str, Any]:
        """The same as JSON."""
        said: dict[str, Any] = {"index": self.index, "text": self.text}
        for name in ("finish_reason", "stop_reason", "logprobs"):
            if value := getattr(self, name):
                said[name] = value
        return said


@dataclass(slots=True)
class Choice:
    """One of the texts that were asked for, as far as it has come."""

    text: str = ""
    finish_reason: str = ""
    stop_reason: str = ""
    tokens: int | None = None
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        """Go on by a delta."""
        self.text += delta.text
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.stop_reason = delta.stop_reason or self.stop_reason
        self.logprobs += delta.logprobs

    def document(self, index: int) -> dict[str, Any]:
        """The same as JSON."""
        whole = Delta(index, self.text, self.finish_reason, self.stop_reason, tuple(self.logprobs))
        return whole.document()


class Answer:
    """Everything that has come of one request. Times are taken as responses are read."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._began = clock()
        self._first: int | None = None
        self._last = self._began
        self._first_tokens = 0
        self._responses = 0
        self.choices: dict[int, Choice] = {}
        self.told: dict[str, int] = {}
        """What the server said of tokens and times, by the names of its outputs."""

    def read(self, result: InferResult) -> Iterator[Delta]:
        """The deltas of one response, after they are counted in."""
        self._last = self._clock()
        deltas = read_deltas(result)
        self._count(result, deltas)
        if self._first is None and any(delta.text or delta.finish_reason for delta in deltas):
            self._first, self._first_tokens = self._last, self.tokens
        yield from deltas

    def _count(self, result: InferResult, deltas: list[Delta]) -> None:
        self._responses += bool(deltas)
        counts = _integers(result, "num_output_tokens")
        for position, delta in enumerate(deltas):
            choice = self.choices.setdefault(delta.index, Choice())
            choice.add(delta)
            if position < len(counts):
                choice.tokens = counts[position]
        for name in _TOLD:
            # A delta that comes before a time is known may say 0.
            if (said := _integers(result, name)) and (said[0] or name not in self.told):
                self.told[name] = said[0]

    @property
    def counted(self) -> bool:
        """Whether the server says how many tokens came; else responses are counted."""
        return any(choice.tokens is not None for choice in self.choices.values())

    @property
    def tokens(self) -> int:
        """How many tokens (or responses) have come."""
        if self.counted:
            return sum(choice.tokens or 0 for choice in self.choices.values())
        return self._responses

    @property
    def total_s(self) -> float:
        """From the request to the last response."""
        return (self._last - self._began) / _NS

    @property
    def ttft_ms(self) -> float | None:
        """From the request to the first text, in milliseconds."""
        return None if self._first is None else (self._first - self._began) / _MS

    @property
    def rate(self) -> float | None:
        """Tokens a second after those of the first response; of a whole answer, over all."""
        if self._first is not None and self._last > self._first:
            return (self.tokens - self._first_tokens) / ((self._last - self._first) / _NS)
        return self.tokens / self.total_s if self.total_s else None

    @property
    def whole(self) -> bool:
        """Whether all of it came at once."""
        return self._responses <= 1

    def document(self) -> dict[str, Any]:
        """Counts and times as JSON; times in milliseconds."""
        server = {f"{name[:-3]}_ms": ns / _MS for name, ns in self.told.items() if "_ns" in name}
        counts = {name: n for name, n in self.told.items() if "_ns" not in name}
        client = {
            "ttft_ms": self.ttft_ms,
            "total_ms": self.total_s * 1e3,
            "tokens_per_s": self.rate,
        }
        return {
            "usage": counts | {"num_output_tokens": self.tokens},
            "client": {
                name: round(value, 3) for name, value in client.items() if value is not None
            },
            "server": {name: round(value, 3) for name, value in server.items()},
        }


def read_deltas(result: InferResult) -> list[Delta]:
    """What a response adds, choice by choice."""
    texts = _texts(result, "text_output")
    indices = _integers(result, "index") or list(range(len(texts)))
    ended, stopped = _texts(result, "finish_reason"), _texts(result, "stop_reason")
    logprobs = _texts(result, "logprobs")
    return [
        Delta(index, text, _at(ended, i), _at(stopped, i), _read_logprobs(_at(logprobs, i)))
        for i, (index, text) in enumerate(zip(indices, texts, strict=False))
    ]


def _read_logprobs(text: str) -> tuple[dict[str, Any], ...]:
    try:
        tokens = json.loads(text) if text else []
    except ValueError:
        return ()
    return tuple(each for each in tokens if isinstance(each, dict)) if tokens else ()


def _texts(result: InferResult, name: str) -> list[str]:
    if name not in result:
        return []
    return [item.decode(errors="replace") for item in result[name].reshape(-1).tolist()]


def _integers(result: InferResult, name: str) -> list[int]:
    return [int(item) for item in result[name].reshape(-1).tolist()] if name in result else []


def _at(values: list[str], position: int) -> str:
    return values[position] if position < len(values) else ""
