"""What is asked of a model, and the request of the protocol that asks it.

A model is given, and asked for, only what its configuration declares: a model of Triton's vLLM
backend has fewer tensors than one of ours.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from penstock.generative.catalogue import SAMPLING
from penstock.rest.documents import write_document
from penstock_runtime.config import ModelConfig
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.request import InferRequest, RequestedOutput
from penstock_runtime.tensor import Tensor, object_array

CHOICE_OUTPUTS = ("text_output", "finish_reason", "stop_reason", "index")
COUNT_OUTPUTS = ("num_input_tokens", "num_output_tokens", "cached_tokens")
TIME_OUTPUTS = ("ttft_ns", "queue_ns", "itl_mean_ns", "compute_ns", "cost")
LOGPROBS, PROMPT_LOGPROBS = "logprobs", "prompt_logprobs"
CUMULATIVE = "cumulative_logprob"

_FLAGS: Mapping[str, str] = {
    name: f"return_{name}"
    for name in ("finish_reason", CUMULATIVE, LOGPROBS, "num_input_tokens", "num_output_tokens")
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """The one input that says what to go on from: text, token ids, or messages (JSON)."""

    name: str
    values: tuple[bytes, ...] | tuple[int, ...]

    @staticmethod
    def text(text: str) -> "Prompt":
        """A text."""
        return Prompt("text_input", (text.encode(),))

    @staticmethod
    def tokens(ids: Iterable[int]) -> "Prompt":
        """Ids of tokens."""
        return Prompt("input_ids", tuple(ids))

    @staticmethod
    def messages(document: Any) -> "Prompt":
        """A conversation, which the model's template makes a text of."""
        return Prompt("messages", (write_document(document),))

    @property
    def shown(self) -> str:
        """The text itself; "" for another kind of prompt."""
        return str(self.values[0], "utf-8") if self.name == "text_input" else ""  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt, how to go on from it, and what to tell of that; `repeat` has the model put the
    prompt before a whole answer.
    """

    prompt: Prompt
    sampling: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = False
    outputs: tuple[str, ...] = CHOICE_OUTPUTS
    repeat: bool = False


def make_request(question: Question, config: ModelConfig, identity: str = "") -> InferRequest:
    """The request; InvalidArgument if the model takes no such prompt."""
    outputs = [name for name in question.outputs if config.find_output(name) is not None]
    wanted: dict[str, tuple[Any, ...]] = {question.prompt.name: question.prompt.values}
    wanted[SAMPLING] = (sampling_text(question.sampling).encode(),)
    wanted["stream"] = (question.stream,)
    wanted["exclude_input_in_output"] = (not question.repeat,)
    wanted |= {_FLAGS[name]: (True,) for name in outputs if name in _FLAGS}
    return bare_request(config, wanted, outputs, identity, required=question.prompt.name)


def bare_request(
    config: ModelConfig,
    inputs: Mapping[str, tuple[Any, ...]],
    outputs: Iterable[str],
    identity: str = "",
    *,
    required: str = "",
) -> InferRequest:
    """A request with those of the inputs that the model declares, one row of each."""
    if required and config.find_input(required) is None:
        raise InvalidArgument(f"model '{config.name}' takes no '{required}'")
    tensors = tuple(
        _tensor(config, name, values)
        for name, values in inputs.items()
        if config.find_input(name) is not None
    )
    asked = tuple(map(RequestedOutput, outputs))
    return InferRequest(config.name, tensors, id=identity, outputs=asked)


def _tensor(config: ModelConfig, name: str, values: tuple[Any, ...]) -> Tensor:
    declared = config.find_input(name)
    assert declared is not None
    kind = declared.data_type
    array = object_array(list(values)) if kind is DataType.BYTES else np.array(values, kind.numpy)
    rows = (1,) if config.max_batch_size > 0 else ()
    return Tensor(name, kind, (*rows, len(values)), array.reshape(*rows, -1))


def sampling_text(sampling: Mapping[str, Any]) -> str:
    """Sampling parameters as JSON; InvalidArgument for a number that JSON does not have, as one is
    that was written with too large an exponent.
    """
    try:
        text = json.dumps(sampling, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise InvalidArgument("a number among the sampling parameters is too large") from None
    # Half a surrogate pair is no text.
    return text.encode(errors="replace").decode()
