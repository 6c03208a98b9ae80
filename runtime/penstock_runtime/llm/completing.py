"""The configuration of a generative model: what its file leaves open is the same for all."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from penstock_runtime.config import (
    InstanceGroup,
    ModelConfig,
    ModelParameter,
    TransactionPolicy,
)
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.options import OPTION_NAMES, read_options
from penstock_runtime.llm.signature import declared_inputs, declared_outputs

BACKEND = "llm"
_log = logging.getLogger("penstock.llm")


LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""What the length of a text is called in a config.json, by the kind of its model."""
_LENGTH = "max_model_len"


def complete_config(config: ModelConfig, described: Mapping[str, Any]) -> ModelConfig:
    """The configuration with its tensors, decoupled, and with the length that a config.json
    (`described`) gives a text; InvalidArgument for what makes no sense here.

    A `max_batch_size` above 0 gives all tensors a leading dimension, which is one, as clients of
    TensorRT-LLM's ensemble send them.
    """
    read_options(config)
    _tell_unknown(config)
    for name in ("dynamic_batching", "sequence_batching"):
        if getattr(config, name) is not None:
            raise InvalidArgument(
                f"model '{config.name}': {name} is set, expected none: a language model groups its"
                " requests by itself"
            )
    inputs, outputs = declared_inputs(), declared_outputs()
    _check_known(config.name, "input", (i.name for i in config.input), {i.name for i in inputs})
    _check_known(config.name, "output", (o.name for o in config.output), {o.name for o in outputs})
    return replace(
        config,
        backend=BACKEND,
        max_batch_size=min(config.max_batch_size, 1),
        input=inputs,
        output=outputs,
        instance_group=config.instance_group or (InstanceGroup(count=1),),
        model_transaction_policy=TransactionPolicy(decoupled=True),
        parameters=_with_length(config.parameters, described),
    )


def _with_length(
    parameters: Mapping[str, ModelParameter], described: Mapping[str, Any]
) -> Mapping[str, ModelParameter]:
    """Said, so that callers can know it; nothing is said of a model that has no limit."""
    length = longest(described)
    if not length or (_LENGTH in parameters and parameters[_LENGTH].string_value.strip() != "0"):
        return parameters
    return MappingProxyType({**parameters, _LENGTH: ModelParameter(str(length))})


def longest(described: Mapping[str, Any]) -> int:
    """How many tokens a text may have by a config.json; 0 where that sets no limit."""
    inner = described.get("text_config")
    for document in (inner if isinstance(inner, dict) else {}, described):
        for name in LENGTHS:
            length = document.get(name)
            if type(length) is int and length > 0:
                return length
    return 0


def _tell_unknown(config: ModelConfig) -> None:
    """A parameter that the engine does not know may be for others, or a slip of the pen."""
    for name in config.parameters:
        near = get_close_matches(name, OPTION_NAMES, 1, 0.8) if name not in OPTION_NAMES else ()
        for meant in near:
            _log.warning(
                "model '%s': the engine has no parameter '%s', did you mean '%s'?",
                config.name,
                name[:64],
                meant,
            )


def _check_known(model: str, kind: str, given: Iterable[str], known: set[str]) -> None:
    for name in given:
        if name not in known:
            raise InvalidArgument(
                f"model '{model}': {kind} '{name}' is none of a language model's, expected some of"
                f" {', '.join(sorted(known))}"
            )
