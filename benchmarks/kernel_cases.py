"""The calls that kernels are measured by: sizes of real work for a GPU, small ones for a CPU, and
the same in torch and, where it has words for it, in CuPy.

Language models are of 8 B parameters: width 4096, 32 query heads over 8, of 128, vocabulary 128256.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from penstock_kernels.paged_decode import wanted_splits

Arguments = dict[str, Any]
Rival = Callable[[Arguments], Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One call of a kernel: `make(device, small)` gives its arguments as tensors, `torch` does the
    same by torch's own operations, and `cupy` by CuPy's, of its module and the arguments.
    """

    kernel: str
    label: str
    make: Callable[[torch.device, bool], Arguments]
    torch: Rival | None = None
    cupy: Callable[[Any, Arguments], Any] | None = None


def _half(device: torch.device, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=device, dtype=torch.float32).to(torch.float16)


def _ints(device: torch.device, *shape: int, below: int) -> torch.Tensor:
    return torch.randint(0, below, shape, device=device, dtype=torch.int32)


# -- batches ---------------------------------------------------------------------------------------


def _images(device: torch.device, small: bool) -> Arguments:
    rows, size = (2, 3 * 32 * 32) if small else (32, 3 * 224 * 224)
    slab = torch.randn(rows * size, device=device).view(torch.uint8)
    return {
        "slab": slab,
        "start": torch.arange(rows, device=device) * size * 4,
        "count": torch.full((rows,), size, dtype=torch.int32, device=device),
        "dtype": np.float32,
        "out": torch.empty(rows, size, dtype=torch.float16, device=device),
        "mask": None,
        "pad": 0.0,
    }


def _cast(a: Arguments) -> Any:
    return a["out"].copy_(a["slab"].view(torch.float32).view(a["out"].shape))


def _classes(device: torch.device, small: bool) -> Arguments:
    rows = 4 if small else 256
    return {
        "values": torch.randn(rows, 1000, device=device),
        "scores": torch.empty(rows, 5, device=device),
        "columns": torch.empty(rows, 5, dtype=torch.int32, device=device),
        "softmax": True,
    }


def _pool(device: torch.device, small: bool) -> Arguments:
    rows, length, width = (2, 16, 64) if small else (64, 512, 1024)
    return {
        "states": _half(device, rows, length, width),
        "mask": torch.ones(rows, length, dtype=torch.int64, device=device),
        "out": torch.empty(rows, width, device=device),
        "normalise": True,
    }


def _pooled(a: Arguments) -> Any:
    mask = a["mask"][:, :, None].to(a["states"].dtype)
    mean = (a["states"] * mask).sum(1).float() / mask.sum(1).float()
    return functional.normalize(mean, dim=1)


# -- a transformer's layer -------------------------------------------------------------------------


def _norm(device: torch.device, small: bool) -> Arguments:
    rows, width = (2, 64) if small else (64, 4096)
    names = ("x", "residual", "out")
    made = {name: _half(device, rows, width) for name in names}
    return {**made, "weight": _half(device, width), "epsilon": 1e-5}


def _normed(a: Arguments) -> Any:
    residual = a["residual"] + a["x"]
    return functional.rms_norm(residual, residual.shape[1:], a["weight"], 1e-5)


def _gate(device: torch.device, small: bool) -> Arguments:
    rows, width = (2, 64) if small else (64, 14336)
    return {"both": _half(device, rows, 2 * width), "out": _half(device, rows, width)}


def _gated(a: Arguments) -> Any:
    gate, up = a["both"].chunk(2, 1)
    return functional.silu(gate) * up


def _cupy_gated(cupy: Any, a: Arguments) -> Any:
    both = cupy.from_dlpack(a["both"])
    gate, up = cupy.split(both, 2, axis=1)
    return gate / (1 + cupy.exp(-gate)) * up


