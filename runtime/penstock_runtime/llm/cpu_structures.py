"""The structures that the CPU's kernels read, field by field as in their source."""

from ctypes import Structure, c_double, c_int64, c_void_p
from typing import Any, ClassVar

import torch

from penstock_runtime.llm.attention_form import Form
from penstock_runtime.llm.kv_pool import LayerCache
from penstock_runtime.llm.packing import PackedBatch

# The numbers of `Kind` in the source.
KINDS = {
    torch.float32: 0,
    torch.bfloat16: 1,
    torch.float16: 2,
    torch.int8: 3,
    torch.float8_e4m3fn: 4,
}


class CLayer(Structure):
    """One layer's pages."""

    _fields_: ClassVar[Any] = [
        ("keys", c_void_p),
        ("values", c_void_p),
        ("key_scales", c_void_p),
        ("value_scales", c_void_p),
        ("kv_heads", c_int64),
        ("key_dim", c_int64),
        ("value_dim", c_int64),
        ("block_size", c_int64),
        ("stored", c_int64),
    ]


class CStep(Structure):
    """The rows of a step."""

    _fields_: ClassVar[Any] = [
        ("tables", c_void_p),
        ("contexts", c_void_p),
        ("starts", c_void_p),
        ("slots", c_void_p),
        ("rows", c_int64),
        ("pages", c_int64),
        ("tokens", c_int64),
    ]


class CForm(Structure):
    """How a layer attends."""

    _fields_: ClassVar[Any] = [
        ("scale", c_double),
        ("softcap", c_double),
        ("window", c_int64),
        ("sinks", c_void_p),
    ]


class CTurn(Structure):
    """What turns queries and keys by their positions."""

    _fields_: ClassVar[Any] = [
        ("cosine", c_void_p),
        ("sine", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("epsilon", c_double),
        ("style", c_int64),
    ]


def c_step(batch: PackedBatch) -> CStep:
    """The rows of a step, which are to outlive it."""
    return CStep(
        batch.tables.data_ptr(),
        batch.contexts.data_ptr(),
        batch.starts.data_ptr(),
        batch.slots.data_ptr(),
        *batch.tables.shape,
        batch.n_tokens,
    )


def c_layer(cache: LayerCache) -> CLayer:
    """The pages of a layer, which are to outlive it."""
    scales = (cache.key_scales, cache.value_scales)
    return CLayer(
        cache.keys.data_ptr(),
        cache.values.data_ptr(),
        *(None if one is None else one.data_ptr() for one in scales),
        cache.shape.kv_heads,
        cache.shape.key_dim,
        cache.shape.value_dim,
        cache.keys.shape[1],
        KINDS[cache.keys.dtype],
    )


def c_form(form: Form) -> tuple[CForm, torch.Tensor | None]:
    """The form, and what must outlive it."""
    sinks = None if form.sinks is None else form.sinks.detach().float().contiguous()
    place = None if sinks is None else sinks.data_ptr()
    return CForm(form.scale, form.softcap or 0.0, form.window or 0, place), sinks
