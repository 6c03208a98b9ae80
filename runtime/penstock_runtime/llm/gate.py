"""Which models run packed over pages, and for what reason another does not: what a configuration
says, what its layers hand to their attention, and at last a small run that must give what the
model gives by itself.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface

from penstock_runtime.backends.failure import summary
from penstock_runtime.llm.kv_pool import LayerShape

_log = logging.getLogger("penstock.llm")
PROBE = "penstock_probe"
LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
# Tensors that an attention function may be handed and need not heed.
HARMLESS = frozenset({"position_ids", "cache_position", "s_aux"})
PROBE_TOKENS = 4


class Refused(Exception):
    """The model does not run packed; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one layer handed to its attention function."""

    layer: int
    heads: int
    shape: LayerShape


def layer_shapes(model: Any, max_model_len: int) -> tuple[LayerShape, ...]:
    """What each attention layer keeps of a token. Raises Refused with the reason, for a model that
    does not run packed.
    """
    config = model.config.get_text_config()
    _check_class(model, config)
    _check_positions(config, max_model_len)
    seen = _probe(model)
    if not seen:
        raise Refused("no layer calls the attention interface")
    if [one.layer for one in seen] != list(range(len(seen))):
        raise Refused(f"its attention layers are {[one.layer for one in seen][:8]}, not 0, 1, 2...")
    _check_windows(config, seen)
    return tuple(one.shape for one in seen)


def _check_class(model: Any, config: Any) -> None:
    if getattr(model.config, "is_encoder_decoder", False) or getattr(
        config, "add_cross_attention", False
    ):
        raise Refused("it has cross attention")
    if getattr(model, "_is_stateful", False):
        raise Refused("it has recurrent layers")
    if not getattr(model, "_supports_attention_backend", False):
        raise Refused(f"{type(model).__name__} does not support the attention interface")
    other = set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES
    if other:
        raise Refused(f"it has layers of type {', '.join(sorted(map(str, other)))}")


def _check_positions(config: Any, max_model_len: int) -> None:
    """Some rotary embeddings go by the longest text of a batch: texts would change each other."""
    rope = getattr(config, "rope_parameters", None) or {}
    sets = rope.values() if rope and all(isinstance(v, Mapping) for v in rope.values()) else (rope,)
    for one in sets:
        kind = one.get("rope_type", "default")
        held = one.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        within = held is not None and 0 < max_model_len <= held
        if kind in ("dynamic", "longrope") and not within:
            raise Refused(
                f"its rotary embedding ({kind}) changes with the length of a text beyond {held},"
                f" and max_model_len is {max_model_len}"
            )


# -- the probe -------------------------------------------------------------------------------------


def _probe(model: Any) -> list[Seen]:
    """One forward of a few tokens whose attention notes what it is handed."""
    seen: list[Seen] = []
    before = model.config._attn_implementation
    model.set_attn_implementation(PROBE)
    if model.config._attn_implementation != PROBE:
        raise Refused(f"{type(model).__name__} does not take another attention function")
    ids = torch.arange(PROBE_TOKENS, device=model.device).unsqueeze(0)
    try:
        with torch.inference_mode():
            model.base_model(input_ids=ids, position_ids=ids, use_cache=False, paged=seen)
    except Refused:
        raise
    except Exception as error:
        _log.debug("the probe of %s failed", type(model).__name__, exc_info=error)
        raise Refused(f"a probe of it failed: {summary(error)}") from error
    finally:
        model.set_attn_implementation(before)
    return seen


def probe_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,  # noqa: ARG001 - the interface of transformers
    *,
    paged: list[Seen],
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Notes the form of a layer's attention. Raises Refused for one that is not ours."""
    layer = getattr(module, "layer_idx", None)
    if not isinstance(layer, int):
        raise Refused(f"{type(module).__name__} has no layer_idx")
    if is_causal is False or getattr(module, "is_causal", True) is False:
        raise Refused(f"layer {layer} looks at what follows a token")
    if attention_mask is not None or key.shape[2] != query.shape[2]:
        raise Refused(f"layer {layer} has a mask or keys of its own")
    for name, extra in others.items():
        if isinstance(extra, torch.Tensor) and name not in HARMLESS:
            raise Refused(f"layer {layer} gives its attention {name}, which is not offered")
    shape = LayerShape(key.shape[1], key.shape[3], value.shape[3], sliding_window)
    paged.append(Seen(layer, query.shape[1], shape))
    return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3]), None


AttentionInterface.register(PROBE, probe_attention)


def _check_windows(config: Any, seen: list[Seen]) -> None:
    """A layer must say the window that its type has, since it is not masked by its type here."""
    types = getattr(config, "layer_types", None)
    for one, kind in zip(seen, types or (), strict=False):
        window = getattr(config, "sliding_window", None) if kind == "sliding_attention" else None
        if one.shape.window != window:
            raise Refused(
                f"layer {one.layer} is of type {kind} and says a window of {one.shape.window},"
                f" expected {window}"
            )