def _writes(stored: torch.dtype) -> Callable[[torch.device, bool], Arguments]:
    def make(device: torch.device, small: bool) -> Arguments:
        tokens, slots = (2, 64) if small else (64, 1 << 16)
        new = [_half(device, tokens, 8, 128) for _ in range(2)]
        caches = [torch.zeros(slots, 8, 128, dtype=stored, device=device) for _ in range(2)]
        scales = [torch.zeros(slots, 8, device=device) for _ in range(2)]
        eight = stored.itemsize == 1
        slot = torch.randperm(slots, device=device)[:tokens]
        return {
            "k": new[0],
            "v": new[1],
            "slot": slot,
            "k_cache": caches[0],
            "v_cache": caches[1],
            "k_scale": scales[0] if eight else None,
            "v_scale": scales[1] if eight else None,
        }

    return make


def _written(a: Arguments) -> Any:
    a["k_cache"].index_copy_(0, a["slot"], a["k"])
    return a["v_cache"].index_copy_(0, a["slot"], a["v"])


def decodes(
    rows: int,
    context: int,
    stored: torch.dtype = torch.float16,
    group: int = 4,
    dim: int = 128,
) -> Callable[[torch.device, bool], Arguments]:
    """A token of each row over its pages: eight heads of the cache, each of `group` queries."""

    def make(device: torch.device, small: bool) -> Arguments:
        own, length = (min(rows, 2), 40) if small else (rows, context)
        pages = -(-length // 16)
        eight = stored.itemsize == 1
        slots = own * pages * 16
        caches = [_half(device, slots, 8, dim).to(stored) for _ in range(2)]
        scales = [torch.rand(slots, 8, device=device) * 0.01 for _ in range(2)]
        table = torch.randperm(own * pages, device=device).int().view(own, pages)
        splits = wanted_splits(own, 8, length, _processors(device))
        q = _half(device, own, 8 * group, dim)
        return {
            "q": q,
            "k_cache": caches[0],
            "v_cache": caches[1],
            "k_scale": scales[0] if eight else None,
            "v_scale": scales[1] if eight else None,
            "table": table,
            "length": torch.full((own,), length, dtype=torch.int32, device=device),
            "sinks": None,
            "partial": torch.empty(own, 8 * group, splits, dim + 2, device=device),
            "out": torch.empty_like(q),
            "scale": dim**-0.5,
            "softcap": 0.0,
            "window": 0,
            "page_size": 16,
        }

    return make


def _attended(a: Arguments) -> Any:
    """torch gathers pages and attends, which is what there is without a kernel."""
    rows, pages = a["table"].shape
    keys, values = (
        cache.view(-1, 16, 8, 128)[a["table"]].view(rows, pages * 16, 8, 128).transpose(1, 2)
        for cache in (a["k_cache"], a["v_cache"])
    )
    return functional.scaled_dot_product_attention(
        a["q"][:, :, None], keys, values, enable_gqa=True
    )


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 8
    return torch.cuda.get_device_properties(device).multi_processor_count


def products(
    rows: int, bits: int, outputs: int = 28672
) -> Callable[[torch.device, bool], Arguments]:
    """Rows of 4096 by a weight of integers, of int4 in groups of 128."""

    def make(device: torch.device, small: bool) -> Arguments:
        inputs, wide = (256, 64) if small else (4096, outputs)
        groups = 1 if bits == 8 else inputs // 128
        size = (wide, inputs * bits // 8)
        return {
            "x": _half(device, rows, inputs),
            "data": torch.randint(0, 256, size, dtype=torch.uint8, device=device),
            "scale": torch.rand(wide, groups, device=device) * 0.01,
            "bias": None,
            "y": torch.empty(rows, wide, dtype=torch.float16, device=device),
            "bits": bits,
        }

    return make


def _dense(a: Arguments) -> Any:
    """By a weight of 16 bits, twice or four times the bytes."""
    if "dense" not in a:
        a["dense"] = _half(a["x"].device, a["data"].shape[0], a["x"].shape[1])
    return functional.linear(a["x"], a["dense"])


# -- tokens ----------------------------------------------------------------------------------------


def _draws(cut: bool) -> Callable[[torch.device, bool], Arguments]:
    def make(device: torch.device, small: bool) -> Arguments:
        rows, vocabulary = (2, 1000) if small else (64, 128256)
        floats = {"temperature": 0.8, "top_p": 0.95 if cut else 1.0, "min_p": 0.0}
        floats |= {"repetition": 1.0, "presence": 0.0, "frequency": 0.0}
        return {
            "logits": torch.randn(rows, vocabulary, device=device) * 3,
            **dict.fromkeys(("counts", "prompt", "allowed")),
            **{name: torch.full((rows,), value, device=device) for name, value in floats.items()},
            "top_k": torch.full((rows,), 40 * cut, dtype=torch.int32, device=device),
            "seed": torch.arange(rows, device=device),
            "step": torch.zeros(rows, dtype=torch.int64, device=device),
            "token": torch.empty(rows, dtype=torch.int32, device=device),
            "logprob": torch.empty(rows, device=device),
        }

    return make


def _drawn(a: Arguments) -> Any:
    """Without a seed for each row."""
    return torch.multinomial((a["logits"] / 0.8).softmax(-1), 1)


def _cut_and_drawn(a: Arguments) -> Any:
    """The usual way: sort, cut, softmax, draw."""
    x, places = (a["logits"] / 0.8).sort(-1, descending=True)
    p = x[:, :40].softmax(-1)
    kept = p.masked_fill(p.cumsum(-1) - p > 0.95, 0)
    return places.gather(1, torch.multinomial(kept, 1))


def _rejects(device: torch.device, small: bool) -> Arguments:
    rows, depth, vocabulary = (2, 2, 1000) if small else (64, 5, 128256)
    p = torch.rand(rows, depth + 1, vocabulary, device=device)
    q = torch.rand(rows, depth, vocabulary, device=device)
    whole = torch.full((rows,), depth, dtype=torch.int32, device=device)
    return {
        "p": p / p.sum(-1, keepdim=True),
        "q": q / q.sum(-1, keepdim=True),
        "draft": _ints(device, rows, depth, below=vocabulary),
        "places": whole + 1,
        "drafts": whole,
        "bonus": _ints(device, rows, below=vocabulary),
        "seed": torch.arange(rows, device=device),
        "position": torch.zeros(rows, dtype=torch.int64, device=device),
        "tokens": torch.empty(rows, depth + 1, dtype=torch.int32, device=device),
        "count": torch.empty(rows, dtype=torch.int32, device=device),
    }


def _masks(device: torch.device, small: bool) -> Arguments:
    rows, vocabulary = (2, 1000) if small else (64, 128256)
    words = torch.randint(0, 2**31, (rows, -(-vocabulary // 32)), device=device)
    return {
        "logits": torch.randn(rows, vocabulary, device=device),
        # Signed words have the same bits, and torch computes with few unsigned ones.
        "allowed": words.int(),
        "row": torch.arange(rows, device=device),
    }


CASES = (
    Case("gather_pad", "32 images FP32 to FP16", _images, _cast),
    Case(
        "top_k", "softmax, 5 of 1000, 256 rows", _classes, lambda a: a["values"].softmax(1).topk(5)
    ),
    Case("mean_pool", "64 x 512 x 1024", _pool, _pooled),
    Case("rmsnorm_residual", "64 x 4096", _norm, _normed),
    Case("silu_mul", "64 x 14336", _gate, _gated, _cupy_gated),
    Case("cache_write", "64 tokens", _writes(torch.float16), _written),
    Case("cache_write", "64 tokens, fp8", _writes(torch.float8_e4m3fn)),
    Case("paged_decode", "64 x 2048", decodes(64, 2048), _attended),
    Case("paged_decode", "64 x 2048, fp8", decodes(64, 2048, torch.float8_e4m3fn)),
    Case("paged_decode", "64 x 2048, int8", decodes(64, 2048, torch.int8)),
    Case("paged_decode", "64 x 2048, groups of 8", decodes(64, 2048, group=8), _attended),
    Case("paged_decode", "1 x 8192", decodes(1, 8192), _attended),
    *(
        Case("gemv", f"int{bits}, {rows} of 4096 by 28672", products(rows, bits), _dense)
        for bits in (8, 4)
        for rows in (1, 8, 32, 64)
    ),
    Case("sample", "64 x 128256, no cut", _draws(False), _drawn),
    Case("sample", "64 x 128256, top-k and top-p", _draws(True), _cut_and_drawn),
    Case("verify_reject", "64 x 5 drafts", _rejects),
    Case("token_bitmask", "64 x 128256", _masks),
)
