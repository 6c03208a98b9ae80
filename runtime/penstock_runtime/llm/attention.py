"""The attention function that a transformers model calls instead of its own: new keys and values go
to their pages, and each packed row sees its own pages only. Where it runs in torch it is here; the
CPU's own kernels take over where they are built.

The step travels to it as the keyword `paged` through the model's own keyword arguments. No mask
function is registered, which transformers takes for "this attention needs no mask".
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from penstock_runtime.llm.attention_form import Form
from penstock_runtime.llm.cpu_kernels import CpuKernels
from penstock_runtime.llm.device_kernels import DeviceKernels
from penstock_runtime.llm.kv_pool import KvPool, LayerCache
from penstock_runtime.llm.packing import PackedBatch, Span

NAME = "penstock_paged"
# What a step in torch may copy out of the pages at a time, in elements.
GATHER_ELEMENTS = 16 << 20
SCORE_ELEMENTS = 8 << 20


@dataclass(slots=True)
class PagedStep:
    """What one step's attention works on; `masks` and `groups` are made once for all layers.
    `kernels` are the CPU's, `device` a GPU's.
    """

    batch: PackedBatch
    pool: KvPool
    kernels: CpuKernels | None = None
    device: DeviceKernels | None = None
    # Whether it is recorded, to be repeated for other rows: then the host may look at none of them.
    recorded: bool = False
    native: Any = None
    masks: dict[tuple[int, int, int | None], torch.Tensor] = field(default_factory=dict)
    groups: list[tuple[int, int, int]] | None = None

    def __post_init__(self) -> None:
        if self.kernels is not None:
            self.native = self.kernels.step(self.batch)


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - the interface of transformers
    scaling: float | None = None,
    *,
    paged: PagedStep,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query, key, value: [1, heads, tokens, dim] -> [1, tokens, heads, dim]."""
    q, k, v = query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)
    layer: Any = module.layer_idx
    cache = paged.pool.layers[layer]
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    form = Form(scale, sliding_window, softcap, s_aux)
    out = q.new_empty(*q.shape[:2], v.shape[-1])
    if paged.kernels is not None:
        paged.kernels.attend(out, q, k, v, cache, paged.native, form)
    else:
        attend(out, q, k, v, cache, paged, form)
    return out.unsqueeze(0), None


AttentionInterface.register(NAME, paged_attention)


def attend(
    out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cache: LayerCache,
    step: PagedStep,
    form: Form,
) -> None:
    """Keep k and v and attend with q, in torch or by a GPU's kernels: [tokens, heads, dim] each."""
    batch = step.batch
    if step.device is not None and step.device.attends(q, cache):
        step.device.store(cache, k, v, batch.slots)
        if batch.n_decodes:
            own = slice(0, batch.n_decodes)
            step.device.decode(out[own], q[own], cache, batch, form)
    elif step.recorded:
        # Torch would see as many pages as these rows have, and stumble over slots of nobody.
        shape = cache.shape
        raise RuntimeError(f"no kernel attends in {q.dtype} with heads of {shape.key_dim} numbers")
    else:
        cache.store(k, v, batch.slots)
        _decode_in_groups(out, q, cache, step, form)
    for span in batch.spans[batch.n_decodes :]:
        part = slice(span.start, span.end)
        if span.count == span.context and form.plain and _sees_all(span, form, cache):
            out[part] = _dense(q[part], k[part], v[part], None, form, causal=True)
        else:
            out[part] = _chunk(q[part], cache, step, form, span)


def _decode_in_groups(
    out: torch.Tensor, q: torch.Tensor, cache: LayerCache, step: PagedStep, form: Form
) -> None:
    if step.groups is None:
        step.groups = _decode_groups(step.batch, cache)
    for first, end, pages in step.groups:
        out[first:end] = _decode(q[first:end], cache, step, form, (first, end, pages))


def _sees_all(span: Span, form: Form, cache: LayerCache) -> bool:
    """Whether a row's attention is plainly causal; with fewer bits, it goes by what is kept, so
    that it does not matter how a text is cut.
    """
    within = form.window is None or span.context <= form.window
    return within and cache.key_scales is None


