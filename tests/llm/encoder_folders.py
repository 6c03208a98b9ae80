"""Folders of tiny encoders with random weights, as Hugging Face's libraries write them."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from tests.runtime.model_folders import context
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from penstock_runtime.backends.base import (
    Executable,
    LoadedModel,
    ModelSource,
    Placement,
)
from penstock_runtime.backends.registry import default_registry
from penstock_runtime.config import ModelConfig, ModelParameter
from penstock_runtime.context import RequestContext

PAD, UNKNOWN, FIRST, LAST = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
LETTERS = "abcdefgh"
VOCABULARY = [PAD, UNKNOWN, FIRST, LAST, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
LONGEST = 24
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
    "pad_token_id": 0,
}
KINDS: Mapping[str, Mapping[str, Any]] = {
    "bert": SIZES,
    # Positions are counted from behind the padding's.
    "roberta": SIZES,
    "mpnet": SIZES,
    "distilbert": {
        "vocab_size": len(VOCABULARY),
        "dim": 32,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 64,
        "max_position_embeddings": 48,
    },
    "modernbert": {
        **SIZES,
        "num_hidden_layers": 3,
        "local_attention": 4,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
}


def tokenizer() -> Any:
    """Words out of eight letters, with the special tokens of BERT around them."""
    made: Any = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(VOCABULARY)}, unk_token=UNKNOWN)
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single=f"{FIRST} $A {LAST}",
        pair=f"{FIRST} $A {LAST} $B:1 {LAST}:1",
        special_tokens=[(FIRST, 2), (LAST, 3)],
    )
    return made


def write_encoder(directory: Path, kind: str = "bert", head: str = "", **config: Any) -> Path:
    """A folder with config.json, model.safetensors and the tokenizer's files; `head` is for
    instance ForSequenceClassification.
    """
    torch.manual_seed(7)
    made = transformers.CONFIG_MAPPING[kind](**{**KINDS[kind], **config})
    mapping = (
        transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
        if head
        else transformers.MODEL_MAPPING
    )
    transformers.utils.logging.disable_progress_bar()
    mapping[type(made)](made).save_pretrained(directory)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(),
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token=FIRST,
        sep_token=LAST,
        model_max_length=LONGEST,
    )
    fast.save_pretrained(directory)
    return directory


def write_json(path: Path, content: Any) -> None:
    """A JSON file, and the folder that it lies in."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def edit_json(path: Path, **changes: Any) -> None:
    """Other values in a JSON file; None takes one out."""
    said = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in said.items() if v is not None}))


def as_sentences(directory: Path, pooling: str = "mean", *more: str) -> None:
    """Make it a folder of sentence-transformers, with further modules after the pooling."""
    kinds = ["Transformer", "Pooling", *more]
    write_json(
        directory / "modules.json",
        [
            {
                "idx": i,
                "name": str(i),
                "path": f"{i}_{kind}" if i else "",
                "type": f"sentence_transformers.models.{kind}",
            }
            for i, kind in enumerate(kinds)
        ],
    )
    said = {"embedding_dimension": 32, "pooling_mode": pooling}
    write_json(directory / "1_Pooling" / "config.json", said)


def source_of(directory: Path, **parameters: str) -> ModelSource:
    """The folder as version 1 of a model, with these parameters in its configuration."""
    given = {key: ModelParameter(value) for key, value in parameters.items()}
    return ModelSource(ModelConfig(name="m", parameters=given), 1, directory, directory)


def loaded(directory: Path, **parameters: str) -> tuple[ModelConfig, LoadedModel]:
    """The completed configuration and the model."""
    source = source_of(directory, **parameters)
    backend = default_registry().find(source)
    source = replace(source, config=backend.complete(source))
    return source.config, backend.load(source)


def instance(directory: Path, **parameters: str) -> Executable:
    """An instance on the CPU."""
    _, model = loaded(directory, **parameters)
    return cast(Executable, model.executable(Placement("m_0")))


def column(*texts: str) -> Any:
    """A BYTES input of shape [rows, 1]."""
    array = np.empty((len(texts), 1), object)
    array[:, 0] = [text.encode() for text in texts]
    return array


class Many(RequestContext):
    """The context of a request of many rows."""

    def __init__(self, rows: int, **parameters: Any) -> None:
        one = context(**parameters)
        super().__init__(one._request, one._stream)
        self._rows = rows

    @property
    def batch_size(self) -> int:
        """Its rows."""
        return self._rows


def run(made: Executable, *texts: str, **parameters: Any) -> dict[str, Any]:
    """The outputs for a request of these texts."""
    inputs = {"text_input": column(*texts)}
    return dict(made.execute(inputs, [Many(len(texts), **parameters)]))


def copied(folder: Path, to: Path) -> Path:
    """A folder to be broken."""
    return Path(shutil.copytree(folder, to))
