"""A Llama of Hugging Face as GGUF (f16), which is what OpenVINO reads without a converter:

    python write_gguf.py FOLDER FILE.gguf

Run by the Python of OpenVINO's environment, which has the packages gguf and numpy, and no torch.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
ROTARY = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
_NORMAL, _CONTROL = 1, 3
_MOSTLY_F16 = 1


def read_bf16(path: Path) -> Iterator[tuple[str, Array]]:
    """The tensors of a safetensors file as float32, which numpy has and bf16 it has not."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    for name, entry in header.items():
        begin, end = (8 + length + at for at in entry["data_offsets"])
        bits = np.frombuffer(data[begin:end], np.uint16).astype(np.uint32) << 16
        yield name, bits.view(np.float32).reshape(entry["shape"])


def interleaved(weights: Array, heads: int) -> Array:
    """Rotary pairs side by side, as GGUF has them, in place of half and half."""
    rows = weights.shape[0]
    return weights.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(weights.shape)


def named(name: str, weights: Array, config: dict[str, Any]) -> tuple[str, Array]:
    """The name and the numbers of a tensor in GGUF."""
    if name in WHOLE:
        return WHOLE[name], weights
    _, _, layer, *middle, _ = name.split(".")
    part = PARTS[".".join(middle)]
    if part in ROTARY:
        weights = interleaved(weights, config[ROTARY[part]])
    return f"blk.{layer}.{part}.weight", weights


def add_words(writer: Any, folder: Path) -> None:
    """The tokenizer."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=lambda token: model["vocab"][token])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL if one in ("<s>", "</s>") else _NORMAL for one in tokens])
    writer.add_token_merges(
        [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
    )
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)


def main() -> None:
    """Write it."""
    folder, file = Path(sys.argv[1]), sys.argv[2]
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("bench")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(_MOSTLY_F16)
    add_words(writer, folder)
    for name, weights in read_bf16(folder / "model.safetensors"):
        where, found = named(name, weights, config)
        writer.add_tensor(where, found.astype(np.float16 if found.ndim == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
