"""The configuration of a generative model: what its file leaves open is the same for all."""

from collections.abc import Iterable
from dataclasses import replace

from penstock_runtime.config import InstanceGroup, ModelConfig, TransactionPolicy
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.options import read_options
from penstock_runtime.llm.signature import declared_inputs, declared_outputs

BACKEND = "llm"


def complete_config(config: ModelConfig) -> ModelConfig:
    """The configuration with its tensors, decoupled; InvalidArgument for what makes no sense here.

    A `max_batch_size` above 0 gives all tensors a leading dimension, which is one, as clients of
    TensorRT-LLM's ensemble send them.
    """
    read_options(config)
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
    )


def _check_known(model: str, kind: str, given: Iterable[str], known: set[str]) -> None:
    for name in given:
        if name not in known:
            raise InvalidArgument(
                f"model '{model}': {kind} '{name}' is none of a language model's, expected some of"
                f" {', '.join(sorted(known))}"
            )
