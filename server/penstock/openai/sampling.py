"""How a model is to go on: the fields of a request that the model's own reader understands, and the
forms of a structured answer.

Whether their values are in range is for the model to say, in the same words to every caller. Fields
that nobody knows are ignored, as OpenAI's other servers do: clients send many that are for one
vendor only.
"""

import json
from collections.abc import Mapping
from typing import Any

from penstock.generative.fields import Fields

# vLLM's names; those of OpenAI are among them.
PASSED = (
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "min_tokens",
    "prompt_logprobs",
    "logprob_token_ids",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "truncate_prompt_tokens",
    "priority",
    "cache_salt",
    "skip_reading_prefix_cache",
    "stream_interval",
    "thinking_token_budget",
    "repetition_detection",
    "adapter_id",
)
STRUCTURED = ("json", "json_object", "regex", "choice", "grammar", "structural_tag")
MOST_CHOICES = 128

# What would change the answer, were it not refused.
_REFUSED: Mapping[str, str] = {
    "chat_template": "is not taken from requests: the template is the model's",
    "use_beam_search": "is not offered: sample with 'n' or 'best_of' instead",
    "suffix": "is not offered: models here only go on from a prompt",
    "prompt_embeds": "is not offered: send 'prompt' as text or token ids",
    "functions": "is not offered: use 'tools'",
    "function_call": "is not offered: use 'tool_choice'",
    "audio": "is not offered: models here answer with text",
}


def check_offered(fields: Fields) -> None:
    """InvalidArgument for a field that asks for something that there is not."""
    for name, reason in _REFUSED.items():
        if fields.get(name):
            fields.refuse(name, reason)
    if any(kind != "text" for kind in fields.items("modalities")):
        fields.refuse("modalities", "has more than text, which is all that models here answer with")


def read_sampling(fields: Fields, adapter: str = "") -> dict[str, Any]:
    """The sampling parameters in a request, the form of the answer among them."""
    found = {name: fields.get(name) for name in PASSED if fields.get(name) is not None}
    fields.whole("n", 1, MOST_CHOICES)
    if adapter:
        found["adapter_id"] = adapter
    return found | read_structured(fields)


def read_structured(fields: Fields) -> dict[str, Any]:
    """The one form that the answer must have, {} for none; as a sampling parameter."""
    forms = _response_format(fields)
    for name in STRUCTURED:
        given = fields.get(f"guided_{name}")
        if given is not None:
            forms.append((f"guided_{name}", name, given))
    inner = fields.within("structured_outputs")
    forms += [
        (inner.name(name), name, inner.get(name))
        for name in STRUCTURED
        if inner.get(name) is not None
    ]
    if len(forms) > 1:
        fields.refuse(forms[1][0], f"asks for a form of the answer as '{forms[0][0]}' does")
    return {name: value for _, name, value in forms}


def _response_format(fields: Fields) -> list[tuple[str, str, Any]]:
    """Name of the field, name of the sampling parameter, value."""
    form = fields.within("response_format")
    kind = form.text("type", "text")
    if kind == "text":
        return []
    if kind == "json_object":
        return [("response_format", "json_object", True)]
    if kind == "json_schema":
        schema = form.within("json_schema").get("schema")
        if schema is None:
            form.refuse("json_schema.schema", "is not given, expected a schema")
        return [("response_format", "json", schema)]
    if kind != "structural_tag":
        expected = "text, json_object, json_schema or structural_tag"
        form.refuse("type", f"is {kind[:64]!r}, expected {expected}")
    return [("response_format", "structural_tag", json.dumps(dict(form.document)))]
