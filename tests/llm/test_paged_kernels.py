"""The CPU's kernels and torch give the same attention over the same pages."""

import random

import pytest
import torch

from penstock_runtime.llm.attention import PagedStep, attend
from penstock_runtime.llm.attention_form import Form
from penstock_runtime.llm.cpu_kernels import CpuKernels, kernels_for
from penstock_runtime.llm.kv_pool import KvPool, LayerShape
from penstock_runtime.llm.packing import PackedBatch, pack
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Sequence
from penstock_runtime.llm.step import Row, StepPlan

CPU = torch.device("cpu")
# Of each row: tokens before, and tokens of the step. Over 256 positions are attended in parts.
ROWS = ((300, 1), (30, 1), (7, 1), (3, 5), (0, 40), (0, 1), (20, 17))
# Heads, heads of the cache, dimensions of keys and values, block size, window, soft cap, sinks.
FORMS = {
    "groups of two": (4, 2, 64, 64, 16, None, None, False),
    "one head of the cache, a window and sinks": (8, 1, 128, 128, 16, 20, None, True),
    "a soft cap, blocks of 32": (6, 6, 80, 80, 32, None, 30.0, False),
    "values wider than keys, an odd size": (4, 2, 24, 40, 8, 9, None, False),
    "less than sixteen dimensions": (3, 3, 8, 8, 16, None, None, True),
    "a window of many blocks": (16, 2, 96, 96, 16, 280, None, False),
    "the largest heads": (2, 1, 256, 256, 16, None, 50.0, True),
}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 1e-3}


def _kernels() -> CpuKernels:
    found = kernels_for("auto", CPU, torch.float32)
    if found is None:
        pytest.skip("the CPU's kernels cannot be built here")
    return found


def _batch(size: int, n_blocks: int) -> PackedBatch:
    blocks = list(range(n_blocks))
    random.Random(0).shuffle(blocks)
    rows = []
    for start, count in ROWS:
        sequence = Sequence(0, [0] * (start + count), SamplingParams(), max_tokens=1)
        sequence.blocks = [blocks.pop() for _ in range(-(-(start + count) // size))]
        rows.append(Row(sequence, start, count))
    return pack(StepPlan(tuple(rows)), size, CPU)


def _filled(shape: LayerShape, size: int, dtype: torch.dtype, stored: str) -> KvPool:
    n_blocks = 640 // size
    pool = KvPool((shape,), n_blocks, size, dtype, CPU, stored)
    generator = torch.Generator().manual_seed(1)
    slots = n_blocks * size
    pool.layers[0].store(
        torch.randn(slots, shape.kv_heads, shape.key_dim, generator=generator).to(dtype),
        torch.randn(slots, shape.kv_heads, shape.value_dim, generator=generator).to(dtype),
        torch.arange(slots),
    )
    return pool


@pytest.mark.parametrize("stored", ["auto", "int8", "fp8"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("form_name", list(FORMS))
def test_kernels_and_torch_agree(form_name: str, dtype: torch.dtype, stored: str) -> None:
    heads, kv_heads, key_dim, value_dim, size, window, softcap, sinks = FORMS[form_name]
    kernels, shape = _kernels(), LayerShape(kv_heads, key_dim, value_dim, window)
    ours, theirs = (_filled(shape, size, dtype, stored) for _ in range(2))
    batch = _batch(size, ours.n_blocks)
    torch.manual_seed(2)
    q = torch.randn(batch.n_tokens, heads, key_dim).to(dtype)
    k = torch.randn(batch.n_tokens, kv_heads, key_dim).to(dtype)
    v = torch.randn(batch.n_tokens, kv_heads, value_dim).to(dtype)
    form = Form(key_dim**-0.5, window, softcap, torch.randn(heads) if sinks else None)
    found, expected = (q.new_empty(*q.shape[:2], value_dim) for _ in range(2))

    kernels.attend(found, q, k, v, ours.layers[0], kernels.step(batch), form)
    attend(expected, q, k, v, theirs.layers[0], PagedStep(batch, theirs), form)

    error = (found.float() - expected.float()).norm() / expected.float().norm()
    assert float(error) < TOLERANCE[dtype]
    kept, also = (pool.layers[0].keys.view(torch.uint8) for pool in (ours, theirs))
    assert torch.equal(kept, also)
