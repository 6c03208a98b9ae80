"""All that is known of an encoder before its weights are read: its task, its sizes, and what its
folder and its configuration say together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.files import has_file
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.labels import MAX_LABEL_BYTES
from penstock_runtime.llm.encoders.folder import CONFIG, broken, config_of, optional_json
from penstock_runtime.llm.encoders.options import EncoderOptions, dtype_name, read_encoder_options
from penstock_runtime.llm.encoders.sentence import (
    MODULES,
    NORMALIZE,
    PROMPTS,
    Dense,
    Sentences,
    Step,
    read_sentences,
)
from penstock_runtime.llm.encoders.task import (
    CLASSIFY,
    EMBED,
    GENERATE,
    RERANK,
    chosen_task,
    label_count,
)
from penstock_runtime.llm.options import EngineOptions, read_options

# Larger ones stand for "no limit" in a tokenizer_config.json.
_MOST_TOKENS = 1 << 24
# Their positions are counted from behind the padding's.
_OFFSET_POSITIONS = frozenset(
    {
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
        "camembert",
        "mpnet",
        "longformer",
        "data2vec-text",
    }
)
_USUAL_TOKENS = 512
_ACTIVATIONS = {"Identity": "none", "Sigmoid": "sigmoid", "Softmax": "softmax"}


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What an encoder is served as.

    `width` is how many numbers a row of its output has; `pooling` and `steps` are for embeddings,
    `activation` for scores; `max_tokens` is the longest text, `pad_id` the token that fills up
    shorter ones of a batch; `token_types` says that the model is told which text of a pair a token
    is of; `dtype` is torch's name or "auto".
    """

    model: str
    task: str
    width: int
    config_json: Mapping[str, Any]
    pooling: tuple[str, ...]
    steps: tuple[Step, ...]
    activation: str
    max_tokens: int
    pad_id: int
    truncation_side: str
    token_types: bool
    lower_case: bool
    prompts: Mapping[str, str]
    default_prompt: str
    truncate: bool
    dtype: str
    engine: EngineOptions
    call_tokens: int

    @property
    def pairs(self) -> bool:
        """Whether a row is two texts."""
        return self.task == RERANK


def task_of_source(source: ModelSource) -> str:
    """The task of a model: what its configuration asks for, else what its folder is for."""
    wanted = source.config.parameter("task").strip().lower()
    sentences = has_file(source, MODULES)
    return chosen_task(source.config.name, wanted, config_of(source), sentences=sentences)


def read_spec(source: ModelSource) -> EncoderSpec:
    """The spec of an encoder. InvalidArgument or Unsupported names the file and what is wrong."""
    said = config_of(source)
    if said.get("quantization_config"):
        raise broken(source, CONFIG, "has a quantization_config, which encoders do not support")
    engine, options = read_options(source.config), read_encoder_options(source.config)
    task = task_of_source(source)
    if task == GENERATE:
        raise InvalidArgument(f"model '{source.config.name}' generates, it is no encoder")
    sentences = read_sentences(source) if task == EMBED else Sentences()
    tokenizer = optional_json(source, "tokenizer_config.json")
    pooling = (options.pooling,) if options.pooling else sentences.pooling
    steps = _steps(sentences.steps, options.normalize)
    prompts = MappingProxyType({**sentences.prompts, **options.prompts})
    return EncoderSpec(
        model=source.config.name,
        task=task,
        width=_width(source, said, task, pooling, steps),
        config_json=said,
        pooling=pooling,
        steps=steps,
        activation=options.activation or _activation(said, task, _saved_activation(source, said)),
        max_tokens=_max_tokens(source, said, tokenizer, sentences, engine),
        pad_id=_pad_id(said),
        truncation_side="left" if tokenizer.get("truncation_side") == "left" else "right",
        token_types=_token_types(tokenizer),
        lower_case=sentences.lower_case,
        prompts=prompts,
        default_prompt=_default_prompt(source, prompts, options, sentences),
        truncate=options.truncate,
        dtype=dtype_name(source.config, engine.dtype),
        engine=engine,
        call_tokens=options.call_tokens,
    )


