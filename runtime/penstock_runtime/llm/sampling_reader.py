"""Reads sampling parameters from JSON: vLLM's names, and those of OpenAI, TGI and TensorRT-LLM that
mean the same.

Unknown names are refused, so that a misspelt one is not silently without effect; null is as if the
name were not there. What concerns the response only (`details`, `return_full_text`) is its face's
business and is merely checked here.
"""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from types import MappingProxyType
from typing import Any

from penstock_runtime.errors import InvalidArgument, Violation
from penstock_runtime.llm.sampling_checks import (
    Check,
    biases,
    boolean,
    integer,
    number,
    only,
    refuse,
    refuse_field,
    strings,
    text,
    token_ids,
)
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.structured_reader import STRUCTURED_NAMES, read_structured

MAX_N = 128
MAX_LOGPROBS = 20
MAX_STOPS = 64
MAX_STOP_CHARACTERS = 1024
MAX_TOKEN_IDS = 1 << 18
MAX_BIASES = 1024
MAX_BIAS = 100.0
MAX_BAD_WORDS = 256
_INT32 = (1 << 31) - 1
# As vLLM: below it the softmax of float32 logits overflows.
_COLDEST = 0.01

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "max_completion_tokens": "max_tokens",
        "max_new_tokens": "max_tokens",
        "stop_words": "stop",
        "stop_sequences": "stop",
        "random_seed": "seed",
        "num_return_sequences": "n",
        "adapter_id": "adapter",
        "lora_name": "adapter",
        "top_n_tokens": "logprobs",
        "return_log_probs": "logprobs",
        "truncate": "truncate_prompt_tokens",
        "decoder_input_details": "prompt_logprobs",
    }
)
"""Other systems' names for the same."""

_NULL_MEANS_NONE = ("max_tokens", "seed", "logprobs", "prompt_logprobs", "allowed_token_ids")
_TRUSTED = "it comes from the metadata that the server trusts"
_NOT_OFFERED: Mapping[str, Check] = {
    "priority": only(0, why=_TRUSTED),
    "cache_salt": only("", why=_TRUSTED),
    "logprob_token_ids": only([], why="ask for logprobs"),
    "thinking_token_budget": only(why="ask for max_tokens"),
    "repetition_detection": only(False, why="ask for repetition_penalty"),
    "watermark": only(False, why="texts are not marked"),
    "use_beam_search": only(False, why="texts are sampled"),
    "early_stopping": only(False, why="texts are sampled"),
    "beam_width": only(1, why="texts are sampled, expected 1"),
    "length_penalty": only(1, 1.0, 0, 0.0, why="texts are sampled"),
    "detokenize": only(True, why="an answer has text"),
}
_FACES: Mapping[str, Check] = {"details": boolean, "return_full_text": boolean}
_OURS: Mapping[str, Check] = {
    "n": integer(1, MAX_N),
    "temperature": number(0, inf),
    "top_p": number(0, 1, over=True),
    "top_k": integer(-1, _INT32),
    "min_p": number(0, 1),
    "typical_p": number(0, 1, over=True),
    "seed": integer(-(1 << 63), (1 << 63) - 1),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "repetition_penalty": number(0, inf, over=True),
    "stop": strings(MAX_STOPS, MAX_STOP_CHARACTERS),
    "include_stop_str_in_output": boolean,
    "ignore_eos": boolean,
    "max_tokens": integer(0, _INT32),
    "min_tokens": integer(0, _INT32),
    "logprobs": integer(0, MAX_LOGPROBS),
    "prompt_logprobs": integer(0, MAX_LOGPROBS),
    "bad_words": strings(MAX_BAD_WORDS, MAX_STOP_CHARACTERS),
    "skip_special_tokens": boolean,
    "spaces_between_special_tokens": boolean,
    "truncate_prompt_tokens": integer(-1, _INT32),
    "skip_reading_prefix_cache": boolean,
    "stream_interval": integer(1, _INT32),
    "adapter": text(256),
}
_IDS = ("stop_token_ids", "allowed_token_ids", "logit_bias")
_HELPERS = ("do_sample", "best_of", "top_logprobs")
_WARMTH = ("temperature", "top_k", "top_p", "min_p", "typical_p")

NAMES = frozenset((*_OURS, *_IDS, *_HELPERS, *ALIASES, *_NOT_OFFERED, *_FACES, *STRUCTURED_NAMES))
"""All that a request may say."""

SWITCHES = frozenset(name for name, check in _OURS.items() if check is boolean) | {"do_sample"}
NUMBERS = frozenset(
    name
    for name in (*_OURS, *ALIASES, *_HELPERS)
    if ALIASES.get(name, name) not in SWITCHES | {"stop", "bad_words", "adapter"}
)
"""Those of them that are true or false, and those that are numbers."""


