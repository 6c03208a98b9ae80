"""A whole decoder layer in eight calls, for the layers that most models have: norm, attention with
rotary embedding, norm, gated matrices, each added to what came in. A layer is known by its parts
and tried beside the model's own code before it takes its place.
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch

from penstock_runtime.llm.attention import NAME, PagedStep
from penstock_runtime.llm.attention_form import Form
from penstock_runtime.llm.causal_model import LoadedCausalModel
from penstock_runtime.llm.cpu_kernels import HeadNorms, kernels_for
from penstock_runtime.llm.fusion import FusedMlp, FusedNorm
from penstock_runtime.llm.kv_pool import KvPool
from penstock_runtime.llm.packed_linear import PackedLinear, is_near, trial_input
from penstock_runtime.llm.packing import pack
from penstock_runtime.llm.quantised_linear import QuantisedLinear
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Sequence
from penstock_runtime.llm.step import Row, StepPlan

_log = logging.getLogger("penstock.llm")
TRIAL_TOKENS = 3
PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
MOST_HEAD_DIM = 1024


@dataclass(slots=True)
class FusedLayer:
    """Takes the place of a decoder layer's forward."""

    index: int
    norm: FusedNorm
    qkv: PackedLinear
    head_norms: HeadNorms | None
    head_dim: int
    form: Form
    out: PackedLinear
    mlp_norm: FusedNorm
    mlp: FusedMlp
    plain: Any

    def __call__(
        self,
        hidden_states: torch.Tensor,
        *args: Any,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        paged: PagedStep | None = None,
        **others: Any,
    ) -> torch.Tensor:
        """[1, tokens, hidden] -> the same; where the step has no kernels, by the model's code."""
        if args or paged is None or paged.kernels is None or position_embeddings is None:
            plain: torch.Tensor = self.plain(
                hidden_states,
                *args,
                position_embeddings=position_embeddings,
                paged=paged,
                **others,
            )
            return plain
        attended = self._attend(self.norm(hidden_states), position_embeddings, paged)
        hidden_states = self.out.add_to(hidden_states, attended)
        return self.mlp.down.add_to(hidden_states, self.mlp.gated(self.mlp_norm(hidden_states)))

    def _attend(
        self, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor], step: PagedStep
    ) -> torch.Tensor:
        tokens, dim = x.shape[1], self.head_dim
        heads = self.qkv(x).view(tokens, -1, dim)
        q, k, v = torch.split(heads, [size // dim for size in self.qkv.sizes], 1)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        cache = step.pool.layers[self.index]
        assert step.kernels is not None
        step.kernels.turn_and_attend(
            out, q, k, v, cache, step.native, self.form, turn, self.head_norms
        )
        return out.view(1, tokens, -1)


def fuse_layers(model: Any, loaded: LoadedCausalModel) -> int:
    """Replace the forward of each decoder layer that is known; how many were. The norms, matrices
    and gates in it are fused before.
    """
    kernels = kernels_for("auto", loaded.device, loaded.dtype)
    rotary = getattr(model.base_model, "rotary_emb", None)
    if kernels is None or rotary is None:
        return 0
    pool = KvPool(loaded.shapes, 1, TRIAL_TOKENS, loaded.dtype, loaded.device)
    sequence = Sequence(0, [0] * TRIAL_TOKENS, SamplingParams(), max_tokens=1)
    sequence.blocks = [0]
    plan = StepPlan((Row(sequence, 0, TRIAL_TOKENS),))
    batch = pack(plan, TRIAL_TOKENS, loaded.device)
    step = PagedStep(batch, pool, kernels)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        with torch.inference_mode():
            return sum(
                _fuse_layer(module, loaded, rotary, step)
                for module in list(model.base_model.modules())
                if {name for name, _ in module.named_children()} == PARTS
            )
    finally:
        model.set_attn_implementation(before)


def _fuse_layer(module: Any, loaded: LoadedCausalModel, rotary: Any, step: PagedStep) -> bool:
    """Replace one layer's forward if what takes its place gives the same."""
    try:
        fused = _fused(module, loaded)
        if fused is None:
            return False
        x = trial_input(1, TRIAL_TOKENS, fused.norm.weight.shape[0], dtype=loaded.dtype)
        turn = rotary(x, step.batch.positions)
        if turn[0].shape[-1] != fused.head_dim:
            return False
        expected = module(x, position_embeddings=turn, paged=step)
        fits = is_near(fused(x, position_embeddings=turn, paged=step), expected)
    except Exception as error:
        _log.debug("a layer %s is not fused", type(module).__name__, exc_info=error)
        return False
    if fits:
        module.forward = fused
    return fits


def _fused(module: Any, loaded: LoadedCausalModel) -> FusedLayer | None:
    """The fused form of a layer, if it has the parts for it."""
    attention, mlp = module.self_attn, module.mlp.forward
    norms = module.input_layernorm.forward, module.post_attention_layernorm.forward
    whole: Any = getattr(getattr(attention, "q_proj", None), "whole", None)
    out: Any = getattr(attention, "o_proj", None)
    known = (
        isinstance(mlp, FusedMlp)
        and all(isinstance(norm, FusedNorm) for norm in norms)
        and isinstance(whole, PackedLinear | QuantisedLinear)
        and isinstance(out, PackedLinear | QuantisedLinear)
        and attention.head_dim <= MOST_HEAD_DIM
    )
    if not known:
        return None
    index = attention.layer_idx
    form = Form(attention.scaling, loaded.shapes[index].window)
    heads = _head_norms(attention)
    return FusedLayer(
        index, norms[0], whole, heads, attention.head_dim, form, out, norms[1], mlp, module.forward
    )


def _head_norms(attention: Any) -> HeadNorms | None:
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    if norms == [None, None]:
        return None
    query, key = (norm.forward for norm in norms if norm is not None)
    if query.weight.shape[0] != attention.head_dim or query.style != key.style:
        raise ValueError("the norms of queries and keys are not by head")
    return HeadNorms(query.weight, key.weight, query.epsilon, query.style)
