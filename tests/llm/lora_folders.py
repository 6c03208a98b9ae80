"""Folders of LoRA adapters as PEFT writes them, by hand, and a tiny model to put them on."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

HIDDEN, INNER, VOCAB = 64, 128, 96
SIZES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN // 2, HIDDEN),
    "self_attn.v_proj": (HIDDEN // 2, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
ALL = tuple(SIZES)
LAYERS = 2


def model(seed: int = 0) -> Any:
    """A Llama of two layers."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def write(
    folder: Path,
    seed: int,
    *,
    rank: int = 4,
    layers: tuple[str, ...] = ALL,
    config: dict[str, Any] | None = None,
    tensors: dict[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """An adapter of random factors; `config` and `tensors` are put over what it would have."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, torch.Tensor] = {}
    for layer in range(LAYERS):
        for name in layers:
            outputs, inputs = SIZES[name]
            key = f"base_model.model.model.layers.{layer}.{name}"
            made[f"{key}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) * 0.2
            made[f"{key}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) * 0.2
    made.update(tensors or {})
    document = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 8,
        "bias": "none",
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
        "base_model_name_or_path": "unused",
        **(config or {}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(document))
    save_file(made, folder / "adapter_model.safetensors")
    return made


def merged(base: Any, factors: dict[str, torch.Tensor], scaling: float) -> Any:
    """The model with an adapter inside of its weights, in place."""
    for key, a in factors.items():
        if key.endswith(".lora_A.weight"):
            b = factors[key.replace("lora_A", "lora_B")]
            path = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            base.get_submodule(path).weight.data += scaling * (b @ a)
    return base
