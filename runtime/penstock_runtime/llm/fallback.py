"""Generates text with a model that does not run packed: one text at a time, by transformers' own
generate(), token by token. Knows nothing of pages, and no more of sampling than generate() has.
"""

import logging
import queue
import threading
from collections.abc import Iterator
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from penstock_runtime.backends.failure import execution_failure
from penstock_runtime.backends.lost_device import lost_device
from penstock_runtime.errors import PenstockError
from penstock_runtime.llm.causal_model import LoadedCausalModel
from penstock_runtime.llm.sampling_params import DEFAULT_MAX_TOKENS, SamplingParams

_log = logging.getLogger("penstock.llm")
# How many tokens may wait for whoever takes them before generate() waits too.
AHEAD = 64
WAIT_S = 0.1


class Stream(BaseStreamer, StoppingCriteria):  # type: ignore[misc]
    """Tokens from the thread that generates to the one that takes them; `cancel` ends the first at
    its next token.
    """

    def __init__(self, n_prompt: int) -> None:
        self._left = n_prompt
        self._tokens: queue.Queue[int | PenstockError | None] = queue.Queue(AHEAD)
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether nobody takes the tokens any more."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Generate no more than the token that is being computed."""
        self._cancelled.set()

    def put(self, value: torch.Tensor) -> None:
        """generate() has these tokens; the first of all are the prompt."""
        for token in value.flatten().tolist():
            if self._left:
                self._left -= 1
            else:
                self._give(token)

    def end(self) -> None:
        """generate() has ended; what it raised, if anything, comes after."""

    def close(self, error: PenstockError | None = None) -> None:
        """No more tokens come."""
        self._give(error)

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        """Whether generate() is to stop, for each row."""
        stop = self._cancelled.is_set()
        return torch.full((input_ids.shape[0],), stop, device=input_ids.device, dtype=torch.bool)

    def _give(self, item: int | PenstockError | None) -> None:
        while not self._cancelled.is_set():
            try:
                self._tokens.put(item, timeout=WAIT_S)
            except queue.Full:
                continue
            break

    def __iter__(self) -> Iterator[int]:
        while True:
            item = self._tokens.get()
            if isinstance(item, PenstockError):
                raise item
            if item is None:
                return
            yield item


class FallbackRunner:
    """A model that generates one text at a time. Of a text, the next token is asked for by the
    thread that takes it; between two texts nothing is kept.
    """

    def __init__(self, model: LoadedCausalModel) -> None:
        self.loaded = model
        self._turn = threading.Lock()
        self.lost = ""
        """How the GPU was lost to this process; nothing as long as it was not."""

    def stream(
        self,
        tokens: list[int],
        params: SamplingParams,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> Iterator[int]:
        """The tokens that follow a prompt, up to `max_tokens` (else those of the parameters) or an
        end of sequence, which is given too. Closing the iterator ends the generation at its next
        token.
        """
        stream = Stream(len(tokens))
        max_tokens = max_tokens or params.max_tokens or DEFAULT_MAX_TOKENS
        thread = threading.Thread(
            target=self._generate,
            args=(stream, tokens, params, max_tokens, seed),
            name="penstock-generate",
            daemon=True,
        )
        thread.start()
        try:
            yield from stream
        finally:
            stream.cancel()
            thread.join()

    def _generate(
        self,
        stream: Stream,
        tokens: list[int],
        params: SamplingParams,
        max_tokens: int,
        seed: int,
    ) -> None:
        ids = torch.tensor([tokens], device=self.loaded.device)
        # The random numbers of transformers are the process's, so texts take turns.
        while not self._turn.acquire(timeout=WAIT_S):
            if stream.cancelled:
                return
        try:
            with torch.inference_mode():
                torch.manual_seed(seed)
                self.loaded.model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    streamer=stream,
                    stopping_criteria=StoppingCriteriaList([stream]),
                    max_new_tokens=max_tokens,
                    **_settings(self.loaded, params, max_tokens),
                )
        except Exception as error:
            self.lost = self.lost or lost_device(error)
            stream.close(execution_failure(error, type(self.loaded.model).__name__))
        else:
            stream.close()
        finally:
            self._turn.release()


def _settings(model: LoadedCausalModel, params: SamplingParams, max_tokens: int) -> dict[str, Any]:
    """The sampling parameters in generate()'s words."""
    known = frozenset() if params.ignore_eos else model.eos_token_ids
    ends = sorted(known | set(params.stop_token_ids))
    settings: dict[str, Any] = {
        "do_sample": not params.greedy,
        "eos_token_id": ends or None,
        "pad_token_id": ends[0] if ends else 0,
        "min_new_tokens": min(params.min_tokens, max_tokens) or None,
        "repetition_penalty": params.repetition_penalty,
    }
    if not params.greedy:
        settings |= {
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "min_p": params.min_p or None,
            "typical_p": params.typical_p,
        }
    return settings
