"""The configuration of an encoder: tensors by its task, and batches of whatever waits.

What the configuration says itself stays, and is held against the model.
"""

from dataclasses import replace

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.encoders.folder import find_files
from penstock_runtime.llm.encoders.spec import EncoderSpec, read_spec
from penstock_runtime.llm.encoders.task import CLASSIFY, EMBED, RERANK

TEXT = "text_input"
QUERY = "query"
DOCUMENT = "document"
TOKENS = "num_input_tokens"
RESULTS = {EMBED: "embedding", RERANK: "score", CLASSIFY: "scores"}
"""By task, the output that the model is for."""
MAX_BATCH_SIZE = 64


def complete(source: ModelSource, backend: str = "llm") -> ModelConfig:
    """The complete configuration; every file is found and every option read on the way."""
    spec = read_spec(source)
    find_files(source)
    config = replace(
        source.config,
        backend=source.config.backend or backend,
        max_batch_size=source.config.max_batch_size or MAX_BATCH_SIZE,
        input=source.config.input or _inputs(spec),
        output=source.config.output or _outputs(spec),
    )
    check_tensors(config, spec)
    if config.dynamic_batching is not None:
        return config
    # Not by length: a batch is executed in calls of like lengths, so that full ones are best.
    return replace(config, dynamic_batching=DynamicBatching())


def text_inputs(spec: EncoderSpec) -> tuple[str, ...]:
    """The inputs of a model of this task, in the order in which they are encoded."""
    return (QUERY, DOCUMENT) if spec.pairs else (TEXT,)


def check_tensors(config: ModelConfig, spec: EncoderSpec) -> None:
    """InvalidArgument where a configuration declares other tensors than the model has."""
    if config.decoupled or config.sequence_batching is not None:
        raise InvalidArgument(
            f"model '{config.name}' {_purpose(spec)}: it answers once, without sequences"
        )
    if config.max_batch_size < 1:
        raise InvalidArgument(
            f"model '{config.name}' {_purpose(spec)}: max_batch_size is {config.max_batch_size},"
            " expected at least 1"
        )
    _check(config, spec, "input", config.input, _inputs(spec), required=text_inputs(spec))
    _check(config, spec, "output", config.output, _outputs(spec), required=(RESULTS[spec.task],))


def _inputs(spec: EncoderSpec) -> tuple[ModelInput, ...]:
    return tuple(ModelInput(name, DataType.BYTES, (1,)) for name in text_inputs(spec))


def _outputs(spec: EncoderSpec) -> tuple[ModelOutput, ...]:
    return (
        ModelOutput(RESULTS[spec.task], DataType.FP32, (spec.width,)),
        ModelOutput(TOKENS, DataType.UINT32, (1,)),
    )


def _check(
    config: ModelConfig,
    spec: EncoderSpec,
    what: str,
    declared: tuple[ModelInput, ...] | tuple[ModelOutput, ...],
    known: tuple[ModelInput, ...] | tuple[ModelOutput, ...],
    required: tuple[str, ...],
) -> None:
    by_name = {tensor.name: tensor for tensor in known}
    for tensor in declared:
        own = by_name.get(tensor.name)
        if own is None or tensor.data_type is not own.data_type or tensor.dims != own.dims:
            shown = ", ".join(f"{t.name} {t.data_type.value}{list(t.dims)}" for t in known)
            raise InvalidArgument(
                f"model '{config.name}' {_purpose(spec)}: {what} '{tensor.name}'"
                f" {tensor.data_type.value}{list(tensor.dims)} is none of {shown}"
            )
    for name in required:
        if name not in [tensor.name for tensor in declared]:
            raise InvalidArgument(
                f"model '{config.name}' {_purpose(spec)}: the configuration has no {what} '{name}'"
            )


def _purpose(spec: EncoderSpec) -> str:
    return {EMBED: "makes embeddings", RERANK: "reranks", CLASSIFY: "classifies"}[spec.task]