def read_sampling(
    document: Mapping[str, Any],
    base: SamplingParams | None = None,
    vocab_size: int | None = None,
    max_logprobs: int = MAX_LOGPROBS,
) -> SamplingParams:
    """The parameters that a document gives, over those of `base`; InvalidArgument names the field,
    its value and what was expected. Token ids are checked where the vocabulary's size is known.
    """
    base = base or SamplingParams()
    _check_names(document)
    given = _named(document)
    checks = {**_OURS, **_id_checks(vocab_size), **_logprob_checks(max_logprobs)}
    values = {name: checks[name](sent, value) for name, (sent, value) in given.items()}
    values |= {
        name: None for name in _NULL_MEANS_NONE if name in document and document[name] is None
    }
    if document.get("top_logprobs") is not None:
        top: int = integer(0, max_logprobs)("top_logprobs", document["top_logprobs"])
        values["logprobs"] = top
    _settle(values, document)
    structured = read_structured(document)
    if structured is not None:
        values["structured"] = structured
    return _agreed(replace(base, **values), document)


def _check_names(document: Mapping[str, Any]) -> None:
    for name, value in document.items():
        if name not in NAMES:
            _refuse_name(str(name))
        check = _NOT_OFFERED.get(name) or _FACES.get(name)
        if check is not None and value is not None:
            check(name, value)


def _refuse_name(name: str) -> None:
    near = difflib.get_close_matches(name[:64], NAMES, n=3, cutoff=0.75)
    hint = f"; did you mean {' or '.join(repr(one) for one in near)}?" if near else ""
    raise InvalidArgument(
        f"sampling parameter {name[:64]!r} is unknown{hint}",
        violations=(Violation(name[:64], "is unknown"),),
    )


def _named(document: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """What is given, by our names, each with the name that it was sent by."""
    given: dict[str, tuple[str, Any]] = {}
    for sent, value in document.items():
        name = ALIASES.get(sent, sent)
        if value is None or not (name in _OURS or name in _IDS):
            continue
        if name in given:
            refuse_field(sent, f"and '{given[name][0]}' say the same, expected one of them")
        given[name] = (sent, value)
    return given


def _id_checks(vocab_size: int | None) -> dict[str, Check]:
    return {
        "stop_token_ids": token_ids(MAX_BIASES, vocab_size),
        "allowed_token_ids": token_ids(MAX_TOKEN_IDS, vocab_size),
        "logit_bias": biases(MAX_BIASES, vocab_size, MAX_BIAS),
    }


def _logprob_checks(most: int) -> dict[str, Check]:
    """As vLLM's number, or as a switch, which OpenAI's chat and TGI have."""

    def check(field: str, value: object) -> int | None:
        if isinstance(value, bool):
            return 0 if value else None
        count: int = integer(0, most)(field, value)
        # TGI's number counts none as no logprobs.
        return None if field == "top_n_tokens" and not count else count

    return {"logprobs": check, "prompt_logprobs": check}


def _settle(values: dict[str, Any], document: Mapping[str, Any]) -> None:
    """Bring each value into the one form that the engine knows."""
    if values.get("top_k") == -1:
        values["top_k"] = 0
    if values.get("seed") == -1:
        values["seed"] = None
    if values.get("truncate_prompt_tokens") == 0:
        values["truncate_prompt_tokens"] = None
    if 0 < values.get("temperature", 0) < _COLDEST:
        values["temperature"] = _COLDEST
    if "logit_bias" in values:
        values["logit_bias"] = MappingProxyType(values["logit_bias"])
    _settle_sampling(values, document)


def _settle_sampling(values: dict[str, Any], document: Mapping[str, Any]) -> None:
    """As TGI: who does not sample, and names nothing that only matters for it, is greedy."""
    samples = document.get("do_sample")
    warm = any(document.get(name) is not None for name in _WARMTH)
    if samples is not None and not boolean("do_sample", samples) and not warm:
        values["temperature"] = 0.0


def _agreed(params: SamplingParams, document: Mapping[str, Any]) -> SamplingParams:
    """Check what one value says of another."""
    if params.max_tokens == 0 and params.prompt_logprobs is None:
        refuse("max_tokens", 0, "1 or more, or prompt_logprobs, which may be all that is wanted")
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        refuse("min_tokens", params.min_tokens, f"at most max_tokens, {params.max_tokens}")
    if params.allowed_token_ids == ():
        refuse("allowed_token_ids", [], "at least one token id")
    best = document.get("best_of")
    if best is not None and integer(1, MAX_N)("best_of", best) not in (1, params.n):
        refuse("best_of", best, f"as many as n, {params.n}: none are thrown away")
    return params
