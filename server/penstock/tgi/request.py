"""TGI's `inputs` and `parameters` as a question to a model."""

import secrets
from dataclasses import dataclass
from typing import Any

from penstock.generative.fields import Fields
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

DEFAULT_MAX_NEW_TOKENS = 100
MOST_TOKENS, MOST_SEED = (1 << 31) - 1, (1 << 63) - 1
MOST_CHOICES, MOST_TOP = 128, 1 << 20

_AS_THEY_ARE = ("frequency_penalty", "repetition_penalty", "typical_p", "top_k", "top_p")
# TGI samples by what a request says, whatever a model's files recommend.
_NEUTRAL = {"repetition_penalty": 1.0, "top_k": 0, "top_p": 1.0}
# Any of these asks for sampling, whatever `do_sample` says.
_WARPERS = ("temperature", "top_k", "top_p", "typical_p")


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What is asked, and what of it is to be told."""

    question: Question
    details: bool = False
    prefill: bool = False
    full_text: bool = False
    best_of: int = 1
    top: int = 0
    seed: int | None = None


def read_generate(fields: Fields, adapter: str = "", *, stream: bool) -> GenerateRequest:
    """What a request asks; InvalidArgument names the parameter that is wrong."""
    if fields.get("inputs") is None:
        fields.refuse("inputs", "is not given, expected a text")
    parameters = fields.within("parameters")
    if parameters.flag("watermark"):
        parameters.refuse("watermark", "is not offered")
    sampled = parameters.flag("do_sample") or any(
        parameters.get(name) is not None for name in _WARPERS
    )
    best_of = parameters.whole("best_of", 1, MOST_CHOICES, 1) or 1
    if best_of > 1 and (stream or not sampled):
        other = "in a stream" if stream else "without 'do_sample', which gives one answer only"
        parameters.refuse("best_of", f"is {best_of}, expected 1 {other}")
    details, prefill = parameters.flag("details"), parameters.flag("decoder_input_details")
    if prefill and (stream or not details):
        other = "in a stream" if stream else "without 'details'"
        parameters.refuse("decoder_input_details", f"is not offered {other}")
    top = parameters.whole("top_n_tokens", 0, MOST_TOP) or 0
    parameters.whole("seed", 0, MOST_SEED)
    sampling = _sampling(parameters, sampled=sampled)
    if adapter:
        sampling.setdefault("adapter_id", adapter)
    if best_of > 1:
        sampling["n"] = best_of
    outputs: tuple[str, ...] = (*CHOICE_OUTPUTS, *COUNT_OUTPUTS)
    if not stream:
        outputs += TIME_OUTPUTS
    if stream or details:
        sampling["logprobs"] = top
        outputs += (LOGPROBS,)
    if prefill:
        sampling["prompt_logprobs"] = 0
        outputs += (PROMPT_LOGPROBS,)
    if best_of > 1:
        outputs += (CUMULATIVE,)
    question = Question(Prompt.text(fields.text("inputs")), sampling, stream, outputs)
    full = parameters.flag("return_full_text")
    return GenerateRequest(
        question, details, prefill, full, best_of, top, sampling.get("seed") if sampled else None
    )


def _sampling(parameters: Fields, *, sampled: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "max_tokens": parameters.whole("max_new_tokens", 1, MOST_TOKENS, DEFAULT_MAX_NEW_TOKENS),
        # TGI's texts end with what stopped them.
        "include_stop_str_in_output": True,
        **_NEUTRAL,
        **{n: parameters.get(n) for n in _AS_THEY_ARE if parameters.get(n) is not None},
        **_temperature(parameters, sampled=sampled),
    }
    stop = parameters.texts("stop")
    if stop:
        found["stop"] = stop
    truncate = parameters.whole("truncate", 1, MOST_TOKENS)
    if truncate is not None:
        found["truncate_prompt_tokens"] = truncate
    adapter = parameters.text("adapter_id")
    if adapter:
        found["adapter_id"] = adapter
    return found | _grammar(parameters.within("grammar"))


def _temperature(parameters: Fields, *, sampled: bool) -> dict[str, Any]:
    """How the next token is chosen: the likeliest, unless sampling is asked for; then the seed is
    told, so that the caller can have the same text again.
    """
    if not sampled:
        return {"temperature": 0.0}
    seed = parameters.whole("seed", 0, MOST_SEED)
    given = parameters.get("temperature")
    if given is not None and (isinstance(given, bool) or not isinstance(given, int | float)):
        parameters.refuse("temperature", "is no number")
    if given is not None and given <= 0:
        parameters.refuse("temperature", f"is {given}, expected more than 0")
    return {
        "temperature": 1.0 if given is None else given,
        "seed": secrets.randbits(63) if seed is None else seed,
    }


def _grammar(grammar: Fields) -> dict[str, Any]:
    """The form of the answer, as a sampling parameter."""
    if not grammar.document:
        return {}
    kind, value = grammar.text("type"), grammar.get("value")
    if kind == "json_schema" and isinstance(value, dict):
        kind, value = "json", value.get("schema", value)
    if kind not in ("json", "regex"):
        grammar.refuse("type", f"is {kind[:64]!r}, expected json, regex or json_schema")
    if value is None:
        grammar.refuse("value", "is not given")
    return {kind: value}
