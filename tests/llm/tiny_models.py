"""Tiny random models of many families, built in code: weights of two dimensions are scaled by 3, so
that the likeliest token is far from the next one.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers

VOCAB = 128
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}
WINDOW = 12
# Family: what its configuration says beside the common.
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Mistral": {"sliding_window": WINDOW},
    "Gemma2": {"head_dim": 8, "sliding_window": WINDOW, "num_hidden_layers": 4},
    "Gemma3": {"head_dim": 16, "sliding_window": WINDOW, "num_hidden_layers": 6},
    "Phi": {"num_key_value_heads": 4},
    "Phi3": {"sliding_window": WINDOW},
    "GPTNeoX": {"num_key_value_heads": 4},
    "Olmo2": {},
    "Granite": {"logits_scaling": 2.0},
    "GptOss": {
        "head_dim": 16,
        "sliding_window": WINDOW,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "Qwen3Moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
}
KINDS = {"Gemma3": "Gemma3Text", "GPTNeoX": "GPTNeoX"}


def build(family: str, seed: int = 0, **more: Any) -> Any:
    """A model for text of this family."""
    config: Callable[..., Any] = getattr(transformers, f"{KINDS.get(family, family)}Config")
    values = dict(COMMON)
    if family == "GPT2":
        values = {key: values[key] for key in ("vocab_size", "eos_token_id", "bos_token_id")}
    model_class = getattr(
        transformers, "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    )
    torch.manual_seed(seed)
    model = model_class(config(**{**values, **FAMILIES[family], **more})).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(3.0)
    return model


def prompts(seed: int = 1) -> list[list[int]]:
    """Texts of several lengths; the last two begin alike."""
    generator = torch.Generator().manual_seed(seed)

    def text(length: int) -> list[int]:
        found: list[int] = torch.randint(0, VOCAB, (length,), generator=generator).tolist()
        return found

    shared = text(20)
    return [text(3), text(17), text(33), text(1), [*shared, 5, 6, 7], [*shared, 9]]


def generated(model: Any, prompt: list[int], count: int) -> list[int]:
    """The prompt and what generate() of transformers puts after it, greedily."""
    with torch.inference_mode():
        found: list[int] = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )[0].tolist()
    return found