def _decode_groups(batch: PackedBatch, cache: LayerCache) -> list[tuple[int, int, int]]:
    """Runs of decoding rows whose pages may be copied at a time: first row, end, pages of each."""
    size = cache.keys[0].numel() + cache.values[0].numel()
    groups: list[tuple[int, int, int]] = []
    first, most = 0, 0
    for row in range(batch.n_decodes):
        pages = -(-batch.spans[row].context // cache.keys.shape[1])
        if row > first and (row + 1 - first) * max(most, pages) * size > GATHER_ELEMENTS:
            groups.append((first, row, most))
            first, most = row, 0
        most = max(most, pages)
    if batch.n_decodes:
        groups.append((first, batch.n_decodes, most))
    return groups


def _decode(
    q: torch.Tensor, cache: LayerCache, step: PagedStep, form: Form, group: tuple[int, int, int]
) -> torch.Tensor:
    """One token of each row: [rows, heads, dim]."""
    first, end, pages = group
    keys, values = cache.gather(step.batch.tables[first:end, :pages])
    mask = step.masks.get((first, end, form.window))
    if mask is None:
        contexts = step.batch.contexts[first:end, None]
        places = torch.arange(keys.shape[1], device=q.device)[None, :]
        mask = places < contexts
        if form.window is not None:
            mask &= places >= contexts - form.window
        mask = step.masks[first, end, form.window] = mask[:, None, None, :]
    found = _attention(
        q.unsqueeze(2), keys.transpose(1, 2), values.transpose(1, 2), mask, form, causal=False
    )
    return found.squeeze(2)


def _chunk(
    q: torch.Tensor, cache: LayerCache, step: PagedStep, form: Form, span: Span
) -> torch.Tensor:
    """Some tokens of one row after others, or with a form that needs a mask."""
    size = cache.keys.shape[1]
    first = span.context - span.count
    page = 0 if form.window is None else max(0, first - form.window + 1) // size
    table = step.batch.tables[span.row, page : -(-span.context // size)]
    keys, values = cache.gather(table)
    held = span.context - page * size
    if q.is_cuda and form.plain and form.window is None:
        mask = causal_mask(span.count, span.context)
    else:
        mask = _written_mask(span, page * size, form.window, q.device)
    return _dense(q, keys[:held], values[:held], mask, form, causal=False)


def _written_mask(span: Span, begin: int, window: int | None, device: torch.device) -> torch.Tensor:
    """What the tokens of a row see of all from `begin` on: bool [tokens, context - begin]."""
    queries = torch.arange(span.context - span.count, span.context, device=device)[:, None]
    places = torch.arange(begin, span.context, device=device)[None, :]
    mask = places <= queries
    if window is not None:
        mask &= places > queries - window
    return mask


def causal_mask(tokens: int, context: int) -> torch.Tensor:
    """What the last tokens of a context see, by name instead of by numbers: CUDA's fast attention
    takes it, also where heads share keys, and others write it out.
    """
    mask: torch.Tensor = causal_lower_right(tokens, context)
    return mask


def _dense(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    form: Form,
    *,
    causal: bool,
) -> torch.Tensor:
    """One row: [tokens, heads, dim] over [context, kv heads, dim]."""
    q, k, v = (part.transpose(0, 1).unsqueeze(0) for part in (q, k, v))
    return _attention(q, k, v, mask, form, causal=causal)[0].transpose(0, 1)


def _attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    form: Form,
    *,
    causal: bool,
) -> torch.Tensor:
    """[rows, heads, tokens, dim] over [rows, kv heads, context, dim]."""
    if form.plain or mask is None:
        grouped = q.shape[1] != k.shape[1]
        return scaled_dot_product_attention(
            q, k, v, mask, is_causal=causal, scale=form.scale, enable_gqa=grouped
        )
    tokens = max(1, SCORE_ELEMENTS // (q.shape[0] * q.shape[1] * k.shape[2]))
    parts = zip(torch.split(q, tokens, 2), torch.split(mask, tokens, -2), strict=True)
    return torch.cat([_written_out(part, k, v, seen, form) for part, seen in parts], 2)


def _written_out(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, form: Form
) -> torch.Tensor:
    """Attention with a soft cap or sinks, step by step in float32 as far as the softmax."""
    group = q.shape[1] // k.shape[1]
    k, v = (part.repeat_interleave(group, 1) for part in (k, v))
    scores = (q.float() @ k.float().transpose(2, 3)) * form.scale
    if form.softcap is not None:
        scores = torch.tanh(scores / form.softcap) * form.softcap
    scores = scores.masked_fill(~mask, float("-inf"))
    if form.sinks is None:
        return scores.softmax(-1).to(v.dtype) @ v
    sinks = form.sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    return torch.cat((scores, sinks), -1).softmax(-1)[..., :-1].to(v.dtype) @ v
