"""What a Hugging Face folder is for, by the architectures that its config.json names."""

from collections.abc import Mapping
from typing import Any

from penstock_runtime.errors import InvalidArgument, Unsupported

GENERATE = "generate"
EMBED = "embed"
RERANK = "rerank"
CLASSIFY = "classify"
TASKS = (GENERATE, EMBED, RERANK, CLASSIFY)
# What other servers call them.
_ALIASES: Mapping[str, str] = {"embedding": EMBED, "score": RERANK, "classification": CLASSIFY}
_GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
# Heads that an embedding does without.
_ENCODES = ("ForMaskedLM", "ForPreTraining", "Model", "ForTextEncoding")
_CLASSIFIES = "ForSequenceClassification"
# What transformers takes where config.json does not tell: it leaves out what is usual.
_USUAL_LABELS = 2


def task_of(config_json: Mapping[str, Any], *, sentences: bool = False) -> str:
    """The task of a model with this config.json; `sentences` says that the folder is one of
    sentence-transformers (has a modules.json), whose decoders make embeddings too.

    Raises Unsupported for an architecture that is for something else.
    """
    architecture = architecture_of(config_json)
    if architecture.endswith(_CLASSIFIES):
        return RERANK if label_count(config_json) == 1 else CLASSIFY
    if sentences:
        return EMBED
    if architecture.endswith(_GENERATES):
        return GENERATE
    if architecture.endswith(_ENCODES) or not architecture:
        return EMBED
    raise Unsupported(
        f"config.json names the architecture {architecture[:64]!r}, expected one that ends in"
        f" {', '.join((*_GENERATES, _CLASSIFIES, *_ENCODES))}",
        reason="NOT_AVAILABLE",
    )


def chosen_task(model: str, wanted: str, config_json: Mapping[str, Any], *, sentences: bool) -> str:
    """The task that the configuration asks for (`task`), or what the folder is for ("auto")."""
    if wanted in ("", "auto"):
        return task_of(config_json, sentences=sentences)
    task = _ALIASES.get(wanted, wanted)
    if task not in TASKS:
        raise InvalidArgument(
            f"model '{model}': task is {wanted[:32]!r}, expected auto or one of {', '.join(TASKS)}"
        )
    return task


def architecture_of(config_json: Mapping[str, Any]) -> str:
    """The first architecture that is named, "" where there is none."""
    named = config_json.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def label_count(config_json: Mapping[str, Any]) -> int:
    """How many classes a classifier tells apart."""
    labels = config_json.get("id2label")
    if isinstance(labels, dict) and labels:
        return len(labels)
    count = config_json.get("num_labels")
    return count if type(count) is int and count > 0 else _USUAL_LABELS
