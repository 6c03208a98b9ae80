"""The model that engines are compared by: a random Llama of 32 million parameters with a real
tokenizer, made where it is not there yet. Nothing is downloaded.
"""

import glob
import json
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "out"
VOCABULARY = 8192
_STAMP = "made.json"


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a Llama."""

    hidden: int = 512
    layers: int = 8
    heads: int = 8
    kv_heads: int = 4
    inner: int = 1408
    vocabulary: int = VOCABULARY


FULL = Shape()
SMALL = Shape(hidden=64, layers=2, heads=2, kv_heads=1, inner=128, vocabulary=512)


def random_model(shape: Shape = FULL, out: Path = OUT) -> Path:
    """The folder of the random model."""
    return _made(out / f"random{shape.hidden}", shape)


def _made(folder: Path, shape: Shape) -> Path:
    """The folder, complete: its stamp is written last."""
    stamp = json.dumps({"shape": repr(shape), "version": 1})
    path = folder / _STAMP
    if path.is_file() and path.read_text() == stamp:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write_tokenizer(folder, shape.vocabulary)
    _write_weights(folder, shape)
    path.write_text(stamp)
    return folder


def _write_tokenizer(folder: Path, size: int) -> None:
    """Byte pairs learnt from the standard library's source, which is everywhere."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train(sorted(glob.glob(sysconfig.get_paths()["stdlib"] + "/*.py"))[:120], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)


def _write_weights(folder: Path, shape: Shape) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
