"""The generate request of the protocol's own text-generation interface, for models that generate
text: what it has beside Triton's extension, which has the same paths.

A value that is no input of the model and too large for a parameter is a sampling parameter; with
`details` the answer tells how it ended and what its tokens were.
"""

from collections.abc import Mapping
from typing import Any

from penstock.codec.prescan import Parts
from penstock.generative.answers import Choice, read_answer
from penstock.generative.catalogue import SAMPLING
from penstock.generative.fields import Fields
from penstock.generative.question import CHOICE_OUTPUTS, LOGPROBS, sampling_text
from penstock.generative.tokens import finish_reason, token_documents
from penstock.rest.documents import read_document, write_document
from penstock.rest.generate_request import ID, NESTED, read_generate_request
from penstock_protos.inference import ModelInferRequest
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.request import InferResponse

DETAILS, STREAM = "details", "stream"
_OUTPUTS = (*CHOICE_OUTPUTS[:3], LOGPROBS)


def wants_details(document: Mapping[str, Any]) -> bool:
    """Whether the answer is to tell how it came about."""
    fields = Fields(document)
    return fields.flag(DETAILS) or fields.within(NESTED).flag(DETAILS)


def read_text_request(
    document: Mapping[str, Any], model: str, version: str, config: ModelConfig, *, stream: bool
) -> Parts:
    """The request for a model that generates text; `stream`: its answer may come in pieces."""
    details = wants_details(document)
    flat, sampling = _sorted(document, config)
    if details:
        sampling.setdefault("logprobs", 0)
    if sampling:
        flat[SAMPLING] = sampling_text(sampling)
    asked = Fields(flat).flag(STREAM, default=stream)
    if asked and not stream:
        raise InvalidArgument("'stream' is true, expected false: generate_stream has many answers")
    if config.find_input(STREAM) is not None:
        flat[STREAM] = asked
    parts = read_generate_request(flat, model, version, config)
    if not details:
        return parts
    # What is asked of the outputs is said behind the rest, as the fields of a message may be.
    wanted = [n for n in _OUTPUTS if config.find_output(n) is not None]
    outputs = [ModelInferRequest.InferRequestedOutputTensor(name=name) for name in wanted]
    return parts._replace(head=parts.head + ModelInferRequest(outputs=outputs).SerializeToString())


def _sorted(
    document: Mapping[str, Any], config: ModelConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and parameters, and beside them what is a sampling parameter."""
    nested = Fields(document).within(NESTED).document
    for name in nested:
        if name in document:
            raise InvalidArgument(f"'{name[:64]}' is in '{NESTED}' and beside it, expected once")
    flat: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    for name, value in {**document, **nested}.items():
        if name in (NESTED, DETAILS, SAMPLING) or value is None:
            continue
        is_ours = config.find_input(name) is None and name != ID
        if is_ours and isinstance(value, list | dict):
            sampling[name] = value
        else:
            flat[name] = value
    return flat, {**sampling, **_given(document.get(SAMPLING, nested.get(SAMPLING)))}


def _given(value: Any) -> Mapping[str, Any]:
    """Sampling parameters as an object, or as the text of one."""
    if isinstance(value, str):
        value = read_document(value.encode(errors="replace"), f"'{SAMPLING}'")
    return Fields({SAMPLING: value}).within(SAMPLING).document


def write_detailed(response: InferResponse, *, stream: bool) -> bytes:
    """The response as a document with `details`; of a stream they are those of the last token."""
    answer = read_answer(response)
    told: dict[str, Any] = {"id": response.id} if response.id else {}
    told |= {"model_name": response.model_name, "model_version": response.model_version}
    choice = answer.choices[0] if answer.choices else Choice(0, "")
    texts = [each.text for each in answer.choices]
    told["text_output"] = texts if len(texts) > 1 else choice.text
    tokens = token_documents(choice)
    details: dict[str, Any] = {"finish_reason": finish_reason(choice) or None}
    if stream:
        details["token"] = tokens[-1] if tokens else None
    if not stream or len(tokens) > 1:
        details["logprobs"] = tokens
    return write_document(told | {DETAILS: details})
