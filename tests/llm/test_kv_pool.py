"""The pages of keys and values: what goes in comes out, as exactly as its dtype allows."""

import pytest
import torch

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm import parts
from penstock_runtime.llm.kv_pool import KvPool, LayerShape, block_bytes, quantise

CPU = torch.device("cpu")
SHAPES = (LayerShape(2, 8, 8), LayerShape(3, 16, 24, window=5))
# The largest error relative to the largest value of a head.
BOUNDS = {"auto": 0.0, "int8": 0.5 / 127 + 1e-6, "fp8": 2**-4}


def _made(stored: str, dtype: torch.dtype = torch.float32) -> KvPool:
    return KvPool(SHAPES, n_blocks=6, block_size=4, dtype=dtype, device=CPU, stored=stored)


@pytest.mark.parametrize("stored", ["auto", "int8", "fp8"])
def test_what_is_stored_is_gathered_within_the_bound_of_its_dtype(stored: str) -> None:
    torch.manual_seed(0)
    layer = _made(stored).layers[1]
    keys, values = torch.randn(7, 3, 16), 50 * torch.randn(7, 3, 24)
    slots = torch.tensor([20, 21, 22, 23, 8, 9, 10])

    layer.store(keys, values, slots)
    found_keys, found_values = layer.gather(torch.tensor([5, 2]))

    for found, expected in ((found_keys, keys), (found_values, values)):
        error = (found[:7] - expected).abs() / expected.abs().amax(-1, keepdim=True)
        assert float(error.max()) <= BOUNDS[stored]


@pytest.mark.parametrize("stored", ["auto", "int8", "fp8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_takes_the_bytes_that_a_pool_is_sized_by(stored: str, dtype: torch.dtype) -> None:
    pool = _made(stored, dtype)

    tensors = [
        tensor
        for layer in pool.layers
        for tensor in (layer.keys, layer.values, layer.key_scales, layer.value_scales)
        if tensor is not None
    ]

    assert sum(tensor.nbytes for tensor in tensors) == 6 * block_bytes(SHAPES, 4, dtype, stored)
    assert pool.memory_bytes == 6 * block_bytes(SHAPES, 4, dtype, stored)


@pytest.mark.parametrize("stored", [torch.int8, torch.float8_e4m3fn])
def test_a_head_of_zeros_stays_zeros(stored: torch.dtype) -> None:
    values, scale = quantise(torch.zeros(2, 3, 8), stored)

    assert not values.float().any()
    assert not scale.any()


def test_an_unknown_dtype_of_the_cache_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="kv_cache_dtype is 'int3', expected one of"):
        _made("int3")


def test_a_gpus_pages_are_counted_by_all_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch only keeps, of a model that has gone, is free too: else the next has no pages."""
    kept = [70]
    monkeypatch.setattr(torch.cuda, "empty_cache", kept.clear)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (80 - sum(kept), 100))

    assert parts._spare_bytes(torch.device("cuda", 1)) == 72
