"""How many tokens a request took: OpenAI's `usage`."""

from collections.abc import Iterable
from typing import Any

from penstock.generative.answers import Answer
from penstock_runtime.request import InferResponse


class Usage:
    """Counts the tokens of a request of one prompt or of several, while its answers come."""

    def __init__(self) -> None:
        self._prompts: dict[int, tuple[int, int | None]] = {}
        self._outputs: dict[tuple[int, int], int] = {}

    def add(self, prompt: int, answer: Answer) -> None:
        """Count a response to one of the prompts; numbers are totals so far."""
        if answer.prompt_tokens or prompt not in self._prompts:
            self._prompts[prompt] = answer.prompt_tokens, answer.cached_tokens
        for choice in answer.choices:
            self._outputs[prompt, choice.index] = choice.output_tokens

    def forget_outputs(self) -> None:
        """Of tokens that were made but not wanted nothing is told."""
        self._outputs.clear()

    def document(self) -> dict[str, Any]:
        """As an object."""
        prompt = sum(tokens for tokens, _ in self._prompts.values())
        output = sum(self._outputs.values())
        cached = [c for _, c in self._prompts.values() if c is not None]
        return {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": sum(cached)} if cached else None,
        }


def input_usage(responses: Iterable[InferResponse]) -> dict[str, int]:
    """The tokens that a model read which makes none, as far as it tells."""
    counts = (response.output("num_input_tokens") for response in responses)
    total = sum(int(count.numpy().sum()) for count in counts if count is not None)
    return {"prompt_tokens": total, "total_tokens": total}
