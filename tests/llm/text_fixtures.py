"""Small tokenizers, trained in the process on text that ships with Python."""

import argparse
import ast
import inspect
import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.trainers import BpeTrainer

from penstock_runtime.llm.tokenizer import Tokenizer
from penstock_runtime.llm.tokenizer_files import TokenizerFiles

VOCAB_SIZE = 1024
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
MULTIBYTE = "naïve café — 日本語テスト 🙂👩‍👩‍👧 e\u0301 ÅÅ \u0928\u093f 한국어 Ωμέγα\n"
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


def corpus() -> Iterator[str]:
    """Some source code, and some text beyond ASCII."""
    for module in (argparse, ast, inspect):
        yield inspect.getsource(module)
    yield MULTIBYTE * 3


@lru_cache(maxsize=1)
def byte_level_backend() -> Backend:
    """GPT-2's kind, with tokens that were added after training."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus(), trainer)
    backend.add_tokens([AddedToken("<tool call>", normalized=False), AddedToken("<think>")])
    return backend


@lru_cache(maxsize=1)
def byte_fallback_backend() -> Backend:
    """SentencePiece's kind as Llama 2 has it."""
    backend = Backend(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    raw = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<unk>", *SPECIAL, *raw],
        limit_alphabet=120,
        show_progress=False,
    )
    # In words, or one token would be a whole line.
    words = (word for text in corpus() for word in text.split(" ")[:20_000])
    backend.train_from_iterator(words, trainer)
    document = json.loads(backend.to_str())
    document["added_tokens"] = [
        token for token in document["added_tokens"] if token["content"] not in raw
    ]
    return Backend.from_str(json.dumps(document))


def files(**settings: Any) -> TokenizerFiles:
    """What the files of a model may say."""
    templates = settings.pop("templates", {})
    return TokenizerFiles(
        settings=settings, special_tokens=NAMES, eos_ids=(1, 3), templates=templates
    )


@lru_cache(maxsize=1)
def byte_level() -> Tokenizer:
    """The tokenizer of most models of today."""
    return Tokenizer(byte_level_backend(), files())


@lru_cache(maxsize=1)
def byte_fallback() -> Tokenizer:
    """The tokenizer of Llama 2, Mistral and Gemma."""
    return Tokenizer(byte_fallback_backend(), TokenizerFiles(special_tokens=NAMES))


@lru_cache(maxsize=1)
def gemma_like() -> Tokenizer:
    """As `byte_fallback`, where nothing is stripped."""
    backend = Backend.from_str(byte_fallback_backend().to_str())
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return Tokenizer(backend)


@lru_cache(maxsize=1)
def metaspace() -> Tokenizer:
    """SentencePiece's kind with a decoder of its own."""
    backend = Backend.from_str(byte_fallback_backend().to_str())
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return Tokenizer(backend)


@lru_cache(maxsize=1)
def word_pieces() -> Tokenizer:
    """A kind whose bytes are not known."""
    words = ["the", "cat", "sat", "on", "mat", "##s", "##ting", "a", "b", "##c"]
    vocabulary = {word: place for place, word in enumerate(["[UNK]", *words])}
    backend = Backend(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(cleanup=False)
    return Tokenizer(backend)


def pieces(tokenizer: Tokenizer, texts: Iterable[str]) -> list[int]:
    """The tokens that are these pieces of the vocabulary."""
    ids = [tokenizer.backend.token_to_id(text) for text in texts]
    assert None not in ids
    return [id_ for id_ in ids if id_ is not None]


def save(directory: Path, backend: Backend, bos: bool = False, **settings: Any) -> None:
    """A directory as Hugging Face has it, without a model."""
    copy = Backend.from_str(backend.to_str())
    if bos:
        copy.post_processor = processors.TemplateProcessing(
            single=["<s>", "$A"], special_tokens=[("<s>", copy.token_to_id("<s>"))]
        )
    copy.save(str(directory / "tokenizer.json"))
    document = {"tokenizer_class": "PreTrainedTokenizerFast", **NAMES, **settings}
    (directory / "tokenizer_config.json").write_text(json.dumps(document), "utf-8")
