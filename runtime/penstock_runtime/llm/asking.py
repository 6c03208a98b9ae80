"""What a request asks of a generative model, read from its tensors and parameters.

What is said twice counts once: typed tensors go before request parameters, `sampling_parameters`
before both.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from penstock_runtime.backends.base import Arrays
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sampling_reader import NUMBERS, SWITCHES, read_sampling
from penstock_runtime.llm.signature import (
    EXCLUDE,
    FLAGS,
    GUIDE,
    GUIDE_KIND,
    IDS,
    LISTS,
    MESSAGES,
    NEUTRAL,
    SAMPLING,
    SCALARS,
    STREAM,
    TEXT,
)
from penstock_runtime.request import InferRequest

MOST_PROMPTS = 64
MOST_DOCUMENT_CHARS = 4 << 20
MOST_CHOICES = 128
# Request parameters that are the engine's business, by what they are in `sampling_parameters`.
_PARAMETERS = {
    **{name: field for name, (field, _) in SCALARS.items()},
    "stop": "stop",
    "n": "n",
    "ignore_eos": "ignore_eos",
    "logprobs": "logprobs",
    "adapter_id": "adapter_id",
    "lora_name": "lora_name",
    "json_schema": "json",
    "regex": "regex",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: its prompts (texts, or ids of one, or a chat), how to go on, and what of the
    answer is wanted, and whether bit by bit. `echo` puts the prompt before the answer; `batched`
    tensors have a leading dimension of one.
    """

    params: SamplingParams
    texts: tuple[str, ...] = ()
    ids: tuple[int, ...] | None = None
    chat: Any = None
    streams: bool = False
    echo: bool = False
    wants: frozenset[str] = frozenset({"text_output"})
    batched: bool = False


def read_ask(
    request: InferRequest,
    arrays: Arrays,
    base: SamplingParams,
    *,
    vocab_size: int | None = None,
    echo: bool = False,
    batched: bool = False,
) -> Ask:
    """What the request asks for; InvalidArgument says what is wrong with it."""
    document = _from_parameters(request)
    document |= _from_tensors(arrays)
    sampling = _text(arrays, SAMPLING)
    if sampling is not None:
        document |= _sampling(sampling)
    wants = _wants(request, arrays)
    params = read_sampling(document, base, vocab_size)
    exclude = _flag(arrays, EXCLUDE)
    ask = Ask(
        _with_logprobs(params, wants),
        streams=_streams(request, arrays),
        echo=echo if exclude is None else not exclude,
        wants=wants,
        batched=batched,
    )
    return _with_prompt(ask, arrays)


def _with_prompt(ask: Ask, arrays: Arrays) -> Ask:
    given = [name for name in (TEXT, IDS, MESSAGES) if name in arrays]
    if len(given) != 1:
        found = ", ".join(f"'{name}'" for name in given) or "none"
        raise InvalidArgument(
            f"expected one of '{TEXT}', '{IDS}' and '{MESSAGES}', got {found}", scheduled=True
        )
    if given == [IDS]:
        ids = tuple(int(token) for token in arrays[IDS].reshape(-1))
        return replace(ask, ids=_some(ids, IDS))
    if given == [MESSAGES]:
        text = _text(arrays, MESSAGES) or ""
        return replace(ask, chat=_parse(text, MESSAGES))
    texts = _some(tuple(_decoded(item, TEXT) for item in arrays[TEXT].reshape(-1)), TEXT)
    choices = len(texts) * ask.params.n
    if len(texts) > MOST_PROMPTS or choices > MOST_CHOICES:
        raise InvalidArgument(
            f"{len(texts)} prompts with n={ask.params.n}, expected at most {MOST_PROMPTS} prompts"
            f" and {MOST_CHOICES} answers",
            scheduled=True,
        )
    if ask.streams and len(texts) > 1:
        raise InvalidArgument(
            f"{len(texts)} prompts in '{TEXT}' with '{STREAM}', expected one", scheduled=True
        )
    return replace(ask, texts=texts)


def _streams(request: InferRequest, arrays: Arrays) -> bool:
    """Bit by bit for callers that take any number of responses, unless they say otherwise or have
    several prompts.
    """
    wanted = _flag(arrays, STREAM)
    if wanted is None:
        said = request.parameters.get(STREAM)
        wanted = None if said is None else bool(said)
    if wanted and request.single:
        raise InvalidArgument(
            f"'{STREAM}' is true in a call that has one response; use ModelStreamInfer",
            scheduled=True,
        )
    several = TEXT in arrays and arrays[TEXT].size > 1
    return not (request.single or several) if wanted is None else wanted


