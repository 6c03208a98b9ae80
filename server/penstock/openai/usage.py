"""How many tokens a request took, OpenAI's `usage`, and how long, in `metrics` where that is asked
for.
"""

from collections.abc import Iterable
from typing import Any

from penstock.generative.answers import Answer, Times
from penstock.openai.completion_request import StreamWish
from penstock_runtime.request import InferResponse

_MS = 1e6


class Usage:
    """Counts the tokens of a request of one prompt or of several, while its answers come."""

    def __init__(self) -> None:
        self._prompts: dict[int, tuple[int, int | None]] = {}
        self._outputs: dict[tuple[int, int], int] = {}
        self._times: dict[int, Times] = {}

    def add(self, prompt: int, answer: Answer) -> None:
        """Count a response to one of the prompts; numbers are totals so far."""
        if answer.prompt_tokens or prompt not in self._prompts:
            self._prompts[prompt] = answer.prompt_tokens, answer.cached_tokens
        for choice in answer.choices:
            self._outputs[prompt, choice.index] = choice.output_tokens
        if answer.times is not None:
            self._times[prompt] = answer.times

    def forget_outputs(self) -> None:
        """Of tokens that were made but not wanted nothing is told."""
        self._outputs.clear()

    def whole(self, wish: StreamWish) -> dict[str, Any]:
        """What the document of a whole answer says of it."""
        return {"usage": self.document()} | self._metrics(wish)

    def last(self, wish: StreamWish) -> dict[str, Any]:
        """The same for the last piece of a stream, which has both only where they are wanted."""
        return ({"usage": self.document()} if wish.usage else {}) | self._metrics(wish)

    def document(self) -> dict[str, Any]:
        """The tokens, as an object."""
        prompt = sum(tokens for tokens, _ in self._prompts.values())
        output = sum(self._outputs.values())
        cached = [c for _, c in self._prompts.values() if c is not None]
        return {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": sum(cached)} if cached else None,
        }

    def _metrics(self, wish: StreamWish) -> dict[str, Any]:
        """Times in milliseconds. Of several prompts: the first token of all, the longest wait, the
        mean gap, and all of the device's time and its price. None for a model that does not tell.
        """
        if not wish.metrics:
            return {}
        times = list(self._times.values())
        if not times:
            return {"metrics": None}
        told = {
            "time_to_first_token_ms": min(t.ttft_ns for t in times) / _MS,
            "queue_time_ms": max(t.queue_ns for t in times) / _MS,
            "mean_itl_ms": sum(t.itl_mean_ns for t in times) / len(times) / _MS,
            "compute_time_ms": sum(t.compute_ns for t in times) / _MS,
        }
        return {
            "metrics": {name: round(ms, 3) for name, ms in told.items()}
            | {"cost": sum(t.cost for t in times)}
        }


def input_usage(responses: Iterable[InferResponse]) -> dict[str, int]:
    """The tokens that a model read which makes none, as far as it tells."""
    counts = (response.output("num_input_tokens") for response in responses)
    total = sum(int(count.numpy().sum()) for count in counts if count is not None)
    return {"prompt_tokens": total, "total_tokens": total}
