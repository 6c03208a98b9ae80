"""all-MiniLM-L6-v2 in plain torch: BERT's encoder over packed tokens, mean-pooled and normalised.

The texts of a batch lie one behind the other, sorted by length, so nothing is computed on padding;
only attention, which must not cross from text to text, runs once per length.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

# What the model was trained for (its sentence_bert_config.json): longer texts are cut.
MAX_TOKENS = 256


class Tokens(NamedTuple):
    """Several texts as one run of tokens: ids and positions are [tokens], lengths ascend."""

    ids: Tensor
    positions: Tensor
    lengths: list[int]

    @property
    def groups(self) -> list[tuple[int, int]]:
        """(texts, tokens of each), for every length that occurs."""
        return [(len(list(same)), length) for length, same in groupby(self.lengths)]


class Linear:
    """x [tokens, in] -> x W^T + b [tokens, out], with the exact gelu behind it if asked."""

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        self.fused = _has_fused_linear(weight)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self.fused else weight
        self.bias = bias
        self.gelu = gelu

    def __call__(self, x: Tensor) -> Tensor:
        if self.fused:
            activation = ("gelu", [], "none") if self.gelu else ("none", [], "")
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, *activation)
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y) if self.gelu else y


def _has_fused_linear(weight: Tensor) -> bool:
    """Whether torch can lay this weight out for oneDNN once and for all.

    This is what torch's compiler emits for frozen weights on CPUs, a fifth faster than F.linear and
    F.gelu; it is not a documented call, so it may be missing.
    """
    calls = ("_reorder_linear_weight", "_linear_pointwise")
    known = torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, c) for c in calls
    )
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    return known and wide and weight.device.type == "cpu"


class Norm:
    """Layer normalisation of the last dimension."""

    def __init__(self, weight: Tensor, bias: Tensor, epsilon: float) -> None:
        self.weight, self.bias, self.epsilon = weight, bias, epsilon

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer over [tokens, hidden]."""

    qkv: Linear
    attended: Linear
    attended_norm: Norm
    wide: Linear
    narrow: Linear
    narrow_norm: Norm
    heads: int

    def __call__(self, x: Tensor, groups: list[tuple[int, int]]) -> Tensor:
        mixed = self.attended(self._attend(self.qkv(x), groups))
        x = self.attended_norm(mixed.add_(x))
        return self.narrow_norm(self.narrow(self.wide(x)).add_(x))

    def _attend(self, qkv: Tensor, groups: list[tuple[int, int]]) -> Tensor:
        """[tokens, 3 hidden] -> [tokens, hidden]; all texts of one length at once."""
        mixed, at = [], 0
        for texts, length in groups:
            rows = qkv[at : at + texts * length]
            q, k, v = rows.view(texts, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            out = F.scaled_dot_product_attention(q, k, v)
            mixed.append(out.transpose(1, 2).reshape(texts * length, -1))
            at += texts * length
        return torch.cat(mixed)


class MiniLM:
    """Texts to unit vectors of 384 numbers; the weights live on one device."""

    def __init__(self, directory: Path, device: str = "cpu") -> None:
        """`directory` holds config.json, tokenizer.json and weights.safetensors."""
        config = json.loads((directory / "config.json").read_text())
        self.device = device
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.no_padding()
        weights = load_file(directory / "weights.safetensors", device)
        self._read(weights, config)

    def _read(self, weights: dict[str, Tensor], config: dict[str, float]) -> None:
        epsilon = config["layer_norm_eps"]
        self.words = weights["embeddings.word_embeddings.weight"]
        # Every token has type 0, so its embedding is part of the position's.
        kind = weights["embeddings.token_type_embeddings.weight"][0]
        self.places = weights["embeddings.position_embeddings.weight"] + kind
        self.norm = _norm(weights, "embeddings.LayerNorm", epsilon)
        self.layers = [
            _layer(weights, f"encoder.layer.{i}.", int(config["num_attention_heads"]), epsilon)
            for i in range(int(config["num_hidden_layers"]))
        ]

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """[texts, 384], each row of length 1."""
        encoded = [self.tokenizer.encode(text).ids for text in texts]
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        vectors = self._forward(self._pack([encoded[i] for i in order]))
        restored = torch.empty_like(vectors)
        restored[torch.tensor(order, device=self.device)] = vectors
        return restored

    def _pack(self, encoded: list[list[int]]) -> Tokens:
        lengths = [len(ids) for ids in encoded]
        ids = torch.tensor([token for ids in encoded for token in ids], device=self.device)
        places = torch.tensor([p for n in lengths for p in range(n)], device=self.device)
        return Tokens(ids, places, lengths)

    def _forward(self, tokens: Tokens) -> Tensor:
        x = self.norm(self.words[tokens.ids].add_(self.places[tokens.positions]))
        groups = tokens.groups
        for layer in self.layers:
            x = layer(x, groups)
        means = torch.stack([text.mean(0) for text in x.split(tokens.lengths)])
        return F.normalize(means, dim=1)


def _layer(weights: dict[str, Tensor], prefix: str, heads: int, epsilon: float) -> Layer:
    def linear(name: str, *, gelu: bool = False) -> Linear:
        weight, bias = (weights[f"{prefix}{name}.{part}"] for part in ("weight", "bias"))
        return Linear(weight, bias, gelu=gelu)

    parts = [f"{prefix}attention.self.{name}" for name in ("query", "key", "value")]
    return Layer(
        qkv=Linear(*(torch.cat([weights[f"{p}.{w}"] for p in parts]) for w in ("weight", "bias"))),
        attended=linear("attention.output.dense"),
        attended_norm=_norm(weights, f"{prefix}attention.output.LayerNorm", epsilon),
        wide=linear("intermediate.dense", gelu=True),
        narrow=linear("output.dense"),
        narrow_norm=_norm(weights, f"{prefix}output.LayerNorm", epsilon),
        heads=heads,
    )


def _norm(weights: dict[str, Tensor], name: str, epsilon: float) -> Norm:
    return Norm(weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon)