def _wants(request: InferRequest, arrays: Arrays) -> frozenset[str]:
    if request.outputs:
        return frozenset(output.name for output in request.outputs)
    wanted = {"text_output"}
    for name, outputs in FLAGS.items():
        if _flag(arrays, name) or (name not in arrays and request.parameters.get(name) is True):
            wanted.update(outputs)
    return frozenset(wanted)


def _with_logprobs(params: SamplingParams, wants: frozenset[str]) -> SamplingParams:
    """Logprobs of the chosen tokens are needed for what is asked for of them."""
    if params.logprobs is None and wants & {"logprobs", "cumulative_logprob"}:
        params = replace(params, logprobs=0)
    if params.prompt_logprobs is None and "prompt_logprobs" in wants:
        params = replace(params, prompt_logprobs=0)
    return params


def _from_parameters(request: InferRequest) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in _PARAMETERS.items():
        if name in request.parameters:
            found[field] = request.parameters[name]
    sampling = request.parameters.get(SAMPLING)
    if isinstance(sampling, str):
        found |= _sampling(sampling)
    return found


def _sampling(text: str) -> dict[str, Any]:
    """`sampling_parameters`; numbers may be in quotes there, as clients of Triton's vLLM backend
    send them.
    """
    document = dict(_document(text, SAMPLING))
    for name, value in document.items():
        if isinstance(value, str):
            document[name] = _unquoted(name, value)
    return document


def _unquoted(name: str, value: str) -> Any:
    if name in SWITCHES and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if name in NUMBERS:
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value


def _from_tensors(arrays: Arrays) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (field, _) in SCALARS.items():
        if name in arrays:
            found[field] = _one(arrays, name).item()
    if found.get("seed", 0) >= 1 << 63:
        # The same 64 bits as they are elsewhere.
        found["seed"] -= 1 << 64
    for name, field in LISTS.items():
        if name in arrays:
            words = [_decoded(item, name) for item in arrays[name].reshape(-1)]
            found[field] = [word for word in words if word]
    for name, (_, neutral) in NEUTRAL.items():
        if name in arrays and float(_one(arrays, name)) not in (0.0, neutral):
            raise InvalidArgument(
                f"'{name}' is {float(_one(arrays, name)):g}, expected {neutral:g}: there is no beam"
                " search",
                scheduled=True,
            )
    kind = _text(arrays, GUIDE_KIND)
    if kind:
        found[_guide(kind)] = _text(arrays, GUIDE) or ""
    return found


def _guide(kind: str) -> str:
    known = {
        "json": "json_object",
        "json_schema": "json",
        "regex": "regex",
        "ebnf_grammar": "grammar",
        "structural_tag": "structural_tag",
    }
    if kind not in known:
        raise InvalidArgument(
            f"'{GUIDE_KIND}' is {kind[:64]!r}, expected one of {', '.join(known)}", scheduled=True
        )
    return known[kind]


# -- single values ---------------------------------------------------------------------------------


def _some(values: Any, name: str) -> Any:
    if not values:
        raise InvalidArgument(f"'{name}' is empty, expected at least one element", scheduled=True)
    return values


def _one(arrays: Arrays, name: str) -> Any:
    values = arrays[name].reshape(-1)
    if values.size != 1:
        raise InvalidArgument(f"'{name}' has {values.size} elements, expected 1", scheduled=True)
    return values[0]


def _flag(arrays: Arrays, name: str) -> bool | None:
    return bool(_one(arrays, name)) if name in arrays else None


def _text(arrays: Arrays, name: str) -> str | None:
    return _decoded(_one(arrays, name), name) if name in arrays else None


def _decoded(item: Any, name: str) -> str:
    if isinstance(item, str):
        return item
    try:
        return bytes(item).decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"'{name}' is not UTF-8: byte {error.start} of {len(bytes(item))}", scheduled=True
        ) from None


def _document(text: str, name: str) -> Mapping[str, Any]:
    found = _parse(text, name) if text.strip() else {}
    if not isinstance(found, dict):
        raise InvalidArgument(
            f"'{name}' is a JSON {type(found).__name__}, expected an object", scheduled=True
        )
    return found


def _parse(text: str, name: str) -> Any:
    if len(text) > MOST_DOCUMENT_CHARS:
        raise InvalidArgument(
            f"'{name}' has {len(text)} characters, expected at most {MOST_DOCUMENT_CHARS}",
            scheduled=True,
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        shown = str(error) if isinstance(error, ValueError) else "too deeply nested"
        raise InvalidArgument(f"'{name}' is not JSON: {shown}", scheduled=True) from None
