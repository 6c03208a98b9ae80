"""The memory that holds the keys and values of all sequences, page by page, for every layer. Knows
nothing of sequences: a slot is `block * block_size + offset`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from penstock_runtime.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one attention layer keeps of a token, and how far it looks back (None: to the start)."""

    kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None


KV_DTYPES = {"auto": None, "int8": torch.int8, "fp8": torch.float8_e4m3fn}


def kv_dtype(name: str) -> torch.dtype | None:
    """The stored dtype by its name; None for that of the model. Raises InvalidArgument."""
    if name not in KV_DTYPES:
        raise InvalidArgument(f"kv_cache_dtype is {name[:32]!r}, expected one of {list(KV_DTYPES)}")
    return KV_DTYPES[name]


def block_bytes(
    shapes: Iterable[LayerShape], block_size: int, dtype: torch.dtype, stored: str = "auto"
) -> int:
    """Bytes that one block takes over all layers, for a model of this dtype."""
    quantised = kv_dtype(stored)
    size = (quantised or dtype).itemsize
    scale = 8 if quantised is not None else 0
    return sum(
        block_size * shape.kv_heads * ((shape.key_dim + shape.value_dim) * size + scale)
        for shape in shapes
    )


class LayerCache:
    """Keys and values of one layer: [blocks, block size, kv heads, dim]; with a scale per token and
    head, float32 [blocks, block size, kv heads], where they are stored with fewer bits.
    """

    __slots__ = ("dtype", "key_scales", "keys", "shape", "value_scales", "values")

    def __init__(
        self,
        shape: LayerShape,
        n_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        stored: torch.dtype | None,
        device: torch.device,
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        slots = (n_blocks, block_size, shape.kv_heads)
        kind = stored or dtype
        # Zeros, since what is masked is still multiplied: by 0, which leaves a NaN a NaN.
        self.keys = torch.zeros((*slots, shape.key_dim), dtype=kind, device=device)
        self.values = torch.zeros((*slots, shape.value_dim), dtype=kind, device=device)
        self.key_scales: torch.Tensor | None = None
        self.value_scales: torch.Tensor | None = None
        if stored is not None:
            self.key_scales = torch.zeros(slots, dtype=torch.float32, device=device)
            self.value_scales = torch.zeros(slots, dtype=torch.float32, device=device)

    def store(self, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor) -> None:
        """Keep keys and values ([tokens, kv heads, dim]) in these slots."""
        _store(self.keys, self.key_scales, keys, slots)
        _store(self.values, self.value_scales, values, slots)

    def gather(self, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of these blocks ([..., pages]) as [..., tokens, kv heads, dim]."""
        return (
            _gather(self.keys, self.key_scales, blocks, self.dtype),
            _gather(self.values, self.value_scales, blocks, self.dtype),
        )


def quantise(values: torch.Tensor, stored: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Values with fewer bits, and the scale of each last dimension: value = stored * scale."""
    most = 127.0 if stored == torch.int8 else torch.finfo(stored).max
    wide = values.float()
    scale = wide.abs().amax(-1) / most
    scaled = wide / scale.clamp(min=1e-30).unsqueeze(-1)
    return (scaled.round() if stored == torch.int8 else scaled).to(stored), scale


def _store(
    pool: torch.Tensor, scales: torch.Tensor | None, values: torch.Tensor, slots: torch.Tensor
) -> None:
    if scales is not None:
        values, scale = quantise(values, pool.dtype)
        scales.view(-1, scales.shape[-1]).index_copy_(0, slots, scale)
    flat = pool.view(-1, *pool.shape[2:])
    if pool.dtype == torch.float8_e4m3fn:
        # Copying by index is not made for 8-bit floats; their bits are bytes like others.
        flat, values = flat.view(torch.uint8), values.view(torch.uint8)
    flat.index_copy_(0, slots, values)


def _gather(
    pool: torch.Tensor, scales: torch.Tensor | None, blocks: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    if scales is None:
        found = pool[blocks]
    elif pool.dtype == torch.float8_e4m3fn:
        found = pool.view(torch.uint8)[blocks].view(pool.dtype).float()
        found = (found * scales[blocks].unsqueeze(-1)).to(dtype)
    else:
        found = (pool[blocks].float() * scales[blocks].unsqueeze(-1)).to(dtype)
    return found.flatten(-4, -3)


class KvPool:
    """The pages of all layers."""

    def __init__(
        self,
        shapes: tuple[LayerShape, ...],
        n_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        stored: str = "auto",
    ) -> None:
        self.n_blocks = n_blocks
        self.block_size = block_size
        kind = kv_dtype(stored)
        self.layers = tuple(
            LayerCache(shape, n_blocks, block_size, dtype, kind, device) for shape in shapes
        )
        self.memory_bytes = n_blocks * block_bytes(shapes, block_size, dtype, stored)

    def __repr__(self) -> str:
        return (
            f"<KvPool of {self.n_blocks} blocks of {self.block_size} tokens in"
            f" {len(self.layers)} layers, {self.memory_bytes} bytes>"
        )
