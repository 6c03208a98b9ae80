"""The text of one generated sequence, delta by delta, up to a stop string.

It must not know how tokens are chosen: who ends a sequence by a stop token or its length pushes
what counts, then flushes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock_runtime.llm.increments import Increments
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.stops import StopMatcher


class IncrementalTokenizer(Protocol):
    """What makes text of tokens, one by one."""

    def increments(self, skip_special: bool = True, prompt: Sequence[int] = ()) -> Increments:
        """The text of tokens that follow a prompt."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What became sure: `text` goes to the caller, `kept` of the pushed tokens belong to the
    answer. Where a stop string ended it, `reason` is "stop" and `stop_reason` that string.
    """

    text: str
    kept: int = 0
    finished: bool = False
    reason: str = ""
    stop_reason: str = ""


class TextStream:
    """Makes text of a sequence's tokens: never half a character, nothing of what may become a stop
    string, which may only end after `min_tokens` tokens. All deltas together are the tokenizer's
    text of all tokens (as exactly as `increments` says), up to the stop string.

    `spaces_between_special_tokens` changes nothing: a tokenizer's decoder puts none there.
    """

    def __init__(
        self, tokenizer: IncrementalTokenizer, params: SamplingParams, prompt: Sequence[int] = ()
    ) -> None:
        self._increments = tokenizer.increments(params.skip_special_tokens, prompt)
        self._stops = StopMatcher(params.stop, params.include_stop_str_in_output)
        self._min_tokens = params.min_tokens
        self._count = 0
        self._stop_reason = ""

    @property
    def finished(self) -> bool:
        """Whether a stop string has ended the text."""
        return bool(self._stop_reason)

    def push(self, tokens: Sequence[int]) -> TextDelta:
        """Go on by these tokens. Nothing counts after a stop string."""
        parts: list[str] = []
        for kept, token in enumerate(tokens if not self.finished else (), 1):
            self._count += 1
            text = self._increments.push(token)
            match = self._stops.push(text, self._count > self._min_tokens)
            parts.append(match.text)
            if match.stop is not None:
                self._stop_reason = match.stop
                return TextDelta("".join(parts), kept, True, "stop", match.stop)
        return TextDelta("".join(parts), 0 if self.finished else len(tokens), self.finished)

    def flush(self) -> TextDelta:
        """What was held back, now that the sequence has ended; a character without its end is
        U+FFFD.
        """
        if self.finished:
            return TextDelta("", 0, True)
        return TextDelta(
            self._stops.push(self._increments.flush(), False).text + self._stops.flush()
        )

    def __repr__(self) -> str:
        return f"<TextStream {self._count} tokens, holds {self._stops.held!r}>"