def labels_of(source: ModelSource) -> tuple[bytes, ...]:
    """What the classes of a classifier are called, by config.json; none for any other model."""
    if task_of_source(source) != CLASSIFY:
        return ()
    said = config_of(source)
    named = said.get("id2label")
    if not isinstance(named, dict):
        return ()
    count = label_count(said)
    return tuple(str(named.get(str(i), "")).encode()[:MAX_LABEL_BYTES] for i in range(count))


def _width(
    source: ModelSource,
    said: Mapping[str, Any],
    task: str,
    pooling: tuple[str, ...],
    steps: tuple[Step, ...],
) -> int:
    if task != EMBED:
        return 1 if task == RERANK else label_count(said)
    sizes = (said.get(key) for key in ("hidden_size", "dim", "d_model", "n_embd"))
    hidden = next((size for size in sizes if type(size) is int and size > 0), 0)
    if not hidden:
        raise broken(source, CONFIG, "has no hidden_size")
    width = hidden * len(pooling)
    for step in steps:
        if not isinstance(step, Dense):
            continue
        if step.inputs != width:
            what = f"has in_features {step.inputs}, but {width} numbers come before it"
            raise broken(source, f"{step.location}/config.json", what)
        width = step.outputs
    return width


def _steps(steps: tuple[Step, ...], normalize: bool | None) -> tuple[Step, ...]:
    if normalize is None:
        return steps
    rest = tuple(step for step in steps if step != NORMALIZE)
    return (*rest, NORMALIZE) if normalize else rest


def _saved_activation(source: ModelSource, said: Mapping[str, Any]) -> str:
    """The activation that sentence-transformers saved with a cross-encoder, "" for none."""
    nested = said.get("sentence_transformers")
    saved = (
        nested.get("activation_fn") if isinstance(nested, dict) else None,
        said.get("sbert_ce_default_activation_function"),
        optional_json(source, PROMPTS).get("activation_fn"),
    )
    name = next((str(found) for found in saved if found), "")
    return _ACTIVATIONS.get(name.rpartition(".")[2], "")


def _activation(said: Mapping[str, Any], task: str, saved: str) -> str:
    if task == RERANK:
        return saved or "sigmoid"
    kinds = {"multi_label_classification": "sigmoid", "regression": "none"}
    return kinds.get(str(said.get("problem_type")), "softmax")


def _max_tokens(
    source: ModelSource,
    said: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
    sentences: Sentences,
    engine: EngineOptions,
) -> int:
    """The shortest of all limits: what the model has positions for, what it was trained for, what
    the configuration allows.
    """
    positions = said.get("max_position_embeddings", said.get("n_positions"))
    if type(positions) is int and said.get("model_type") in _OFFSET_POSITIONS:
        positions -= _pad_id(said) + 1
    trained = tokenizer.get("model_max_length")
    known = [positions, sentences.max_tokens, trained, engine.max_model_len]
    limits = [int(n) for n in known if isinstance(n, int | float) and 0 < n < _MOST_TOKENS]
    longest = min(limits, default=_USUAL_TOKENS)
    if engine.max_model_len > longest:
        raise InvalidArgument(
            f"model '{source.config.name}': max_model_len is {engine.max_model_len}, but the model"
            f" takes {longest} tokens at most"
        )
    return longest


def _pad_id(said: Mapping[str, Any]) -> int:
    found = said.get("pad_token_id")
    if type(found) is int and found >= 0:
        return found
    # transformers leaves out what is usual for the model.
    return 1 if said.get("model_type") in _OFFSET_POSITIONS else 0


def _token_types(tokenizer: Mapping[str, Any]) -> bool:
    """Whether the model was given token types; tokenizers of no model's own give none."""
    names = tokenizer.get("model_input_names")
    if isinstance(names, list):
        return "token_type_ids" in names
    return tokenizer.get("tokenizer_class") != "TokenizersBackend"


def _default_prompt(
    source: ModelSource,
    prompts: Mapping[str, str],
    options: EncoderOptions,
    sentences: Sentences,
) -> str:
    name = options.default_prompt_name or sentences.default_prompt
    if name and name not in prompts:
        raise InvalidArgument(
            f"model '{source.config.name}': default_prompt_name is {name[:64]!r}, there are the"
            f" prompts {', '.join(prompts) or 'none'}"
        )
    return name
