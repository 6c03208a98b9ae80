"""A request for completions, taken apart: one question for each prompt."""

from dataclasses import dataclass
from typing import Any

from penstock.generative.fields import Fields, token_ids
from penstock.generative.question import (
    CHOICE_OUTPUTS,
    COUNT_OUTPUTS,
    CUMULATIVE,
    LOGPROBS,
    PROMPT_LOGPROBS,
    TIME_OUTPUTS,
    Prompt,
    Question,
)
from penstock.openai.sampling import MOST_CHOICES, check_offered, read_sampling
from penstock.rest.documents import expect_text, kind_of

MOST_PROMPTS = 256
MOST_TOKENS = (1 << 31) - 1
MOST_LOGPROBS = 1 << 20
"""How many a model gives is for the model to say."""


@dataclass(frozen=True, slots=True)
class StreamWish:
    """Whether an answer is to come in pieces, and whether they end with what it took; `metrics`
    asks of any answer how long it took.
    """

    stream: bool = False
    usage: bool = False
    metrics: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """What a model is asked for so that this can be told."""
        return TIME_OUTPUTS if self.metrics else ()


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """What is asked; `n` of `best_of` choices are wanted for each prompt. With `echo` they begin
    with the prompt, and with `bare` they are nothing else.
    """

    questions: tuple[Question, ...]
    wish: StreamWish
    n: int = 1
    best_of: int = 1
    logprobs: int | None = None
    echo: bool = False
    bare: bool = False
    prompt_logprobs: bool = False


def read_completion(fields: Fields, adapter: str = "") -> CompletionRequest:
    """What a request asks; InvalidArgument names the field that is wrong."""
    check_offered(fields)
    wish = read_wish(fields)
    n = fields.whole("n", 1, MOST_CHOICES, 1) or 1
    best_of = fields.whole("best_of", n, MOST_CHOICES, n) or n
    if best_of > n and wish.stream:
        fields.refuse("best_of", "is more than 'n', and the best are not known in a stream")
    echo = fields.flag("echo")
    most = fields.whole("max_tokens", 0 if echo else 1, MOST_TOKENS)
    logprobs = fields.whole("logprobs", 0, MOST_LOGPROBS)
    sampling = read_sampling(fields, adapter) | {"n": best_of}
    if most is not None:
        # A model makes one token at least; where none is wanted it is not told.
        sampling["max_tokens"] = max(most, 1)
    if most == 0:
        # To tell the token that is not wanted from the prompt before it.
        sampling["logprobs"] = 0
    told = "prompt_logprobs" in sampling
    if logprobs is not None:
        sampling["logprobs"] = logprobs
        if echo:
            sampling.setdefault("prompt_logprobs", logprobs)
    outputs = (*_outputs(sampling, best_of > n), *wish.outputs)
    prompts = read_prompts(fields)
    if echo and wish.stream and any(prompt.name == "input_ids" for prompt in prompts):
        fields.refuse("echo", "is not offered for token ids in a stream")
    questions = tuple(
        Question(prompt, sampling, wish.stream, outputs, echo and not prompt.shown)
        for prompt in prompts
    )
    return CompletionRequest(questions, wish, n, best_of, logprobs, echo, most == 0, told)


def read_wish(fields: Fields) -> StreamWish:
    """Whether the answer is to come in pieces."""
    stream = fields.flag("stream")
    options = fields.within("stream_options")
    if options.document and not stream:
        fields.refuse("stream_options", "is given, but 'stream' is not true")
    return StreamWish(stream, options.flag("include_usage"), fields.flag("include_metrics"))


def read_prompts(fields: Fields, name: str = "prompt", most: int = MOST_PROMPTS) -> list[Prompt]:
    """A text, token ids, or an array of either."""
    value = fields.get(name)
    if isinstance(value, str):
        return [Prompt.text(fields.text(name))]
    if not isinstance(value, list) or not value:
        found = "empty" if value == [] else kind_of(value)
        fields.refuse(name, f"is {found}, expected a string, token ids, or an array of either")
    if type(value[0]) is int:
        return [Prompt.tokens(token_ids(value, fields.name(name)))]
    if len(value) > most:
        fields.refuse(name, f"has {len(value)} entries, expected at most {most}")
    return [_prompt(fields, f"{name}[{index}]", each) for index, each in enumerate(value)]


def _prompt(fields: Fields, name: str, value: Any) -> Prompt:
    if isinstance(value, str):
        return Prompt.text(expect_text(value, f"'{fields.name(name)}'"))
    if not isinstance(value, list) or not value:
        found = "empty" if value == [] else kind_of(value)
        fields.refuse(name, f"is {found}, expected a string or token ids")
    return Prompt.tokens(token_ids(value, fields.name(name)))


def _outputs(sampling: dict[str, Any], choosing: bool) -> tuple[str, ...]:
    more = [name for name in (LOGPROBS, PROMPT_LOGPROBS) if name in sampling]
    return (*CHOICE_OUTPUTS, *COUNT_OUTPUTS, *more, *((CUMULATIVE,) if choosing else ()))
